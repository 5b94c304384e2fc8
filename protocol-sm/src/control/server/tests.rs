//! One session on the server: what it takes, and what it answers.

use super::*;
use crate::auth::{Prover, Transcript};
use crate::codes::HandshakeRefusal;
use crate::wire::{ConnHello, Ctl, Preface, Reply};

fn control(allow: &str, loop_count: usize) -> Control {
    let hello = Ctl::Ping { received: 0 };
    let answer = Ctl::Ping { received: 0 };
    let preface = Preface::ours(crate::wire::ConnKind::Ctl);
    let transcript = Transcript::new(preface.encode(), Reply::to(preface).encode(), &hello, &answer);
    let id = SessionId([1; 16]);
    let secret = Prover::new(None, transcript).session_key(id);
    let scope = Scope { allow_ports: allow.parse().unwrap(), max_tunnels: 2, ..Scope::default() };
    Control::new(ControlKey(1), id, ClientId([2; 16]), None, secret, scope, loop_count)
}

/// What a holder has whose only session this is.
fn ledger(control: &Control) -> Ledger {
    let mut ledger = Ledger::default();
    for (good, count) in control.held() {
        ledger.add(control.credential, good, count);
    }
    ledger
}

fn register(control: &mut Control, tunnel: u32, public_port: u16) -> Result<Reaction, Violation> {
    let limits = TunnelLimits::default();
    let name = String::new();
    let ledger = ledger(control);
    control.on_msg(
        ClientMsg::RegisterTunnel { tunnel: TunnelId(tunnel), public_port, bind_addr: None, name, limits },
        5,
        &ledger,
    )
}

fn registration(tunnel: u32, serial: u64) -> Registration {
    Registration { tunnel: TunnelId(tunnel), serial }
}

fn bind(control: &Control, tunnel: u32, serial: u64, ports: &[u16]) -> Bind {
    let gate = Box::new(Gate::new(None, &control.scope, TunnelLimits::default()));
    let place = Place::Ports(ports.iter().copied().collect());
    Bind { registration: registration(tunnel, serial), place, bind_addr: None, gate, examined: false }
}

fn close(control: &mut Control, tunnel: u32) -> Reaction {
    control.on_msg(ClientMsg::CloseTunnel { tunnel: TunnelId(tunnel) }, 0, &Ledger::default()).unwrap()
}

fn opened(port: u16) -> Result<SocketAddr, SysError> {
    Ok(SocketAddr::from(([0, 0, 0, 0], port)))
}

fn ready(tunnel: u32, port: u16) -> ServerMsg {
    ServerMsg::TunnelReady { tunnel: TunnelId(tunnel), public: opened(port).unwrap() }
}

/// The listener's answer is all that follows.
fn said(reply: ServerMsg) -> Bound {
    Bound { reply: Some(reply), close: false, next: None }
}

fn refused(tunnel: u32, code: TunnelRefusal) -> ServerMsg {
    ServerMsg::TunnelRefused { tunnel: TunnelId(tunnel), code }
}

/// What a registration of `register` is answered that comes to nothing.
fn not_had(tunnel: u32, wanted: u16, code: TunnelRefusal) -> Reaction {
    Reaction::Refuse(TunnelId(tunnel), Asked { wanted, ..Asked::default() }, code)
}

#[test]
fn k1_each_registration_is_answered_once() {
    let mut control = control("6001-6003", 1);
    assert_eq!(register(&mut control, 1, 6001), Ok(Reaction::Bind(bind(&control, 1, 1, &[6001]))));
    assert_eq!(register(&mut control, 1, 6001), Err(Violation::Repeated));
    let bound = control.on_bound(registration(1, 1), Err(SysError::InUse));
    assert_eq!(bound, said(refused(1, TunnelRefusal::PortInUse)));
    assert_eq!(register(&mut control, 1, 0), Ok(Reaction::Bind(bind(&control, 1, 2, &[6003, 6001, 6002]))));
    let bound = control.on_bound(registration(1, 2), Err(SysError::InUse));
    assert_eq!(bound, said(refused(1, TunnelRefusal::NoFreePort)));
}

