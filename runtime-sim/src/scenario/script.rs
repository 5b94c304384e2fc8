//! What a visitor or a service does with its connection, and how that can end.

use crate::kernel::Rng;
use crate::oracle::Side;
use std::time::Duration;

/// What one end of a visit does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    /// Bytes that it sends.
    pub(crate) total: usize,
    pub(crate) write_chunk: usize,
    pub(crate) read_chunk: usize,
    /// Longest pause after a write.
    pub(crate) write_pause: Duration,
    /// Longest pause after a read.
    pub(crate) read_pause: Duration,
    pub(crate) shut: Shut,
    pub(crate) fate: Fate,
}

impl Script {
    /// Whose words do not come from a script.
    pub(crate) const SILENT: Self = Self {
        total: 0,
        write_chunk: 0,
        read_chunk: 0,
        write_pause: Duration::ZERO,
        read_pause: Duration::ZERO,
        shut: Shut::AfterPeer,
        fate: Fate::Normal,
    };
}

/// When it shuts its write half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shut {
    /// When it has sent all.
    AfterSending,
    /// When it has sent all and read the other side's end.
    AfterPeer,
}

/// How it ends, if not in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Normal,
    /// Resets once it has sent and received so many bytes.
    Reset {
        sent: usize,
        received: u64,
    },
    /// Closes as soon as it has sent all, without reading to the end.
    CloseEarly,
}

/// How a visit ended; `E` is an error of the ring's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome<E> {
    /// Both streams were whole.
    Whole,
    /// The script ended it.
    Own,
    /// Nobody listened, or the connect failed.
    NotConnected(E),
    /// It was reset.
    Reset(E),
}

/// The bounds within which a ring draws its scripts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Of ten streams so many are empty, and one more has a few bytes. Three may be as long as streams get.
    pub(crate) empty: u64,
    /// Most bytes of the others.
    pub(crate) short_total: usize,
    /// Three of ten pause for up to so long: least and most, in `pause_unit`.
    pub(crate) short_pause: (usize, usize),
    pub(crate) pause_unit: Duration,
    /// One of ten pauses for up to so long, in milliseconds.
    pub(crate) long_pause: u64,
    /// The least chunk of who pauses, so that there are few; of its own and of the longest stream's length.
    pub(crate) paused_chunk: fn(total: usize, largest: usize) -> usize,
    pub(crate) largest_chunk: usize,
    /// Chance in a hundred of a reset, and of a close without reading to the end.
    pub(crate) resets: u64,
    pub(crate) early_closes: u64,
    /// Who resets waits for at most this part of the longest stream.
    pub(crate) reset_part: u64,
}

impl Habits {
    /// Draws a script for `side` of a tunnel. `fate` draws how it ends, given the length of the stream.
    pub(crate) fn draw(
        &self,
        rng: &mut Rng,
        largest: usize,
        side: Side,
        service_first: bool,
        fate: impl FnOnce(&mut Rng, usize) -> Fate,
    ) -> Script {
        let total = match rng.below(10) {
            n if n < self.empty => 0,
            n if n == self.empty => rng.size(1, 16),
            n if n < 7 => rng.log_size(8, self.short_total.min(largest)),
            _ => rng.log_size(8, largest),
        };
        let (write_pause, read_pause) = (self.draw_pause(rng), self.draw_pause(rng));
        let may_wait = (side == Side::Visitor) == service_first;
        let fate = fate(rng, total);
        let chunk = |rng: &mut Rng, pause: Duration| {
            let least = if pause.is_zero() { 64 } else { (self.paused_chunk)(total, largest) };
            rng.log_size(least, self.largest_chunk)
        };
        Script {
            total,
            write_chunk: chunk(rng, write_pause),
            read_chunk: chunk(rng, read_pause),
            write_pause,
            read_pause,
            shut: if may_wait && rng.chance(50) { Shut::AfterPeer } else { Shut::AfterSending },
            fate,
        }
    }

    /// Draws the fate of an end that sends `total` bytes.
    pub(crate) fn draw_fate(&self, rng: &mut Rng, largest: usize, total: usize) -> Fate {
        match rng.below(100) {
            n if n < self.resets => {
                let (sent, received) = (rng.size(0, total), rng.below(largest as u64 / self.reset_part + 1));
                // One of three waits for nothing: it may be gone before anybody serves it.
                Fate::Reset { sent, received: if received.is_multiple_of(3) { 0 } else { received } }
            }
            n if n < self.resets + self.early_closes => Fate::CloseEarly,
            _ => Fate::Normal,
        }
    }

    fn draw_pause(&self, rng: &mut Rng) -> Duration {
        match rng.below(10) {
            0..=5 => Duration::ZERO,
            6..=8 => {
                let (least, most) = self.short_pause;
                self.pause_unit * u32::try_from(rng.log_size(least, most)).expect("short")
            }
            _ => Duration::from_millis(rng.range(100, self.long_pause)),
        }
    }
}
