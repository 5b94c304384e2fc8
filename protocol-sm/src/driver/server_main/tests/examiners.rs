//! A session that only asks what it could have: it is told, has nothing, and takes nothing from anybody.

use super::*;
use crate::codes::TunnelRefusal;
use crate::control::server::Asked;
use crate::ledger::Good;
use crate::wire::EXAMINE;

const PORT: u16 = 6000;

/// An examiner asks for a port, and the listener says this of it.
fn ask(desk: &mut Desk, key: ControlKey, tunnel: u32, public_port: u16, bound: Result<(), SysError>) -> ServerMsg {
    let before = desk.net.to_listener.len();
    let (tunnel, limits) = (TunnelId(tunnel), TunnelLimits::default());
    let register = ClientMsg::RegisterTunnel { tunnel, public_port, bind_addr: None, name: "web".into(), limits };
    assert!(desk.with(|main, cx| main.on_client_msg(cx, key, register)).is_ok());
    let binds: Vec<_> = desk.net.to_listener[before..].to_vec();
    for message in binds {
        let ToListener::Bind { control, registration, examined, .. } = message else { panic!("{message:?}") };
        assert!(examined, "it is closed at once");
        let bound = bound.map(|()| address(public_port));
        desk.tell(ToServerMain::Listener(FromListener::Bound { control, registration, bound }));
    }
    desk.said(key).pop().expect("it is answered")
}

fn refused(tunnel: u32, code: TunnelRefusal) -> ServerMsg {
    ServerMsg::TunnelRefused { tunnel: TunnelId(tunnel), code }
}

fn is_ready(answer: &ServerMsg) -> bool {
    matches!(answer, ServerMsg::TunnelReady { .. })
}

/// P-EXAM-1, P-EXAM-2: it is answered as any other, and nothing is left of it, for as long as it is there either.
#[test]
fn it_is_told_what_it_could_have_and_has_nothing() {
    let open_scope = Scope { max_tunnels: 2, ..Scope::default() };
    let mut desk = Desk::new(ServerSettings { open_scope: open_scope.clone(), ..ServerSettings::default() });
    let examiner = desk.join(2, EXAMINE);
    desk.main.sessions.act(examiner, |control, _| control.rescope(open_scope));
    assert!(is_ready(&ask(&mut desk, examiner, 0, PORT, Ok(()))));
    let busy = ask(&mut desk, examiner, 1, PORT + 1, Err(SysError::InUse));
    assert_eq!(busy, refused(1, TunnelRefusal::PortInUse), "somebody else has it");
    assert_eq!(ask(&mut desk, examiner, 2, 80, Ok(())), refused(2, TunnelRefusal::PortNotAllowed));
    assert!(is_ready(&ask(&mut desk, examiner, 3, PORT + 2, Ok(()))));
    let many = ask(&mut desk, examiner, 4, PORT + 3, Ok(()));
    assert_eq!(many, refused(4, TunnelRefusal::TooManyTunnels), "a client with all of these would have too many");

    let control = &desk.main.sessions.get(examiner).expect("it is there").control;
    assert_eq!((control.open_tunnels().count(), control.held()[1]), (0, (Good::Tunnel, 0)));
    assert!(!control.serves(&Asked { wanted: PORT, ..Asked::default() }));
    let client = desk.join(1, 0);
    desk.register(client, 0, PORT);
    desk.register(client, 1, PORT + 2);
    assert!(desk.said(client).iter().all(is_ready), "as many as if nobody had asked");
}

/// P-EXAM-2, P-EXAM-3: P-REPL-6 is for clients that come to stay.
#[test]
fn a_client_beside_it_keeps_what_it_has_with_a_ctl_conn_and_without() {
    for lost in [false, true] {
        let mut desk = Desk::new(ServerSettings::default());
        let client = desk.join(1, 0);
        desk.register(client, 0, PORT);
        if lost {
            desk.lose(client);
        }
        let examiner = desk.join(2, EXAMINE);
        let answer = ask(&mut desk, examiner, 0, PORT, Err(SysError::InUse));
        assert_eq!(answer, refused(0, TunnelRefusal::HeldByHolder));
        let control = &desk.main.sessions.get(client).expect("it is there").control;
        assert_eq!(control.open_tunnels().count(), 1, "lost: {lost}");
    }
}

/// P-EXAM-3: the client that runs has as many as it may, and any port will do for one of them.
#[test]
fn what_is_too_much_because_it_is_there_already_is_told_from_too_much() {
    let one = Scope { max_tunnels: 1, ..Scope::default() };
    let mut desk = Desk::new(ServerSettings::default());
    let (client, examiner) = (desk.join(1, 0), desk.join(2, EXAMINE));
    for key in [client, examiner] {
        desk.main.sessions.act(key, |control, _| control.rescope(one.clone()));
    }
    desk.register(client, 0, PORT);
    let (tunnel, limits) = (TunnelId(0), TunnelLimits::default());
    let named = ClientMsg::ChangeTunnel { tunnel, name: "web".into(), limits };
    assert!(desk.with(|main, cx| main.on_client_msg(cx, client, named)).is_ok());
    assert_eq!(ask(&mut desk, examiner, 0, 0, Ok(())), refused(0, TunnelRefusal::HeldByHolder));
    assert_eq!(ask(&mut desk, examiner, 1, PORT, Ok(())), refused(1, TunnelRefusal::HeldByHolder));
    assert_eq!(ask(&mut desk, examiner, 2, PORT + 1, Ok(())), refused(2, TunnelRefusal::TooManyTunnels));
}

/// P-TUN-13 holds for what it was told, too: each registration is answered once.
#[test]
fn what_it_could_not_have_any_more_is_closed_and_not_refused_once_more() {
    let mut desk = Desk::new(ServerSettings::default());
    let examiner = desk.join(2, EXAMINE);
    assert!(is_ready(&ask(&mut desk, examiner, 0, PORT, Ok(()))));
    let none = Scope { allow_ports: crate::ports::PortSet::none(), ..Scope::default() };
    let (withdrawn, _) = desk.main.sessions.act(examiner, |control, _| control.rescope(none)).expect("it is there");
    assert!(withdrawn.iter().all(|(withdrawn, _)| withdrawn.open.is_some()) && withdrawn.len() == 1);
}
