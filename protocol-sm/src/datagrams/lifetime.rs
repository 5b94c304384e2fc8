//! How long a flow may be silent.
//!
//! ```text
//!             both sides have spoken twice
//!   fresh ─────────────────────────────────▶ known
//!   over after 30 s of silence               over after `udp_idle_timeout`
//! ```
//! A datagram in either direction begins the silence anew.

use crate::canary::{PlantedBug, planted};
use crate::time::Instant;
use core::time::Duration;

/// The longest silence before both sides have spoken twice.
// PROTOCOL.md: P-UDP-5.
pub const FRESH: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lifetime {
    /// How often the visitor has spoken, and the LocalServer: up to twice.
    spoken: [u8; 2],
    last: Instant,
}

impl Lifetime {
    /// A flow that its visitor begins: it is about to speak for the first time.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { spoken: [0; 2], last: now }
    }

    /// The visitor has sent a datagram.
    pub fn on_visitor(&mut self, now: Instant) {
        self.on_spoken(now, 0);
    }

    /// The LocalServer has.
    pub fn on_service(&mut self, now: Instant) {
        self.on_spoken(now, 1);
    }

    fn on_spoken(&mut self, now: Instant, side: usize) {
        self.spoken[side] = (self.spoken[side] + 1).min(2);
        self.last = now;
    }

    /// Whether both sides have spoken twice.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.spoken == [2; 2]
    }

    /// How long it has been silent.
    #[must_use]
    pub fn silence(&self, now: Instant) -> Duration {
        now.since(self.last)
    }

    /// When it is over, if nobody speaks before. `idle`: the longest silence of one that is known.
    // PROTOCOL.md: P-UDP-5.
    #[must_use]
    pub fn until(&self, idle: Duration) -> Instant {
        if planted(PlantedBug::FlowForever) {
            return self.last + Duration::from_secs(1_000_000);
        }
        self.last + if self.is_known() { idle } else { FRESH.min(idle) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P-UDP-5.
    #[test]
    fn a_flow_is_known_when_both_sides_have_spoken_twice() {
        let at = |secs| Instant::ZERO + Duration::from_secs(secs);
        let idle = Duration::from_secs(180);
        let mut flow = Lifetime::new(at(0));
        for secs in 1..=9 {
            flow.on_visitor(at(secs));
            assert_eq!(flow.until(idle), at(secs + 30), "one side alone proves nothing, however often it speaks");
        }
        flow.on_service(at(20));
        assert_eq!(flow.until(idle), at(50));
        flow.on_service(at(21));
        assert_eq!(flow.until(idle), at(201));
        flow.on_visitor(at(100));
        assert_eq!((flow.until(idle), flow.silence(at(101))), (at(280), Duration::from_secs(1)));
        assert_eq!(flow.until(Duration::from_secs(5)), at(105));
        assert_eq!(
            Lifetime::new(at(0)).until(Duration::from_secs(5)),
            at(5),
            "a fresh one has no more than a known one"
        );
    }
}
