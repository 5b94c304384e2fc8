use super::super::super::inherit::Owner;
use super::super::super::messages::{ControlKey, Step, ToListener, ToServerLoop};
use super::super::super::stub::{Inbox, Net, PROXY};
use super::super::super::sys::Readiness;
use super::super::super::thread::{Driver, SCRATCH, Strategy};
use super::*;
use crate::control::server::Place;
use crate::gate::Gate;
use crate::ids::{ClientId, Registration, TunnelId};
use crate::settings::{Scope, TunnelLimits};
use alloc::vec;
use core::net::SocketAddr;
use core::time::Duration;

const NAMED: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n";

/// A listener with one public port.
pub(in super::super) struct Setup {
    pub(in super::super) listener: Listener<u32, SocketAddr>,
    pub(in super::super) net: Net,
    now: Instant,
    port: Option<Token>,
}

impl Setup {
    pub(in super::super) fn new(visitors: u32) -> Self {
        let trusted = vec!["10.0.0.0/24".parse().unwrap()];
        let listener = Listener::new(1, visitors, trusted);
        let mut setup = Self { listener, net: Net::default(), now: Instant::ZERO, port: None };
        let gate = Gate::new(
            None,
            &Scope { max_connections_per_source: Some(u32::MAX), ..Scope::default() },
            TunnelLimits::default(),
        );
        let owner = Owner { client: ClientId([1; 16]), credential: None };
        let (control, at) = (ControlKey(1), ([0, 0, 0, 0], 0).into());
        let place = Place::Ports([443].into());
        let (registration, gate, examined) = (Self::TUNNEL, gate.into(), false);
        let bind = ToListener::Bind { control, holder: None, owner, registration, at, place, gate, examined };
        setup.with(|listener, cx| {
            listener.on_message(cx, bind);
            listener.run_busy(cx);
        });
        setup.port = setup.listener.public_ports().map(|(token, _)| token).next();
        setup
    }

    const TUNNEL: Registration = Registration { tunnel: TunnelId(1), serial: 1 };

