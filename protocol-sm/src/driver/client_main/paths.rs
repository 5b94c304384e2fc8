//! The client's path: opened when the server says that it may be, proved, given up when it stays silent, and opened
//! again (PROTOCOL.md, "Paths").
//!
//! ```text
//!        DatagramPath                the path stands            the server has proved itself
//!   Off ─────────────▶ Opening ─────────────────────▶ Proving ──────────────────────────────▶ Open
//!                       ▲  │ over, or too slow           │                                      │ over, or silent
//!                       │  ▼                             ▼                                      │ for RENEW
//!                      Pausing ◀────────────────────────────────────────────────────────────────┘
//! ```

use super::super::messages::{ToClientLoop, ToLoop};
use super::super::paths::{FromPaths, ToPaths};
use super::super::thread::{Cx, Tell};
use super::{ClientMain, MainSys};
use crate::auth::Channel;
use crate::canary::{PlantedBug, planted};
use crate::datagrams::{Lost, PathDatagram, PathId, PathState};
use crate::notes::{Note, PathEnd};
use crate::report::{Counted, Counts};
use crate::time::Instant;
use crate::wire::Pin;
use core::net::SocketAddr;
use core::time::Duration;

/// A path must stand, and be proved, within this.
const OPEN: Duration = Duration::from_secs(4);
/// A path that was silent for so long is opened anew.
const RENEW: Duration = Duration::from_secs(4);
/// The pause before another is opened, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Paths {
    /// The server's key, once it offers the session one.
    offer: Option<Pin>,
    stage: Stage,
    last: u64,
    /// The pause before the next attempt.
    pause: Duration,
    /// Somebody was told that there is none.
    said: bool,
    pub(super) state: PathState,
    /// What was dropped on their way.
    pub(super) lost: Counted<Counts<Lost>>,
    /// Datagrams from the server, and to it.
    pub(super) carried: Counted<[u64; 2]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Stage {
    #[default]
    Off,
    Opening {
        path: PathId,
        until: Instant,
    },
    Proving {
        path: PathId,
        channel: Channel,
        until: Instant,
    },
    Open {
        path: PathId,
        /// Where the server is.
        peer: SocketAddr,
        /// It is silent: by when it must have answered.
        until: Option<Instant>,
    },
    Pausing(Instant),
}

impl Paths {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Off => None,
            Stage::Opening { until, .. } | Stage::Proving { until, .. } | Stage::Pausing(until) => Some(until),
            Stage::Open { until, .. } => until,
        }
    }

    fn path(&self) -> Option<PathId> {
        match self.stage {
            Stage::Off | Stage::Pausing(_) => None,
            Stage::Opening { path, .. } | Stage::Proving { path, .. } | Stage::Open { path, .. } => Some(path),
        }
    }
}

impl<T> ClientMain<T> {
    /// Whether this client wants a path, with the tunnels that it has now.
    pub(super) fn wants_path(&self) -> bool {
        self.settings.wants_path(self.tunnels.ids().filter_map(|tunnel| self.tunnels.spec(tunnel)))
    }

