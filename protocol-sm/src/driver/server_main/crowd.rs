//! Connections whose handshake is not through, by source address: none takes the room of all others.

use super::super::slab::Token;
use crate::settings::ServerSettings;
use crate::sources::Source;
use crate::time::Instant;
use alloc::collections::{BTreeMap, VecDeque};
use core::cmp::Reverse;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Crowd {
    /// With their deadlines, the oldest first. No entry is empty.
    by_source: BTreeMap<Source, VecDeque<(Instant, Token)>>,
    len: usize,
}

/// Why a connection must make room before its handshake is through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crowded {
    /// There are too many of its source address.
    Source,
    /// There are too many in all, and of no source address are there more.
    All,
}

impl Crowd {
    /// A connection came.
    pub(super) fn add(&mut self, source: Source, deadline: Instant, token: Token) {
        self.by_source.entry(source).or_default().push_back((deadline, token));
        self.len += 1;
    }

    /// A connection's handshake is through, or it is gone.
    pub(super) fn remove(&mut self, source: Source, token: Token) {
        let Some(of_source) = self.by_source.get_mut(&source) else { return };
        let Some(at) = of_source.iter().position(|&(_, other)| other == token) else { return };
        of_source.remove(at);
        self.len -= 1;
        if of_source.is_empty() {
            self.by_source.remove(&source);
        }
    }

    /// Which connection must go before one from `source` may come, if any.
    pub(super) fn must_leave(&self, settings: &ServerSettings, source: Source) -> Option<(Token, Crowded)> {
        let own = self.by_source.get(&source);
        if let Some(own) = own.filter(|own| own.len() >= settings.max_handshakes_per_source as usize) {
            return own.front().map(|&(_, token)| (token, Crowded::Source));
        }
        if self.len < settings.max_handshakes as usize {
            return None;
        }
        let fronts = self.by_source.values().filter_map(|of_source| Some((of_source.len(), of_source.front()?)));
        let (_, &(_, token)) = fronts.max_by_key(|&(count, &(deadline, token))| (count, Reverse((deadline, token))))?;
        Some((token, Crowded::All))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use core::time::Duration;

    fn source(n: u32) -> Source {
        Source::of(Ipv4Addr::from_bits(n).into())
    }

    fn at(n: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(n)
    }

    #[test]
    fn a_source_with_too_many_loses_its_own_oldest() {
        let settings = ServerSettings { max_handshakes_per_source: 2, ..ServerSettings::default() };
        let tokens = [0, 1, 2, 3].map(Token);
        let mut crowd = Crowd::default();
        crowd.add(source(1), at(0), tokens[0]);
        crowd.add(source(2), at(1), tokens[1]);
        crowd.add(source(2), at(2), tokens[2]);
        assert_eq!(crowd.must_leave(&settings, source(1)), None);
        assert_eq!(crowd.must_leave(&settings, source(3)), None);
        assert_eq!(crowd.must_leave(&settings, source(2)), Some((tokens[1], Crowded::Source)));
        crowd.remove(source(2), tokens[1]);
        crowd.remove(source(2), tokens[1]);
        assert_eq!(crowd.must_leave(&settings, source(2)), None);
    }

    #[test]
    fn where_there_are_too_many_the_source_with_most_makes_room() {
        let settings = ServerSettings { max_handshakes: 4, ..ServerSettings::default() };
        let tokens = [0, 1, 2, 3, 4].map(Token);
        let mut crowd = Crowd::default();
        crowd.add(source(1), at(0), tokens[0]);
        crowd.add(source(2), at(1), tokens[1]);
        crowd.add(source(2), at(2), tokens[2]);
        assert_eq!(crowd.must_leave(&settings, source(3)), None);
        crowd.add(source(3), at(3), tokens[3]);
        assert_eq!(crowd.must_leave(&settings, source(4)), Some((tokens[1], Crowded::All)), "not the oldest of all");
        crowd.remove(source(2), tokens[1]);
        crowd.add(source(4), at(4), tokens[4]);
        assert_eq!(crowd.must_leave(&settings, source(4)), Some((tokens[0], Crowded::All)), "among equals the oldest");
        for (n, token) in [(1, 0), (2, 2), (3, 3), (4, 4)] {
            crowd.remove(source(n), tokens[token]);
        }
        assert_eq!(crowd, Crowd::default());
    }
}
