//! There is no local port towards a LocalServer, or few.

use super::*;

const DIAL: Duration = Duration::from_secs(5);

#[test]
fn while_there_is_no_port_the_system_is_asked_once_in_a_pause() {
    let mut desk = Desk::new(&[address(9)]);
    desk.net.unreachable = Some(SysError::NoPort);
    (1..=5).for_each(|number| desk.visit(number));
    let began = desk.now;
    assert_eq!(desk.net.connects, 1);
    while desk.now < began + DIAL / 2 {
        desk.pass();
    }
    let most = (DIAL / 2).as_millis() / PAUSE.as_millis() + 2;
    assert!((5..=most).contains(&desk.net.connects.into()), "asked {} times", desk.net.connects);
}

#[test]
fn many_that_waited_for_a_port_are_dialled_some_at_a_time() {
    let mut desk = Desk::new(&[address(9)]);
    desk.net.unreachable = Some(SysError::NoPort);
    (1..=200).for_each(|number| desk.visit(number));
    desk.net.unreachable = None;
    let mut served = vec![];
    while desk.served() < 200 {
        desk.pass();
        served.push(desk.served());
    }
    assert_eq!(served, [64, 128, 192, 200]);
}

/// P-REF-1: the reason is told.
#[test]
fn whoever_waits_behind_one_that_gives_up_has_its_turn() {
    let mut desk = Desk::new(&[address(9)]);
    desk.net.unreachable = Some(SysError::NoPort);
    desk.visit(1);
    let began = desk.now;
    desk.now = began + DIAL / 2;
    desk.with(|client, cx| client.on_deadline(cx));
    desk.visit(2);
    while desk.now < began + DIAL {
        assert!(desk.net.sent.is_empty());
        desk.pass();
    }
    let refused = ProxyToServer::Refused { epoch: Epoch(1), code: RefuseCode::Resources };
    assert_eq!((&desk.net.sent, desk.served()), (&encoded(&refused), 0));
    desk.net.unreachable = None;
    desk.pass();
    assert_eq!((desk.now, desk.served()), (began + DIAL + PAUSE, 1));
}

/// N4: of what is wrong here no address is guilty.
#[test]
fn only_an_address_that_failed_itself_is_tried_after_the_others() {
    for (error, guilty) in [
        (SysError::NoPort, false),
        (SysError::NoAddress, false),
        (SysError::Exhausted, false),
        (SysError::Refused, true),
        (SysError::Unreachable, true),
    ] {
        let locals = [address(8), address(9)];
        let mut desk = Desk::new(&locals);
        desk.net.unreachable = Some(error);
        desk.visit(1);
        desk.net.unreachable = None;
        desk.tell(ToClientLoop::Tunnel {
            tunnel: TUNNEL,
            locals: vec![locals[0], locals[1], address(7)],
            place: LocalAt::Address,
            sources: vec![],
            serving: Serving::default(),
            label: None,
        });
        let order = desk.client.locals[&TUNNEL].name.in_order();
        let first = if guilty { address(7) } else { locals[0] };
        assert_eq!(order[0], first, "{error:?}");
        assert_eq!(desk.net.connects, 2, "{error:?}: both were tried");
    }
}
