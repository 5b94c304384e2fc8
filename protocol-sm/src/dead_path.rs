//! Notices a proxy_conn whose path is dead although its ctl_conn's is not (PROTOCOL.md, "Transfers").
//!
//! TCP sends bytes that are not acknowledged again and again, and probes a window that is closed. A peer's system that
//! is there answers, whether anybody reads or not. Where nothing answers, either the whole line is cut, and nothing ends
//! that the session keeps, or this path alone is dead: what comes on the ctl_conn tells the two apart.
//!
//! Invariants:
//! - D1 whatever comes from the peer's system ends the silence;
//! - D2 a path is dead only if bytes were sent again twice in the silence, the first of which may have been lost;
//! - D3 and only if the ctl_conn was up during all of the silence, and heard in its second half: a peer that does not
//!   hear us gives the ctl_conn up before that.

use crate::liveness::Line;
use crate::time::Instant;
use alloc::boxed::Box;
use core::time::Duration;

/// So often bytes must be sent again in a silence.
const REPEATS: u32 = 2;

/// What a conn's system says of bytes that its peer's has not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unacked {
    /// How often they were sent again, or a closed window was probed, since anything was acknowledged.
    pub repeats: u32,
    /// How long ago anything came from the peer's system.
    pub heard: Duration,
}

/// What is known of the path of a conn that carries a transfer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Path {
    /// So many bytes of the transfer are known to be acknowledged.
    acked: u64,
    silence: Option<Box<Silence>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Silence {
    /// The first look that found bytes sent again, behind the last sign of life.
    since: Instant,
    /// How often they had been by then.
    before: u32,
    /// And by the last look.
    repeats: u32,
}

impl Path {
    /// Whether some of the `sent` bytes may be unacknowledged.
    #[must_use]
    pub fn is_open(&self, sent: u64) -> bool {
        sent > self.acked
    }

    /// A look shows what of the `sent` bytes is not acknowledged. `true`: the silence has lasted for `patience`: ask about
    /// the line.
    #[must_use]
    pub fn look(&mut self, now: Instant, sent: u64, unacked: Option<Unacked>, patience: Duration) -> bool {
        let Some(Unacked { repeats, heard }) = unacked else {
            *self = Self { acked: sent, silence: None };
            return false;
        };
        match &mut self.silence {
            Some(silence) if repeats > 0 && heard >= now.since(silence.since) => silence.repeats = repeats,
            silence => {
                *silence = (repeats > 0).then(|| Box::new(Silence { since: now, before: repeats, repeats }));
            }
        }
        self.silence.as_ref().is_some_and(|silence| silence.is_long(now, patience))
    }

    /// The line is like this. `Some`: the path is dead, and has been silent for so long.
    #[must_use]
    pub fn on_line(&mut self, now: Instant, line: Line, patience: Duration) -> Option<Duration> {
        let silence = self.silence.as_mut()?;
        if line.since > silence.since {
            // The line may have been cut until then.
            (silence.since, silence.before) = (line.since, silence.repeats);
        }
        let is_well = line.heard >= silence.since + patience / 2;
        (is_well && silence.is_long(now, patience)).then(|| now.since(silence.since))
    }
}

impl Silence {
    fn is_long(&self, now: Instant, patience: Duration) -> bool {
        now.since(self.since) >= patience && self.repeats >= self.before + REPEATS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(40);

    fn at(secs: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(secs)
    }

    fn unacked(repeats: u32, heard: u64) -> Option<Unacked> {
        Some(Unacked { repeats, heard: Duration::from_secs(heard) })
    }

    fn line(since: u64, heard: u64) -> Line {
        Line { since: at(since), heard: at(heard) }
    }

    /// One whose peer was heard last at 100 s, looked at every 10 s until it has been silent for long enough.
    fn silent() -> Path {
        let mut path = Path::default();
        for (now, repeats) in [(110, 5), (120, 6), (130, 7), (140, 7)] {
            assert!(!path.look(at(now), 9, unacked(repeats, now - 100), PATIENCE), "at {now} s");
        }
        assert!(path.look(at(150), 9, unacked(7, 50), PATIENCE));
        path
    }

    #[test]
    fn what_is_acknowledged_is_not_looked_at_again() {
        let mut path = Path::default();
        assert!(!path.is_open(0) && path.is_open(1));
        assert!(!path.look(at(1), 1, None, PATIENCE));
        assert!(!path.is_open(1) && path.is_open(2));
    }

    #[test]
    fn d1_a_sign_of_life_ends_the_silence() {
        let mut path = silent();
        assert!(!path.look(at(151), 9, unacked(1, 0), PATIENCE), "a window that stays closed, and is probed");
        assert_eq!(path.on_line(at(152), line(0, 152), PATIENCE), None);
        assert!(!path.look(at(153), 9, unacked(8, 1), PATIENCE), "and goes on being probed, and answered");
        assert_eq!(path.on_line(at(154), line(0, 154), PATIENCE), None);
        let mut path = silent();
        assert!(!path.look(at(151), 9, unacked(0, 51), PATIENCE), "something new was sent, and not yet again");
        assert_eq!(path.on_line(at(152), line(0, 152), PATIENCE), None);
    }

    #[test]
    fn d2_one_packet_that_is_lost_is_no_silence() {
        let mut path = Path::default();
        for now in (110..400).step_by(10) {
            assert!(!path.look(at(now), 9, unacked(if now < 150 { 1 } else { 2 }, now - 100), PATIENCE));
        }
    }

    #[test]
    fn d3_the_line_must_have_been_up_all_the_time_and_heard_in_the_second_half() {
        assert_eq!(silent().on_line(at(151), line(0, 130), PATIENCE), Some(Duration::from_secs(41)));
        assert_eq!(silent().on_line(at(151), line(0, 129), PATIENCE), None, "it may be cut as well");
    }

    #[test]
    fn d3_after_a_cut_of_the_whole_line_the_silence_begins_anew() {
        let mut path = silent();
        assert_eq!(path.on_line(at(151), line(145, 150), PATIENCE), None);
        assert!(!path.look(at(190), 9, unacked(8, 90), PATIENCE), "sent again once since then: that may be lost");
        assert!(path.look(at(220), 9, unacked(9, 120), PATIENCE));
        assert_eq!(path.on_line(at(220), line(145, 219), PATIENCE), Some(Duration::from_secs(75)));
    }
}
