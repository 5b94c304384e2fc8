//! What the outer peers may do: visitors come, send, end and leave; LocalServers accept, refuse, send, end and leave.

use super::net::{End, Net, Peer, Side, Stream, VISITORS, Visit, at};
use super::story::Story;
use protocol_sm::driver::{ConnView, Use};
use std::net::SocketAddr;

/// How finely the outer peers' moves are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// A visitor comes with all its bytes, or with nothing, or with its end too; every byte and every end may come
    /// alone or with what precedes it.
    Fine,
    /// A peer comes with all its bytes; its end comes later.
    Medium,
    /// A peer comes with all its bytes and its end.
    Coarse,
}

/// What the peers of a model may do in all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script {
    pub(super) visits: usize,
    pub(super) up: usize,
    pub(super) down: usize,
    pub(super) chunk: usize,
    pub(super) grain: Grain,
    /// Bytes of `up` that name a visitor's host, which may come in two parts.
    pub(super) head: usize,
}

/// What is left of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Whims {
    pub(super) came: usize,
    pub(super) refusals: usize,
    pub(super) resets: usize,
}

/// One peer's move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// The next visitor comes, with so many bytes, and perhaps its end.
    Come { bytes: usize, fin: bool },
    /// A peer sends so many bytes more, and perhaps its end.
    Send { visit: usize, side: Side, bytes: usize, fin: bool },
    /// A peer resets its connection.
    Leave { visit: usize, side: Side },
    /// A LocalServer accepts, with so many bytes behind it, and perhaps its end.
    Accept { visit: usize, bytes: usize, fin: bool },
    /// A LocalServer refuses.
    Refuse { visit: usize },
    /// A peer that is late acknowledges and reads what was sent to it.
    Take { visit: usize, side: Side },
}

impl Move {
    /// Peers end what they have begun; whether they come, leave or refuse is up to them.
    pub(super) fn is_due(self) -> bool {
        match self {
            Self::Send { .. } | Self::Accept { .. } | Self::Take { .. } => true,
            Self::Come { .. } | Self::Leave { .. } | Self::Refuse { .. } => false,
        }
    }
}

impl Script {
    /// How much a peer that has sent so much, and has so much left, says next, if not all.
    fn part(&self, side: Side, sent: usize, left: usize) -> usize {
        let next = [self.head / 2, self.head].into_iter().find(|&end| side == Side::Visitor && sent < end);
        next.map_or(left.min(self.chunk), |end| end - sent)
    }

    /// The moves that are possible now.
    pub(super) fn moves(&self, net: &Net, whims: &Whims, may_come: bool, mut offer: impl FnMut(Move)) {
        if may_come && whims.came < self.visits {
            let bytes = self.up;
            if self.head > 0 {
                offer(Move::Come { bytes: self.part(Side::Visitor, 0, bytes), fin: false });
            }
            match self.grain {
                Grain::Fine => {
                    offer(Move::Come { bytes: 0, fin: false });
                    offer(Move::Come { bytes, fin: true });
                    if bytes > 0 {
                        offer(Move::Come { bytes, fin: false });
                    }
                }
                Grain::Medium => offer(Move::Come { bytes, fin: false }),
                Grain::Coarse => offer(Move::Come { bytes, fin: true }),
            }
        }
        for (visit, state) in net.visits.iter().enumerate() {
            for (side, peer, all) in [(Side::Visitor, &state.visitor, self.up), (Side::Local, &state.local, self.down)]
            {
                if peer.unacknowledged() > 0 {
                    offer(Move::Take { visit, side });
                }
                if peer.dialling {
                    match self.grain {
                        Grain::Fine => {
                            offer(Move::Accept { visit, bytes: 0, fin: false });
                            offer(Move::Accept { visit, bytes: all, fin: true });
                        }
                        Grain::Medium => offer(Move::Accept { visit, bytes: all, fin: false }),
                        Grain::Coarse => offer(Move::Accept { visit, bytes: all, fin: true }),
                    }
                    if whims.refusals > 0 {
                        offer(Move::Refuse { visit });
                    }
                    continue;
                }
                if !peer.is_open() {
                    continue;
                }
                if !peer.fin {
                    let left = all - usize::from(peer.sent);
                    offer(Move::Send { visit, side, bytes: left, fin: true });
                    if left > 0 {
                        let bytes = self.part(side, usize::from(peer.sent), left);
                        offer(Move::Send { visit, side, bytes, fin: false });
                    }
                }
                if whims.resets > 0 && !peer.is_complete() {
                    offer(Move::Leave { visit, side });
                }
            }
        }
    }
}

