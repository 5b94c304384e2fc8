//! Paths of sessions: to whom they are offered, whose they are, and what comes by one that is nobody's.

use super::*;
use crate::auth::Channel;
use crate::datagrams::{PathDatagram, PathId, PathState};
use crate::driver::paths::{FromPaths, ToPaths};
use crate::ids::{ConnId, Epoch};
use crate::settings::DatagramTransport;
use crate::wire::{EXAMINE, PATHS};
use alloc::vec::Vec;

const PIN: [u8; 32] = [0xa5; 32];
const CHANNEL: Channel = Channel([9; 32]);
const UP: PathState = PathState::Up { size: 1_200 };

fn desk() -> Desk {
    Desk::new(ServerSettings { datagram_transport: DatagramTransport::Auto, ..ServerSettings::default() })
}

fn path(number: u64) -> PathId {
    PathId(number)
}

fn datagram() -> PathDatagram {
    PathDatagram::new(ConnId(7), Epoch(1), b"hello")
}

impl Desk {
    /// A client with a UDP tunnel that is open, or could be.
    fn join_udp(&mut self, client: u8, features: u64, public_port: u16) -> ControlKey {
        let key = self.join(client, features);
        let (tunnel, limits) = (TunnelId(0), TunnelLimits::default());
        let register = ClientMsg::RegisterUdp { tunnel, public_port, bind_addr: None, name: String::new(), limits };
        assert!(self.with(|main, cx| main.on_client_msg(cx, key, register)).is_ok());
        let Some(&ToListener::Bind { control, registration, .. }) = self.net.to_listener.last() else {
            panic!("it is to be opened")
        };
        let bound = Ok(address(public_port));
        self.tell(ToServerMain::Listener(FromListener::Bound { control, registration, bound }));
        key
    }

    fn hear(&mut self, message: FromPaths) {
        self.tell(ToServerMain::Paths(message));
    }

    /// What whoever carries paths was told since this was asked last.
    fn paths_told(&mut self) -> Vec<ToPaths> {
        core::mem::take(&mut self.net.to_paths)
    }

    /// How often a client was told of it.
    fn offers(&self, key: ControlKey) -> usize {
        self.said(key).iter().filter(|said| matches!(said, ServerMsg::DatagramPath { pin: PIN })).count()
    }

    /// Two clients that were told of it.
    fn two(&mut self) -> [ControlKey; 2] {
        let first = self.join_udp(1, PATHS, 6000);
        self.hear(FromPaths::Listening(Ok(PIN)));
        let second = self.join_udp(2, PATHS, 6001);
        self.paths_told();
        [first, second]
    }

    fn hello(&self, key: ControlKey) -> Vec<u8> {
        let control = &self.main.sessions.get(key).expect("it is there").control;
        control.secret().path_hello(control.id, &CHANNEL).to_vec()
    }

    fn says(&mut self, number: u64, bytes: Vec<u8>) -> Vec<ToPaths> {
        self.hear(FromPaths::Said { path: path(number), from: address(1), channel: CHANNEL, bytes });
        self.paths_told()
    }

    /// What the first event loop was told of datagrams and paths since this was asked last.
    fn loops_told(&mut self) -> Vec<ToServerLoop<u32>> {
        let told = core::mem::take(&mut self.net.to_loops).into_iter().filter(|(loop_index, _)| *loop_index == 0);
        let of_paths = |told: &ToServerLoop<u32>| {
            matches!(told, ToServerLoop::Path { .. } | ToServerLoop::Datagram { .. } | ToServerLoop::Back { .. })
        };
        told.map(|(_, told)| told).filter(of_paths).collect()
    }
}

/// P-PATH-1, P-PATH-2: once, to whoever knows it and has a UDP tunnel, or asks about one; the port is opened for the first.
#[test]
fn it_is_offered_once_to_those_who_can_have_one() {
    let mut desk = desk();
    let plain = desk.join_udp(1, 0, 6000);
    let tcp = desk.join(2, PATHS);
    desk.register(tcp, 0, 6001);
    assert_eq!(desk.paths_told(), [], "nobody has a use for it");
    let first = desk.join_udp(3, PATHS, 6002);
    assert_eq!(desk.paths_told(), [ToPaths::Listen(address(8090))]);
    assert_eq!(desk.offers(first), 0, "it is not open yet");
    desk.hear(FromPaths::Listening(Ok(PIN)));
    let second = desk.join_udp(4, PATHS, 6003);
    let examiner = desk.join_udp(5, PATHS | EXAMINE, 6004);
    assert_eq!(desk.paths_told(), []);
    let offers = [plain, tcp, first, second, examiner].map(|key| desk.offers(key));
    assert_eq!(offers, [0, 0, 1, 1, 1]);
}

