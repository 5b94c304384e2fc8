//! A LocalServer at a Unix socket.

use super::*;

const DIAL: Duration = Duration::from_secs(5);

/// One whose socket is at a path, which is not looked up.
fn desk() -> Desk {
    let mut desk = Desk::new(&[]);
    desk.tell(ToClientLoop::Relocated { tunnel: TUNNEL, place: LocalAt::of("unix:/run/app.sock") });
    desk
}

#[test]
fn it_is_connected_at_once_and_never_looked_up() {
    let mut desk = desk();
    desk.visit(1);
    assert_eq!((desk.served(), desk.net.connects), (1, 1));
    let started = ProxyToServer::Started { epoch: Epoch(1) };
    desk.pass();
    assert_eq!(desk.net.sent, encoded(&started));
    assert!(desk.net.from_client_loop.iter().all(|told| !matches!(told, FromClientLoop::LookUp { .. })));
}

/// P-REF-1: the reason is told.
#[test]
fn one_where_nobody_listens_refuses_at_once() {
    let mut desk = desk();
    desk.net.unreachable = Some(SysError::Refused);
    desk.visit(1);
    let refused = ProxyToServer::Refused { epoch: Epoch(1), code: RefuseCode::ConnectionRefused };
    assert_eq!((&desk.net.sent, desk.net.connects), (&encoded(&refused), 1));
}

/// L2, L3: who waits for a service that accepts nobody waits as for a local port.
#[test]
fn while_its_backlog_is_full_visitors_wait_in_their_order() {
    let mut desk = desk();
    desk.net.unreachable = Some(SysError::WouldBlock);
    let began = desk.now;
    (1..=3).for_each(|number| desk.visit(number));
    assert_eq!((desk.net.connects, desk.served()), (1, 0), "asked for the first of them");
    while desk.now < began + DIAL / 2 {
        desk.pass();
    }
    let most = (DIAL / 2).as_millis() / PAUSE.as_millis() + 2;
    assert!((5..=most).contains(&desk.net.connects.into()), "asked {} times", desk.net.connects);
    desk.net.unreachable = None;
    desk.pass();
    assert_eq!(desk.served(), 3);
}

/// P-REF-1: as TCP would say it.
#[test]
fn whoever_waits_for_too_long_is_refused() {
    let mut desk = desk();
    desk.net.unreachable = Some(SysError::WouldBlock);
    let began = desk.now;
    desk.visit(1);
    while desk.now < began + DIAL {
        assert!(desk.net.sent.is_empty());
        desk.pass();
    }
    let refused = ProxyToServer::Refused { epoch: Epoch(1), code: RefuseCode::TimedOut };
    assert_eq!(desk.net.sent, encoded(&refused));
}
