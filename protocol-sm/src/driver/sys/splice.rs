//! Pipes and splice(2): how the relay moves payload without a copy.

use super::streams::Streams;
use crate::sys_error::SysError;

/// Pipes, and splice(2) between them and streams. A driver hands each pipe back exactly once, to [`Splice::recycle`].
pub trait Splice: Streams {
    /// A pipe. It is empty when it is handed out.
    type Pipe;

    /// An empty pipe and its capacity in bytes, or `None` if no pipe of a useful size is left, or splice(2) was found not
    /// to work here: the driver copies then.
    fn pipe(&mut self) -> Option<(Self::Pipe, usize)>;

    /// Moves up to `max` bytes from the stream into the empty `pipe`; 0 is the end of the stream.
    ///
    /// # Errors
    /// How the connection failed. As the pipe is empty, [`SysError::WouldBlock`] always means that nothing has come.
    /// [`SysError::Unsupported`] says nothing of the connection: nothing was moved, and the driver copies. After
    /// [`SysError::Exhausted`] the call may be tried again.
    fn splice_in(&mut self, stream: &Self::Stream, pipe: &Self::Pipe, max: usize) -> Result<usize, SysError>;

    /// Moves up to `max` bytes from the pipe into the stream; `max` is all that the pipe holds.
    ///
    /// # Errors
    /// How the connection failed. As the pipe holds bytes, [`SysError::WouldBlock`] always means that the stream has no
    /// room. [`SysError::Unsupported`] and [`SysError::Exhausted`] say nothing of the connection: the pipe holds what it
    /// held, and after the latter the call may be tried again.
    fn splice_out(&mut self, pipe: &Self::Pipe, stream: &Self::Stream, max: usize) -> Result<usize, SysError>;

    /// Reads what `pipe` holds, as many bytes as `into` has, where [`Splice::splice_out`] does not work.
    ///
    /// # Errors
    /// The system refuses that, too: the bytes are lost.
    fn read_pipe(&mut self, pipe: &Self::Pipe, into: &mut [u8]) -> Result<(), SysError>;

    /// Whether [`Splice::splice_in`] and [`Splice::splice_out`] work on `stream`. They do not where its bytes are
    /// encrypted in user space. The answer never changes during a transfer.
    fn can_splice(&self, stream: &Self::Stream) -> bool;

    /// Gives a pipe back. A pipe that still holds bytes is destroyed.
    fn recycle(&mut self, pipe: Self::Pipe, empty: bool);
}
