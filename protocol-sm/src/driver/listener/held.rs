//! Public ports that another process has left: they listen, nobody is accepted, and each waits for the client that had it.

use super::super::inherit::{Given, Owner};
use super::super::slab::Token;
use super::super::sys::Listen;
use crate::ports::may_clash;
use crate::sys_error::SysError;
use crate::time::Instant;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::SocketAddr;

/// A public port that another process has left. `L` is a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeldPort<L> {
    /// Of UDP, and not of TCP.
    pub udp: bool,
    /// Where it listens.
    pub at: SocketAddr,
    /// Whose it is.
    pub owner: Owner,
    /// Its socket.
    pub listener: L,
}

/// See the module. `L` is a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Held<L> {
    ports: BTreeMap<(bool, SocketAddr), (Owner, L)>,
    until: Instant,
}

impl<L> Default for Held<L> {
    fn default() -> Self {
        Self { ports: BTreeMap::new(), until: Instant::ZERO }
    }
}

impl<L> Held<L> {
    pub(super) fn new(ports: Vec<HeldPort<L>>, until: Instant) -> Self {
        Self {
            ports: ports.into_iter().map(|port| ((port.udp, port.at), (port.owner, port.listener))).collect(),
            until,
        }
    }

    /// Listens at `at`, for `owner`: with what is held there, if that is its own.
    // PROTOCOL.md: P-LEAVE-5.
    pub(super) fn listen<S: Listen<Listener = L>>(
        &mut self,
        sys: &mut S,
        at: SocketAddr,
        owner: &Owner,
        token: Token,
    ) -> Result<(L, SocketAddr), SysError> {
        if !self.admits(false, at, owner) {
            return Err(SysError::InUse);
        }
        self.make_way(sys, false, at, owner);
        let Some((_, listener)) = self.ports.get(&(false, at)) else { return sys.listen(at, token) };
        let real = sys.adopt(listener, token)?;
        let (_, listener) = self.ports.remove(&(false, at)).expect("it is held there");
        Ok((listener, real))
    }

    /// The same for a UDP port, which nobody watches here.
    // PROTOCOL.md: P-LEAVE-5.
    pub(super) fn bind_udp<S: Listen<Listener = L>>(
        &mut self,
        sys: &mut S,
        at: SocketAddr,
        owner: &Owner,
    ) -> Result<(L, SocketAddr), SysError> {
        if !self.admits(true, at, owner) {
            return Err(SysError::InUse);
        }
        self.make_way(sys, true, at, owner);
        match self.ports.remove(&(true, at)) {
            Some((_, listener)) => Ok((listener, at)),
            None => sys.bind_udp(at),
        }
    }

    /// Closes what `owner` had at another address and has at this one from now on, where the one keeps the other from being
    /// opened.
    fn make_way<S: Listen<Listener = L>>(&mut self, sys: &mut S, udp: bool, at: SocketAddr, owner: &Owner) {
        let in_the_way = |(kind, held): &(bool, SocketAddr), of: &Owner| {
            (*kind, held.port(), of) == (udp, at.port(), owner)
                && held.ip() != at.ip()
                && may_clash(Some(held.ip()), Some(at.ip()))
        };
        if self.ports.contains_key(&(udp, at)) {
            return;
        }
        let found: Vec<_> =
            self.ports.iter().filter(|(place, (of, _))| in_the_way(place, of)).map(|(&place, _)| place).collect();
        for (_, listener) in found.into_iter().filter_map(|place| self.ports.remove(&place)) {
            sys.unlisten(listener);
        }
    }

    /// Whether nothing is held at `at` for anybody but `owner`.
    fn admits(&self, udp: bool, at: SocketAddr, owner: &Owner) -> bool {
        self.ports.get(&(udp, at)).is_none_or(|(of, _)| of == owner)
    }

    pub(super) fn len(&self) -> usize {
        self.ports.len()
    }

    /// Lends those that are held still to the next process. Returns their number.
    pub(super) fn lend<S: Listen<Listener = L>>(&self, sys: &mut S) -> usize {
        for (&(udp, at), (owner, listener)) in &self.ports {
            sys.lend(listener, &Given::Public { udp, port: at.port(), owner: owner.clone() });
        }
        self.ports.len()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        (!self.ports.is_empty()).then_some(self.until)
    }

    pub(super) fn on_deadline<S: Listen<Listener = L>>(&mut self, now: Instant, sys: &mut S) {
        if self.until <= now {
            self.close(sys);
        }
    }

    /// Closes all that are left.
    pub(super) fn close<S: Listen<Listener = L>>(&mut self, sys: &mut S) {
        while let Some((_, (_, listener))) = self.ports.pop_first() {
            sys.unlisten(listener);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::stub::Net;
    use super::*;
    use crate::ids::ClientId;
    use alloc::vec;
    use core::time::Duration;

    /// P-LEAVE-5: the client's id alone anybody can say.
    #[test]
    fn a_held_port_is_for_its_client_of_its_holder_alone_and_for_so_long() {
        let at = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let owner = |client, credential: Option<&str>| Owner {
            client: ClientId([client; 16]),
            credential: credential.map(Into::into),
        };
        let until = Instant::ZERO + Duration::from_secs(60);
        let held = Held::new(
            vec![
                HeldPort { udp: false, at: at(6000), owner: owner(1, Some("a")), listener: () },
                HeldPort { udp: false, at: at(6001), owner: owner(1, None), listener: () },
            ],
            until,
        );
        assert!(held.admits(false, at(6000), &owner(1, Some("a"))));
        for other in [owner(1, Some("b")), owner(2, Some("a")), owner(1, None), owner(1, Some(""))] {
            assert!(!held.admits(false, at(6000), &other), "{other:?}");
        }
        assert!(held.admits(false, at(6001), &owner(1, None)) && !held.admits(false, at(6001), &owner(1, Some("a"))));
        assert!(held.admits(true, at(6000), &owner(2, None)), "its twin of UDP is another port");
        assert!(held.admits(false, at(6002), &owner(2, None)), "nothing is held there");
        assert_eq!(held.next_deadline(), Some(until));
        assert_eq!(Held::<()>::default().next_deadline(), None);
    }
    /// P-LEAVE-5.
    #[test]
    fn what_its_client_wants_elsewhere_now_keeps_nothing_from_being_opened() {
        let at = |address: [u8; 4], port| SocketAddr::from((address, port));
        let owner = |client| Owner { client: ClientId([client; 16]), credential: None };
        let (one, two, all) = ([192, 0, 2, 1], [192, 0, 2, 2], [0; 4]);
        let places = [at(one, 6000), at(two, 6000), at(all, 6001), at(one, 6002)];
        let ports = places.map(|at| HeldPort { udp: false, at, owner: owner(1), listener: at });
        let mut held = Held::new(ports.into(), Instant::ZERO);
        let mut sys = Net::default();
        for (other, address, port, closed) in [
            (2, all, 6002, &[][..]),
            (1, two, 6002, &[]),
            (1, two, 6000, &[]),
            (1, all, 6000, &places[..1]),
            (1, two, 6001, &[places[0], places[2]]),
        ] {
            let token = Token::from_number(1).unwrap();
            let listened = held.listen(&mut sys, at(address, port), &owner(other), token);
            assert_eq!((listened.is_ok(), &sys.closed[..]), (true, closed), "{address:?} {port}");
        }
    }
}
