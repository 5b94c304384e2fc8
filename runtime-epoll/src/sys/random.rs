//! Random bytes from the kernel.
#![expect(unsafe_code, reason = "system calls that no safe crate offers; each says why it is sound")]

use nix::errno::Errno;
use std::fmt;

/// Random bytes fit for secrets. Small requests, which are frequent, are served from a block that was
/// fetched at once; what was given out is erased here.
pub(super) struct Random {
    block: [u8; 256],
    used: usize,
}

impl Default for Random {
    fn default() -> Self {
        let block = [0; 256];
        Self { used: block.len(), block }
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The bytes left in the block may become secrets, so they are not printed.
        f.debug_struct("Random").field("used", &self.used).finish_non_exhaustive()
    }
}

impl Random {
    /// Fills `into`.
    ///
    /// # Panics
    /// The kernel gives no random bytes any more, although it did when the program started (see [`needed`]): nothing
    /// secret may be made then at all.
    ///
    /// [`needed`]: super::needed
    // PROTOCOL.md: P-AUTH-1.
    pub(super) fn fill(&mut self, into: &mut [u8]) {
        if into.len() > self.block.len() {
            return must_fetch(into);
        }
        if into.len() > self.block.len() - self.used {
            must_fetch(&mut self.block);
            self.used = 0;
        }
        let given = &mut self.block[self.used..self.used + into.len()];
        into.copy_from_slice(given);
        given.fill(0);
        self.used += into.len();
    }
}

fn must_fetch(into: &mut [u8]) {
    fetch(into).unwrap_or_else(|errno| panic!("the kernel gives no random bytes: {errno}"));
}

/// Fills `into` with random bytes of the kernel.
///
/// # Errors
/// The kernel gives none.
pub fn fetch(into: &mut [u8]) -> Result<(), Errno> {
    let mut filled = 0;
    while filled < into.len() {
        let rest = &mut into[filled..];
        // SAFETY: the pointer and the length name `rest`, which is exclusively ours during the call.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match Errno::result(got) {
            Ok(n) => filled += n.unsigned_abs(),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn nothing_is_given_twice_and_nothing_is_left_out() {
        let mut random = Random::default();
        let mut seen = BTreeSet::new();
        // 16 does not divide what is left after 200: the block is given up in between, too.
        for length in [16, 16, 200, 16, 16, 16, 256, 300, 16] {
            let mut bytes = vec![0; length];
            random.fill(&mut bytes);
            for part in bytes.chunks_exact(8) {
                assert!(seen.insert(part.to_vec()), "{part:?} came twice, or was never filled");
                assert_ne!(part, [0; 8]);
            }
        }
        assert!(random.block[..random.used].iter().all(|&byte| byte == 0), "what was given out is erased");
    }
}
