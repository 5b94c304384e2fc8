//! The loop's tables agree with each other, after every event: for tests and simulations.

use super::super::relay::Mode;
use super::super::view::{ConnView, Use};
use super::dialling::Dial;
use super::transfers::holds_frames;
use super::{ClientLoop, Conn, Slot, Stage, State, Totals};
use crate::bandwidth::Direction;

impl<T, P> ClientLoop<T, P> {
    /// Its proxy_conns.
    pub fn conns(&self) -> impl Iterator<Item = ConnView<'_, T>> {
        self.slots.iter().filter_map(|(_, slot)| match slot {
            Slot::Conn(conn) => Some(self.view(conn)),
            Slot::Local(_) => None,
        })
    }

    fn view<'a>(&'a self, conn: &'a Conn<T, P>) -> ConnView<'a, T> {
        let (epoch, used) = match &conn.state {
            State::Opening { conn, .. } => (conn.last(), Use::Opening),
            State::Idle(conn) => (conn.last(), Use::Idle),
            State::Active(active) => {
                let dialled = active.dial.as_ref().and_then(|dial| dial.attempts().next());
                let outer = active.local.or(dialled).and_then(|local| match self.slots.get(local)? {
                    Slot::Local(local) => local.port.socket(),
                    Slot::Conn(_) => None,
                });
                (active.conn.transfer.epoch(), Use::Active { outer })
            }
        };
        ConnView { id: conn.id, stream: conn.link.port.stream(), epoch, used }
    }

    /// Checks that the loop's tables agree with each other.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_consistent(&self) {
        let (mut deadlines, mut conns, mut active_conns, mut served) = (0, 0, 0, 0);
        for (token, slot) in self.slots.iter() {
            match slot {
                Slot::Local(local) => {
                    let Some(Slot::Conn(conn)) = self.slots.get(local.conn) else { panic!("its conn is gone") };
                    let State::Active(active) = &conn.state else { panic!("its conn is idle") };
                    let dialled = active.dial.iter().flat_map(|dial| dial.attempts());
                    let owned = active.local.into_iter().chain(dialled).filter(|&local| local == token).count();
                    assert_eq!(owned, 1, "one transfer per conn");
                    assert!(active.local.is_none() || active.dial.is_none(), "whoever lost a race is closed");
                }
                Slot::Conn(conn) => {
                    conns += 1;
                    assert_eq!(self.conns.get(&(conn.serial, conn.id)), Some(&token), "a conn's number names it");
                    assert_eq!(self.core.places(token), usize::from(conn.queued), "whoever is queued is queued once");
                    if let Some(at) = conn.deadline {
                        assert!(self.core.timers.has(at, token), "a deadline is not among the timers");
                        deadlines += 1;
                    }
                    match &conn.state {
                        State::Opening { .. } => assert!(conn.deadline.is_some(), "every handshake ends"),
                        State::Idle(_) => {
                            assert!(conn.deadline.is_none(), "an idle conn has no stale timer");
                            assert!(conn.link.ingress_flow.is_empty(), "an idle conn holds no payload");
                            assert!(conn.link.egress_flow.is_framing(), "an idle conn holds no payload");
                        }
                        State::Active(active) => {
                            active_conns += 1;
                            let dials = active.conn.stage() == Stage::Dialling;
                            assert_eq!(active.dial.is_some(), dials, "who dials has a way to go");
                            let waits = matches!(active.dial.as_deref(), Some(Dial::Port { .. }));
                            let places = self.locals.get(&active.tunnel).map_or(0, |local| local.ports.places(token));
                            assert_eq!(places, usize::from(waits), "who waits for a port stands in the line, once");
                            assert!(!waits || conn.deadline.is_some(), "every wait ends");
                            served += u64::from(active.conn.stage() != Stage::Refused);
                            let outer = active.local.and_then(|local| match self.slots.get(local)? {
                                Slot::Local(local) => Some(&local.port),
                                Slot::Conn(_) => None,
                            });
                            let mode = Mode {
                                incoming_is_payload: true,
                                hold_frames: holds_frames(&self.core.timings, active),
                            };
                            let could_move = active.conn.stage() != Stage::Dialling
                                && conn.link.could_move(&active.conn.transfer, outer, mode);
                            let throttled = active.throttled.contains(&true);
                            assert!(
                                conn.queued || throttled || active.pace.is_starved() || !could_move,
                                "whoever could move something is queued"
                            );
                            for (direction, _) in Direction::ALL.into_iter().zip(active.throttled).filter(|(_, it)| *it)
                            {
                                assert!(
                                    self.allowances.awaits(active.tunnel, direction, token),
                                    "B3: whoever starves has asked"
                                );
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(deadlines, self.core.timers.len(), "no timer without its owner");
        assert_eq!(conns, self.conns.len(), "conns are counted");
        assert_eq!(active_conns, self.active, "transfers are counted");
        let Totals { visitors, finished, aborted, .. } = self.core.totals;
        assert_eq!(visitors, served + finished + aborted, "every transfer is counted once");
    }
}
