//! The listening thread's tables agree with each other, after every event: for tests and simulations.

use super::super::messages::ControlKey;
use super::{Listener, Slot};
use crate::control::server::Place;
use crate::ids::Registration;
use crate::routes::Site;

impl<T, L> Listener<T, L> {
    /// The registrations whose public ports, or hosts, are open.
    pub fn registrations(&self) -> impl Iterator<Item = (ControlKey, Registration)> {
        self.port_of.keys().copied().chain(self.sites.registrations())
    }

    /// Whether the public port, or the host, of this registration is open.
    #[must_use]
    pub fn has(&self, control: ControlKey, registration: Registration) -> bool {
        self.port_of.contains_key(&(control, registration)) || self.sites.has(control, registration)
    }

    /// Whether the host of this site leads to a tunnel.
    #[must_use]
    pub fn leads(&self, site: &Site) -> bool {
        self.sites.leads(site)
    }

    /// Checks that ports, tunnels and the queue agree with each other.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_consistent(&self) {
        self.deal.crowd.assert_consistent();
        assert_eq!(self.deal.crowd.total(), self.deal.load(), "each visitor is with an event loop");
        self.sites.assert_consistent();
        self.assert_newcomers();
        let (mut members, mut queued) = (0, 0);
        for (token, slot) in self.slots.iter() {
            let is_queued = match slot {
                Slot::Port(port) => port.queued,
                Slot::Door(door) => door.queued,
                Slot::Newcomer(_) | Slot::Waiting(_) => false,
            };
            if is_queued {
                assert_eq!(self.busy.iter().filter(|&&busy| busy == token).count(), 1, "a port is queued once");
                queued += 1;
            }
            let Slot::Port(port) = slot else { continue };
            assert!(!port.route.members().is_empty(), "a public port leads to a tunnel");
            for member in port.route.members() {
                let found = self.port_of.get(&(member.control, member.registration));
                assert_eq!(found, Some(&token), "a tunnel finds its public port");
                members += 1;
            }
        }
        assert_eq!(members, self.port_of.len(), "no tunnel without its public port");
        self.binds.assert_consistent();
        for bind in self.binds.iter() {
            assert!(
                !matches!(&bind.place, Place::Ports(ports) | Place::Udp(ports) if ports.is_empty()),
                "there is a port to try"
            );
            let of_session = self.binds.iter().filter(|other| other.control == bind.control).count();
            assert_eq!(of_session, 1, "a session opens one port at a time");
        }
        let live = self.busy.iter().filter(|&&token| self.slots.get(token).is_some()).count();
        assert_eq!(live, queued, "whoever is queued knows it");
    }
}
