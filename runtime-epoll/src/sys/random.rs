//! Random bytes from the kernel.

use nix::errno::Errno;

/// Fills `into` with random bytes fit for secrets.
///
/// # Panics
/// The kernel gives none: then nothing secret may be made at all.
pub(super) fn fill(into: &mut [u8]) {
    let mut filled = 0;
    while filled < into.len() {
        let rest = &mut into[filled..];
        // SAFETY: the pointer and the length name `rest`, which is exclusively ours during the call.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match Errno::result(got) {
            Ok(n) => filled += n.unsigned_abs(),
            Err(Errno::EINTR) => {}
            Err(errno) => panic!("the kernel gives no random bytes: {errno}"),
        }
    }
}
