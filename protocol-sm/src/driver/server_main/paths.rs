//! Clients' paths: the server takes them where its proxy port is, from the moment on that a client that can have one has
//! a UDP tunnel. A path is a session's once its client has proved that it has the session's key (PROTOCOL.md, "Paths").

use super::super::messages::{ControlKey, ToLoop, ToServerLoop};
use super::super::paths::{FromPaths, ToPaths};
use super::super::thread::Cx;
use super::{MainSys, ServerMain};
use crate::auth::{Channel, PATH_HELLO};
use crate::canary::{PlantedBug, planted};
use crate::datagrams::{Lost, PathDatagram, PathId, PathState};
use crate::ids::SessionId;
use crate::notes::{Note, PathEnd};
use crate::report::{Counted, Counts};
use crate::settings::DatagramTransport;
use crate::time::Instant;
use crate::wire::{PATHS, Pin, ServerMsg};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

/// A port that was busy is tried again after this.
const AGAIN: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Paths {
    /// Where the proxy port is.
    pub(super) at: Option<SocketAddr>,
    door: Door,
    /// It was said that the port is busy.
    said: bool,
    /// Sessions that were told of it, and the path that they have.
    sessions: BTreeMap<ControlKey, Option<Proved>>,
    keys: BTreeMap<PathId, ControlKey>,
    /// What was dropped on their way.
    pub(super) lost: Counted<Counts<Lost>>,
    /// Datagrams to clients, and from them.
    pub(super) carried: Counted<[u64; 2]>,
}

/// A session's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Proved {
    path: PathId,
    /// Where its client was when it proved itself.
    peer: SocketAddr,
    state: PathState,
}

/// Where paths come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Door {
    #[default]
    Closed,
    Opening,
    Open(Pin),
    /// It is tried again then.
    Busy(Instant),
}

impl Paths {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.door {
            Door::Busy(again) => Some(again),
            Door::Closed | Door::Opening | Door::Open(_) => None,
        }
    }

    /// How a session's path is.
    pub(super) fn state(&self, key: ControlKey) -> PathState {
        self.sessions.get(&key).copied().flatten().map_or(PathState::Down, |proved| proved.state)
    }
}

