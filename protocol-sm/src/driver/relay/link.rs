//! A proxy_conn and the outer socket of its transfer: one turn of both directions.

use super::super::Cx;
use super::super::sys::Splice;
use super::Endpoint;
use super::flow::{Flow, Turn};
use crate::canary::{PlantedBug, planted};
use crate::codes::AbortCode;
use crate::transfer::{Egress, Transfer};

/// A proxy_conn's socket and its two directions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Link<T, P> {
    pub(crate) port: Endpoint<T>,
    /// Into the proxy_conn: frames, then the egress's payload.
    pub(crate) egress_flow: Flow<P>,
    /// Out of the proxy_conn: the ingress's payload.
    pub(crate) ingress_flow: Flow<P>,
}

impl<T, P> Link<T, P> {
    pub(crate) fn new(port: Endpoint<T>) -> Self {
        Self { port, egress_flow: Flow::default(), ingress_flow: Flow::default() }
    }

    /// One turn of both directions between the conn and `outer`, which is `None` once it is closed, or
    /// before it is there.
    ///
    /// # Errors
    /// The transfer must be aborted.
    // PROTOCOL.md: P-FIN-2, P-FIN-7, P-ABORT-4.
    pub(crate) fn exchange<S: Splice<Stream = T, Pipe = P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        transfer: &mut Transfer,
        mut outer: Option<&mut Endpoint<T>>,
        mode: Mode,
    ) -> Result<Exchanged, AbortCode> {
        let mut result = Exchanged::default();
        loop {
            let hold_frames = mode.hold_frames && !transfer.egress.ended();
            match self.egress_flow.pump(cx, &mut transfer.egress, outer.as_deref_mut(), &mut self.port, hold_frames) {
                Turn::Wait => break,
                Turn::Again => {
                    result.again = true;
                    break;
                }
                Turn::Eof => result.fin = Some(transfer.egress.on_source_eof()),
                Turn::SourceLost => return Err(AbortCode::OuterReset),
                Turn::SinkLost => return Err(AbortCode::ConnLost),
            }
        }
        let Some(outer) = outer else {
            return Ok(result);
        };
        let from = mode.incoming_is_payload.then_some(&mut self.port);
        match self.ingress_flow.pump(cx, &mut transfer.ingress, from, outer, false) {
            Turn::Wait => {}
            Turn::Again => result.again = true,
            Turn::Eof | Turn::SourceLost => return Err(AbortCode::ConnLost),
            Turn::SinkLost => return Err(AbortCode::OuterReset),
        }
        if transfer.shut_outer() {
            cx.sys.shut_write(&outer.stream);
        }
        Ok(result)
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
        sys.close(self.port.stream);
    }

    /// Closes the conn with a reset and drops what is on its way.
    pub(crate) fn reset<S: Splice<Stream = T, Pipe = P>>(mut self, sys: &mut S) {
        if planted(PlantedBug::PipeLeaked) {
            return sys.reset(self.port.stream);
        }
        self.egress_flow.discard(sys);
        self.ingress_flow.discard(sys);
        sys.reset(self.port.stream);
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
    /// The outer socket's stream has ended: announce this total.
    pub(crate) fin: Option<u64>,
    /// More could be done: others first.
    pub(crate) again: bool,
}
