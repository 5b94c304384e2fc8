//! The outer peers' moves, and what they see.

use super::{End, Holder, Net, Segment, Side, describe, origin, payload};
use crate::explore::story::{Party, Story};
use protocol_sm::driver::{Readiness, Role, SysError};

impl Net {
    /// A visitor's connection, accepted by nobody yet.
    pub(in crate::explore) fn add_visitor(&mut self, visit: usize) -> End {
        let end = self.add(Role::Public, Holder::Peer, Holder::Backlog);
        self.conn_mut(end).visit = Some(u8::try_from(visit).expect("few visits"));
        self.visits[visit].came = true;
        self.visits[visit].visitor.end = Some(end);
        end.other()
    }

    /// A dialled local_conn belongs to this visit.
    pub(in crate::explore) fn assign(&mut self, end: End, visit: usize) {
        self.conn_mut(end).visit = Some(u8::try_from(visit).expect("few visits"));
        let served = std::mem::replace(&mut self.visits[visit].served, true);
        assert!(!served, "a visitor is served once: its LocalServer was dialled before");
        let local = &mut self.visits[visit].local;
        local.end = Some(end.other());
        local.dialling = true;
    }

    /// The visit of a local_conn, if it is known.
    pub(in crate::explore) fn visit_of(&self, end: End) -> Option<usize> {
        self.conn(end).visit.map(usize::from)
    }

    /// A peer sends its next `count` bytes, and then perhaps its end. Returns its driver's end.
    pub(in crate::explore) fn peer_sends(
        &mut self,
        visit: usize,
        side: Side,
        count: usize,
        fin: bool,
        story: &mut Story,
    ) -> End {
        let peer = self.visits[visit].peer(side);
        let end = peer.end.expect("it is connected").other();
        let first = usize::from(peer.sent);
        peer.sent += u16::try_from(count).expect("few bytes");
        peer.fin |= fin;
        let bytes: Vec<_> = (first..first + count).map(|offset| self.byte(visit, side, offset)).collect();
        let sock = self.sock_mut(end);
        sock.arrived.extend(bytes);
        sock.ready.readable = true;
        if fin {
            sock.ended = true;
            sock.ready.hup = true;
        }
        let (from, to) = self.parties(end);
        story.arrow(from, to, || format!("visit {visit}: {count} B{}", if fin { ", FIN" } else { "" }));
        end
    }

    /// A peer resets its connection. Returns its driver's end.
    pub(in crate::explore) fn peer_resets(&mut self, visit: usize, side: Side, story: &mut Story) -> End {
        let peer = self.visits[visit].peer(side);
        peer.left = true;
        peer.held.clear();
        peer.held_fin = false;
        let end = peer.end.take().expect("it is connected").other();
        let (from, to) = self.parties(end);
        story.arrow(from, to, || format!("visit {visit}: RST"));
        self.sock_mut(end.other()).holder = Holder::Closed;
        let sock = self.sock_mut(end);
        sock.error = Some(SysError::Reset);
        sock.dead = true;
        sock.ready = Readiness { readable: true, writable: true, hup: true, error: true };
        end
    }

    /// A LocalServer accepts or refuses. Returns its driver's end.
    pub(in crate::explore) fn answer_dial(&mut self, visit: usize, accept: bool, story: &mut Story) -> End {
        let local = &mut self.visits[visit].local;
        local.dialling = false;
        let end = local.end.expect("it was dialled").other();
        story.arrow(Party::Locals, Party::Client, || {
            format!("visit {visit}: {}", if accept { "accepts" } else { "refuses" })
        });
        if !accept {
            self.visits[visit].local.end = None;
            self.visits[visit].doomed = true;
            self.sock_mut(end.other()).holder = Holder::Closed;
        }
        let sock = self.sock_mut(end);
        sock.connecting = false;
        sock.ready.writable = true;
        if !accept {
            sock.error = Some(SysError::Refused);
            sock.dead = true;
            sock.ready = Readiness { readable: true, writable: true, hup: true, error: true };
        }
        end
    }

    /// A peer acknowledges and reads what was sent to it.
    pub(in crate::explore) fn peer_takes(&mut self, visit: usize, side: Side, story: &mut Story) {
        let peer = self.visits[visit].peer(side);
        let (bytes, fin) = (std::mem::take(&mut peer.held), std::mem::take(&mut peer.held_fin));
        story.remark(|| format!("{side:?} of visit {visit} takes {} B{}", bytes.len(), if fin { ", FIN" } else { "" }));
        self.peer_reads(visit, side, &bytes);
        if fin {
            self.peer_reads_end(visit, side);
        }
    }

    /// What is on its way to the peer at the other end of `end`, not acknowledged.
    pub(super) fn unacknowledged(&self, end: End) -> usize {
        self.peer_of(end).map_or(0, |(visit, side)| {
            let visit = &self.visits[visit];
            let peer = if side == Side::Visitor { &visit.visitor } else { &visit.local };
            peer.unacknowledged()
        })
    }

