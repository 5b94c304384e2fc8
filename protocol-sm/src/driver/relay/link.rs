//! A proxy_conn and the outer socket of its transfer: one turn of both directions.

use super::super::Cx;
use super::super::sys::Splice;
use super::Endpoint;
use super::flow::{Flow, Turn};
use crate::bandwidth::{Meter, Metered, Tap};
use crate::canary::{PlantedBug, planted};
use crate::codes::AbortCode;
use crate::sys_error::SysError;
use crate::transfer::{Egress, Fin, Half, How, OuterDuty, Transfer};
use alloc::vec::Vec;

/// A proxy_conn's socket and its two directions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Link<T, P> {
    pub(crate) port: Endpoint<T>,
    /// Into the proxy_conn: frames, then the egress's payload.
    pub(crate) egress_flow: Flow<P>,
    /// Out of the proxy_conn: the ingress's payload.
    pub(crate) ingress_flow: Flow<P>,
}

impl Exchanged {
    /// What to announce, in this order.
    pub(crate) fn fins(&self) -> impl Iterator<Item = Fin> + use<> {
        self.fin.into_iter().chain(self.behind)
    }
}

impl<T, P> Link<T, P> {
    pub(crate) fn new(port: Endpoint<T>) -> Self {
        Self { port, egress_flow: Flow::default(), ingress_flow: Flow::default() }
    }

