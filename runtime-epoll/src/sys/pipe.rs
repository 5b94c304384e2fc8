//! Pipes to splice through, a few of them kept per thread.
//!
//! A thread holds a pipe for a connection only while bytes are in it, so few are in use at once: those of
//! streams whose destination does not take any more. A user without privileges may have 64 MiB in pipes
//! in all processes together; beyond that the kernel gives pipes of 8 KiB, which are worse than none.

use super::errno::{retried, sys_error};
use super::socket::Stream;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{pipe2, read, write};
use protocol_sm::driver::SysError;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Once;

/// The sizes that a pipe is enlarged to, in the order in which they are tried. A pipe of 64 KiB has 16 slots, so 16
/// small segments fill it.
const LARGE: [usize; 2] = [1024 * 1024, 256 * 1024];
/// A pipe below this is worth less than copying.
const SMALL: usize = 64 * 1024;
/// Bytes of capacity that the large pipes of a thread may have together.
const LARGE_BUDGET: usize = 4 * LARGE[0];
/// Bytes of capacity that all pipes of a thread, an event loop, may have together.
pub const BUDGET: usize = 2 * LARGE_BUDGET;
/// Empty pipes that a thread keeps. To make one and to close it costs 12 µs.
const KEEP: usize = 8;
/// After a failure, this many requests get no pipe, without asking the system.
const REST: u32 = 256;

/// A pipe and its capacity.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: u32,
}

impl Pipe {
    /// Moves up to `max` bytes from `stream`; 0 is the end of the stream, or an urgent byte.
    pub(super) fn fill(&self, stream: &Stream, max: usize) -> Result<usize, Errno> {
        assert!(max > 0, "a splice of nothing would look like the end of the stream");
        retried(|| splice(stream, None, &self.write, None, max, flags()))
    }

    /// Moves up to `max` bytes to `stream`.
    pub(super) fn drain(&self, stream: &Stream, max: usize) -> Result<usize, Errno> {
        retried(|| splice(&self.read, None, stream, None, max, flags()))
    }

    /// Reads as many bytes as `into` has, which the pipe holds.
    pub(super) fn get(&self, mut into: &mut [u8]) -> Result<(), SysError> {
        while !into.is_empty() {
            match retried(|| read(&self.read, into)) {
                Ok(0) => return Err(SysError::Exhausted),
                Ok(n) => into = &mut into[n..],
                Err(errno) => return Err(sys_error(errno)),
            }
        }
        Ok(())
    }

    /// Puts `bytes`, no more than 16 KiB, into the empty pipe.
    pub(super) fn put(&self, bytes: &[u8]) -> Result<(), SysError> {
        match retried(|| write(&self.write, bytes)) {
            Ok(n) if n == bytes.len() => Ok(()),
            // No memory for the pipe's pages: what could not be put in is lost, and the stream with it.
            Ok(_) | Err(_) => Err(SysError::Other(Errno::ENOMEM as i32)),
        }
    }
}

/// Never SPLICE_F_MORE: on a last chunk it delays the bytes by 200 ms.
fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Empty pipes.
    kept: Vec<Pipe>,
    /// Capacity of all pipes above [`SMALL`], handed out or kept.
    large: usize,
    /// Capacity of all pipes, handed out or kept.
    all: usize,
    /// Requests that still get no pipe after a failure.
    rest: u32,
    /// No request gets a pipe any more.
    given_up: bool,
}

impl Pool {
    /// An empty pipe of at least 64 KiB and its capacity: the largest that is kept, else a new one.
    pub(super) fn take(&mut self) -> Option<(Pipe, usize)> {
        if self.given_up {
            return None;
        }
        let largest = self.kept.iter().enumerate().max_by_key(|(_, pipe)| pipe.capacity).map(|(at, _)| at);
        let pipe = match largest {
            Some(at) => self.kept.swap_remove(at),
            None => self.create()?,
        };
        let capacity = pipe.capacity as usize;
        Some((pipe, capacity))
    }

