//! Whether a visitor of this session could be carried to the client: that a public port listens is not enough, for the
//! proxy port may be closed by a firewall, or mapped to another number.
//!
//! A server that keeps conns ready asks for them at once: then the first that stands shows it. One that keeps none asks
//! when the first visitor comes, and nothing can be known before.

use crate::time::Instant;
use core::time::Duration;

/// How long a server may take to ask for the first conn.
const ASKS_WITHIN: Duration = Duration::from_secs(1);

/// See the module. A new session has a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Carriage {
    /// No conn was asked for. From `wait_until` on none is expected any more.
    #[default]
    NotAsked,
    /// A tunnel is open, and no conn was asked for.
    Open {
        /// From then on none is expected.
        wait_until: Instant,
    },
    /// Nothing can be known until a visitor comes.
    Unknown,
    /// Conns were asked for, and none has stood yet.
    Asked,
    /// A conn has stood.
    Stood,
}

impl Carriage {
    /// A tunnel is open.
    pub fn on_open(&mut self, now: Instant) {
        if *self == Self::NotAsked {
            *self = Self::Open { wait_until: now + ASKS_WITHIN };
        }
    }

    /// The server has asked for conns.
    pub fn on_asked(&mut self) {
        if *self != Self::Stood {
            *self = Self::Asked;
        }
    }

    /// A conn stands.
    pub fn on_up(&mut self) {
        *self = Self::Stood;
    }

    /// [`Carriage::deadline`] may be over.
    pub fn on_deadline(&mut self, now: Instant) {
        if self.deadline().is_some_and(|at| at <= now) {
            *self = Self::Unknown;
        }
    }

    /// Whether people may be told that tunnels are reachable.
    #[must_use]
    pub fn carries(&self) -> bool {
        match self {
            Self::Stood | Self::Unknown => true,
            Self::NotAsked | Self::Open { .. } | Self::Asked => false,
        }
    }

    /// When to call [`Carriage::on_deadline`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Open { wait_until } => Some(*wait_until),
            Self::NotAsked | Self::Unknown | Self::Asked | Self::Stood => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_conn_that_stands_shows_it_and_failed_ones_do_not() {
        let (mut carriage, now) = (Carriage::default(), Instant::ZERO);
        carriage.on_asked();
        carriage.on_open(now);
        carriage.on_deadline(now + Duration::from_secs(3600));
        assert!(!carriage.carries());
        carriage.on_up();
        carriage.on_asked();
        assert!(carriage.carries());
    }

    #[test]
    fn where_none_is_asked_for_nothing_can_be_known() {
        let (mut carriage, now) = (Carriage::default(), Instant::ZERO);
        assert!(!carriage.carries());
        carriage.on_open(now);
        let at = carriage.deadline().unwrap();
        carriage.on_deadline(now);
        assert!(!carriage.carries());
        carriage.on_deadline(at);
        assert!(carriage.carries());
        assert_eq!(carriage.deadline(), None);
    }
}
