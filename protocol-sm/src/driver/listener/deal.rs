//! Who comes is let in or turned away, and dealt to an event loop.

use super::super::messages::{Arrival, ToLoop, ToServerLoop, Who};
use super::super::sys::{Log, Streams};
use super::super::thread::Tell;
use super::super::totals::Totals;
use super::route::Member;
use crate::crowd::{Crowd, Guest};
use crate::notes::{Dropped, Note};
use crate::report::{Counted, Counts};
use crate::sources::Source;
use crate::time::Instant;
use crate::visit::Begun;
use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddr;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Deal {
    /// Visitors that each event loop has.
    loads: Vec<u32>,
    pub(super) crowd: Crowd,
    pub(super) totals: Totals,
    /// What became of those among `totals`.
    pub(super) dropped: Counted<Counts<Dropped>>,
    pub(super) turned_away: Counts<Dropped>,
}

impl Deal {
    pub(super) fn new(loop_count: usize, visitors: u32) -> Self {
        Self {
            loads: vec![0; loop_count],
            crowd: Crowd::new(visitors),
            totals: Totals::default(),
            dropped: Counted::default(),
            turned_away: Counts::default(),
        }
    }

    pub(super) fn loop_count(&self) -> usize {
        self.loads.len()
    }

    /// Visitors that all event loops have.
    pub(super) fn load(&self) -> u32 {
        self.loads.iter().sum()
    }

    /// A visitor of a tunnel has come; `head` was read of it.
    pub(super) fn visitor<S>(
        &mut self,
        sys: &mut S,
        now: Instant,
        member: &mut Member,
        stream: S::Stream,
        who: Who,
        head: Vec<u8>,
    ) where
        S: Streams + Log + Tell<ToLoop<ToServerLoop<S::Stream>>>,
    {
        let Member { control, registration, gate, turned_away } = member;
        let from = who.from;
        if let Err(why) = gate.admit(now, from.ip()) {
            return self.turn_away(sys, member, stream, from, head.len(), why);
        }
        let guest = Guest { holder: gate.holder, source: Source::of(from.ip()) };
        if let Err(why) = self.crowd.enter(guest, gate.per_source) {
            self.totals.visitors += 1;
            self.totals.aborted += 1;
            self.dropped.add(why);
            **turned_away += 1;
            return reset(sys, member, stream, from, head.len(), why);
        }
        let loop_index = least_loaded(&self.loads);
        self.loads[loop_index] += 1;
        let message = ToServerLoop::Visitor(Arrival {
            control: *control,
            tunnel: registration.tunnel,
            stream,
            who,
            guest,
            head,
            tunnel_max: gate.max_connections,
            label: gate.label.clone(),
            left: self.loads.len() - 1,
        });
        sys.tell(ToLoop { loop_index, message });
    }

    /// Somebody came to a tunnel who may not visit it, after `read` bytes were read.
    pub(super) fn turn_away<S>(
        &mut self,
        sys: &mut S,
        member: &mut Member,
        stream: S::Stream,
        from: SocketAddr,
        read: usize,
        why: Dropped,
    ) where
        S: Streams + Log,
    {
        self.turned_away.add(why);
        *member.turned_away += 1;
        reset(sys, member, stream, from, read, why);
    }

    /// A visitor was passed on from one event loop to another.
    pub(super) fn moved(&mut self, from: usize, to: usize) {
        self.loads[from] = self.loads[from].checked_sub(1).expect("who left had come");
        self.loads[to] += 1;
    }

    /// A visitor is gone.
    pub(super) fn left(&mut self, loop_index: usize, guest: Guest) {
        self.loads[loop_index] = self.loads[loop_index].checked_sub(1).expect("who left had come");
        self.crowd.leave(guest);
    }
}

fn reset<S: Streams + Log>(
    sys: &mut S,
    member: &Member,
    stream: S::Stream,
    from: SocketAddr,
    read: usize,
    why: Dropped,
) {
    sys.note(Note::VisitorDropped { visitor: from, tunnel: member.registration.tunnel, why });
    Begun::turned_away(member.gate.label.as_ref(), from, read, why).into_iter().for_each(|visit| sys.note(visit));
    sys.reset(stream);
}

/// The event loop that gets the next visitor.
fn least_loaded(loads: &[u32]) -> usize {
    // The last of a row of visitors, one after the other, may not be quite gone when the next one comes.
    if loads.iter().sum::<u32>() <= 1 {
        return 0;
    }
    (0..loads.len()).min_by_key(|&loop_index| loads[loop_index]).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_visitor_stays_with_the_first_loop_and_others_go_where_the_fewest_are() {
        let mut loads = [0; 3];
        let dealt: Vec<_> = (0..6)
            .map(|_| {
                let loop_index = least_loaded(&loads);
                loads[loop_index] += 1;
                loop_index
            })
            .collect();
        assert_eq!(dealt, [0, 0, 1, 2, 1, 2]);
    }
}