    /// What `side` of a visit sends at `offset`.
    fn byte(&self, visit: usize, side: Side, offset: usize) -> u8 {
        let head = if side == Side::Visitor { self.visits[visit].head } else { &[] };
        head.get(offset).copied().unwrap_or_else(|| payload(visit, side, offset - head.len()))
    }

    /// The server itself tells a visitor something: once, before it has heard anything, and never one that is served.
    pub(super) fn answer(&mut self, end: End, words: &[u8]) {
        let (visit, side) = self.peer_of(end).expect("a visitor is told, and nobody else");
        let seen = &mut self.visits[visit];
        assert!(
            side == Side::Visitor && !seen.answered && !seen.served && seen.carrier.is_none() && seen.visitor.got == 0,
            "the server answers for nobody: visit {visit}"
        );
        assert!(words.starts_with(b"HTTP/1.1 4") && words.windows(4).any(|end| end == b"\r\n\r\n"), "{words:?}");
        seen.answered = true;
    }

    /// What was sent to a peer is read by it.
    fn peer_reads(&mut self, visit: usize, side: Side, bytes: &[u8]) {
        let known = usize::from(self.visits[visit].peer(side.other()).sent);
        assert!(!self.visits[visit].peer(side).eof, "nothing is written after the shutdown");
        for &byte in bytes {
            let offset = usize::from(self.visits[visit].peer(side).got);
            self.visits[visit].peer(side).got += 1;
            if self.hostile && offset >= known {
                continue;
            }
            assert!(offset < known, "bytes are not invented: {side:?} of visit {visit} got more than was sent");
            let expected = self.byte(visit, side.other(), offset);
            assert!(
                byte == expected,
                "delivered bytes are a prefix of those sent: {side:?} of visit {visit} got {byte:#04x} at {offset}, \
                 expected {expected:#04x} ({})",
                origin(byte)
            );
        }
    }

    fn peer_reads_end(&mut self, visit: usize, side: Side) {
        let other = self.visits[visit].peer(side.other()).clone();
        let answered = side == Side::Visitor && self.visits[visit].answered;
        let peer = self.visits[visit].peer(side);
        assert!(!peer.eof, "SHUT_WR exactly once");
        if answered {
            peer.eof = true;
            return;
        }
        assert!(
            other.fin && peer.got == other.sent,
            "a clean end means equal length and content: {side:?} of visit {visit} got {} of {} bytes, {}",
            peer.got,
            other.sent,
            if other.fin { "which ended" } else { "which did not end" },
        );
        peer.eof = true;
    }

    pub(super) fn peer_of(&self, end: End) -> Option<(usize, Side)> {
        let conn = self.conn(end);
        let side = match conn.role {
            Role::Public => Side::Visitor,
            Role::Local => Side::Local,
            Role::Ctl | Role::Proxy | Role::Untold => return None,
        };
        conn.visit.map(|visit| (usize::from(visit), side))
    }

    /// Sends from a driver to whoever is at the other end.
    pub(super) fn transmit(&mut self, from: End, segment: Segment, story: &mut Story) {
        let other = self.sock(from.other()).holder;
        match (other, &segment, self.peer_of(from)) {
            (Holder::Closed, Segment::Bytes(_), _) => {
                // Nobody is there: a reset comes back.
                let sock = self.sock_mut(from);
                if !sock.coming.contains(&Segment::Rst) && !sock.dead {
                    sock.coming.push_back(Segment::Rst);
                }
            }
            (Holder::Closed, ..) => {}
            (Holder::Peer, _, Some((visit, side))) => {
                let (sender, to) = self.parties(from.other());
                story.arrow(sender, to, || format!("visit {visit}: {}", describe(&segment)));
                let late = self.late == Some(side);
                match segment {
                    Segment::Bytes(bytes) if late => self.visits[visit].peer(side).held.extend(bytes),
                    Segment::Fin if late => self.visits[visit].peer(side).held_fin = true,
                    Segment::Bytes(bytes) => self.peer_reads(visit, side, &bytes),
                    Segment::Fin => self.peer_reads_end(visit, side),
                    Segment::Rst => {
                        let seen = &mut self.visits[visit];
                        let other = seen.peer(side.other());
                        let (other_left, other_sent) = (other.left, other.sent);
                        let doomed = seen.doomed;
                        let peer = seen.peer(side);
                        assert!(
                            doomed || !other_left || peer.got == other_sent,
                            "what came before a reset is delivered before it: {side:?} of visit {visit} got {} of \
                             {other_sent} bytes",
                            peer.got
                        );
                        peer.was_reset = true;
                        // The kernel drops what was not acknowledged.
                        peer.held.clear();
                        peer.held_fin = false;
                        peer.dialling = false;
                        peer.end = None;
                        self.sock_mut(from.other()).holder = Holder::Closed;
                    }
                }
            }
            (Holder::Peer, ..) => self.sock_mut(from.other()).holder = Holder::Closed,
            (Holder::Driver(..) | Holder::Backlog, ..) => self.pass_on(from, segment),
        }
    }
}
