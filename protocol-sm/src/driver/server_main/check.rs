//! The main thread's tables agree with each other, after every event: for tests and simulations.

use super::super::listener::Listener;
use super::super::messages::{Step, ToListener};
use super::session_table::Attachment;
use super::{ServerMain, Slot, Stage};

impl<T, L> ServerMain<T, L> {
    /// Checks that the public ports which are open are those of the registered tunnels. `on_the_way`: what the listener
    /// has not read yet.
    ///
    /// # Panics
    /// If they are not.
    pub fn assert_ports<'a>(
        &self,
        listener: &Listener<T, L>,
        on_the_way: impl Iterator<Item = &'a ToListener<T>> + Clone,
    ) where
        T: 'a,
    {
        let closes = |control, registration| {
            on_the_way.clone().any(|message| match *message {
                ToListener::Close { control: of, registration: closed } => (of, closed) == (control, registration),
                ToListener::CloseAll { control: of } | ToListener::Retire { control: of } => of == control,
                ToListener::HandOver { former, .. } => (former.control, former.registration) == (control, registration),
                ToListener::Upgrade(step) => step == Step::Leave,
                ToListener::Bind { .. }
                | ToListener::Admit { .. }
                | ToListener::KeepTo(..)
                | ToListener::Trust(_)
                | ToListener::Challenge { .. }
                | ToListener::Moved { .. }
                | ToListener::Left { .. }
                | ToListener::PortClosed
                | ToListener::Visitor { .. }
                | ToListener::Report => false,
            })
        };
        for (control, registration) in listener.registrations() {
            let session = self.sessions.get(control).map(|entry| &entry.control);
            let known = session.is_some_and(|session| {
                session.binding() == Some(registration) || session.open_tunnels().any(|open| open == registration)
            });
            assert!(known || closes(control, registration), "a public port is open for a tunnel that is registered");
        }
        if self.stopping.is_some() {
            return;
        }
        for (control, session) in self.sessions.iter() {
            for registration in session.control.open_tunnels() {
                assert!(listener.has(control, registration), "a registered tunnel has its public port");
            }
        }
    }

    /// Checks the invariants that are numbered in the module.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn assert_consistent(&self) {
        self.sessions.assert_consistent();
        let (mut handshakes, mut deadlines, mut attached, mut parked, mut queued) = (0, 0, 0, 0, 0);
        for (token, slot) in self.slots.iter() {
            let (deadline, is_queued) = match slot {
                Slot::Door(door) => (None, door.queued),
                Slot::Ctl(conn) => {
                    assert!(conn.deadline.is_some(), "M1: it has a deadline");
                    match &conn.stage {
                        Stage::Preface(_) | Stage::Hello(_) | Stage::Proof(_) => handshakes += 1,
                        Stage::Parked { rival, .. } => {
                            let rival = self.sessions.get(*rival).expect("M5: the session that is probed is there");
                            assert_eq!(rival.rival, Some(token), "M5: it knows who waits");
                            parked += 1;
                        }
                        Stage::Up(key, _) => {
                            let session = self.sessions.get(*key).expect("M3: its session is there");
                            assert_eq!(session.attachment(), Attachment::Attached(token), "M3: it is its ctl_conn");
                            attached += 1;
                        }
                    }
                    (conn.deadline, conn.queued)
                }
                Slot::Proxy(hand) => {
                    assert!(hand.deadline.is_some(), "M1: it has a deadline");
                    handshakes += 1;
                    (hand.deadline, false)
                }
                Slot::Fronted(fronted) => {
                    assert!(fronted.deadline.is_some(), "M1: it has a deadline");
                    handshakes += 1;
                    (fronted.deadline, false)
                }
                Slot::Untold(untold) => {
                    assert!(untold.deadline.is_some(), "M1: it has a deadline");
                    handshakes += 1;
                    (untold.deadline, false)
                }
            };
            if let Some(at) = deadline {
                assert!(self.timers.has(at, token), "M6: a deadline is among the timers");
                deadlines += 1;
            }
            if is_queued {
                assert_eq!(self.busy.iter().filter(|&&busy| busy == token).count(), 1, "M7: it is queued once");
                queued += 1;
            }
        }
        assert_eq!(deadlines, self.timers.len(), "M6: no timer without its owner");
        assert_eq!(handshakes, self.handshake_limit.len(), "M1: handshakes are counted");
        let live = self.busy.iter().filter(|&&token| self.slots.get(token).is_some()).count();
        assert_eq!(live, queued, "M7: whoever is queued knows it");
        for (_, session) in self.sessions.iter() {
            match session.attachment() {
                Attachment::Attached(_) => attached -= 1,
                Attachment::Detached { .. } | Attachment::Asleep { .. } => {
                    assert_eq!(session.rival, None, "M5: only who may live is probed")
                }
            }
            parked -= i32::from(session.rival.is_some());
        }
        assert_eq!((attached, parked), (0, 0), "M3, M5: no session names a connection that is not there");
        if self.is_over() {
            assert_eq!((self.sockets(), self.sessions.len()), (0, 0), "M8: nothing is left");
        }
    }
}
