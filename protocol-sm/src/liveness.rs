//! Heartbeats of one ctl_conn, the same on both sides (PROTOCOL.md, "Timers").
//!
//! Silence for `interval` asks for a ping; silence for `timeout` means that the connection is dead.
//! Anything heard counts.

use crate::canary::{PlantedBug, planted};
use crate::time::Instant;
use core::time::Duration;

/// When something was last heard, and what is due.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Liveness {
    interval: Duration,
    timeout: Duration,
    line: Line,
    pinged: bool,
}

/// When a ctl_conn came up, and when something was last heard on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// When it came up.
    pub since: Instant,
    /// When something was last heard.
    pub heard: Instant,
}

/// Longer than any run, for a planted bug.
const NEVER: Duration = Duration::from_secs(1 << 30);

/// What silence asks for.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// Nothing yet.
    Fine,
    /// Send a ping.
    Ping,
    /// Give the connection up.
    Dead,
}

impl Liveness {
    /// Starts at `now`, as if something had just been heard.
    #[must_use]
    pub fn new(now: Instant, interval: Duration, timeout: Duration) -> Self {
        Self { interval, timeout, line: Line { since: now, heard: now }, pinged: false }
    }

    /// Since when the connection has been up, and until when it was heard.
    #[must_use]
    pub fn line(&self) -> Line {
        self.line
    }

    /// Something came.
    pub fn on_heard(&mut self, now: Instant) {
        if self.pinged && planted(PlantedBug::HeartbeatOnce) {
            (self.interval, self.timeout) = (NEVER, NEVER);
        }
        self.line.heard = now;
        self.pinged = false;
    }

    /// When to call [`Liveness::on_deadline`] next.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        self.line.heard + if self.pinged { self.timeout } else { self.interval }
    }

    /// Time has passed. Harmless when called early.
    // PROTOCOL.md: P-LIVE-1, P-LIVE-2.
    pub fn on_deadline(&mut self, now: Instant) -> Pulse {
        let silence = now.since(self.line.heard);
        if silence >= self.timeout {
            Pulse::Dead
        } else if silence >= self.interval && !self.pinged {
            self.pinged = true;
            Pulse::Ping
        } else {
            Pulse::Fine
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ping_then_dead_unless_heard() {
        let at = |s| Instant::ZERO + Duration::from_secs(s);
        let mut live = Liveness::new(at(0), Duration::from_secs(5), Duration::from_secs(15));
        assert_eq!(live.on_deadline(at(4)), Pulse::Fine);
        assert_eq!(live.next_deadline(), at(5));
        assert_eq!(live.on_deadline(at(5)), Pulse::Ping);
        assert_eq!(live.on_deadline(at(6)), Pulse::Fine);
        assert_eq!(live.next_deadline(), at(15));
        live.on_heard(at(7));
        assert_eq!(live.next_deadline(), at(12));
        assert_eq!(live.on_deadline(at(22)), Pulse::Dead);
    }

    /// Whoever answers each ping is asked again and again, and found out in whichever period it falls silent.
    #[test]
    fn every_period_has_its_ping_until_the_first_without_an_answer() {
        let (interval, timeout) = (Duration::from_secs(5), Duration::from_secs(15));
        let mut live = Liveness::new(Instant::ZERO, interval, timeout);
        let mut heard = Instant::ZERO;
        for period in 0..6 {
            let due = live.next_deadline();
            assert_eq!(due, heard + interval, "period {period}");
            assert_eq!(live.on_deadline(due), Pulse::Ping, "period {period}");
            assert_eq!(live.next_deadline(), heard + timeout, "one ping is enough");
            heard = due + Duration::from_secs(period);
            live.on_heard(heard);
        }
        assert_eq!(live.on_deadline(heard + interval), Pulse::Ping);
        assert_eq!(live.on_deadline(heard + (timeout - Duration::from_millis(1))), Pulse::Fine);
        assert_eq!(live.on_deadline(heard + timeout), Pulse::Dead);
    }
}
