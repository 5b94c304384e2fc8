//! A main thread alone: what it says to its listener, its event loops, its operator and its clients, step by step.

use super::super::inherit::Given;
use super::super::stub::{Net, encoded, session_key};
use super::super::thread::{SCRATCH, Strategy};
use super::*;
use crate::codes::{LeaveCode, TunnelRefusal};
use crate::control::server::Control;
use crate::ids::{ClientId, SessionId};
use crate::settings::{Credential, Scope, Token as Secret, TunnelLimits};
use crate::wire::{ClientHello, ClientMsg, LEAVE, TAKEOVER, ToClient};
use alloc::string::String;
use alloc::{format, vec};

mod examiners;
mod paths;
mod reloads;
mod takeovers;
mod upgrades;

type Main = ServerMain<u32, SocketAddr>;

const LOOPS: usize = 2;
const TAG: u64 = 5;

fn address(port: u16) -> SocketAddr {
    ([192, 0, 2, 1], port).into()
}

fn at(secs: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(secs)
}

pub(super) fn control(key: ControlKey, credential: Holder, client: u8) -> Control {
    let id = SessionId([u8::try_from(key.0).unwrap(); 16]);
    Control::new(key, id, ClientId([client; 16]), credential, session_key(id), Scope::default(), LOOPS)
}

fn hello(client: u8) -> ClientHello {
    ClientHello {
        nonce: [3; 32],
        client: ClientId([client; 16]),
        token: false,
        features: LEAVE | TAKEOVER,
        resume: None,
    }
}

/// A server with two event loops, whose sockets and threads are not there.
struct Desk {
    main: Main,
    net: Net,
    now: Instant,
}

impl Desk {
    fn new(settings: ServerSettings) -> Self {
        let main = Main::new(settings, LOOPS, address(0));
        let mut desk = Self { main, net: Net::default(), now: at(1000) };
        for (port, purpose) in [(8080, Purpose::Ctl), (8090, Purpose::Proxy)] {
            let wanted = Wanted { at: address(port), purposes: Purposes::default().with(purpose), left: None };
            desk.with(|main, cx| main.listen(cx, wanted).expect("the ports are free"));
        }
        desk
    }

    fn with<R>(&mut self, act: impl FnOnce(&mut Main, &mut Cx<'_, Net>) -> R) -> R {
        let mut scratch = vec![0; SCRATCH];
        let Self { main, net, now } = self;
        let strategy = Strategy::Hybrid;
        let result = act(main, &mut Cx { sys: net, now: *now, scratch: &mut scratch, strategy, turn: usize::MAX });
        main.assert_consistent();
        result
    }

    fn tell(&mut self, message: ToServerMain<u32>) {
        self.with(|main, cx| main.on_message(cx, message));
    }

    /// What was said until now is not looked at any more.
    fn forget(&mut self) {
        self.net = Net::default();
    }

    fn ctl_conn(&mut self, stage: Stage) -> Token {
        let (from, deadline) = (address(1), self.now + Duration::from_secs(86_400));
        let Main { slots, timers, .. } = &mut self.main;
        let made = slots.insert_with(|token| {
            let mut kept = None;
            timers.set(token, &mut kept, Some(deadline));
            let link = CtlLink::new(Endpoint::new(7));
            let conn = CtlConn { link, from, proved: None, stage, queued: false, deadline: kept };
            Ok::<_, ()>(Slot::Ctl(Box::new(conn)))
        });
        made.unwrap()
    }

    /// A client has a session, with these features.
    fn join(&mut self, client: u8, features: u64) -> ControlKey {
        let key = self.main.sessions.new_key();
        let ctl_conn = self.up(key);
        let mut control = control(key, None, client);
        control.features = features;
        self.main.sessions.insert(control, ctl_conn, address(1), self.now);
        key
    }

    fn up(&mut self, key: ControlKey) -> Token {
        let liveness = Liveness::new(self.now, Duration::from_secs(86_400), Duration::from_secs(86_400));
        self.ctl_conn(Stage::Up(key, liveness))
    }

    /// The client's next process takes over from `former`.
    fn take_over(&mut self, former: ControlKey) -> ControlKey {
        let key = self.main.sessions.new_key();
        let ctl_conn = self.up(key);
        let entry = self.main.sessions.get(former).expect("it is there");
        let mut control = control(key, entry.control.credential, entry.control.client.0[0]);
        control.features = LEAVE | TAKEOVER;
        let until = self.now + Duration::from_secs(10);
        self.main.sessions.take_over(former, control, ctl_conn, address(2), self.now, until);
        key
    }

    /// A session loses its ctl_conn.
    fn lose(&mut self, key: ControlKey) {
        let token = self.main.sessions.get(key).and_then(session_table::SessionEntry::ctl_conn).expect("it has one");
        let Some(Slot::Ctl(mut conn)) = self.main.slots.remove(token) else { panic!("a ctl_conn") };
        self.main.timers.set(token, &mut conn.deadline, None);
        self.main.sessions.detach(key, at(5_000), at(6_000));
    }

    /// A client registers a tunnel, and its port is opened.
    fn register(&mut self, key: ControlKey, tunnel: u32, public_port: u16) {
        let (tunnel, limits) = (TunnelId(tunnel), TunnelLimits::default());
        let register = ClientMsg::RegisterTunnel { tunnel, public_port, bind_addr: None, name: String::new(), limits };
        assert!(self.with(|main, cx| main.on_client_msg(cx, key, register)).is_ok());
        if let Some(&ToListener::Bind { control, registration, .. }) = self.net.to_listener.last() {
            let bound = Ok(address(public_port));
            self.tell(ToServerMain::Listener(FromListener::Bound { control, registration, bound }));
        }
    }

    /// What a client was told and has not acknowledged.
    fn said(&self, key: ControlKey) -> Vec<ServerMsg> {
        self.main.sessions.get(key).expect("it is there").control.session.replay().map(|(_, msg)| msg.clone()).collect()
    }

    fn upgrade(&mut self, step: Step) {
        self.tell(ToServerMain::Upgrade { tag: TAG, step });
    }

    /// What an operator was told since it was asked last.
    fn done(&mut self) -> Vec<usize> {
        let told = core::mem::take(&mut self.net.to_operator).into_iter();
        told.map(|told| {
            let ToOperator::Done { tag: TAG, count } = told else { panic!("{told:?}") };
            count
        })
        .collect()
    }
}

/// P-STOP-1.
#[test]
fn a_ctl_conn_ends_when_the_event_loops_have_heard_what_came_on_it() {
    let mut desk = Desk::new(ServerSettings::default());
    let key = desk.join(1, 0);
    desk.with(|main, cx| main.end_session(cx, key, CloseCode::Bye, AbortCode::SessionOver));
    assert!(desk.net.sent.is_empty() && Driver::<Net>::is_busy(&desk.main), "its loops are told first");
    desk.with(Driver::run_busy);
    assert_eq!(desk.net.sent, encoded(&ToClient::Close { code: CloseCode::Bye }));
}
