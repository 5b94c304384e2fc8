//! One direction of a relay: what is on its way, and the turn that moves it.

use super::super::sys::Splice;
use super::super::thread::{Cx, Strategy};
use super::Endpoint;
use crate::canary::{PlantedBug, planted};
use crate::sys_error::SysError;
use crate::transfer::Half;
use crate::wire::{FRAME_HEADER, Message};
use alloc::vec;
use alloc::vec::Vec;

/// No frame on a proxy_conn is longer.
pub(crate) const LONGEST_FRAME: usize = FRAME_HEADER + 128;
/// A splice that moves less than this is lean.
const LEAN: usize = 16 * 1024;
/// After this many lean splices in a row a stream is no longer bulk.
const LEAN_TURNS: u8 = 8;

/// What is on its way in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flow<P> {
    held: Held<P>,
    /// Of the bytes held, so many at the front are frames and not payload.
    frames: u32,
    bulk: bool,
    lean: u8,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Readiness, or news from the peer, must come first.
    Wait,
    /// More could be done: others first.
    Again,
    /// The source's stream has ended.
    Eof,
    /// The source failed.
    SourceLost,
    /// The destination failed.
    SinkLost(SysError),
    /// The system had no memory for a call, and will not tell when it has: try again later.
    Starved,
}