    /// Takes a pipe back. One that holds bytes is destroyed, and so is the smallest of too many.
    pub(super) fn put_back(&mut self, pipe: Pipe, empty: bool) {
        if !empty {
            return self.destroy(pipe);
        }
        self.kept.push(pipe);
        if self.kept.len() > KEEP
            && let Some((at, _)) = self.kept.iter().enumerate().min_by_key(|(_, pipe)| pipe.capacity)
        {
            let smallest = self.kept.swap_remove(at);
            self.destroy(smallest);
        }
    }

    /// Hands out no pipe any more: splice(2) does not work.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    fn create(&mut self) -> Option<Pipe> {
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        if self.all + SMALL > BUDGET {
            return None;
        }
        let room = LARGE_BUDGET - self.large;
        match open(LARGE.into_iter().filter(|&size| size <= room)) {
            Ok(pipe) if !leaves_room(&pipe.write) => {
                drop(pipe);
                self.rest = REST;
                None
            }
            Ok(pipe) if pipe.capacity as usize >= SMALL => {
                self.count(pipe.capacity, usize::wrapping_add);
                Some(pipe)
            }
            poor => {
                self.rest = REST;
                say_short(poor.map(|pipe| pipe.capacity));
                None
            }
        }
    }

    fn destroy(&mut self, pipe: Pipe) {
        self.count(pipe.capacity, usize::wrapping_sub);
    }

    fn count(&mut self, capacity: u32, by: fn(usize, usize) -> usize) {
        let capacity = capacity as usize;
        self.all = by(self.all, capacity);
        if capacity > SMALL {
            self.large = by(self.large, capacity);
        }
    }
}

/// Whether a quarter of the descriptors that the process may open is left for more important things than pipes: the
/// system gives the lowest number that is free.
fn leaves_room(last: &OwnedFd) -> bool {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    u64::try_from(last.as_raw_fd()).is_ok_and(|number| number < limit - limit / 4)
}

/// Says once that there are no good pipes. The kernel counts the pipes of all programs of a user together, and those of
/// root in all containers.
fn say_short(got: nix::Result<u32>) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let why = match got {
            Ok(capacity) => format!("new pipes have {capacity} bytes only, because this user's programs hold many"),
            Err(errno) => format!("no new pipe is to be had ({errno})"),
        };
        tracing::warn!(
            event = "no_good_pipes",
            "{why}: bulk data is copied while that lasts, which takes more processor time; the limit is \
             fs.pipe-user-pages-soft, or that of open files (ulimit -n)"
        );
    });
}

/// A new pipe of the first of `sizes` that the system grants, or of its default size.
fn open(sizes: impl IntoIterator<Item = usize>) -> nix::Result<Pipe> {
    let (read, write) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
    for size in sizes {
        if fcntl(&write, FcntlArg::F_SETPIPE_SZ(size as libc::c_int)).is_ok() {
            break;
        }
    }
    let capacity = fcntl(&write, FcntlArg::F_GETPIPE_SZ)?;
    Ok(Pipe { read, write, capacity: u32::try_from(capacity).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_bounds_what_is_handed_out_and_few_are_kept() {
        let mut pool = Pool::default();
        let mut taken = Vec::new();
        while let Some((pipe, capacity)) = pool.take() {
            assert!(capacity >= SMALL);
            taken.push(pipe);
            assert!(taken.len() <= BUDGET / SMALL, "the budget ends");
        }
        assert_eq!(pool.all, taken.iter().map(|pipe| pipe.capacity as usize).sum::<usize>());
        assert!(pool.large <= LARGE_BUDGET && pool.all <= BUDGET);
        let largest = taken.iter().map(|pipe| pipe.capacity as usize).max();
        for pipe in taken {
            pool.put_back(pipe, true);
        }
        assert_eq!(pool.kept.len(), KEEP);
        assert_eq!(pool.all, pool.kept.iter().map(|pipe| pipe.capacity as usize).sum::<usize>());
        assert_eq!(pool.take().map(|(_, capacity)| capacity), largest, "the largest are kept, and used first");
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_not_kept() {
        let mut pool = Pool::default();
        let (pipe, _) = pool.take().unwrap();
        pipe.put(b"left over").unwrap();
        pool.put_back(pipe, false);
        assert_eq!((pool.kept.len(), pool.all, pool.large), (0, 0, 0));
    }
}
