//! The service's side of one small visit, without its socket: which bytes must come, which are owed, and whether the end
//! was a good one.

use super::pattern::{self, Way};
use super::wire::{Header, Op};

/// How a visit ended, as the service saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Every byte right, end-of-file where it belongs.
    Clean,
    /// A socket error.
    Reset,
    /// Wrong, missing or surplus bytes.
    Wrong,
}

/// Where the two directions of a visit stand.
pub(super) struct Exchange {
    header: Header,
    /// Bytes taken from the visitor.
    taken: u64,
    /// Bytes given to the visitor.
    given: u64,
    /// Bytes that may have been given by now.
    owed: u64,
}

impl Exchange {
    pub(super) fn new(header: Header) -> Self {
        let owed = if header.op == Op::ServiceShutsFirst { header.size } else { 0 };
        Self { header, taken: 0, given: 0, owed }
    }

    pub(super) fn op(&self) -> Op {
        self.header.op
    }

    /// Whether there is something to write.
    pub(super) fn owes(&self) -> bool {
        self.owed > self.given
    }

    /// What to write next.
    pub(super) fn next_bytes(&self) -> &'static [u8] {
        let len = (self.owed - self.given).min(pattern::LONGEST as u64);
        pattern::bytes(self.header.seed, Way::Down, self.given, len as usize)
    }

    /// That much of [`Self::next_bytes`] has been written.
    pub(super) fn given(&mut self, n: usize) {
        self.given += n as u64;
    }

    /// Checks bytes from the visitor. An ending, if they spoil the visit.
    pub(super) fn take(&mut self, got: &[u8]) -> Option<Ending> {
        let size = self.header.size;
        let right = pattern::matches(self.header.seed, Way::Up, self.taken, got);
        self.taken += got.len() as u64;
        // A message that comes before the answer to the last one belongs to nobody.
        let expected = if self.op().echoes() { self.given + size } else { size };
        if !right || self.taken > expected {
            return Some(Ending::Wrong);
        }
        if self.op().echoes() && self.taken == expected {
            self.owed = self.taken;
        }
        None
    }

    /// End-of-file from the visitor. An ending, unless an answer is due now.
    pub(super) fn finish(&mut self) -> Option<Ending> {
        let whole = match self.op() {
            // The visitor leaves when it has its last answer.
            Op::Echo | Op::EchoThenReset => self.taken == self.given,
            Op::VisitorShutsFirst | Op::ServiceShutsFirst | Op::Down | Op::Up | Op::Both | Op::Tally => {
                self.taken == self.header.size
            }
        };
        if !whole {
            return Some(Ending::Wrong);
        }
        if self.op() == Op::VisitorShutsFirst {
            self.owed = self.header.size;
            return None;
        }
        Some(Ending::Clean)
    }

    /// The socket failed: an ending. Behind the answer a visitor may reset, and some peers make a clean end of it.
    pub(super) fn fail(&self) -> Ending {
        let answered = self.given == self.header.size && self.taken == self.given;
        if self.op() == Op::EchoThenReset && answered { Ending::Clean } else { Ending::Reset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(n: usize) -> &'static [u8] {
        pattern::bytes(1, Way::Up, 0, n)
    }

    fn exchange(op: Op) -> Exchange {
        Exchange::new(Header { op, seed: 1, size: 64 })
    }

    #[test]
    fn an_echo_answers_whole_messages_only() {
        let mut x = exchange(Op::Echo);
        assert_eq!(x.take(&up(64)[..40]), None);
        assert!(!x.owes());
        assert_eq!(x.take(&up(64)[40..]), None);
        assert_eq!(x.next_bytes().len(), 64);
        x.given(64);
        assert_eq!(x.finish(), Some(Ending::Clean));
    }

    #[test]
    fn a_reset_is_expected_behind_the_answer_alone() {
        let mut x = exchange(Op::EchoThenReset);
        assert_eq!(x.fail(), Ending::Reset);
        assert_eq!(x.take(up(64)), None);
        assert_eq!(x.fail(), Ending::Reset);
        x.given(64);
        assert_eq!((x.fail(), x.finish()), (Ending::Clean, Some(Ending::Clean)));
        let mut other = exchange(Op::Echo);
        assert_eq!(other.take(up(64)), None);
        other.given(64);
        assert_eq!(other.fail(), Ending::Reset);
    }

    #[test]
    fn cut_wrong_and_surplus_bytes_are_seen() {
        let mut cut = exchange(Op::Echo);
        assert_eq!(cut.take(up(40)), None);
        assert_eq!(cut.finish(), Some(Ending::Wrong));
        assert_eq!(exchange(Op::Echo).take(&up(65)[1..]), Some(Ending::Wrong));
        assert_eq!(exchange(Op::Echo).take(up(65)), Some(Ending::Wrong));
        assert_eq!(exchange(Op::ServiceShutsFirst).take(up(65)), Some(Ending::Wrong));
        assert_eq!(exchange(Op::ServiceShutsFirst).finish(), Some(Ending::Wrong));
    }

    #[test]
    fn half_close_waits_for_its_turn() {
        let mut visitor_first = exchange(Op::VisitorShutsFirst);
        assert_eq!(visitor_first.take(up(64)), None);
        assert!(!visitor_first.owes());
        assert_eq!(visitor_first.finish(), None);
        assert!(visitor_first.owes());
        assert!(exchange(Op::ServiceShutsFirst).owes());
    }
}