impl<P> Flow<P> {
    /// One turn: sends what is held, then takes and forwards what there is, up to [`Cx::turn`] bytes. Without
    /// `from` it only sends what is held. `hold_frames`: frames wait for payload to go out with. What is taken is also
    /// appended to `keep`, and not spliced then.
    pub(super) fn pump<S: Splice<Pipe = P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        half: &mut impl Half,
        mut from: Option<&mut Endpoint<S::Stream>>,
        to: &mut Endpoint<S::Stream>,
        hold_frames: bool,
        keep: Option<&mut Vec<u8>>,
    ) -> Turn {
        let turn = self.turn(cx, half, &mut from, to, hold_frames, keep);
        if half.budget(0).forward == 0 {
            self.release_pipe(cx.sys);
        }
        turn
    }

    /// Appends a message as a frame.
    pub(crate) fn push(&mut self, message: &impl Message) {
        let mut frame = [0; LONGEST_FRAME];
        let length = message.encode(&mut frame);
        self.push_frame(&frame[..length]);
    }

    /// Appends a frame. Only between transfers, or at their start: never behind payload.
    // PROTOCOL.md: P-CONN-2.
    pub(crate) fn push_frame(&mut self, frame: &[u8]) {
        assert!(self.is_framing(), "no frame behind payload");
        self.bytes().extend_from_slice(frame);
        self.frames += u32::try_from(frame.len()).expect("a frame is short");
    }

    /// Appends payload that came in one read with a frame. The half has counted it as taken.
    pub(crate) fn push_payload(&mut self, payload: &[u8]) {
        if payload.is_empty() {
            return;
        }
        self.bytes().extend_from_slice(payload);
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.held, Held::Nothing)
    }

    /// Whether nothing but frames is on its way.
    pub(crate) fn is_framing(&self) -> bool {
        self.is_empty() || self.only_frames()
    }

    /// Whether what is held is nothing but frames: first payload may go out behind them in one call.
    pub(crate) fn only_frames(&self) -> bool {
        match &self.held {
            Held::Bytes(bytes) => self.frames as usize == bytes.len(),
            Held::Nothing | Held::Pipe { .. } => false,
        }
    }

    /// Whether frames are on their way.
    pub(crate) fn has_frames(&self) -> bool {
        self.frames > 0
    }

    /// Whether a turn would move something: for checks. The arguments are those of [`Flow::pump`].
    pub(super) fn could_move<T>(
        &self,
        half: &impl Half,
        from: Option<&Endpoint<T>>,
        to: &Endpoint<T>,
        hold_frames: bool,
    ) -> bool {
        let may_take = from.is_some_and(|from| from.readable) && half.budget(1).take > 0;
        let may_send = match &self.held {
            Held::Nothing => false,
            Held::Bytes(_) => !(hold_frames && self.only_frames()),
            Held::Pipe { .. } => half.budget(0).forward > 0,
        };
        (may_take && self.is_framing()) || (may_send && to.writable)
    }

    /// Drops what is on its way. A pipe with bytes in it is destroyed.
    pub(crate) fn discard(&mut self, sys: &mut impl Splice<Pipe = P>) {
        self.frames = 0;
        if let Held::Pipe { pipe, .. } = core::mem::replace(&mut self.held, Held::Nothing) {
            sys.recycle(pipe, false);
        }
    }

    /// Sends what is held as far as `to` allows. `Ok(true)`: nothing is left.
    pub(super) fn flush<S: Splice<Pipe = P>>(
        &mut self,
        sys: &mut S,
        half: &mut impl Half,
        to: &mut Endpoint<S::Stream>,
    ) -> Result<bool, SysError> {
        loop {
            if let Held::Pipe { .. } = self.held
                && half.budget(0).forward == 0
            {
                return Ok(true);
            }
            if !to.writable {
                return Ok(self.is_empty());
            }
            let sent = match &mut self.held {
                Held::Nothing => return Ok(true),
                Held::Bytes(bytes) => to.send(sys, bytes),
                Held::Pipe { pipe, .. } => {
                    let moved = sys.splice_out(pipe, to.stream(), half.budget(0).forward);
                    to.writable &= moved != Err(SysError::WouldBlock);
                    moved
                }
            };
            match sent {
                Ok(n) => self.on_sent(n, half),
                Err(SysError::WouldBlock) => return Ok(false),
                Err(SysError::Unsupported) => self.empty_pipe(sys, half)?,
                Err(error) => return Err(error),
            }
        }
    }

    // PROTOCOL.md: P-XFER-5, P-XFER-7.
    fn turn<S: Splice<Pipe = P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        half: &mut impl Half,
        from: &mut Option<&mut Endpoint<S::Stream>>,
        to: &mut Endpoint<S::Stream>,
        hold_frames: bool,
        mut keep: Option<&mut Vec<u8>>,
    ) -> Turn {
        let mut moved = 0;
        loop {
            let may_take = from.as_ref().is_some_and(|from| from.readable) && half.budget(1).take > 0;
            if !((may_take || hold_frames) && self.only_frames()) {
                match self.flush(cx.sys, half, to) {
                    Ok(true) => {}
                    Ok(false) => return Turn::Wait,
                    Err(SysError::Exhausted) => return Turn::Starved,
                    Err(error) => return Turn::SinkLost(error),
                }
            }
            let Some(from) = from.as_mut().filter(|_| may_take) else {
                return Turn::Wait;
            };
            if moved >= if planted(PlantedBug::LongTurn) { cx.turn * 64 } else { cx.turn } {
                return Turn::Again;
            }
            let spliceable = from.can_splice(cx.sys) && to.can_splice(cx.sys);
            let mut taken = Err(Stop::Source(SysError::Unsupported));
            if spliceable && keep.is_none() && self.wants_splice(cx.strategy) && self.have_pipe(cx.sys) {
                taken = self.take_by_splice(cx, half, from);
            }
            if let Err(Stop::Source(SysError::Unsupported)) = taken {
                // A stream that is no longer bulk may still hold the pipe, which the flush has emptied.
                self.release_pipe(cx.sys);
                taken = self.take_by_copy(cx, half, from, to, keep.as_deref_mut());
            }
            match taken {
                Ok(0) => return Turn::Eof,
                Ok(n) => moved += n,
                Err(Stop::Turn(turn)) => return turn,
                Err(Stop::Source(SysError::WouldBlock)) => {}
                Err(Stop::Source(SysError::Exhausted)) => return Turn::Starved,
                Err(Stop::Source(_)) => return Turn::SourceLost,
            }
        }
    }

    fn on_sent(&mut self, n: usize, half: &mut impl Half) {
        match &mut self.held {
            Held::Bytes(bytes) => {
                let of_frames = self.frames.min(u32::try_from(n).unwrap_or(u32::MAX));
                self.frames -= of_frames;
                half.on_forwarded(n - of_frames as usize);
                if n == bytes.len() {
                    self.held = Held::Nothing;
                } else {
                    bytes.drain(..n);
                }
            }
            Held::Pipe { .. } => half.on_forwarded(n),
            Held::Nothing => unreachable!("nothing was held to be sent"),
        }
    }

    /// What is in the pipe, and cannot be spliced out of it, is sent like anything that was copied.
    fn empty_pipe(&mut self, sys: &mut impl Splice<Pipe = P>, half: &impl Half) -> Result<(), SysError> {
        let Held::Pipe { pipe, .. } = &self.held else { return Err(SysError::Unsupported) };
        let mut bytes = vec![0; half.budget(0).forward];
        // Nothing to try again: part of it may have been read.
        sys.read_pipe(pipe, &mut bytes).map_err(|_| SysError::Unsupported)?;
        self.release_pipe(sys);
        self.held = Held::Bytes(bytes);
        Ok(())
    }

    fn take_by_splice<S: Splice<Pipe = P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        half: &mut impl Half,
        from: &mut Endpoint<S::Stream>,
    ) -> Result<usize, Stop> {
        let Held::Pipe { pipe, capacity } = &self.held else { unreachable!("have_pipe made sure") };
        let max = half.budget((*capacity as usize).min(cx.turn)).take;
        let n = cx.sys.splice_in(from.stream(), pipe, max).map_err(|error| {
            from.readable &= error != SysError::WouldBlock;
            Stop::Source(error)
        })?;
        half.on_taken(n);
        self.lean = if n < LEAN { self.lean.saturating_add(1) } else { 0 };
        if self.lean >= LEAN_TURNS {
            self.bulk = false;
        }
        Ok(n)
    }

    fn take_by_copy<S: Splice<Pipe = P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        half: &mut impl Half,
        from: &mut Endpoint<S::Stream>,
        to: &mut Endpoint<S::Stream>,
        keep: Option<&mut Vec<u8>>,
    ) -> Result<usize, Stop> {
        let front = match &self.held {
            Held::Bytes(bytes) => {
                cx.scratch[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            }
            Held::Nothing | Held::Pipe { .. } => 0,
        };
        let room = cx.scratch.len() - front;
        // Encrypted, no more would be sent at once.
        let large = self.bulk && to.can_splice(cx.sys);
        let take = half.budget(if large { room } else { cx.bulk().min(room) }).take;
        let n = match from.recv(cx.sys, &mut cx.scratch[front..front + take]) {
            Ok(n) => n,
            Err(error) => return Err(Stop::Source(error)),
        };
        if n == 0 {
            return Ok(0);
        }
        half.on_taken(n);
        if let Some(keep) = keep {
            keep.extend_from_slice(&cx.scratch[front..front + n]);
        }
        if front + n >= cx.bulk() {
            self.bulk = true;
            self.lean = 0;
        }
        let whole = &cx.scratch[..front + n];
        let sent = if to.writable {
            match to.send(cx.sys, whole) {
                Ok(sent) => sent,
                // For want of memory, the flush of what is held tries once more.
                Err(SysError::WouldBlock | SysError::Exhausted) => 0,
                Err(error) => return Err(Stop::Turn(Turn::SinkLost(error))),
            }
        } else {
            0
        };
        half.on_forwarded(sent.saturating_sub(front));
        self.frames = u32::try_from(front.saturating_sub(sent)).expect("they are short");
        self.held = if sent == whole.len() { Held::Nothing } else { Held::Bytes(whole[sent..].to_vec()) };
        Ok(n)
    }

    fn wants_splice(&self, strategy: Strategy) -> bool {
        match strategy {
            Strategy::Hybrid => self.bulk && !self.only_frames(),
            Strategy::Copy => false,
            Strategy::Splice => !self.only_frames(),
        }
    }

    fn have_pipe(&mut self, sys: &mut impl Splice<Pipe = P>) -> bool {
        if let Held::Nothing = self.held
            && let Some((pipe, capacity)) = sys.pipe()
        {
            self.held = Held::Pipe { pipe, capacity: u32::try_from(capacity).unwrap_or(u32::MAX) };
        }
        matches!(self.held, Held::Pipe { .. })
    }

    /// Gives an empty pipe back: one is held only while bytes are in it.
    fn release_pipe(&mut self, sys: &mut impl Splice<Pipe = P>) {
        if let Held::Pipe { .. } = self.held
            && let Held::Pipe { pipe, .. } = core::mem::replace(&mut self.held, Held::Nothing)
        {
            sys.recycle(pipe, true);
        }
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        if matches!(self.held, Held::Nothing) {
            self.held = Held::Bytes(Vec::new());
        }
        match &mut self.held {
            Held::Bytes(bytes) => bytes,
            Held::Nothing | Held::Pipe { .. } => unreachable!("frames and first bytes come before any splice"),
        }
    }
}

impl<P> Default for Flow<P> {
    fn default() -> Self {
        Self { held: Held::Nothing, frames: 0, bulk: false, lean: 0 }
    }
}

/// Where the bytes are that are on their way.
///
/// ```text
///           a frame, or what a copy could not send            a splice
///   Bytes ◀──────────────────────────────────────── Nothing ────────────▶ Pipe
///     ▲└─────────────────── all sent ──────────────────▶▲◀───── empty ─────┤
///     └─────────────────── splicing out is found not to work ──────────────┘
/// ```
/// Invariants:
/// - F1 nothing is taken while payload is held: bytes are spliced only into an empty pipe;
/// - F2 frames are in front of payload, and are never spliced;
/// - F3 a pipe is held only while bytes are in it; one that still holds bytes is destroyed, never given back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Held<P> {
    Nothing,
    Bytes(Vec<u8>),
    /// A pipe, and what it is good for. What it holds is what the half has taken and not forwarded.
    Pipe {
        pipe: P,
        capacity: u32,
    },
}

enum Stop {
    Source(SysError),
    Turn(Turn),
}

#[cfg(test)]
mod tests;
