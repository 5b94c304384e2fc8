//! The main thread's fields agree with each other, after every event: for tests and simulations.

use super::ClientMain;

impl<T> ClientMain<T> {
    /// For tests and simulations.
    ///
    /// # Panics
    /// An invariant does not hold.
    pub fn assert_consistent(&self) {
        let links = self.stage.tokens().count() + self.left.len();
        assert_eq!(self.slots.len(), links, "M1: there are no connections but the stage's and those of sessions left");
        assert!(self.left.iter().all(|left| self.slots.get(left.token).is_some()), "M1: the ctl_conns of those");
        assert!(self.stage.tokens().all(|token| self.slots.get(token).is_some()), "M1: the stage's connections");
        assert!(!self.is_up() || self.control.is_some(), "M2: a client that is up has a session");
        let detached = self.control.is_some() && !self.is_up();
        assert!(!detached || self.lost.is_some(), "M3: a session that has no ctl_conn is given up some time");
        let over = self.outcome.is_some();
        assert!(!over || links == 0 && self.control.is_none(), "M4: a client that has an outcome has nothing");
        self.tunnels.assert_consistent();
    }
}
