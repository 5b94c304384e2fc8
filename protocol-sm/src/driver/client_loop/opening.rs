//! A new proxy_conn: connecting, the handshake, and the frames of an idle conn.

use super::super::messages::FromClientLoop;
use super::super::passing::pass;
use super::super::relay::{End, Endpoint, LONGEST_FRAME, Link};
use super::super::slab::Token;
use super::super::sys::{Role, Splice};
use super::super::thread::Cx;
use super::{Active, ClientLoop, Conn, Flow, Labels, LoopSys, Pace, Slot, State, Step};
use crate::bandwidth::Direction;
use crate::canary::{PlantedBug, planted};
use crate::codes::{AbortCode, StateName, Violation};
use crate::conn::client::IdleConn;
use crate::datagrams::Front;
use crate::dead_path::Path;
use crate::ids::{ConnId, TunnelId};
use crate::notes::{ConnFailure, Note};
use crate::outbound::{Destination, PassageFailure};
use crate::proxy_protocol::header_with_fields;
use crate::report::Counted;
use crate::settings::{Origin, Serving};
use crate::stir::PATIENCE;
use crate::sys_error::SysError;
use crate::time::Instant;
use crate::transfer::Half;
use crate::wire::{ClientMsg, ConnKind, Framer, Preface, ProxyToClient, ProxyToServer, ReplyReader};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;

impl<T, P> ClientLoop<T, P> {
    pub(super) fn open<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        from: &Origin,
        to: Destination,
        id: ConnId,
        step: Step,
    ) {
        let made = self.slots.insert_with(|token| {
            let stream = cx.sys.connect(from, to.to, Role::Proxy, token)?;
            Ok(Slot::Conn(Box::new(Conn {
                serial: self.serial,
                id,
                link: Link::new(Endpoint::connecting(stream)),
                framer: Framer::default(),
                secured: None,
                state: State::Opening { conn: IdleConn::default(), step, to: to.clone(), why: None, since: cx.now },
                queued: false,
                deadline: None,
            })))
        });
        match made {
            Ok(token) => {
                self.conns.insert((self.serial, id), token);
                if let Some(Slot::Conn(conn)) = self.slots.get_mut(token) {
                    let at = cx.now + self.core.timings.handshake_timeout;
                    self.core.timers.set(token, &mut conn.deadline, Some(at));
                }
                self.look_around(cx);
                // It may be through already.
                self.drive(cx, token);
            }
            Err(error) => {
                let why = unreachable(to.through.is_some(), error);
                self.open_failed(cx, self.serial, id, to, why);
            }
        }
    }

    /// A conn's handshake takes too long, unless it has to wait behind payload.
    // PROTOCOL.md: P-POOL-2.
    pub(super) fn on_slow_handshake<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        self.look_around(cx);
        let timeout = self.core.timings.handshake_timeout;
        let stirs = self.stir.moved(cx.now, timeout);
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { return };
        let State::Opening { since, .. } = conn.state else { return };
        if stirs && cx.now.since(since) < timeout.saturating_mul(PATIENCE) {
            self.core.timers.set(token, &mut conn.deadline, Some(cx.now + timeout));
        } else {
            self.end(cx, token, End::Abort(AbortCode::Deadline));
        }
    }

    /// Looks how much payload the server's system has acknowledged: a socket takes more at once, and then nothing for long.
    fn look_around<S: LoopSys<T, P>>(&mut self, cx: &Cx<'_, S>) {
        let gone = self.conns.values().filter_map(|&token| {
            let Some(Slot::Conn(conn)) = self.slots.get(token) else { return None };
            let State::Active(active) = &conn.state else { return None };
            let unsent = cx.sys.unsent(conn.link.port.stream());
            Some(active.conn.transfer.egress.forwarded().wrapping_sub(unsent as u64))
        });
        self.stir.look(cx.now, || gone.fold(0, u64::wrapping_add));
    }

    // PROTOCOL.md: P-POOL-2.
    pub(super) fn open_failed<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        serial: u64,
        conn: ConnId,
        to: Destination,
        why: ConnFailure,
    ) {
        // One of a session that was left comes too late: another process listens there by now.
        if serial == self.serial {
            cx.sys.note(Note::ConnFailed { conn, to, why });
        }
        cx.sys.tell(FromClientLoop::Message { serial, msg: ClientMsg::ConnFailed { count: 1 } });
        cx.sys.tell(FromClientLoop::ConnGone { serial, conn });
    }

    pub(super) fn drive_opening<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> Result<(), End> {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { return Ok(()) };
        if let State::Opening { step, why, .. } = &mut conn.state
            && let Step::Connecting { session, secret, passage, passing } = step
        {
            if !*passing {
                match cx.sys.take_error(conn.link.port.stream()) {
                    Ok(()) => *passing = passage.is_some(),
                    Err(SysError::WouldBlock) => return Ok(()),
                    Err(error) => {
                        *why = Some(unreachable(passage.is_some(), error));
                        return Err(AbortCode::ConnLost.into());
                    }
                }
            }
            if let Some(way) = passage {
                match pass(way, cx.sys, &mut conn.link.port) {
                    Ok(true) => (*passage, *passing) = (None, false),
                    Ok(false) => return Ok(()),
                    Err(failure) => {
                        *why = Some(ConnFailure::Proxy(failure));
                        return Err(AbortCode::ConnLost.into());
                    }
                }
            }
            let channel = match cx.sys.channel(conn.link.port.stream()) {
                Ok(channel) => channel,
                Err(SysError::WouldBlock) => return Ok(()),
                Err(error) => return Err(lost(why, error)),
            };
            conn.link.port.writable = true;
            let secret = secret.over(channel.as_ref());
            conn.link.egress_flow.push_frame(&Preface::ours(ConnKind::Proxy).encode());
            conn.link.egress_flow.push(&ProxyToServer::Hello(secret.hello(*session, conn.id)));
            *step = Step::Greeting { reader: ReplyReader::default(), accept: secret.accept(*session, conn.id) };
        }
        self.drive_idle(cx, token)
    }

    pub(super) fn drive_idle<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> Result<(), End> {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { return Ok(()) };
        conn.link.flush_frames(cx.sys)?;
        let was_opening = matches!(conn.state, State::Opening { .. });
        let read = read_frames(cx, conn, &self.labels, &self.servings);
        let started = matches!(conn.state, State::Active(_));
        if let State::Active(active) = &conn.state {
            if active.max_bandwidth.is_some() {
                // Payload that came in one read with `Start`.
                let early = active.conn.transfer.ingress.taken();
                self.allowances.charge(cx.now, active.tunnel, Direction::Ingress, early, None);
            }
            // Counted before anything can end the conn: its end counts it off.
            self.active += 1;
            self.core.totals.visitors += 1;
            self.count_start(token);
        }
        read?;
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { return Ok(()) };
        conn.link.flush_frames(cx.sys)?;
        if was_opening && !matches!(conn.state, State::Opening { .. }) {
            self.core.timers.set(token, &mut conn.deadline, None);
            self.core.totals.proxy_conns += 1;
            cx.sys.note(Note::ConnUp { conn: conn.id });
            if conn.serial == self.serial && !core::mem::replace(&mut self.told_up, true) {
                cx.sys.tell(FromClientLoop::ConnUp { serial: self.serial });
            }
        }
        if started {
            self.dial(cx, token);
        }
        Ok(())
    }
}