#[test]
fn p_take_2_a_tunnel_is_handed_over_by_its_port_and_where_any_will_do_by_its_name() {
    let mut control = control("6001-6004", 1);
    for (tunnel, port, name) in [(1, 6001, "a"), (2, 6002, "b")] {
        let (limits, ledger) = (TunnelLimits::default(), ledger(&control));
        let (tunnel, name) = (TunnelId(tunnel), name.into());
        let msg = ClientMsg::RegisterTunnel { tunnel, public_port: port, bind_addr: None, name, limits };
        let _ = control.on_msg(msg, 5, &ledger);
        let _ = control.on_bound(registration(tunnel.0, u64::from(tunnel.0)), opened(port));
    }
    let port = |found: Option<(Registration, SocketAddr)>| found.map(|(_, public)| public.port());
    let asked = |name: &str, wanted| Asked { name: name.into(), wanted, ..Asked::default() };
    assert_eq!(port(control.hand_over(&asked("c", 0))), None);
    assert_eq!(port(control.hand_over(&asked("a", 6003))), None);
    assert_eq!(port(control.hand_over(&asked("b", 0))), Some(6002));
    assert_eq!(port(control.hand_over(&asked("b", 6001))), Some(6001));
    assert_eq!(port(control.hand_over(&asked("a", 0))), None, "it is handed over once");
}

#[test]
fn p_res_8_a_session_that_is_released_has_no_tunnel_left() {
    let mut control = control("6001-6004", 1);
    let _ = register(&mut control, 1, 6001);
    let _ = control.on_bound(registration(1, 1), opened(6001));
    let _ = register(&mut control, 2, 6002);
    let withdrawn = control.release();
    let each: Vec<_> = withdrawn.iter().map(|tunnel| (tunnel.tunnel, tunnel.open)).collect();
    assert_eq!(each, [(TunnelId(1), Some(registration(1, 1))), (TunnelId(2), None)]);
    assert_eq!(control.release(), []);
    assert_eq!(control.held()[1], (Good::Tunnel, 0));
    let late = Bound { reply: None, close: true, next: None };
    assert_eq!(control.on_bound(registration(2, 2), opened(6002)), late, "what was being opened is closed");
    assert_eq!(register(&mut control, 1, 6001), Ok(Reaction::Bind(bind(&control, 1, 3, &[6001]))));
}

#[test]
fn k4_one_port_is_opened_at_a_time_in_the_order_of_registration() {
    let mut control = control("6001-6003", 1);
    assert_eq!(register(&mut control, 7, 6001), Ok(Reaction::Bind(bind(&control, 7, 1, &[6001]))));
    assert_eq!(register(&mut control, 1, 6002), Ok(Reaction::Nothing));
    assert_eq!(control.open_tunnels().count(), 0);
    let next = bind(&control, 1, 2, &[6002]);
    let bound = control.on_bound(registration(7, 1), opened(6001));
    assert_eq!(bound, Bound { reply: Some(ready(7, 6001)), close: false, next: Some(next) });
    assert_eq!(control.on_bound(registration(1, 2), opened(6002)), said(ready(1, 6002)));
    assert_eq!(control.open_tunnels().collect::<Vec<_>>(), [registration(1, 2), registration(7, 1)]);
    assert_eq!(close(&mut control, 7), Reaction::Unbind(vec![registration(7, 1)]));
}

#[test]
fn k4_what_becomes_of_a_closed_registration_concerns_no_other() {
    for outcome in [opened(6001), Err(SysError::InUse)] {
        let mut control = control("6001-6003", 1);
        let _ = register(&mut control, 1, 6001);
        assert_eq!(close(&mut control, 1), Reaction::Nothing, "it is closed when it was opened");
        assert_eq!(register(&mut control, 1, 6002), Ok(Reaction::Nothing));
        let next = Some(bind(&control, 1, 2, &[6002]));
        let bound = control.on_bound(registration(1, 1), outcome);
        assert_eq!(bound, Bound { reply: None, close: outcome.is_ok(), next });
        assert_eq!(control.on_bound(registration(1, 2), opened(6002)), said(ready(1, 6002)));
    }
}

#[test]
fn k4_what_is_closed_while_it_waits_is_never_opened() {
    let mut control = control("6001-6003", 1);
    let _ = register(&mut control, 1, 6001);
    for _ in 0..100 {
        assert_eq!(register(&mut control, 2, 6002), Ok(Reaction::Nothing));
        assert_eq!(close(&mut control, 2), Reaction::Nothing);
    }
    assert_eq!(control.on_bound(registration(1, 1), opened(6001)), said(ready(1, 6001)));
}

