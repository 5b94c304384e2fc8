//! Pipes and splice(2): how the relay moves payload without a copy.

use super::streams::Streams;
use crate::sys_error::SysError;

/// Pipes, and splice(2) between them and streams. A driver hands each pipe back exactly once, to [`Splice::recycle`].
pub trait Splice: Streams {
    /// A pipe. It is empty when it is handed out.
    type Pipe;

    /// An empty pipe and its capacity in bytes, or `None` if no pipe of a useful size is left: the driver copies then.
    fn pipe(&mut self) -> Option<(Self::Pipe, usize)>;

    /// Moves up to `max` bytes from the stream into the empty `pipe`; 0 is the end of the stream.
    ///
    /// # Errors
    /// How the connection failed. As the pipe is empty, [`SysError::WouldBlock`] always means that nothing has come.
    fn splice_in(&mut self, stream: &Self::Stream, pipe: &Self::Pipe, max: usize) -> Result<usize, SysError>;

    /// Moves up to `max` bytes from the pipe into the stream; `max` is all that the pipe holds.
    ///
    /// # Errors
    /// How the connection failed. As the pipe holds bytes, [`SysError::WouldBlock`] always means that the stream has no
    /// room.
    fn splice_out(&mut self, pipe: &Self::Pipe, stream: &Self::Stream, max: usize) -> Result<usize, SysError>;

    /// Whether [`Splice::splice_in`] and [`Splice::splice_out`] work on `stream`. They do not where its bytes are
    /// encrypted in user space. The answer never changes during a transfer.
    fn can_splice(&self, stream: &Self::Stream) -> bool;

    /// Gives a pipe back. A pipe that still holds bytes is destroyed.
    fn recycle(&mut self, pipe: Self::Pipe, empty: bool);
}