/// P-PATH-2: a busy port is tried again, and whoever came in the meantime is told then.
#[test]
fn a_busy_port_is_tried_again() {
    let mut desk = desk();
    let first = desk.join_udp(1, PATHS, 6000);
    desk.hear(FromPaths::Listening(Err(SysError::InUse)));
    let second = desk.join_udp(2, PATHS, 6001);
    desk.paths_told();
    desk.now = desk.now + Duration::from_secs(29);
    desk.with(Driver::on_deadline);
    assert_eq!(desk.paths_told(), []);
    desk.now = desk.now + Duration::from_secs(1);
    desk.with(Driver::on_deadline);
    assert_eq!(desk.paths_told(), [ToPaths::Listen(address(8090))]);
    desk.hear(FromPaths::Listening(Ok(PIN)));
    assert_eq!([first, second].map(|key| desk.offers(key)), [1, 1]);
}

/// P-PATH-4: nothing but the proof of a session that was offered one opens it; nothing that comes before counts.
#[test]
fn a_path_is_a_sessions_when_its_client_has_proved_itself() {
    let mut desk = desk();
    let [first, second] = desk.two();
    let other = desk.join_udp(3, 0, 6002);
    desk.loops_told();
    let good = desk.hello(first);
    let mut elsewhere = good.clone();
    elsewhere[..16].copy_from_slice(&desk.hello(second)[..16]);
    let mut forged = good.clone();
    forged[47] ^= 1;
    let unoffered = desk.hello(other);
    for (number, bytes) in (10..).zip([forged, elsewhere, unoffered, good[..47].to_vec(), Vec::new()]) {
        desk.hear(FromPaths::State(path(number), UP));
        desk.hear(FromPaths::Came(path(number), datagram()));
        assert_eq!(desk.says(number, bytes), [ToPaths::Close(path(number))]);
        desk.hear(FromPaths::Came(path(number), datagram()));
        assert_eq!(desk.loops_told(), [], "{number}");
    }
    let told = desk.says(1, good);
    let [ToPaths::Say(said, answer), ToPaths::Pass(passes)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((*said, *passes), (path(1), path(1)));
    let control = &desk.main.sessions.get(first).expect("it is there").control;
    assert!(control.secret().path_answer_matches(control.id, &CHANNEL, answer));
}

/// P-PATH-4, P-PATH-9: there is one of each session, and none without it.
#[test]
fn a_session_has_one_path_and_takes_it_along_when_it_ends() {
    let mut desk = desk();
    let [first, second] = desk.two();
    let [hello, other] = [first, second].map(|key| desk.hello(key));
    desk.says(1, hello.clone());
    desk.says(2, other);
    desk.loops_told();
    desk.hear(FromPaths::State(path(1), UP));
    assert_eq!(desk.loops_told(), [ToServerLoop::Path { control: first, state: UP }]);
    let told = desk.says(3, hello);
    assert!(matches!(&told[..], [ToPaths::Close(PathId(1)), ToPaths::Say(PathId(3), _), ToPaths::Pass(PathId(3))]));
    assert_eq!(desk.loops_told(), [ToServerLoop::Path { control: first, state: PathState::Down }]);
    desk.hear(FromPaths::State(path(1), UP));
    desk.hear(FromPaths::Gone(path(1)));
    assert_eq!((desk.loops_told(), desk.paths_told()), (vec![], vec![]), "the former one is nobody's");
    desk.with(|main, cx| main.end_session(cx, first, CloseCode::Bye, AbortCode::SessionOver));
    assert_eq!(desk.paths_told(), [ToPaths::Close(path(3))]);
    desk.hear(FromPaths::Gone(path(2)));
    assert_eq!(desk.paths_told(), [ToPaths::Close(path(2))]);
}

/// P-PATH-9: no path goes on when the server stops.
#[test]
fn a_server_that_stops_closes_all_paths() {
    let mut desk = desk();
    let [first, _] = desk.two();
    let hello = desk.hello(first);
    desk.says(1, hello);
    desk.tell(ToServerMain::Stop);
    desk.now = desk.now + Duration::from_secs(3600);
    desk.with(Driver::on_deadline);
    assert_eq!(desk.paths_told(), [ToPaths::Unlisten, ToPaths::Close(path(1))]);
}