    pub(in super::super) fn with(&mut self, act: impl FnOnce(&mut Listener<u32, SocketAddr>, &mut Cx<'_, Net>)) {
        let mut scratch = vec![0; SCRATCH];
        let Self { listener, net, now, .. } = self;
        act(
            listener,
            &mut Cx { sys: net, now: *now, scratch: &mut scratch, strategy: Strategy::Hybrid, turn: usize::MAX },
        );
        listener.assert_consistent();
    }

    /// Somebody comes through the proxy, and has said this.
    fn come(&mut self, stream: u32, first: &[u8]) {
        self.net.inboxes.insert(stream, Inbox { bytes: first.iter().copied().collect(), ..Inbox::default() });
        self.net.backlog.push_back(stream);
        let port = self.port.expect("open");
        self.with(|listener, cx| listener.on_ready(cx, port, Readiness::default()));
    }

    /// It says more, or ends.
    fn say(&mut self, stream: u32, more: Option<&[u8]>) {
        let inbox = self.net.inboxes.get_mut(&stream).expect("open");
        inbox.bytes.extend(more.unwrap_or_default());
        inbox.ended |= more.is_none();
        let token = inbox.token.expect("watched");
        self.with(|listener, cx| listener.on_ready(cx, token, Readiness::default()));
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
        self.with(Driver::on_deadline);
    }
}

fn name() -> SocketAddr {
    ([203, 0, 113, 7], 50_000).into()
}

#[test]
fn a_header_in_pieces_names_the_visitor_and_the_payload_stays() {
    let mut setup = Setup::new(9);
    setup.come(1, &NAMED[..9]);
    setup.say(1, Some(&NAMED[9..20]));
    setup.pass(4_999);
    setup.say(1, Some(&[&NAMED[20..], b"GET"].concat()));
    assert_eq!(setup.net.visitors, [(1, name())]);
    assert_eq!(setup.net.inboxes[&1].bytes, b"GET");
    setup.come(2, b"PROXY UNKNOWN\r\nGET");
    assert_eq!(setup.net.visitors[1], (2, (PROXY, 1000).into()), "nobody is named: the proxy");
}

#[test]
fn who_waits_to_be_greeted_is_served_and_a_check_is_nobody() {
    let mut setup = Setup::new(9);
    setup.come(1, NAMED);
    setup.come(2, NAMED);
    assert!(setup.net.visitors.is_empty());
    setup.say(2, None);
    setup.pass(50);
    assert_eq!((&setup.net.visitors[..], &setup.net.reset[..]), (&[(1, name())][..], &[2][..]));
    setup.come(3, b"");
    setup.say(3, None);
    setup.come(4, &NAMED[..9]);
    setup.say(4, None);
    assert_eq!((setup.net.visitors.len(), setup.net.dropped.len(), setup.listener.waiting()), (1, 0, 0));
}

#[test]
fn late_and_malformed_headers_are_refused() {
    let mut setup = Setup::new(9);
    setup.come(1, &NAMED[..9]);
    setup.come(2, b"GET / HTTP/1.1\r\n");
    assert_eq!((&setup.net.reset[..], &setup.net.dropped[..]), (&[2][..], &[Dropped::NoHeader][..]));
    setup.pass(5_000);
    assert_eq!((&setup.net.reset[..], setup.net.dropped.len()), (&[2, 1][..], 2));
    assert_eq!((setup.listener.totals().visitors, setup.listener.turned_away().get(Dropped::NoHeader)), (0, 2));
}

#[test]
fn where_too_many_wait_the_first_makes_room() {
    let mut setup = Setup::new(u32::MAX);
    for stream in 0..1024 {
        setup.come(stream, b"");
    }
    assert!(setup.net.reset.is_empty());
    setup.come(5_000, b"");
    assert_eq!((&setup.net.reset[..], &setup.net.dropped[..]), (&[0][..], &[Dropped::Resources][..]));
    setup.come(5_001, &[NAMED, b"GET"].concat());
    assert_eq!(setup.net.visitors, [(5_001, name())], "whoever is quick is served");
    let mut tight = Setup::new(2);
    tight.come(1, &[NAMED, b"GET"].concat());
    tight.come(2, NAMED);
    tight.come(3, NAMED);
    assert_eq!(tight.net.visitors, [(1, name()), (2, name())], "one that is named goes on instead");
    assert_eq!((&tight.net.reset[..], &tight.net.dropped[..]), (&[3][..], &[Dropped::Resources][..]));
}

#[test]
fn whoever_waits_goes_with_the_port_and_holds_an_upgrade_up() {
    let mut setup = Setup::new(9);
    setup.come(1, NAMED);
    setup.with(|listener, cx| {
        listener.on_message(cx, ToListener::Upgrade(Step::Lend));
        listener.on_message(cx, ToListener::Upgrade(Step::Settle));
    });
    assert!(setup.net.to_loops.is_empty());
    setup.pass(50);
    assert_eq!((setup.net.visitors.len(), &setup.net.to_loops[..]), (1, &[(0, ToServerLoop::Settle)][..]));
    setup.with(|listener, cx| listener.on_message(cx, ToListener::Upgrade(Step::GoOn)));
    setup.come(2, b"");
    let close = ToListener::Close { control: ControlKey(1), registration: Setup::TUNNEL };
    setup.with(|listener, cx| listener.on_message(cx, close));
    assert_eq!((&setup.net.reset[..], setup.listener.waiting(), setup.listener.timers.next()), (&[2][..], 0, None));
}

#[test]
fn one_that_waits_costs_little() {
    let waiting = size_of::<Waiting<u128>>() + size_of::<Slot<u128, ()>>();
    assert!(waiting <= 200, "{waiting} bytes");
}
