//! What both halves of a transfer have in common: a budget, and counts of bytes.

/// How many bytes a half may move now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Bytes that may be taken from the source.
    pub take: usize,
    /// Bytes taken and not yet forwarded: what the runtime holds.
    pub forward: usize,
}

/// What both halves have in common, so that one relay moves either.
pub trait Half {
    /// What may be moved now, if `room` more bytes can be held.
    fn budget(&self, room: usize) -> Budget;
    /// `n` bytes came from the source.
    ///
    /// # Panics
    /// If that is more than the budget allowed.
    fn on_taken(&mut self, n: usize);
    /// `n` bytes went to the destination.
    ///
    /// # Panics
    /// If that is more than was held.
    fn on_forwarded(&mut self, n: usize);
}

/// Bytes so far, in 64 bits: no transfer outlives them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Count {
    pub(super) taken: u64,
    pub(super) forwarded: u64,
}

impl Count {
    pub(super) fn held(self) -> usize {
        usize::try_from(self.taken - self.forwarded).expect("what is held fits memory")
    }

    pub(super) fn on_taken(&mut self, n: usize) {
        self.taken += n as u64;
    }

    pub(super) fn on_forwarded(&mut self, n: usize) {
        self.forwarded += n as u64;
        assert!(self.forwarded <= self.taken, "forwarded more than was taken");
    }
}
