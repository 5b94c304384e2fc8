//! The main thread's state agrees with itself, after every event: for tests and simulations.

use super::ClientMain;

impl<T> ClientMain<T> {
    /// Checks that the ctl_conn, the session and its grace agree with each other.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_consistent(&self) {
        let ctl_conn = self.stage.token();
        assert_eq!(self.slots.len(), usize::from(ctl_conn.is_some()), "one ctl_conn at a time");
        assert!(ctl_conn.is_none_or(|token| self.slots.get(token).is_some()), "the ctl_conn is there");
        assert!(!self.is_up() || self.control.is_some(), "a ctl_conn that is up has its session");
        assert!(self.control.is_none() || self.is_up() || self.grace.is_some(), "a session without a ctl_conn ends");
        assert!(self.grace.is_none() || !self.is_up(), "a session with a ctl_conn has no grace");
        assert!(self.unresolved.is_empty() || self.look_again.is_some(), "a name that failed is looked up again");
    }
}
