//! The way to the LocalServer: its addresses are tried in turn; without one left the visitor is refused.

use super::super::messages::FromClientLoop;
use super::super::relay::Endpoint;
use super::super::slab::Token;
use super::super::sys::{Role, Streams};
use super::super::thread::Cx;
use super::{ClientLoop, Local, LoopSys, Phase, Slot, State, active};
use crate::codes::RefuseCode;
use crate::notes::Note;
use crate::sys_error::SysError;
use crate::wire::ProxyToServer;
use alloc::vec::Vec;

impl<T, P> ClientLoop<T, P> {
    pub(super) fn is_dialling(&mut self, conn: Token) -> bool {
        active(&mut self.slots, conn).is_some_and(|active| active.pace.phase == Phase::Dial)
    }

    /// Tries the LocalServer's next address; without one left, refuses with what was wrong with the last.
    // PROTOCOL.md: P-REF-1.
    pub(super) fn dial<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, mut why: RefuseCode) {
        let Some((tunnel, mut tried)) = active(&mut self.slots, token).map(|active| (active.tunnel, active.tried))
        else {
            return;
        };
        let locals = self.locals.get(&tunnel).map_or(&[][..], Vec::as_slice);
        if locals.is_empty() && self.locals.contains_key(&tunnel) {
            why = RefuseCode::Unreachable;
        }
        let mut dialled = None;
        while let (None, Some(to)) = (dialled, locals.get(tried)) {
            tried += 1;
            let made = self.slots.insert_with(|local| {
                let stream = cx.sys.connect(*to, Role::Local, local)?;
                Ok(Slot::Local(Local { conn: token, port: Endpoint::connecting(stream) }))
            });
            match made {
                Ok(local) => dialled = Some(local),
                Err(error) => {
                    if error == SysError::NoPort {
                        cx.sys.note(Note::NoLocalPort { to: *to });
                    }
                    why = refusal(error);
                }
            }
        }
        let share = u32::try_from(locals.len()).unwrap_or(u32::MAX).max(1);
        let Some(Slot::Conn(conn)) = self.slots.get_mut(token) else { return };
        let State::Active(active) = &mut conn.state else { return };
        active.tried = tried;
        active.local = dialled;
        if let Some(local) = dialled {
            let at = cx.now + self.core.timings.dial_timeout / share;
            self.core.timers.set(token, &mut conn.deadline, Some(at));
            // On the same machine the connection is up already.
            return self.on_dial_event(cx, token, local);
        }
        active.conn.on_refused();
        let epoch = active.conn.transfer.epoch();
        conn.link.egress_flow.push(&ProxyToServer::Refused { epoch, code: why });
        cx.sys.note(Note::Refused { conn: conn.id, epoch, code: why, tunnel });
        // The main thread knows nothing of a tunnel that a hostile server has made up.
        if why != RefuseCode::UnknownTunnel {
            cx.sys.tell(FromClientLoop::LocalFailed { tunnel, code: why });
        }
        self.core.totals.aborted += 1;
        self.drive(cx, token);
    }

    /// A local_conn that is being dialled became ready.
    // PROTOCOL.md: P-XFER-3.
    pub(super) fn on_dial_event<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token, local: Token) {
        let Some((Slot::Conn(conn), Slot::Local(dialled))) = self.slots.get_two(token, local) else { return };
        let State::Active(active) = &mut conn.state else { return };
        match cx.sys.take_error(&dialled.port.stream) {
            Ok(()) => {}
            Err(SysError::WouldBlock) => return,
            // It was connected, and was reset since: what it said before can still be read.
            Err(error @ (SysError::Reset | SysError::ResetBehindEnd)) => dialled.port.on_failed(error),
            Err(error) => {
                self.drop_local(cx, token);
                return self.dial(cx, token, refusal(error));
            }
        }
        dialled.port.writable = true;
        active.conn.on_dialed();
        conn.link.egress_flow.push(&ProxyToServer::Started { epoch: active.conn.transfer.epoch() });
        self.drive(cx, token);
    }

    pub(super) fn drop_local<S>(&mut self, cx: &mut Cx<'_, S>, token: Token)
    where
        S: Streams<Stream = T>,
    {
        if let Some(local) = active(&mut self.slots, token).and_then(|active| active.local.take())
            && let Some(Slot::Local(local)) = self.slots.remove(local)
        {
            cx.sys.reset(local.port.stream);
        }
    }
}

fn refusal(error: SysError) -> RefuseCode {
    match error {
        SysError::Refused => RefuseCode::ConnectionRefused,
        SysError::TimedOut => RefuseCode::TimedOut,
        SysError::Exhausted | SysError::NoPort => RefuseCode::Resources,
        SysError::Unreachable
        | SysError::WouldBlock
        | SysError::InUse
        | SysError::Unsupported
        | SysError::Reset
        | SysError::ResetBehindEnd
        | SysError::Denied
        | SysError::Tls(_)
        | SysError::Other(_) => RefuseCode::Unreachable,
    }
}
