//! Flows whose datagrams go by the session's path: what comes there for a LocalServer, and what the path gives back
//! (PROTOCOL.md, "Paths"). What a LocalServer says is read in `datagrams.rs`.

use super::super::slab::Token;
use super::super::thread::Cx;
use super::datagrams::say_one;
use super::transfers::conn_and_local;
use super::{Active, ClientLoop, Conn, LoopSys, Slot, State};
use crate::canary::{PlantedBug, planted};
use crate::conn::client::Stage;
use crate::datagrams::{Lost, PathDatagram, PathState};
use crate::ids::{ConnId, Epoch};

/// The way of a flow's datagrams beside its conn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aside {
    pub(super) serial: u64,
    pub(super) conn: ConnId,
    pub(super) epoch: Epoch,
    pub(super) state: PathState,
}

impl Aside {
    /// The server knows the flow: `Started` has gone out.
    // PROTOCOL.md: P-PATH-6.
    pub(super) fn of<T, P>(conn: &Conn<T, P>, active: &Active, path: (u64, PathState)) -> Self {
        let is_known = conn.serial == path.0
            && active.conn.stage() == Stage::Serving
            && active.max_bandwidth.is_none()
            && !conn.link.egress_flow.has_frames();
        let state = if is_known { path.1 } else { PathState::Down };
        Self { serial: conn.serial, conn: conn.id, epoch: active.conn.transfer.epoch(), state }
    }

    /// The datagram, if it goes by the path.
    pub(super) fn take(&self, datagram: &[u8]) -> Option<PathDatagram> {
        let takes = self.state.takes(self.conn, self.epoch, datagram.len());
        takes.then(|| PathDatagram::new(self.conn, self.epoch, datagram))
    }
}

impl<T, P> ClientLoop<T, P> {
    /// What a session's path takes now.
    pub(super) fn set_path(&mut self, serial: u64, state: PathState) {
        self.path = (serial, state);
    }

    /// The conn that carries this flow now, and has a socket for it.
    // PROTOCOL.md: P-PATH-5.
    fn carrier(&mut self, serial: u64, conn: ConnId, epoch: Epoch) -> Option<Token> {
        let token = *self.conns.get(&(serial, conn))?;
        let Some(Slot::Conn(conn)) = self.slots.get(token) else { return None };
        let State::Active(active) = &conn.state else { return None };
        let is_it = active.conn.transfer.epoch() == epoch || planted(PlantedBug::EpochForgotten);
        (is_it && active.local.is_some()).then_some(token)
    }

    /// A datagram has come by the path: it is the LocalServer's.
    pub(super) fn on_path_datagram<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        serial: u64,
        datagram: &PathDatagram,
    ) {
        let token = self.carrier(serial, datagram.conn, datagram.epoch);
        let Some((token, (conn, Some(local)))) =
            token.and_then(|token| Some((token, conn_and_local(&mut self.slots, token)?)))
        else {
            return self.core.tally.lost.add(Lost::Stale);
        };
        let (buffer, lost) = (&mut self.core.datagram, &mut self.core.tally.lost);
        let State::Active(active) = &mut conn.state else { return };
        let refused = local.port.change(|stream| {
            if stream.has_ended() {
                lost.add(Lost::Ended);
                return false;
            }
            active.flow.get_or_insert_default().by_path[0] += datagram.payload().len() as u64;
            let refused = say_one(cx, stream, datagram.payload(), buffer, lost);
            if refused {
                stream.refuse();
                stream.waiting.close(lost);
            }
            refused
        });
        match refused {
            None => self.core.tally.lost.add(Lost::Stale),
            Some(false) => {}
            Some(true) => self.drive(cx, token),
        }
    }

    /// The path did not take a datagram: it goes by the conn, behind what waits there.
    // PROTOCOL.md: P-PATH-6.
    pub(super) fn on_path_back<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, serial: u64, datagram: &PathDatagram) {
        let token = self.carrier(serial, datagram.conn, datagram.epoch);
        let Some((token, (conn, Some(local)))) =
            token.and_then(|token| Some((token, conn_and_local(&mut self.slots, token)?)))
        else {
            return self.core.tally.lost.add(Lost::Ended);
        };
        if let State::Active(active) = &mut conn.state {
            active.flow.get_or_insert_default().by_path[1] -= datagram.payload().len() as u64;
        }
        let lost = &mut self.core.tally.lost;
        local.port.change(|stream| stream.on_back(cx.now, datagram.payload(), lost));
        self.drive(cx, token);
    }
}
