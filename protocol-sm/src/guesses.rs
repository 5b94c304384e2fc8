//! Wrong proofs: how many are checked, so that nobody guesses a token in a reasonable time, and whoever keeps sending
//! one wrong token keeps nobody else out.
//!
//! A wrong proof weighs on three things at once: on the site that it came from, on the client id that it was sent under
//! at that site, and, where it named a session that is there, on the holder of that session. Each has a bucket:
//!
//! | bucket | at once | one more every | whom it holds back |
//! |---|---|---|---|
//! | site: an IPv4 address, or a /48 of IPv6 addresses | 10 | 3 s | guessers who change their client id |
//! | client id at a site | 3 | 10 s | a client that has the wrong token and comes again and again |
//! | holder of the session that is named | 30 | 1 s | guessers who name a session of their own |
//!
//! A proof is checked if the site's and the client's bucket have room for one more failure, or if the last one has and
//! its client named a session that is there with the client id of that session: only that session's own client and
//! the server know its id. A client that is held back by its own bucket adds nothing to that of the site, so another
//! client at the site gets in meanwhile.
//!
//! Invariant: G1 nobody has more proofs checked than the buckets that it uses allow together.

use crate::ids::ClientId;
use crate::ledger::Holder;
use crate::rate::Rates;
use crate::sources::Source;
use crate::time::Instant;
use core::net::IpAddr;
use core::time::Duration;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Guesses {
    sites: Rates<Source>,
    clients: Rates<(Source, ClientId)>,
    holders: Rates<Holder>,
}

/// Who is about to prove that it knows a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Where it is.
    pub ip: IpAddr,
    /// Who it says it is.
    pub client: ClientId,
    /// The holder of the session that it names, if that is there and has this client id.
    pub session: Option<Holder>,
}

impl Default for Guesses {
    // PROTOCOL.md: P-AUTH-13, P-AUTH-14, P-AUTH-15.
    fn default() -> Self {
        Self {
            sites: Rates::new(Duration::from_secs(3), 10),
            clients: Rates::new(Duration::from_secs(10), 3),
            holders: Rates::new(Duration::from_secs(1), 30),
        }
    }
}

impl Guesses {
    /// Whether a proof of `claim` is to be checked.
    #[must_use]
    pub fn may(&self, now: Instant, claim: Claim) -> bool {
        let site = Source::site_of(claim.ip);
        claim.session.is_some_and(|holder| self.holders.may(now, holder))
            || (self.sites.may(now, site) && self.clients.may(now, (site, claim.client)))
    }

    /// A proof of `claim` was checked and is wrong. What has no room left in its bucket is full enough.
    pub fn on_wrong(&mut self, now: Instant, claim: Claim) {
        let site = Source::site_of(claim.ip);
        let _full = self.sites.take(now, site);
        let _full = self.clients.take(now, (site, claim.client));
        if let Some(holder) = claim.session {
            let _full = self.holders.take(now, holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn claim(ip: &str, client: u32) -> Claim {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&client.to_le_bytes());
        Claim { ip: ip.parse().unwrap(), client: ClientId(id), session: None }
    }

    /// Wrong proofs of these that are checked.
    fn checked(guesses: &mut Guesses, now: Instant, claims: impl IntoIterator<Item = Claim>) -> usize {
        let mut count = 0;
        for claim in claims {
            if guesses.may(now, claim) {
                guesses.on_wrong(now, claim);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn g1_a_guesser_has_10_and_then_one_every_3_seconds_however_it_calls_itself() {
        let mut guesses = Guesses::default();
        let all = |from| (from..from + 1000).map(|client| claim("192.0.2.1", client));
        assert_eq!(checked(&mut guesses, at(0), all(0)), 10);
        assert_eq!(checked(&mut guesses, at(2), all(1000)), 0);
        assert_eq!(checked(&mut guesses, at(3), all(2000)), 1);
        assert_eq!(checked(&mut guesses, at(9), all(3000)), 2);
        assert!(guesses.may(at(9), claim("192.0.2.2", 1)), "another address has its own");
    }

    #[test]
    fn g1_ipv6_addresses_of_one_48_are_one_guesser() {
        let mut guesses = Guesses::default();
        let all = (0..1000).map(|n| claim(&format!("2001:db8:7:{n:x}::1"), n));
        assert_eq!(checked(&mut guesses, at(0), all), 10);
        assert!(guesses.may(at(0), claim("2001:db8:8::1", 1)));
    }

    #[test]
    fn a_client_with_a_wrong_token_keeps_no_other_at_its_address_out() {
        let mut guesses = Guesses::default();
        let mut wrong = 0;
        for second in 0..600 {
            wrong += checked(&mut guesses, at(second), [claim("192.0.2.1", 1)]);
            assert!(guesses.may(at(second), claim("192.0.2.1", 2)), "after {second} s");
        }
        assert_eq!(wrong, 3 + 59, "one more every 10 s is checked");
        assert!(guesses.may(at(620), claim("192.0.2.1", 1)), "it gets in soon once it has the right token");
    }

    #[test]
    fn g1_a_guess_under_a_session_of_ones_own_counts_too() {
        let mut guesses = Guesses::default();
        let own = |n| Claim { session: Some(Some(0)), ..claim("192.0.2.1", n) };
        assert_eq!(checked(&mut guesses, at(0), (0..3000).map(own)), 30, "whichever of its sessions it names");
        assert_eq!(checked(&mut guesses, at(1), (0..3000).map(own)), 1);
        let others = Claim { session: Some(Some(1)), ..claim("192.0.2.1", 1) };
        assert!(guesses.may(at(1), others), "another holder's client comes back to its session from there");
        assert!(!guesses.may(at(1), claim("192.0.2.1", 9)), "and they weigh on the address as any others");
    }
}
