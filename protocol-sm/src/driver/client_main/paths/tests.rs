//! A client's path, step by step.

use super::super::super::stub::{Net, client_settings, session_key};
use super::super::super::thread::Strategy;
use super::*;
use crate::control::client::Control;
use crate::ids::{ConnId, Epoch, SessionId};
use crate::settings::{DatagramTransport, Origin};
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

const SERIAL: u64 = 3;
const SESSION: SessionId = SessionId([5; 16]);
const PIN: Pin = [0xa5; 32];
const CHANNEL: Channel = Channel([9; 32]);
const UP: PathState = PathState::Up { size: 1_200 };

fn server() -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, 1), 8080).into()
}

/// A client that has a session, whose sockets and threads are not there.
struct Desk {
    main: ClientMain<u32>,
    net: Net,
    now: Instant,
}

impl Desk {
    fn new() -> Self {
        let mut main = ClientMain::new(client_settings(), "server:8080".into(), 1);
        main.control = Some(Control::new(SESSION, SERIAL, session_key(SESSION), 1, 16));
        (main.serial, main.server_at, main.proxy_port) = (SERIAL, Some(server()), 8090);
        Self { main, net: Net::default(), now: Instant::ZERO + Duration::from_secs(1000) }
    }

    fn with<R>(&mut self, act: impl FnOnce(&mut ClientMain<u32>, &mut Cx<'_, Net>) -> R) -> R {
        let Self { main, net, now } = self;
        let cx = &mut Cx { sys: net, now: *now, scratch: &mut [], strategy: Strategy::Hybrid, turn: usize::MAX };
        act(main, cx)
    }

    fn offer(&mut self) {
        self.with(|main, cx| main.on_offer(cx, SERIAL, PIN));
    }

    fn hear(&mut self, message: FromPaths) {
        self.with(|main, cx| main.on_path(cx, message));
    }

    /// Time passes.
    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.with(ClientMain::on_path_deadline);
    }

    /// What whoever carries paths was told since this was asked last.
    fn paths_told(&mut self) -> Vec<ToPaths> {
        core::mem::take(&mut self.net.to_paths)
    }

    /// The same of the event loop.
    fn loop_told(&mut self) -> Vec<ToClientLoop> {
        core::mem::take(&mut self.net.to_client_loops)
    }

    /// What was logged.
    fn notes(&mut self) -> Vec<Note> {
        core::mem::take(&mut self.net.path_notes)
    }

    fn said(&mut self, number: u64, bytes: Vec<u8>) {
        self.hear(FromPaths::Said { path: PathId(number), from: server(), channel: CHANNEL, bytes });
    }

    fn answer() -> Vec<u8> {
        let key = session_key(SESSION);
        key.answer_path(SESSION, &CHANNEL, &key.path_hello(SESSION, &CHANNEL)).expect("it is proved").to_vec()
    }

    /// A path that both sides have proved.
    fn open(&mut self, number: u64) {
        self.hear(FromPaths::Open(PathId(number), CHANNEL));
        self.said(number, Self::answer());
    }
}

fn open(number: u64) -> ToPaths {
    let to = (Ipv4Addr::new(192, 0, 2, 1), 8090).into();
    ToPaths::Open { path: PathId(number), from: Origin::default(), to, pin: PIN }
}

fn told(state: PathState) -> ToClientLoop {
    ToClientLoop::Path { serial: SERIAL, state }
}

/// P-PATH-4: it says its proof, and takes nothing before the server's.
#[test]
fn nothing_is_sent_or_taken_before_the_server_has_proved_itself() {
    let mut desk = Desk::new();
    desk.offer();
    assert_eq!(desk.paths_told(), [open(1)]);
    desk.hear(FromPaths::Open(PathId(1), CHANNEL));
    let hello = session_key(SESSION).path_hello(SESSION, &CHANNEL).to_vec();
    assert_eq!(desk.paths_told(), [ToPaths::Say(PathId(1), hello)]);
    let datagram = PathDatagram::new(ConnId(1), Epoch(1), b"hello");
    desk.hear(FromPaths::State(PathId(1), UP));
    desk.hear(FromPaths::Came(PathId(1), datagram.clone()));
    desk.with(|main, cx| main.send_by_path(cx, SERIAL, datagram));
    assert_eq!((desk.paths_told(), desk.loop_told()), (vec![], vec![]));

    desk.said(1, Desk::answer());
    desk.hear(FromPaths::State(PathId(1), UP));
    assert_eq!((desk.paths_told(), desk.loop_told()), (vec![ToPaths::Pass(PathId(1))], vec![told(UP)]));
    assert_eq!(desk.notes(), [Note::PathUp { client: None, peer: server(), size: 1_200 }]);
}

/// P-PATH-4: whoever has answered the client's proof with its own, or with another's, is not the server.
#[test]
fn a_server_that_does_not_know_the_key_is_left() {
    let reflected = session_key(SESSION).path_hello(SESSION, &CHANNEL)[16..].to_vec();
    for answer in [reflected, vec![0; 32], Vec::new()] {
        let mut desk = Desk::new();
        desk.offer();
        desk.hear(FromPaths::Open(PathId(1), CHANNEL));
        desk.paths_told();
        desk.said(1, answer);
        assert_eq!(desk.paths_told(), [ToPaths::Close(PathId(1))]);
        assert_eq!(desk.notes(), [Note::PathFailed { why: PathEnd::Unproved, wanted: false }]);
        desk.wait(Duration::from_secs(1));
        assert_eq!(desk.paths_told(), [open(2)], "it may be the server the next time");
    }
}