/// Reads and acts on what comes for as long as it is frames.
// PROTOCOL.md: P-XFER-6.
fn read_frames<T, P, S>(
    cx: &mut Cx<'_, S>,
    conn: &mut Conn<T, P>,
    labels: &Labels,
    servings: &BTreeMap<TunnelId, Serving>,
) -> Result<(), End>
where
    S: Splice<Stream = T, Pipe = P>,
{
    // Where bandwidth is limited, what comes behind the frame waits in the socket for it.
    let limited = servings.values().any(|serving| serving.max_bandwidth.is_some());
    let room = if limited { LONGEST_FRAME.min(cx.scratch.len()) } else { cx.scratch.len() };
    while conn.link.port.readable && !matches!(conn.state, State::Active(_)) {
        let length = match conn.link.port.recv(cx.sys, &mut cx.scratch[..room]) {
            Ok(0) => return Err(AbortCode::ConnLost.into()),
            Ok(n) => n,
            Err(SysError::WouldBlock) => return Ok(()),
            Err(error) => {
                return Err(match &mut conn.state {
                    State::Opening { why, .. } => lost(why, error),
                    State::Idle(_) | State::Active(_) => AbortCode::ConnLost.into(),
                });
            }
        };
        let mut rest = &cx.scratch[..length];
        while !rest.is_empty() && !matches!(conn.state, State::Active(_)) {
            if let State::Opening { step: step @ Step::Greeting { .. }, why, .. } = &mut conn.state {
                greet(step, why, &mut rest)?;
                continue;
            }
            match conn.framer.next(&mut rest) {
                Ok(Some(frame)) => on_frame(conn, frame, cx.now, labels, servings)?,
                Ok(None) => {}
                Err(_) => return Err(Violation::Malformed.into()),
            }
        }
        if let State::Active(active) = &mut conn.state
            && !rest.is_empty()
        {
            // The visitor's first bytes came in the same read as `Start`.
            if active.conn.transfer.ingress.budget(rest.len()).take < rest.len() {
                return Err(Violation::TotalTooSmall.into());
            }
            if planted(PlantedBug::FirstBytesDropped) {
                continue;
            }
            active.conn.transfer.ingress.on_taken(rest.len());
            conn.link.ingress_flow.push_payload(rest);
        }
    }
    Ok(())
}

/// There is no connection to the server, or to the proxy in between.
pub(super) fn unreachable(proxy: bool, error: SysError) -> ConnFailure {
    if proxy { ConnFailure::Proxy(PassageFailure::Unreachable(error)) } else { ConnFailure::Unreachable(error) }
}

