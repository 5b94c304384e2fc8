//! Flows whose datagrams go by their session's path: what a visitor says, where the path takes it, and what comes back
//! (PROTOCOL.md, "Paths"). The flow itself is on its conn as ever.

use super::super::messages::{ControlKey, FromServerLoop};
use super::super::slab::Token;
use super::super::thread::Cx;
use super::{LoopSys, ServerLoop, Slot, State, active};
use crate::canary::{PlantedBug, planted};
use crate::conn::server::Answer;
use crate::datagrams::{Lost, PathDatagram, PathState, Speaker};
use crate::ids::{ConnId, Epoch};

impl<T, P> ServerLoop<T, P> {
    /// What a session's path takes now.
    pub(super) fn set_path(&mut self, control: ControlKey, state: PathState) {
        if let Some(shard) = self.controls.get_mut(&control) {
            shard.path = state;
        }
    }

    /// Whether a datagram of the flow on this conn goes by the path; if so, it is on its way.
    // PROTOCOL.md: P-PATH-6.
    pub(super) fn goes_by_path<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, conn: Token, datagram: &[u8]) -> bool {
        let Some(Slot::Conn(conn)) = self.slots.get_mut(conn) else { return false };
        let State::Active(active) = &mut conn.state else { return false };
        let Some(shard) = self.controls.get(&conn.control) else { return false };
        let epoch = active.conn.transfer.epoch();
        // Before the client has answered, it may not know the flow.
        let is_known = active.conn.answer() == Answer::Started && !active.lost && active.max_bandwidth.is_none();
        if !is_known || !shard.path.takes(conn.id, epoch, datagram.len()) {
            return false;
        }
        active.aside.get_or_insert_default().by_path[0] += datagram.len() as u64;
        let datagram = PathDatagram::new(conn.id, epoch, datagram);
        cx.sys.tell(FromServerLoop::Datagram { control: conn.control, datagram });
        !planted(PlantedBug::SentByBoth)
    }

    /// The conn that carries this flow now.
    // PROTOCOL.md: P-PATH-5.
    fn carrier(&mut self, control: ControlKey, conn: ConnId, epoch: Epoch) -> Option<(Token, Token)> {
        let token = *self.controls.get(&control)?.conns.get(&conn)?;
        let Some(Slot::Conn(conn)) = self.slots.get(token) else { return None };
        let State::Active(active) = &conn.state else { return None };
        let is_it = active.conn.transfer.epoch() == epoch || planted(PlantedBug::EpochForgotten);
        Some((token, active.visitor.filter(|_| is_it && !active.lost)?))
    }

    /// A datagram has come by the path: it is the visitor's.
    pub(super) fn on_path_datagram<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        control: ControlKey,
        datagram: &PathDatagram,
    ) {
        let Some((token, flow)) = self.carrier(control, datagram.conn, datagram.epoch) else {
            return self.core.tally.lost.add(Lost::Stale);
        };
        let of = match self.slots.get(flow) {
            Some(Slot::Visitor(visitor)) => visitor.flow.as_deref().copied(),
            Some(Slot::Conn(_) | Slot::Port(_)) | None => None,
        };
        let lost = &mut self.core.tally.lost;
        let Some(of) = of else { return lost.add(Lost::Stale) };
        let Some((Slot::Visitor(visitor), Slot::Port(port))) = self.slots.get_two(flow, of.port) else {
            return lost.add(Lost::Ended);
        };
        if visitor.port.change(|stream| stream.has_ended()) == Some(true) {
            return lost.add(Lost::Ended);
        }
        port.flows.on_spoken(cx.now, of.party, Speaker::Service);
        if cx.sys.say(&port.socket, Some(of.back()), datagram.payload()).is_err() {
            lost.add(Lost::NotSent);
        }
        if let Some(active) = active(&mut self.slots, token) {
            active.aside.get_or_insert_default().by_path[1] += datagram.payload().len() as u64;
        }
    }

    /// The path did not take a datagram: it goes by the conn, behind what waits there.
    // PROTOCOL.md: P-PATH-6.
    pub(super) fn on_path_back<S: LoopSys<T, P>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        control: ControlKey,
        datagram: &PathDatagram,
    ) {
        let Some((token, flow)) = self.carrier(control, datagram.conn, datagram.epoch) else {
            return self.core.tally.lost.add(Lost::Ended);
        };
        if let Some(active) = active(&mut self.slots, token) {
            active.aside.get_or_insert_default().by_path[0] -= datagram.payload().len() as u64;
        }
        let Some(Slot::Visitor(visitor)) = self.slots.get_mut(flow) else { return };
        let lost = &mut self.core.tally.lost;
        visitor.port.change(|stream| stream.on_back(cx.now, datagram.payload(), lost));
        self.drive(cx, token);
    }
}