#[test]
fn the_scope_is_kept() {
    let mut control = control("6000-6002", 1);
    assert_eq!(register(&mut control, 1, 5999), Ok(not_had(1, 5999, TunnelRefusal::PortNotAllowed)));
    let _ = register(&mut control, 1, 6000);
    let _ = register(&mut control, 2, 6001);
    assert_eq!(register(&mut control, 3, 6002), Ok(not_had(3, 6002, TunnelRefusal::TooManyTunnels)));
    let _ = control.on_bound(registration(1, 1), opened(6000));
    // One is open, the other is being opened.
    let closed = control.on_msg(ClientMsg::Drain, 0, &Ledger::default());
    assert_eq!(closed, Ok(Reaction::Unbind(vec![registration(1, 1)])));
    assert_eq!(control.on_bound(registration(2, 2), opened(6001)), Bound { reply: None, close: true, next: None });
}

/// P-TUN-16.
#[test]
fn a_port_may_be_wanted_at_an_address_that_is_allowed() {
    let mut control = control("6000-6002", 1);
    let address = |text: &str| text.parse().ok();
    let at = |control: &mut Control, tunnel: u32, bind_addr| {
        let (tunnel, limits) = (TunnelId(tunnel), TunnelLimits::default());
        let name = String::new();
        let msg = ClientMsg::RegisterTunnel { tunnel, public_port: 6000, bind_addr, name, limits };
        control.on_msg(msg, 5, &ledger(control))
    };
    let denied = |reaction| matches!(reaction, Ok(Reaction::Refuse(_, _, TunnelRefusal::AddressNotAllowed)));
    assert!(denied(at(&mut control, 1, address("127.0.0.1"))), "none is allowed by itself");
    control.scope.allow_bind_addrs = vec!["127.0.0.0/8".parse().unwrap()];
    for other in ["192.0.2.1", "0.0.0.0", "::1", "::ffff:192.0.2.1"] {
        assert!(denied(at(&mut control, 1, address(other))), "{other}");
    }
    let Ok(Reaction::Bind(bind)) = at(&mut control, 1, address("::ffff:127.0.0.1")) else { panic!("it is allowed") };
    assert_eq!(bind.bind_addr, address("127.0.0.1"));
    assert!(control.has(&bind.place, address("127.0.0.1")) && control.has(&bind.place, None));
    assert!(!control.has(&bind.place, address("127.0.0.2")), "the port at another address is another port");
    let missing = control.on_bound(registration(1, 1), Err(SysError::NoAddress));
    assert_eq!(missing, said(refused(1, TunnelRefusal::NoAddress)));
    let _ = at(&mut control, 1, address("127.0.0.1"));
    let _ = control.on_bound(registration(1, 2), Ok(SocketAddr::from(([127, 0, 0, 1], 6000))));
    let asked = Asked { wanted: 6000, ..Asked::default() };
    assert_eq!(control.hand_over(&asked), None, "where the server chooses the address it is another port");
    let (withdrawn, _) = control.rescope(Scope { allow_bind_addrs: Vec::new(), ..control.scope.clone() });
    assert_eq!(withdrawn.iter().map(|(_, code)| *code).collect::<Vec<_>>(), [TunnelRefusal::AddressNotAllowed]);
}

#[test]
fn k1_a_client_that_drains_gets_no_more_tunnels() {
    let mut control = control("6000-6002", 1);
    let _ = register(&mut control, 1, 6001);
    let _ = control.on_bound(registration(1, 1), opened(6001));
    let closed = control.on_msg(ClientMsg::Drain, 0, &Ledger::default());
    assert_eq!(closed, Ok(Reaction::Unbind(vec![registration(1, 1)])));
    for tunnel in [1, 2] {
        let too_many = not_had(tunnel, 6001, TunnelRefusal::TooManyTunnels);
        assert_eq!(register(&mut control, tunnel, 6001), Ok(too_many));
    }
    assert_eq!(control.on_msg(ClientMsg::Drain, 0, &Ledger::default()), Ok(Reaction::Unbind(vec![])));
}

fn rescoped(control: &mut Control, allow: &str) -> (Vec<(u32, bool)>, Vec<u32>) {
    let scope = Scope { allow_ports: allow.parse().unwrap(), ..control.scope.clone() };
    let (withdrawn, admitted) = control.rescope(scope);
    let withdrawn = withdrawn.iter().map(|(tunnel, _)| (tunnel.tunnel.0, tunnel.open.is_some())).collect();
    (withdrawn, admitted.iter().map(|admitted| admitted.registration.tunnel.0).collect())
}