/// P-PATH-8: pauses grow, and one that stood is followed by another one soon.
#[test]
fn another_path_is_opened_after_pauses_that_grow() {
    let mut desk = Desk::new();
    desk.offer();
    let mut number = 1;
    assert_eq!(desk.paths_told(), [open(1)]);
    for pause in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        desk.wait(OPEN);
        assert_eq!(desk.paths_told(), [ToPaths::Close(PathId(number))]);
        desk.wait(Duration::from_secs(pause) - Duration::from_millis(1));
        assert_eq!(desk.paths_told(), []);
        desk.wait(Duration::from_millis(1));
        number += 1;
        assert_eq!(desk.paths_told(), [open(number)]);
    }
    assert_eq!(desk.notes().len(), 1, "it is said once");
    desk.open(number);
    desk.hear(FromPaths::Gone(PathId(number)));
    desk.paths_told();
    desk.wait(PAUSES[0]);
    assert_eq!(desk.paths_told(), [open(number + 1)]);
}

/// P-PATH-7, P-PATH-8: while it is silent conns have the datagrams; for long, and another one is opened.
#[test]
fn a_silent_path_is_waited_for_and_then_opened_anew() {
    let mut desk = Desk::new();
    desk.offer();
    desk.open(1);
    desk.hear(FromPaths::State(PathId(1), UP));
    desk.hear(FromPaths::State(PathId(1), PathState::Down));
    desk.paths_told();
    assert_eq!(desk.loop_told(), [told(UP), told(PathState::Down)]);
    desk.wait(RENEW - Duration::from_millis(1));
    desk.hear(FromPaths::State(PathId(1), UP));
    desk.wait(RENEW);
    assert_eq!((desk.paths_told(), desk.loop_told()), (vec![], vec![told(UP)]), "it has answered in time");
    desk.hear(FromPaths::State(PathId(1), PathState::Down));
    desk.wait(RENEW);
    assert_eq!(desk.paths_told(), [ToPaths::Close(PathId(1))]);
    assert_eq!(desk.loop_told(), [told(PathState::Down)]);
    desk.wait(PAUSES[0]);
    assert_eq!(desk.paths_told(), [open(2)]);
    let down = Note::PathDown { client: None, why: PathEnd::Silent, wanted: false };
    let up = Note::PathUp { client: None, peer: server(), size: 1_200 };
    assert_eq!(desk.notes(), [up.clone(), down.clone(), up, down]);
}

/// P-PATH-2, P-PATH-9: an offer of a session that is over counts no more, and a second one takes the place of the first.
#[test]
fn an_offer_is_its_sessions() {
    let mut desk = Desk::new();
    desk.with(|main, cx| main.on_offer(cx, SERIAL - 1, PIN));
    assert_eq!(desk.paths_told(), []);
    desk.offer();
    desk.offer();
    assert_eq!(desk.paths_told(), [open(1), ToPaths::Close(PathId(1)), open(2)]);
    desk.with(ClientMain::close_path);
    assert_eq!(desk.paths_told(), [ToPaths::Close(PathId(2))]);
    desk.wait(Duration::from_secs(3600));
    assert_eq!(desk.paths_told(), []);
}

/// P-PATH-2: the server makes no second offer where it never heard that no path is wanted, and one where it did.
#[test]
fn an_offer_is_kept_until_the_server_has_heard_that_no_path_is_wanted() {
    for heard in [false, true] {
        let mut desk = Desk::new();
        desk.offer();
        let wanted = desk.main.settings.datagram_transport;
        desk.main.settings.datagram_transport = DatagramTransport::Tcp;
        desk.with(ClientMain::shut_path);
        desk.paths_told();
        if heard {
            desk.with(ClientMain::on_resumed_path);
        }
        desk.main.settings.datagram_transport = wanted;
        desk.with(ClientMain::on_resumed_path);
        assert_eq!(desk.paths_told(), if heard { vec![] } else { vec![open(2)] });
        desk.with(ClientMain::on_resumed_path);
        assert_eq!(desk.paths_told(), [], "one is enough");
    }
}

/// P-PATH-8: where the session goes on, the network may be another one: it is tried at once.
#[test]
fn a_session_that_goes_on_does_not_wait_for_its_path() {
    let mut desk = Desk::new();
    desk.offer();
    for _ in 0..2 {
        desk.wait(OPEN);
        desk.wait(PAUSES[1]);
    }
    desk.wait(OPEN);
    desk.paths_told();
    desk.with(ClientMain::on_resumed_path);
    assert_eq!(desk.paths_told(), [open(4)]);
    desk.wait(OPEN);
    assert_eq!(desk.paths_told(), [ToPaths::Close(PathId(4))]);
    desk.wait(PAUSES[0]);
    assert_eq!(desk.paths_told(), [open(5)], "pauses begin anew");
}
