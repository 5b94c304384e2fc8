//! Sessions that the server has told to leave: their transfers end where they began, while another session, with another
//! process of the server, takes the new visitors (PROTOCOL.md, "Leaving").

use super::super::messages::{ToClientLoop, ToLoop};
use super::super::slab::Token;
use super::super::sys::Streams;
use super::super::thread::{Cx, Tell};
use super::{ClientMain, MainSys, Stage};
use crate::canary::{PlantedBug, planted};
use crate::codes::{CloseCode, LeaveCode};
use crate::control::client::Control;
use crate::liveness::{Liveness, Pulse};
use crate::notes::Note;
use crate::report::Counted;
use crate::time::Instant;
use crate::wire::{Ctl, ToServer};

/// Sessions beside the current one. A server that is upgraded more often while old transfers last loses the oldest.
const MAX: usize = 32;

/// A session that was left. It is never resumed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Left {
    pub(super) control: Control,
    pub(super) token: Token,
    pub(super) liveness: Liveness,
    pub(super) began: Counted<Instant>,
}

impl<T> ClientMain<T> {
    pub(super) fn is_left(&self, serial: u64) -> bool {
        self.left.iter().any(|left| left.control.serial == serial)
    }

    /// The current session is left: another one begins. A client that stops wants no other.
    // PROTOCOL.md: P-LEAVE-2.
    pub(super) fn come_anew<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, code: LeaveCode) {
        if self.stopping.is_some() {
            return;
        }
        let &Stage::Up { token, ref liveness } = &self.stage else { return };
        let liveness = liveness.clone();
        let Some(control) = self.control.take() else { return };
        self.close_path(cx);
        cx.sys.note(Note::Left { code });
        let began = Counted(self.story.on_over(cx.now));
        self.left.push(Left { control, token, liveness, began });
        if self.left.len() > MAX || planted(PlantedBug::LeftSessionCut) {
            self.end_left(cx, 0, Some(CloseCode::Bye));
        }
        self.begin(cx);
    }

    pub(super) fn on_left_deadlines<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        let now = cx.now;
        let due = |left: &Left| left.liveness.next_deadline() <= now;
        while let Some(index) = self.left.iter().position(due) {
            let left = &mut self.left[index];
            match left.liveness.on_deadline(now) {
                Pulse::Fine => {}
                Pulse::Dead => self.end_left(cx, index, None),
                Pulse::Ping => {
                    let (serial, received) = (left.control.serial, left.control.session.mark_acked());
                    self.push(serial, &Ctl::Ping { received });
                }
            }
        }
    }

    /// A session that was left is over: what belongs to it is reset. The server is told so with `close`, if it can be.
    // PROTOCOL.md: P-LEAVE-4.
    pub(super) fn end_left<S>(&mut self, cx: &mut Cx<'_, S>, index: usize, close: Option<CloseCode>)
    where
        S: Streams<Stream = T> + Tell<ToLoop<ToClientLoop>>,
    {
        let Left { control, token, .. } = self.left.remove(index);
        if let Some(mut link) = self.slots.remove(token) {
            if let Some(code) = close {
                link.push(&ToServer::Close { code });
            }
            link.close(cx.sys);
        }
        self.tell_over(cx, control.serial);
        if self.stopping.as_ref().is_some_and(|stopping| stopping.leaving) {
            self.stop_if_alone();
        }
    }

    /// None of them may go on.
    pub(super) fn end_all_left<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: Streams<Stream = T> + Tell<ToLoop<ToClientLoop>>,
    {
        while !self.left.is_empty() {
            self.end_left(cx, 0, Some(CloseCode::Bye));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::ctl_link::CtlLink;
    use super::super::super::relay::Endpoint;
    use super::super::super::stub::{Net, client_settings, encoded, session_key};
    use super::super::super::thread::Strategy;
    use super::super::{Outcome, Stopping};
    use super::*;
    use crate::ids::SessionId;
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;
    use core::time::Duration;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn main() -> ClientMain<u32> {
        ClientMain::new(client_settings(), "server:1".into(), 1)
    }

    fn with(main: &mut ClientMain<u32>, now: Instant, act: impl FnOnce(&mut ClientMain<u32>, &mut Cx<'_, Net>)) -> Net {
        let mut net = Net::default();
        act(main, &mut Cx { sys: &mut net, now, scratch: &mut [], strategy: Strategy::Hybrid, turn: usize::MAX });
        main.assert_consistent();
        net
    }

    /// Its session is up, and the server says `Leave`.
    fn leave(main: &mut ClientMain<u32>, now: Instant) -> Net {
        main.serial += 1;
        let id = SessionId([1; 16]);
        main.control = Some(Control::new(id, main.serial, session_key(id), 1, 16));
        let token = main.slots.insert_with(|_| Ok::<_, ()>(CtlLink::new(Endpoint::new(1)))).unwrap();
        main.stage = Stage::Up { token, liveness: Liveness::new(now, INTERVAL, 3 * INTERVAL) };
        with(main, now, |main, cx| main.come_anew(cx, LeaveCode::Upgraded))
    }

    #[test]
    fn what_was_left_is_pinged_in_each_period_and_given_up_when_it_falls_silent() {
        let (mut main, mut now) = (main(), Instant::ZERO);
        leave(&mut main, now);
        for _ in 0..3 {
            now = now + INTERVAL;
            let left = &main.left[0];
            let mut expected = main.slots.get(left.token).unwrap().clone();
            expected.push(&Ctl::<crate::wire::ClientHandshake, crate::wire::ClientMsg>::Ping { received: 0 });
            with(&mut main, now, |main, cx| main.on_left_deadlines(cx));
            let left = &mut main.left[0];
            assert_eq!(main.slots.get(left.token), Some(&expected));
            left.liveness.on_heard(now);
        }
        now = now + 3 * INTERVAL;
        with(&mut main, now, |main, cx| main.on_left_deadlines(cx));
        assert_eq!(main.left.len(), 0);
    }

    #[test]
    fn so_many_are_kept_and_the_oldest_is_told_that_it_is_over() {
        let mut main = main();
        for number in 1..=MAX + 2 {
            let net = leave(&mut main, Instant::ZERO);
            assert_eq!(main.left.len(), number.min(MAX));
            let close = encoded(&ToServer::Close { code: CloseCode::Bye });
            assert_eq!(net.sent, if number > MAX { close } else { Vec::new() });
        }
        assert_eq!(main.left[0].control.serial, 3);
    }

    /// P-LEAVE-2.
    #[test]
    fn a_client_that_stops_stays_where_it_is() {
        let mut main = main();
        let (until, drained) = (Instant::ZERO + INTERVAL, BTreeSet::new());
        main.stopping = Some(Stopping { until, drained, leaving: false, outcome: Outcome::Stopped });
        leave(&mut main, Instant::ZERO);
        assert!(main.left.is_empty() && main.is_up());
    }
}
