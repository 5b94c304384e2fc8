//! The loop's tables agree with each other, after every event: for tests and simulations.

use super::super::relay::Mode;
use super::super::view::{ConnView, Use};
use super::{Answer, Conn, ServerLoop, Shard, Slot, State, Token, Totals};
use crate::bandwidth::Direction;
use crate::ids::Epoch;
use crate::ledger::Good;
use crate::transfer::FIRST_BYTES;

impl<T, P> ServerLoop<T, P> {
    /// Its proxy_conns.
    pub fn conns(&self) -> impl Iterator<Item = ConnView<'_, T>> {
        self.slots.iter().filter_map(|(_, slot)| match slot {
            Slot::Conn(conn) => Some(self.view(conn)),
            Slot::Visitor(_) | Slot::Port(_) => None,
        })
    }

    fn view<'a>(&'a self, conn: &'a Conn<T, P>) -> ConnView<'a, T> {
        let (epoch, used) = match &conn.state {
            State::Idle { conn, .. } => (conn.last(), Use::Idle),
            State::Active(active) => {
                let outer = active.visitor.and_then(|visitor| match self.slots.get(visitor)? {
                    Slot::Visitor(visitor) => visitor.port.socket(),
                    Slot::Conn(_) | Slot::Port(_) => None,
                });
                (active.conn.transfer.epoch(), Use::Active { outer })
            }
        };
        ConnView { id: conn.id, stream: conn.link.port.stream(), epoch, used }
    }

    /// Visitors that wait for a conn: those of one session in the order in which they will be served.
    pub fn waiting(&self) -> impl Iterator<Item = &T> {
        let tokens = self.controls.values().flat_map(|shard| shard.pool.waiting());
        tokens.filter_map(|token| match self.slots.get(token)? {
            Slot::Visitor(visitor) => visitor.port.socket(),
            Slot::Conn(_) | Slot::Port(_) => None,
        })
    }

    /// Conns asked for and not yet come, over all sessions.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.controls.values().map(|shard| shard.pool.asked()).sum()
    }

    /// Checks that the loop's tables agree with each other.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_consistent(&self) {
        let mut deadlines = 0;
        let mut timed = |at: Option<_>, token| {
            if let Some(at) = at {
                assert!(self.core.timers.has(at, token), "a deadline is not among the timers");
                deadlines += 1;
            }
        };
        let mut served = 0;
        for (token, slot) in self.slots.iter() {
            match slot {
                Slot::Port(port) => {
                    assert_eq!(self.core.places(token), usize::from(port.queued), "whoever is queued is queued once");
                    port.flows.assert_consistent();
                    assert_eq!(self.ports.get(&port.owner()), Some(&token), "a tunnel finds its port");
                    for (party, flow) in port.flows.iter() {
                        let Some(Slot::Visitor(flow)) = self.slots.get(flow) else { panic!("a flow is there") };
                        assert_eq!(flow.flow.as_ref().map(|flow| flow.party), Some(party), "F1: a flow is its party's");
                        assert!(flow.deadline.is_some(), "every flow ends");
                    }
                }
                Slot::Visitor(visitor) => {
                    timed(visitor.deadline, token);
                    let Some(conn) = visitor.conn else {
                        let shard = self.controls.get(&visitor.control).expect("a visitor waits in a session");
                        assert_eq!(shard.pool.waiting().filter(|&w| w == token).count(), 1, "P1: it waits once");
                        assert!(visitor.deadline.is_some(), "every wait ends");
                        continue;
                    };
                    assert!(
                        visitor.deadline.is_none() || visitor.flow.is_some(),
                        "who is served has no deadline, but a flow"
                    );
                    let Some(Slot::Conn(conn)) = self.slots.get(conn) else { panic!("its conn is gone") };
                    let State::Active(active) = &conn.state else { panic!("its conn is idle") };
                    assert_eq!(active.visitor, Some(token), "one transfer per conn");
                }
                Slot::Conn(conn) => {
                    timed(conn.deadline, token);
                    let shard = self.controls.get(&conn.control).expect("a conn belongs to a session");
                    assert_eq!(shard.conns.get(&conn.id), Some(&token), "a conn's number names it");
                    assert_eq!(self.core.places(token), usize::from(conn.queued), "whoever is queued is queued once");
                    let idle = shard.pool.idle().filter(|&idle| idle == token).count();
                    match &conn.state {
                        State::Idle { .. } => {
                            assert_eq!(idle, 1, "P2: an idle conn is in the pool, once");
                            assert!(conn.deadline.is_some(), "an idle conn is pinged");
                            assert!(conn.link.ingress_flow.is_empty(), "an idle conn holds no payload");
                            assert!(conn.link.egress_flow.is_framing(), "an idle conn holds no payload");
                        }
                        State::Active(active) => {
                            assert_eq!(idle, 0, "P2: a conn that was given is not idle");
                            assert!(active.conn.transfer.epoch() > Epoch(0));
                            let awaiting = active.conn.answer() == Answer::Awaiting;
                            assert!(awaiting || !active.lost, "a conn that is lost under its answer is dropped");
                            assert!(awaiting || active.first.is_empty(), "nothing is kept behind the answer");
                            assert!(active.first.len() <= FIRST_BYTES, "what is kept is bounded");
                            served += u64::from(active.visitor.is_some() || active.conn.answer() != Answer::Refused);
                            let outer = active.visitor.and_then(|visitor| match self.slots.get(visitor)? {
                                Slot::Visitor(visitor) => Some(&visitor.port),
                                Slot::Conn(_) | Slot::Port(_) => None,
                            });
                            let incoming_is_payload = active.conn.answer() == Answer::Started;
                            let mode = Mode { incoming_is_payload, hold_frames: false };
                            let could_move = conn.link.could_move(&active.conn.transfer, outer, mode);
                            let throttled = active.throttled.contains(&true);
                            assert!(
                                conn.queued || active.lost || throttled || active.pace.is_starved() || !could_move,
                                "whoever could move something is queued"
                            );
                            for (direction, _) in Direction::ALL.into_iter().zip(active.throttled).filter(|(_, it)| *it)
                            {
                                let tunnel = (conn.control, active.tunnel);
                                assert!(
                                    self.allowances.awaits(tunnel, direction, token),
                                    "B3: whoever starves has asked"
                                );
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(deadlines, self.core.timers.len(), "no timer without its owner");
        self.ledger.assert_holds(self.controls.values().flat_map(|shard| {
            let visitors = shard.visits.values().sum();
            [(shard.holder, Good::Visitor, visitors), (shard.holder, Good::Transfer, shard.active)]
        }));
        let mut waiting = 0;
        for shard in self.controls.values() {
            let active = shard.conns.values().filter(|&&token| self.is_active(token)).count();
            assert_eq!(active, shard.active as usize, "transfers are counted");
            let visits: u32 = shard.visits.values().sum();
            assert_eq!(visits as usize, active + shard.pool.waits(), "a tunnel's visitors are counted");
            assert!(shard.visits.values().all(|&visits| visits > 0), "no tunnel without visitors is remembered");
            assert_eq!(shard.pool.idle().count() + active, shard.conns.len(), "conns are counted");
            shard.pool.assert_consistent(self.core.draining || shard.retired);
            assert!(
                !shard.retired || shard.pool.idle().count() == 0,
                "what is idle in a session that retires is closed"
            );
            waiting += shard.pool.waits() as u64;
            let same = |other: &&Shard| other.holder == shard.holder;
            let returned: usize = self.controls.values().filter(same).map(|other| other.pool.returned()).sum();
            let waits = shard.waiting(&self.ledger) as usize - returned;
            assert!(waits <= shard.max_waiting.max(shard.waited) as usize, "P1: the holder's queue is bounded");
            let retry = shard.pool.next_deadline();
            assert!(retry.is_none_or(|at| self.next_retry.is_some_and(|next| next <= at)), "a retry has its timer");
        }
        let Totals { visitors, finished, aborted, .. } = self.core.totals;
        assert_eq!(visitors, waiting + served + finished + aborted, "every visitor is counted once");
    }

    fn is_active(&self, token: Token) -> bool {
        match self.slots.get(token) {
            Some(Slot::Conn(conn)) => matches!(conn.state, State::Active(_)),
            Some(Slot::Visitor(_) | Slot::Port(_)) | None => false,
        }
    }
}
