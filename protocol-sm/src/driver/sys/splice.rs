//! Payload that is moved without a copy: what the relay asks of the system beyond [`Streams`].

use super::streams::Streams;
use crate::sys_error::SysError;

/// Pipes, and splice(2) between them and streams. A pipe is handed back exactly once, to `recycle`.
pub trait Splice: Streams {
    /// A pipe that is empty when handed out.
    type Pipe;

    /// An empty pipe and how many bytes it is good for, or `None` if there is none worth having: copy instead.
    fn pipe(&mut self) -> Option<(Self::Pipe, usize)>;

    /// Moves up to `max` bytes from the stream into the empty `pipe`; 0 is the end of the stream.
    ///
    /// # Errors
    /// As the system says; as the pipe is empty, `WouldBlock` always means the stream.
    fn splice_in(&mut self, stream: &Self::Stream, pipe: &Self::Pipe, max: usize) -> Result<usize, SysError>;

    /// Moves up to `max` bytes, all that it holds, from the pipe into the stream.
    ///
    /// # Errors
    /// As the system says; as the pipe holds bytes, `WouldBlock` always means the stream.
    fn splice_out(&mut self, pipe: &Self::Pipe, stream: &Self::Stream, max: usize) -> Result<usize, SysError>;

    /// Whether [`Splice::splice_in`] and [`Splice::splice_out`] work on `stream`: not where its bytes are encrypted in
    /// user space. The answer never changes during a transfer.
    fn can_splice(&self, stream: &Self::Stream) -> bool;

    /// Gives a pipe back. Where it still holds bytes it is destroyed.
    fn recycle(&mut self, pipe: Self::Pipe, empty: bool);
}
