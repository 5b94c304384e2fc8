//! A fuzz input read as a script: each byte is a choice. Past the end there is nothing more to do.

/// See the module.
#[derive(Debug)]
pub(crate) struct Tape<'a>(pub(crate) &'a [u8]);

impl Tape<'_> {
    /// The next choice, if there is one.
    pub(crate) fn next(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    /// The next choice, 0 past the end.
    pub(crate) fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    /// An index below `len`; `None` if there is nothing to choose from.
    pub(crate) fn index(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| usize::from(self.byte()) % len)
    }

    /// A number: mostly small, now and then of any size.
    pub(crate) fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => u64::from(u32::MAX),
            253 => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            252 => u64::from(u16::from_le_bytes([self.byte(), self.byte()])),
            small => u64::from(small),
        }
    }

    /// The same within 32 bits.
    pub(crate) fn number32(&mut self) -> u32 {
        u32::try_from(self.number()).unwrap_or(u32::MAX)
    }

    /// Up to 255 bytes of the tape itself.
    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        let length = usize::from(self.byte()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes.to_vec()
    }
}
