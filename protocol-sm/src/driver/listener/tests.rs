//! A listener while another process takes over: what it opens, lends and lets go.

use super::super::thread::Driver;
use super::unnamed::tests::Setup;
use super::*;
use crate::driver::stub::Net;
use crate::settings::{Scope, TunnelLimits};
use alloc::vec;

fn owner(client: u8) -> Owner {
    Owner { client: crate::ids::ClientId([client; 16]), credential: None }
}

fn held_at(port: u16) -> SocketAddr {
    ([192, 0, 2, 1], port).into()
}

impl Setup {
    fn bind(&mut self, tunnel: u32) {
        self.bind_at(tunnel, Place::Ports([7000].into()), false);
    }

    fn bind_at(&mut self, tunnel: u32, place: Place, examined: bool) {
        let gate = Gate::new(None, &Scope::default(), TunnelLimits::default()).into();
        let (registration, at) = (Registration { tunnel: TunnelId(tunnel), serial: u64::from(tunnel) }, held_at(0));
        let (control, owner) = (ControlKey(2), owner(2));
        let bind = ToListener::Bind { control, holder: None, owner, registration, at, place, gate, examined };
        self.with(|listener, cx| listener.on_message(cx, bind));
    }

    fn take(&mut self, step: Step) {
        self.with(|listener, cx| listener.on_message(cx, ToListener::Upgrade(step)));
    }

    /// Whether it wants to go on at once, and whether it waits for a time.
    fn wants(&self) -> (bool, bool) {
        let next = Driver::<Net>::next_deadline(&self.listener);
        (Driver::<Net>::is_busy(&self.listener), next.is_some())
    }
}

#[test]
fn while_it_is_lent_no_port_is_opened_and_nothing_spins() {
    let mut setup = Setup::new(9);
    setup.take(Step::Lend);
    setup.bind(2);
    assert_eq!(setup.wants(), (false, false));
    setup.with(|listener, cx| listener.run_busy(cx));
    assert_eq!(setup.listener.ports(), 1);
    setup.take(Step::GoOn);
    assert_eq!(setup.wants(), (true, false));
    // The holder's attempts are used up, and the next one waits for its time.
    for tunnel in 3..=Binds::<Bind>::BURST + 1 {
        setup.with(|listener, cx| listener.run_busy(cx));
        setup.bind(tunnel);
    }
    setup.with(|listener, cx| listener.run_busy(cx));
    assert_eq!(setup.wants(), (false, true));
    setup.take(Step::Lend);
    assert_eq!(setup.wants(), (false, false));
    setup.take(Step::GoOn);
    assert_eq!(setup.wants(), (false, true));
}

/// P-LEAVE-5.
#[test]
fn what_is_held_is_lent_on_and_let_go_with_the_rest() {
    let until = Instant::ZERO + Duration::from_secs(60);
    let mut setup = Setup::new(9);
    setup
        .listener
        .hold(vec![HeldPort { udp: false, at: held_at(6000), owner: owner(3), listener: held_at(6000) }], until);
    setup.take(Step::Lend);
    let given = Given::Public { udp: false, port: 6000, owner: owner(3) };
    assert!(setup.net.lent.contains(&given), "{:?}", setup.net.lent);
    assert!(setup.net.closed.is_empty());
    setup.take(Step::Leave);
    assert_eq!((setup.listener.held(), setup.net.closed.contains(&held_at(6000))), (0, true));
}

/// P-EXAM-2: what is only asked about is closed before anybody else has a turn, and no event loop hears of it.
#[test]
fn what_is_examined_is_opened_and_closed_at_once() {
    for place in [Place::Ports([7001].into()), Place::Udp([7001].into())] {
        let mut setup = Setup::new(9);
        let ports = setup.listener.ports();
        setup.net.from_listener.clear();
        setup.bind_at(2, place.clone(), true);
        setup.with(|listener, cx| listener.run_busy(cx));
        let at = held_at(7001);
        let registration = Registration { tunnel: TunnelId(2), serial: 2 };
        let bound = FromListener::Bound { control: ControlKey(2), registration, bound: Ok(at) };
        assert_eq!(setup.net.from_listener, [bound], "{place:?}");
        assert_eq!((setup.listener.ports(), setup.net.closed.as_slice()), (ports, &[at][..]), "{place:?}");
        assert!(setup.net.to_loops.is_empty(), "{place:?}");
    }
}