#[test]
fn what_a_client_may_not_have_any_more_is_taken_and_the_rest_stays() {
    let mut control = control("6001-6009", 1);
    control.scope.max_tunnels = 9;
    let _ = register(&mut control, 1, 6001);
    let _ = control.on_bound(registration(1, 1), opened(6001));
    let _ = register(&mut control, 2, 0);
    let _ = control.on_bound(registration(2, 2), opened(6002));
    // Being opened, and two that wait.
    let _ = register(&mut control, 3, 6003);
    let _ = register(&mut control, 4, 6004);
    let _ = register(&mut control, 5, 6005);
    assert_eq!(rescoped(&mut control, "6001-6009"), (vec![], vec![1, 2, 3]));
    assert_eq!(rescoped(&mut control, "6001,6005"), (vec![(2, true), (3, false), (4, false)], vec![1]));
    let bound = control.on_bound(registration(3, 3), opened(6003));
    assert_eq!((bound.reply, bound.close), (None, true), "K1: it was answered");
    assert_eq!(bound.next.map(|bind| bind.registration), Some(registration(5, 5)));
}

#[test]
fn a_port_that_was_picked_while_the_scope_changed_is_looked_at_again() {
    let mut control = control("6001-6009", 1);
    let _ = register(&mut control, 1, 0);
    assert_eq!(rescoped(&mut control, "6001"), (vec![], vec![1]));
    let bound = control.on_bound(registration(1, 1), opened(6005));
    assert_eq!(bound, Bound { close: true, ..said(refused(1, TunnelRefusal::PortNotAllowed)) });
    assert_eq!(control.held()[1], (Good::Tunnel, 0));
}

#[test]
fn the_newest_tunnel_goes_first() {
    let mut control = control("6001-6009", 1);
    let _ = register(&mut control, 7, 6001);
    let _ = control.on_bound(registration(7, 1), opened(6001));
    let _ = register(&mut control, 3, 6002);
    let newest = |control: &mut Control| control.withdraw_newest().map(|gone| (gone.tunnel.0, gone.open.is_some()));
    assert_eq!(
        [newest(&mut control), newest(&mut control), newest(&mut control)],
        [Some((3, false)), Some((7, true)), None]
    );
}

#[test]
fn a_tunnels_limits_are_changed_wherever_it_stands() {
    let mut control = control("6001-6009", 1);
    let _ = register(&mut control, 1, 6001);
    let _ = register(&mut control, 2, 6002);
    let limits = || TunnelLimits { max_connections: 7, ..TunnelLimits::default() };
    let mut change = |tunnel: u32, name: &str, limits| {
        let msg = ClientMsg::ChangeTunnel { tunnel: TunnelId(tunnel), name: name.into(), limits };
        control.on_msg(msg, 0, &Ledger::default())
    };
    let Ok(Reaction::Admit(admitted)) = change(1, "new", limits()) else { panic!("it is being opened") };
    assert_eq!((admitted.registration, admitted.gate.max_connections), (registration(1, 1), 7));
    assert_eq!(change(2, "new", limits()), Ok(Reaction::Nothing), "whoever opens it is told");
    assert_eq!(change(3, "new", limits()), Ok(Reaction::Nothing), "it is gone");
    assert_eq!(change(3, &"x".repeat(65), limits()), Err(Violation::Limit));
    assert_eq!(control.tunnel_name(TunnelId(1)), "new");
    let next = control.on_bound(registration(1, 1), opened(6001)).next.unwrap();
    assert_eq!(next.gate.max_connections, 7);
}

#[test]
fn what_a_client_leaves_unacknowledged_is_bounded() {
    assert_eq!(size_of::<ServerMsg>(), 40, "PROTOCOL.md names it");
    let mut control = control("6001", 1);
    control.scope.max_connections = 10;
    let most = max_unacked(10, 1);
    assert_eq!(most, 30 + 2048 + 1638);
    assert_eq!(max_unacked(10_000, 2), 30_000 + 4096 + 1638);
    assert!(max_unacked(u32::MAX, 64) > 0, "it does not overflow");
}

#[test]
fn k5_sessions_of_a_holder_share_what_they_may_leave_unacknowledged() {
    let drain = || ServerMsg::Drain;
    let (mut hoarder, mut other) = (control("6001", 1), control("6001", 1));
    let mut ledger = Ledger::default();
    while hoarder.send(drain(), &ledger).is_ok() {}
    assert_eq!(hoarder.session.unacked(), hoarder.session.max_unacked());
    for (good, count) in hoarder.held() {
        ledger.add(hoarder.credential, good, count);
    }
    ledger.add(hoarder.credential, Good::Unacked, count(Control::OWN_UNACKED));
    other.assert_consistent(&ledger);
    for seq in 1..=128 {
        assert_eq!(other.send(drain(), &ledger), Ok(seq), "what is its own");
    }
    assert_eq!(other.send(drain(), &ledger), Err(Violation::Unacknowledged));
    assert_eq!(other.send(drain(), &Ledger::default()), Ok(129), "the others have acknowledged");
}