    /// One turn of both directions between the conn and `outer`, which is `None` once it is closed, or
    /// before it is there. What is taken from `outer` is also appended to `keep`.
    ///
    /// # Errors
    /// The transfer must be aborted: the conn is lost, or the outer socket has failed a write and lives: nothing tells
    /// how its stream goes on.
    // PROTOCOL.md: P-FIN-2, P-FIN-7, P-ABORT-4.
    pub(crate) fn exchange<S: Splice<Stream = T, Pipe = P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        transfer: &mut Transfer,
        mut outer: Option<&mut Endpoint<T>>,
        mode: Mode,
        keep: Option<&mut Vec<u8>>,
        meter: &mut Meter,
    ) -> Result<Exchanged, AbortCode> {
        let mut result = Exchanged { fin: transfer.end_for_peer(), ..Exchanged::default() };
        if planted(PlantedBug::LastWordsDropped) && outer.as_ref().is_some_and(|outer| outer.is_lost()) {
            result.fin = result.fin.or(transfer.end_egress());
        }
        // Before the reads where the error was taken already, by the dial: they would see a clean end.
        if outer.as_deref().is_some_and(|outer| outer.error_taken) {
            result.behind = transfer.on_outer_lost(true);
        }
        let tap = &mut meter.egress;
        let (turn, fin) = self.pump_egress(cx, transfer, outer.as_deref_mut(), mode.hold_frames, keep, tap)?;
        (result.again, result.starved) = (matches!(turn, Turn::Again), matches!(turn, Turn::Starved));
        result.fin = fin.or(result.fin);
        // Behind the reads, which tell how the stream ended, and before a write could take the error from them.
        if let Some(outer) = outer.as_deref_mut().filter(|outer| outer.is_lost()) {
            if outer.readable || transfer.egress.ended() {
                result.behind = result.behind.or(transfer.on_outer_lost(outer.error_taken));
            } else if outer.lives_on() {
                transfer.on_outer_lives();
            } else {
                return Err(AbortCode::Resources);
            }
        }
        if let Some(outer) = &mut outer
            && !transfer.ingress.drops()
        {
            let tap = &mut meter.ingress;
            let from = mode.incoming_is_payload.then_some(&mut self.port);
            let mut half = Metered(&mut transfer.ingress, tap);
            let turn = if half.1.in_debt {
                Turn::Wait
            } else {
                self.ingress_flow.pump(cx, &mut half, from, outer, false, None)
            };
            match turn {
                Turn::Wait => {}
                Turn::Again => result.again = true,
                Turn::Starved => result.starved = true,
                Turn::Eof | Turn::SourceLost => return Err(AbortCode::ConnLost),
                Turn::SinkLost(error) => {
                    outer.on_failed(error);
                    result.behind = result.behind.or(transfer.on_outer_lost(outer.error_taken));
                    result.again = true;
                }
            }
            let could_take = self.port.readable && transfer.ingress.budget(1).take > 0 && self.ingress_flow.is_empty();
            let could_give = tap.in_debt && !self.ingress_flow.is_empty();
            tap.throttled =
                !transfer.ingress.drops() && (tap.left == 0 && mode.incoming_is_payload && could_take || could_give);
        }
        if transfer.ingress.drops() && mode.incoming_is_payload {
            self.drop_incoming(cx, transfer, &mut result)?;
        }
        if let Some(outer) = outer {
            let mut duty = transfer.outer_duty();
            if duty == Some(OuterDuty::Reset) {
                // A header that nobody took.
                self.ingress_flow.discard(cx.sys);
            }
            // Where there were no bytes, a header may still be on its way.
            if duty == Some(OuterDuty::ShutWrite) && self.ingress_flow.is_empty() {
                match outer.finish(cx.sys) {
                    Err(SysError::WouldBlock) => {}
                    Err(SysError::Exhausted) => result.starved = true,
                    // What has failed is shut as well as it can be: its reads tell how.
                    Ok(()) | Err(_) => {
                        result.again |= outer.shut_write(cx.sys);
                        transfer.ingress.on_shut();
                        duty = transfer.outer_duty();
                    }
                }
            }
            // Before the client's answer the conn's deadline is for that, and a visitor that is lost may still have to
            // be told of on another conn.
            let early =
                |duty: &OuterDuty| matches!(duty, OuterDuty::Reset | OuterDuty::Drop) && !mode.incoming_is_payload;
            result.duty = duty.filter(|duty| !early(duty));
            if result.duty == Some(OuterDuty::Reset) {
                result.unsent = outer.unsent(cx.sys);
            } else if let Some(owed) = transfer.ingress.waits_for_reset() {
                result.stuck = true;
                result.unsent = usize::try_from(owed).unwrap_or(usize::MAX).saturating_add(outer.unsent(cx.sys));
            }
        }
        Ok(result)
    }

    /// Whether [`Link::exchange`] with these arguments would move something: for checks.
    pub(crate) fn could_move(&self, transfer: &Transfer, outer: Option<&Endpoint<T>>, mode: Mode) -> bool {
        let hold_frames = mode.hold_frames && !transfer.egress.ended();
        let from = mode.incoming_is_payload.then_some(&self.port);
        let ingress = if transfer.ingress.drops() {
            from.is_some_and(|from| from.readable) && transfer.ingress.budget(1).take > 0
        } else {
            outer.is_some_and(|outer| self.ingress_flow.could_move(&transfer.ingress, from, outer, false))
        };
        ingress || self.egress_flow.could_move(&transfer.egress, outer, &self.port, hold_frames)
    }

    /// The egress's turns: how the last one went, and its end if it came.
    fn pump_egress<S: Splice<Stream = T, Pipe = P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        transfer: &mut Transfer,
        mut outer: Option<&mut Endpoint<T>>,
        hold_frames: bool,
        mut keep: Option<&mut Vec<u8>>,
        tap: &mut Tap,
    ) -> Result<(Turn, Option<Fin>), AbortCode> {
        let mut fin = None;
        loop {
            let hold_frames = hold_frames && !transfer.egress.ended();
            let Self { port, egress_flow, .. } = self;
            let (from, keep) = (outer.as_deref_mut(), keep.as_deref_mut());
            let mut half = Metered(&mut transfer.egress, tap);
            match egress_flow.pump(cx, &mut half, from, port, hold_frames, keep) {
                Turn::Wait => {
                    let could_take = outer.as_deref().is_some_and(|outer| outer.readable);
                    let could_take = could_take && transfer.egress.budget(1).take > 0;
                    tap.throttled = tap.left == 0 && could_take && self.egress_flow.is_framing();
                    return Ok((Turn::Wait, fin));
                }
                turn @ (Turn::Again | Turn::Starved) => return Ok((turn, fin)),
                Turn::Eof => fin = Some(transfer.on_source_end(How::Shut)),
                Turn::SourceLost => fin = Some(transfer.on_source_end(How::Reset)),
                Turn::SinkLost(_) => return Err(AbortCode::ConnLost),
            }
        }
    }

    /// Takes payload off the conn that nobody is there for.
    ///
    /// # Errors
    /// The conn is lost.
    // PROTOCOL.md: P-FIN-10, P-FIN-15, P-REF-3.
    fn drop_incoming<S: Splice<Stream = T, Pipe = P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        transfer: &mut Transfer,
        result: &mut Exchanged,
    ) -> Result<(), AbortCode> {
        self.ingress_flow.discard(cx.sys);
        let mut moved = 0;
        while self.port.readable && transfer.ingress.budget(1).take > 0 {
            if moved >= cx.turn {
                result.again = true;
                return Ok(());
            }
            let take = transfer.ingress.budget(cx.scratch.len()).take;
            match self.port.recv(cx.sys, &mut cx.scratch[..take]) {
                Ok(0) => return Err(AbortCode::ConnLost),
                Ok(n) => {
                    moved += n;
                    transfer.ingress.on_taken(n);
                    result.behind = result.behind.or(transfer.on_dropped());
                }
                Err(SysError::WouldBlock) => {}
                Err(SysError::Exhausted) => {
                    result.starved = true;
                    return Ok(());
                }
                Err(_) => return Err(AbortCode::ConnLost),
            }
        }
        Ok(())
    }

    /// Sends held frames of an idle conn. `Err`: the conn is lost.
    pub(crate) fn flush_frames<S: Splice<Stream = T, Pipe = P>>(&mut self, sys: &mut S) -> Result<(), AbortCode> {
        match self.egress_flow.flush(sys, &mut Egress::default(), &mut self.port) {
            Ok(_) => Ok(()),
            Err(_) => Err(AbortCode::ConnLost),
        }
    }

    /// Closes an idle conn in good order.
    pub(crate) fn close<S: Splice<Stream = T, Pipe = P>>(self, sys: &mut S) {
        sys.close(self.port.into_stream());
    }

    /// Closes the conn with a reset and drops what is on its way.
    pub(crate) fn reset<S: Splice<Stream = T, Pipe = P>>(mut self, sys: &mut S) {
        if planted(PlantedBug::PipeLeaked) {
            return sys.reset(self.port.into_stream());
        }
        self.egress_flow.discard(sys);
        self.ingress_flow.discard(sys);
        sys.reset(self.port.into_stream());
    }
}

/// In which state of its transfer a conn's bytes are exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mode {
    /// The conn's incoming bytes are payload already, and not frames.
    pub(crate) incoming_is_payload: bool,
    /// Frames wait for the outer socket's first bytes, or its end.
    pub(crate) hold_frames: bool,
}

/// What an exchange has brought about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exchanged {
    /// The egress has ended: announce this.
    pub(crate) fin: Option<Fin>,
    /// The outer socket was reset behind its end: announce this, too, and second.
    pub(crate) behind: Option<Fin>,
    /// What must be done to the outer socket.
    pub(crate) duty: Option<OuterDuty>,
    /// It is to be reset, and does not take what must come before.
    pub(crate) stuck: bool,
    /// Where it is to be reset: bytes before that which are not acknowledged.
    pub(crate) unsent: usize,
    /// More could be done: others first.
    pub(crate) again: bool,
    /// More could be done, but for memory, which no event will tell of.
    pub(crate) starved: bool,
}
