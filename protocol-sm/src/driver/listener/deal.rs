//! Deals visitors out to the event loops: who may come in, and which loop gets it.

use super::super::messages::{Arrival, ToLoop, ToServerLoop};
use super::super::sys::{Log, Streams};
use super::super::thread::Tell;
use super::super::totals::Totals;
use super::route::Member;
use crate::crowd::{Crowd, Guest};
use crate::ids::Registration;
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
    crowd: Crowd,
    totals: Totals,
    /// What became of those among `totals`.
    dropped: Counted<Counts<Dropped>>,
    turned_away: Counts<Dropped>,
}

impl Deal {
    /// Nobody yet, and never more than `visitors`.
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

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    pub(super) fn dropped(&self) -> Counts<Dropped> {
        *self.dropped
    }

    pub(super) fn turned_away(&self) -> Counts<Dropped> {
        self.turned_away
    }

    /// Visitors that may still come, besides those that have.
    pub(super) fn room(&self) -> u32 {
        self.crowd.room()
    }

    /// A visitor of `member` has come; `head` was read of it. It goes to an event loop, or is reset.
    pub(super) fn visitor<S>(
        &mut self,
        sys: &mut S,
        now: Instant,
        member: &mut Member,
        stream: S::Stream,
        from: SocketAddr,
        head: Vec<u8>,
    ) where
        S: Streams + Log + Tell<ToLoop<ToServerLoop<S::Stream>>>,
    {
        let &mut Member { control, registration: Registration { tunnel, .. }, ref mut gate, ref mut turned_away } =
            member;
        let guest = Guest { holder: gate.holder, source: Source::of(from.ip()) };
        let admitted = match gate.admit(now, from.ip()) {
            Ok(()) => self.crowd.enter(guest, gate.per_source).inspect_err(|&why| {
                self.totals.visitors += 1;
                self.totals.aborted += 1;
                self.dropped.add(why);
            }),
            Err(why) => {
                self.turned_away.add(why);
                Err(why)
            }
        };
        if let Err(why) = admitted {
            **turned_away += 1;
            sys.note(Note::VisitorDropped { visitor: from, tunnel, why });
            let visit = Begun::turned_away(gate.label.as_ref(), from, head.len(), why);
            visit.into_iter().for_each(|visit| sys.note(visit));
            return sys.reset(stream);
        }
        let loop_index = least_loaded(&self.loads);
        self.loads[loop_index] += 1;
        let message = ToServerLoop::Visitor(Arrival {
            control,
            tunnel,
            stream,
            from,
            guest,
            head,
            tunnel_max: gate.max_connections,
            label: gate.label.clone(),
            left: self.loads.len() - 1,
        });
        sys.tell(ToLoop { loop_index, message });
    }

    /// A visitor that was given to a loop was passed on to another one.
    pub(super) fn on_moved(&mut self, from: usize, to: usize) {
        self.loads[from] = self.loads[from].checked_sub(1).expect("who left had come");
        self.loads[to] += 1;
    }

    /// A visitor is gone.
    pub(super) fn on_left(&mut self, loop_index: usize, guest: Guest) {
        self.loads[loop_index] = self.loads[loop_index].checked_sub(1).expect("who left had come");
        self.crowd.leave(guest);
    }

    pub(super) fn assert_consistent(&self) {
        self.crowd.assert_consistent();
        assert_eq!(self.crowd.total(), self.loads.iter().sum::<u32>(), "each visitor is with an event loop");
    }
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