#[test]
#[should_panic(expected = "K5")]
fn k5_whoever_leaves_more_is_seen() {
    let control = control("6001", 1);
    let mut ledger = Ledger::default();
    ledger.add(control.credential, Good::Unacked, count(control.session.max_unacked()) + 1);
    control.assert_consistent(&ledger);
}

#[test]
fn k2_a_conn_goes_to_a_loop_that_waits_its_same_index_if_it_does_and_once() {
    let mut control = control("6000", 3);
    let _ = control.on_ask(0, 1);
    let _ = control.on_ask(1, 1);
    let _ = control.on_ask(2, 2);
    let hellos: Vec<_> = (1..=7).map(|n| control.secret.hello(control.id, ConnId(n))).collect();
    let mut loop_of = |n: usize| {
        control.admit(&hellos[n - 1], None, &Ledger::default()).map(|admission| (admission.loop_index, admission.asked))
    };
    assert_eq!(loop_of(2), Ok((1, true)), "its same_index waits");
    assert_eq!(loop_of(1), Ok((0, true)));
    assert_eq!(loop_of(5), Ok((2, true)), "its same_index has all that it asked for");
    assert_eq!(loop_of(4), Ok((2, true)));
    assert_eq!(loop_of(6), Ok((2, false)), "nobody waits");
    assert_eq!(loop_of(2), Err(HandshakeRefusal::ReplayedConn));
    let forged = ConnHello { proof: hellos[1].proof, ..hellos[6] };
    assert_eq!(control.admit(&forged, None, &Ledger::default()), Err(HandshakeRefusal::WrongToken));
    let msg = ClientMsg::Done { conn: ConnId(1), epoch: crate::ids::Epoch(1) };
    let passed = TransferMsg { conn: ConnId(1), epoch: crate::ids::Epoch(1), body: ClientBody::Done };
    assert_eq!(control.on_msg(msg.clone(), 0, &Ledger::default()), Ok(Reaction::Pass(0, passed)));
    control.on_conn_gone(ConnId(1));
    assert_eq!(control.on_msg(msg, 0, &Ledger::default()), Ok(Reaction::Nothing));
}

#[test]
fn k3_a_conn_lost_before_its_loop_had_it_is_answered_by_the_clients_failure() {
    let mut control = control("6000", 2);
    let _ = control.on_ask(1, 1);
    let hello = control.secret.hello(control.id, ConnId(1));
    let admission = control.admit(&hello, None, &Ledger::default()).unwrap();
    control.on_conn_lost(ConnId(1), &admission);
    let failed = ClientMsg::ConnFailed { count: 1 };
    assert_eq!(control.on_msg(failed, 0, &Ledger::default()), Ok(Reaction::Failed(vec![(1, 1)])));
}

#[test]
fn k3_a_conn_that_comes_after_its_failure_and_is_lost_was_not_asked_for() {
    let mut control = control("6000", 2);
    let _ = control.on_ask(1, 1);
    let failed = ClientMsg::ConnFailed { count: 1 };
    assert_eq!(control.on_msg(failed.clone(), 0, &Ledger::default()), Ok(Reaction::Failed(vec![(1, 1)])));
    let admission = control.admit(&control.secret.hello(control.id, ConnId(1)), None, &Ledger::default()).unwrap();
    control.on_conn_lost(ConnId(1), &admission);
    assert_eq!(control.on_msg(failed, 0, &Ledger::default()), Ok(Reaction::Nothing));
}

#[test]
fn k3_failures_are_shared_among_those_that_asked() {
    let mut control = control("6000", 2);
    let _ = control.on_ask(0, 1);
    let _ = control.on_ask(1, 3);
    let failed = |count| ClientMsg::ConnFailed { count };
    assert_eq!(control.on_msg(failed(2), 0, &Ledger::default()), Ok(Reaction::Failed(vec![(1, 2)])));
    assert_eq!(control.on_msg(failed(9), 0, &Ledger::default()), Ok(Reaction::Failed(vec![(0, 1), (1, 1)])));
    assert_eq!(control.on_msg(failed(1), 0, &Ledger::default()), Ok(Reaction::Nothing));
}
