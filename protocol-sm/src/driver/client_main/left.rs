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