/// A conn that is being opened has failed after it was connected.
fn lost(why: &mut Option<ConnFailure>, error: SysError) -> End {
    if let SysError::Tls(_) = error {
        *why = Some(ConnFailure::Unreachable(error));
    }
    AbortCode::ConnLost.into()
}

/// Reads the server's answer to the preface.
// PROTOCOL.md: P-VIOL-3.
fn greet(step: &mut Step, why: &mut Option<ConnFailure>, rest: &mut &[u8]) -> Result<(), End> {
    let Step::Greeting { reader, accept } = step else { unreachable!("called while greeting") };
    match reader.next(Preface::ours(ConnKind::Proxy), rest) {
        Ok(None) => Ok(()),
        Ok(Some(reply)) if reply.refusal().is_none() => {
            *step = Step::Accepting { accept: *accept };
            Ok(())
        }
        // A server that changed its version, or something else on its port: the ctl_conn will tell.
        Ok(Some(_)) | Err(_) => {
            *why = Some(ConnFailure::NotCproxy);
            Err(AbortCode::ConnLost.into())
        }
    }
}

// PROTOCOL.md: P-PROXY-4, P-XFER-11, P-XFER-13.
fn on_frame<T, P>(
    conn: &mut Conn<T, P>,
    frame: ProxyToClient,
    now: Instant,
    labels: &Labels,
    servings: &BTreeMap<TunnelId, Serving>,
) -> Result<(), End> {
    if conn.secured.is_some() && !matches!(frame, ProxyToClient::Start { .. }) {
        return Err(Violation::Unexpected { message: frame.name(), state: StateName::StartDue }.into());
    }
    match (frame, &mut conn.state) {
        (ProxyToClient::Accepted { proof }, State::Opening { conn: idle, step: Step::Accepting { accept }, .. }) => {
            // Whoever answers does not know the session's key.
            if proof != *accept {
                return Err(Violation::BadProof.into());
            }
            conn.state = State::Idle(idle.clone());
            Ok(())
        }
        (ProxyToClient::Refused(refusal), State::Opening { why, .. }) => {
            *why = Some(ConnFailure::Refused(refusal));
            Err(AbortCode::ConnLost.into())
        }
        // The next ping comes after the last one's pong, so a server that does not read cannot fill our memory.
        (ProxyToClient::Ping, State::Idle(_)) if conn.link.egress_flow.is_empty() => {
            conn.link.egress_flow.push(&ProxyToServer::Pong);
            Ok(())
        }
        (ProxyToClient::Start { epoch, tunnel, visitor, public }, State::Idle(idle)) => {
            let active = idle.clone().on_start(epoch)?;
            let to_record = labels.contains_key(&tunnel).then(|| Box::new(visitor.into()));
            let (pace, began) = (Pace::new(), Counted(now));
            let serving = servings.get(&tunnel).copied().unwrap_or_default();
            let Serving { max_bandwidth, proxy_protocol, proxy_protocol_first: first, datagrams, .. } = serving;
            let secured = conn.secured.take().filter(|_| serving.proxy_protocol_tlvs);
            let mut flow = None;
            match (proxy_protocol, datagrams, secured) {
                (None, _, _) => {}
                (Some(_), Some(_), _) => {
                    let front = Some(Front::new(visitor, public, first));
                    flow = Some(Box::new(Flow { front, ..Flow::default() }));
                }
                (Some(version), None, None) => conn.link.ingress_flow.push_frame(&version.header(visitor, public)),
                (Some(_), None, Some(secured)) => {
                    conn.link.ingress_flow.push_frame(&header_with_fields(visitor, public, &secured));
                }
            }
            let (conn_state, dial, local) = (active, None, None);
            conn.state = State::Active(Active {
                conn: conn_state,
                tunnel,
                dial,
                local,
                pace,
                path: Path::default(),
                began,
                max_bandwidth,
                throttled: [false; 2],
                flow,
                visitor: to_record,
                served: Counted(None),
            });
            Ok(())
        }
        (ProxyToClient::Secured(secured), State::Idle(_)) => {
            if secured.host.as_ref().is_some_and(|host| !host.is_exact()) {
                return Err(Violation::Malformed.into());
            }
            conn.secured = Some(secured);
            Ok(())
        }
        (
            frame @ (ProxyToClient::Accepted { .. }
            | ProxyToClient::Refused(_)
            | ProxyToClient::Ping
            | ProxyToClient::Start { .. }
            | ProxyToClient::Secured(_)),
            _,
        ) => {
            let state = match (&frame, &conn.state) {
                (_, State::Opening { .. }) => StateName::ConnOpening,
                (ProxyToClient::Ping, State::Idle(_)) => StateName::PongNotRead,
                (_, State::Idle(_)) => StateName::ConnIdle,
                (_, State::Active(_)) => StateName::Transferring,
            };
            Err(Violation::Unexpected { message: frame.name(), state }.into())
        }
    }
}