/// Makes a move. Returns the driver's end of its connection, if that is to be told of readiness; a new visitor's is
/// not accepted yet.
pub(super) fn play(made: Move, net: &mut Net, whims: &mut Whims, story: &mut Story) -> Option<End> {
    Some(match made {
        Move::Come { bytes, fin } => {
            let visit = whims.came;
            whims.came += 1;
            let end = net.add_visitor(visit);
            net.peer_sends(visit, Side::Visitor, bytes, fin, story);
            end
        }
        Move::Send { visit, side, bytes, fin } => net.peer_sends(visit, side, bytes, fin, story),
        Move::Leave { visit, side } => {
            whims.resets -= 1;
            net.peer_resets(visit, side, story)
        }
        Move::Accept { visit, bytes, fin } => {
            let end = net.answer_dial(visit, true, story);
            if bytes > 0 || fin {
                net.peer_sends(visit, Side::Local, bytes, fin, story);
            }
            end
        }
        Move::Refuse { visit } => {
            whims.refusals -= 1;
            net.answer_dial(visit, false, story)
        }
        Move::Take { visit, side } => {
            // Nothing is reported of that: whoever waits for it has to look.
            net.peer_takes(visit, side, story);
            return None;
        }
    })
}

/// Where `gone` reset its connection, `peer` got all that it had sent, and then its end: a reset, unless it had shut
/// its write half before.
fn assert_saw_reset(index: usize, gone: &Peer, peer: &Peer) {
    if !gone.left || peer.left {
        return;
    }
    assert!(
        peer.got == gone.sent,
        "what came before a reset is delivered before it: visit {index}: {} of {} bytes",
        peer.got,
        gone.sent
    );
    assert!(
        peer.was_reset || gone.fin && peer.eof,
        "a reset is shown as a reset: visit {index}: {gone:?} left, and {peer:?} was not told"
    );
}

/// The address of a visitor.
pub(super) fn address(visit: usize) -> SocketAddr {
    at(VISITORS + u16::try_from(visit).expect("few visits"))
}

/// The visit of a visitor's address.
pub(super) fn visit_at(visitor: SocketAddr) -> usize {
    usize::from(visitor.port() - VISITORS)
}

/// Finds out whose LocalServer was dialled.
pub(super) fn assign_dials<'a>(net: &mut Net, conns: impl Iterator<Item = ConnView<'a, Stream>>) {
    for view in conns {
        let Use::Active { outer: Some(outer) } = view.used else { continue };
        if net.visit_of(outer.0).is_none() {
            let carrier = Some((net.serial(view.stream.0), view.epoch.0));
            let visit = net.visits.iter().position(|visit| visit.carrier == carrier);
            net.assign(outer.0, visit.expect("no payload is parsed as a frame: this Start was never sent"));
        }
    }
}

/// A conn is lost: the visit that it carries may be cut short, unless the client has not seen its `Start`.
pub(super) fn doom_if_seen<'a>(net: &mut Net, mut conns: impl Iterator<Item = ConnView<'a, Stream>>, end: End) {
    let client = conns.find(|view| view.stream.0.conn() == end.conn());
    let unseen = client.is_some_and(|view| {
        let carries = (net.serial(view.stream.0), view.epoch.0);
        let seen = net.visits.iter().any(|visit| visit.carrier == Some(carries));
        matches!(view.used, Use::Idle | Use::Opening) && !seen && !net.has_arrived(view.stream.0)
    });
    if !unseen {
        net.doom(end);
    }
}

/// Every visit that goes no further has come to an end that both its peers have seen.
pub(super) fn assert_ended(visits: &[Visit]) {
    for (index, visit) in visits.iter().enumerate().filter(|(_, visit)| visit.came) {
        let left = visit.visitor.left || visit.local.left;
        assert!(
            visit.is_complete() || visit.doomed || left,
            "visit {index} was cut short, or hangs, without a cause: {visit:?}"
        );
        // Who leaves before it has named its host is nobody's.
        if !visit.doomed && visit.is_named() {
            for (gone, peer) in [(&visit.visitor, &visit.local), (&visit.local, &visit.visitor)] {
                assert_saw_reset(index, gone, peer);
            }
        }
        for peer in [&visit.visitor, &visit.local] {
            let ended = peer.is_complete() || peer.left || peer.was_reset || peer.end.is_none();
            assert!(ended && !peer.dialling, "every transfer ends: visit {index}: {visit:?}");
        }
    }
}