impl<T, L> ServerMain<T, L> {
    /// Tells a session where its path may come in, if it can have one, has a UDP tunnel, and does not know it yet.
    // PROTOCOL.md: P-PATH-1, P-PATH-2.
    pub(super) fn offer_path<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey) {
        let has_udp = self.sessions.get(key).is_some_and(|entry| entry.control.has_udp());
        if !has_udp || !self.may_have_path(key) || self.stopping.is_some() || self.paths.sessions.contains_key(&key) {
            return;
        }
        match (self.paths.door, self.paths.at) {
            (Door::Open(pin), _) => {
                self.paths.sessions.insert(key, None);
                self.send(cx, key, ServerMsg::DatagramPath { pin });
            }
            (Door::Closed, Some(at)) => {
                self.paths.door = Door::Opening;
                cx.sys.tell(ToPaths::Listen(at));
            }
            (Door::Closed | Door::Opening | Door::Busy(_), _) => {}
        }
    }

    fn offer_paths<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>) {
        for key in self.sessions.keys().collect::<Vec<_>>() {
            self.offer_path(cx, key);
        }
    }

    /// Whether a session may have one. What its tunnels may move is measured on conns.
    fn may_have_path(&self, key: ControlKey) -> bool {
        let control = self.sessions.get(key).map(|entry| &entry.control);
        self.settings.datagram_transport != DatagramTransport::Tcp
            && control.is_some_and(|control| control.features & PATHS != 0 && control.scope().max_bandwidth.is_none())
    }

    /// What a session, or all of them, may have is changed.
    pub(super) fn review_path<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey) {
        if self.may_have_path(key) {
            return self.offer_path(cx, key);
        }
        self.end_path(cx, key, PathEnd::Closed);
        self.forget_path(cx, key);
    }

    pub(super) fn review_paths<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>) {
        for key in self.sessions.keys().collect::<Vec<_>>() {
            self.review_path(cx, key);
        }
    }

    pub(super) fn on_path<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, message: FromPaths) {
        match message {
            FromPaths::Listening(Ok(pin)) => {
                if self.paths.door == Door::Opening {
                    self.paths.door = Door::Open(pin);
                    if !planted(PlantedBug::OfferForgotten) {
                        self.offer_paths(cx);
                    }
                }
            }
            FromPaths::Listening(Err(error)) => {
                if self.paths.door == Door::Opening {
                    self.paths.door = Door::Busy(cx.now + AGAIN);
                    if let Some(at) = self.paths.at.filter(|_| !core::mem::replace(&mut self.paths.said, true)) {
                        cx.sys.note(Note::PathPort { at, error, wanted: self.settings.datagram_transport.insists() });
                    }
                }
            }
            FromPaths::Said { path, from, channel, bytes } => self.on_path_hello(cx, path, from, &channel, &bytes),
            FromPaths::State(path, state) => self.on_path_state(cx, path, state),
            FromPaths::Came(path, datagram) => {
                self.paths.carried[1] += 1;
                self.pass_datagram(cx, path, datagram, true);
            }
            FromPaths::Back(path, datagram) => self.pass_datagram(cx, path, datagram, false),
            FromPaths::Gone(path) => {
                if let Some(&key) = self.paths.keys.get(&path) {
                    self.end_path(cx, key, PathEnd::Closed);
                }
            }
            FromPaths::Lost(lost) => self.paths.lost.add_all(&lost),
            // A client's.
            FromPaths::Open(..) => {}
        }
    }

    /// Somebody has opened a path, and says whose it is.
    // PROTOCOL.md: P-PATH-4.
    fn on_path_hello<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        path: PathId,
        from: SocketAddr,
        channel: &Channel,
        bytes: &[u8],
    ) {
        let proved = bytes.first_chunk::<16>().filter(|_| bytes.len() == PATH_HELLO).and_then(|&id| {
            let key = self.sessions.find_id(&SessionId(id))?;
            let control = &self.sessions.get(key)?.control;
            let answer = control.secret().answer_path(control.id, channel, bytes)?;
            Some((key, answer))
        });
        let Some((key, answer)) = proved.filter(|(key, _)| self.paths.sessions.contains_key(key)) else {
            return cx.sys.tell(ToPaths::Close(path));
        };
        self.end_path(cx, key, PathEnd::Closed);
        self.paths.sessions.insert(key, Some(Proved { path, peer: from, state: PathState::Down }));
        self.paths.keys.insert(path, key);
        cx.sys.tell(ToPaths::Say(path, answer.to_vec()));
        cx.sys.tell(ToPaths::Pass(path));
    }

    fn on_path_state<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, path: PathId, state: PathState) {
        let wanted = self.settings.datagram_transport.insists();
        let Some(&key) = self.paths.keys.get(&path) else { return };
        let Some(Some(proved)) = self.paths.sessions.get_mut(&key) else { return };
        let was = core::mem::replace(&mut proved.state, state);
        let client = self.sessions.get(key).map(|entry| entry.control.client);
        if let Some(note) = Note::of_path(client, proved.peer, [was, state], wanted) {
            cx.sys.note(note);
        }
        self.tell_path(cx, key, state);
    }

    /// A session has no path any more; its client may open another.
    fn end_path<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey, why: PathEnd) {
        let Some(entry) = self.paths.sessions.get_mut(&key) else { return };
        let Some(Proved { path, state, .. }) = entry.take() else { return };
        self.paths.keys.remove(&path);
        cx.sys.tell(ToPaths::Close(path));
        if state != PathState::Down
            && let Some(entry) = self.sessions.get(key)
        {
            let (client, wanted) = (Some(entry.control.client), self.settings.datagram_transport.insists());
            cx.sys.note(Note::PathDown { client, why, wanted });
        }
        self.tell_path(cx, key, PathState::Down);
    }

    /// A session is over, and its path with it.
    pub(super) fn forget_path<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, key: ControlKey) {
        if let Some(Some(Proved { path, .. })) = self.paths.sessions.remove(&key)
            && !planted(PlantedBug::PathKept)
        {
            self.paths.keys.remove(&path);
            cx.sys.tell(ToPaths::Close(path));
        }
    }

    /// No path goes on: the server stops, or another process has the port.
    // PROTOCOL.md: P-PATH-9.
    pub(super) fn close_paths<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>) {
        if core::mem::take(&mut self.paths.door) != Door::Closed {
            cx.sys.tell(ToPaths::Unlisten);
        }
        for key in self.paths.sessions.keys().copied().collect::<Vec<_>>() {
            self.end_path(cx, key, PathEnd::Closed);
        }
    }

    /// A port that was busy may be free.
    pub(super) fn on_path_deadline<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>) {
        if self.paths.deadline().is_some_and(|again| again <= cx.now) {
            self.paths.door = Door::Closed;
            self.offer_paths(cx);
        }
    }

    /// An event loop sends a datagram by its session's path.
    pub(super) fn send_by_path<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        key: ControlKey,
        datagram: PathDatagram,
    ) {
        match self.paths.sessions.get(&key) {
            Some(&Some(Proved { path, state: PathState::Up { .. }, .. })) => {
                self.paths.carried[0] += 1;
                cx.sys.tell(ToPaths::Send(path, datagram));
            }
            Some(_) | None => self.hand_over_datagram(cx, key, datagram, false),
        }
    }

    fn pass_datagram<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        path: PathId,
        datagram: PathDatagram,
        came: bool,
    ) {
        match self.paths.keys.get(&path) {
            Some(&key) => self.hand_over_datagram(cx, key, datagram, came),
            None => self.paths.lost.add(Lost::Stale),
        }
    }

    /// To the event loop that has the flow: a datagram that `came`, or one that goes by the conn.
    fn hand_over_datagram<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        control: ControlKey,
        datagram: PathDatagram,
        came: bool,
    ) {
        let entry = self.sessions.get(control);
        let Some(loop_index) = entry.and_then(|entry| entry.control.loop_with(datagram.conn)) else {
            return self.paths.lost.add(Lost::Stale);
        };
        let message =
            if came { ToServerLoop::Datagram { control, datagram } } else { ToServerLoop::Back { control, datagram } };
        cx.sys.tell(ToLoop { loop_index, message });
    }

    fn tell_path<S: MainSys<T, L>>(&self, cx: &mut Cx<'_, S>, control: ControlKey, state: PathState) {
        for loop_index in 0..self.loop_count {
            cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Path { control, state } });
        }
    }
}