    /// The server offers a path.
    // PROTOCOL.md: P-PATH-2.
    pub(super) fn on_offer<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, serial: u64, pin: Pin) {
        if serial != self.serial {
            return;
        }
        self.close_path(cx);
        self.paths.offer = Some(pin);
        self.begin_path(cx);
    }

    /// Opens the path that is offered, if it is wanted and there is none.
    // PROTOCOL.md: P-PATH-8.
    fn begin_path<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        if self.wants_path() && self.paths.path().is_none() {
            self.paths.pause = PAUSES[0];
            self.open_path(cx);
        }
    }

    /// The session goes on. Where the server was told just now that no path is wanted, it makes a new offer when one is.
    // PROTOCOL.md: P-PATH-2.
    pub(super) fn on_resumed_path<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        if !self.wants_path() {
            self.paths.offer = None;
        }
        self.begin_path(cx);
    }

    fn open_path<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        let (Some(pin), Some(server)) = (self.paths.offer, self.server_at) else { return };
        self.paths.last += 1;
        let path = PathId(self.paths.last);
        self.paths.stage = Stage::Opening { path, until: cx.now + OPEN };
        let (from, to) = (self.settings.uplink.clone(), self.settings.proxy.address(server, self.proxy_port));
        cx.sys.tell(ToPaths::Open { path, from, to, pin });
    }

    /// There is no path of this session any more, and none is opened.
    pub(super) fn close_path<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: Tell<ToPaths> + Tell<ToLoop<ToClientLoop>>,
    {
        self.shut_path(cx);
        self.paths.offer = None;
    }

    /// No path is wanted any more, as far as is known here. The server may never hear of it, and makes no new offer then.
    pub(super) fn shut_path<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: Tell<ToPaths> + Tell<ToLoop<ToClientLoop>>,
    {
        if let Some(path) = self.paths.path() {
            cx.sys.tell(ToPaths::Close(path));
        }
        self.set_path(cx, PathState::Down);
        self.paths.stage = Stage::Off;
        if planted(PlantedBug::OfferDropped) {
            self.paths.offer = None;
        }
    }

    // PROTOCOL.md: P-PATH-4, P-PATH-8.
    pub(super) fn on_path<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, message: FromPaths) {
        match (message, self.paths.stage) {
            (FromPaths::Open(of, channel), Stage::Opening { path, until }) if of == path => {
                let Some(control) = &self.control else { return };
                let hello = control.secret().path_hello(control.id, &channel);
                self.paths.stage = Stage::Proving { path, channel, until };
                cx.sys.tell(ToPaths::Say(path, hello.to_vec()));
            }
            (FromPaths::Said { path: of, bytes, from, .. }, Stage::Proving { path, channel, .. }) if of == path => {
                let Some(control) = &self.control else { return };
                if control.secret().path_answer_matches(control.id, &channel, &bytes) {
                    self.paths.stage = Stage::Open { path, peer: from, until: None };
                    self.paths.pause = PAUSES[0];
                    cx.sys.tell(ToPaths::Pass(path));
                } else {
                    self.lose_path(cx, PathEnd::Unproved);
                }
            }
            (FromPaths::State(of, state), Stage::Open { path, peer, until }) if of == path => {
                let renew = (state == PathState::Down).then(|| until.unwrap_or(cx.now + RENEW));
                self.paths.stage = Stage::Open { path, peer, until: renew };
                if let Some(note) =
                    Note::of_path(None, peer, [self.paths.state, state], self.settings.datagram_transport.insists())
                {
                    cx.sys.note(note);
                }
                self.set_path(cx, state);
            }
            (FromPaths::Came(of, datagram), Stage::Open { path, .. }) if of == path => {
                self.paths.carried[0] += 1;
                self.pass_datagram(cx, datagram, true);
            }
            (FromPaths::Back(_, datagram), _) => self.pass_datagram(cx, datagram, false),
            (FromPaths::Gone(of), _) if self.paths.path() == Some(of) => self.lose_path(cx, PathEnd::Closed),
            // Of a path that is closed already, or a server's.
            (
                FromPaths::Open(..)
                | FromPaths::Said { .. }
                | FromPaths::State(..)
                | FromPaths::Came(..)
                | FromPaths::Gone(_)
                | FromPaths::Listening(_),
                _,
            ) => {}
            (FromPaths::Lost(lost), _) => self.paths.lost.add_all(&lost),
        }
    }

    /// An event loop sends a datagram by the path.
    pub(super) fn send_by_path<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, serial: u64, datagram: PathDatagram) {
        match self.paths.stage {
            Stage::Open { path, .. } if self.paths.state != PathState::Down && serial == self.serial => {
                self.paths.carried[1] += 1;
                cx.sys.tell(ToPaths::Send(path, datagram));
            }
            Stage::Off | Stage::Opening { .. } | Stage::Proving { .. } | Stage::Open { .. } | Stage::Pausing(_) => {
                self.pass_datagram(cx, datagram, false);
            }
        }
    }

    /// To the event loop that has the flow: a datagram that `came`, or one that goes by the conn.
    fn pass_datagram<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, datagram: PathDatagram, came: bool) {
        let serial = self.serial;
        let Some(loop_index) = self.control.as_ref().and_then(|control| control.loop_with(datagram.conn)) else {
            return self.paths.lost.add(Lost::Stale);
        };
        let message =
            if came { ToClientLoop::Datagram { serial, datagram } } else { ToClientLoop::Back { serial, datagram } };
        cx.sys.tell(ToLoop { loop_index, message });
    }

    /// The path is of no use any more: another one is opened after a pause.
    fn lose_path<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, why: PathEnd) {
        let was_open = matches!(self.paths.stage, Stage::Open { .. });
        if let Some(path) = self.paths.path() {
            cx.sys.tell(ToPaths::Close(path));
        }
        let wanted = self.settings.datagram_transport.insists();
        if was_open && self.paths.state != PathState::Down {
            cx.sys.note(Note::PathDown { client: None, why, wanted });
        } else if !was_open && !core::mem::replace(&mut self.paths.said, true) {
            cx.sys.note(Note::PathFailed { why, wanted });
        }
        self.set_path(cx, PathState::Down);
        self.paths.stage = Stage::Pausing(cx.now + self.paths.pause);
        self.paths.pause = self.paths.pause.saturating_mul(2).min(PAUSES[1]);
    }

    pub(super) fn on_path_deadline<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        if self.paths.deadline().is_none_or(|at| at > cx.now) {
            return;
        }
        match self.paths.stage {
            Stage::Off => {}
            Stage::Pausing(_) => self.open_path(cx),
            Stage::Opening { .. } | Stage::Proving { .. } | Stage::Open { .. } => self.lose_path(cx, PathEnd::Silent),
        }
    }

    fn set_path<S: Tell<ToLoop<ToClientLoop>>>(&mut self, cx: &mut Cx<'_, S>, state: PathState) {
        if core::mem::replace(&mut self.paths.state, state) == state {
            return;
        }
        for loop_index in 0..self.loop_count {
            cx.sys.tell(ToLoop { loop_index, message: ToClientLoop::Path { serial: self.serial, state } });
        }
    }
}

#[cfg(test)]
mod tests;
