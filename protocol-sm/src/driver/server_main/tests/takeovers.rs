//! A client's next process takes over, or may not.

use super::*;

/// P-TAKE-6: whoever is taken over from must leave, and does one thing at a time.
#[test]
fn who_may_take_over_from_whom() {
    let mut desk = Desk::new(ServerSettings::default());
    let may = |desk: &mut Desk, key, offered| desk.with(|main, cx| main.may_take_over(cx, key, &hello(1), offered));
    for (client, has, offered, expected) in
        [(1, LEAVE, TAKEOVER, true), (2, LEAVE, 0, false), (3, 0, TAKEOVER, false), (4, 0, 0, false)]
    {
        let key = desk.join(client, has);
        assert_eq!(may(&mut desk, key, offered), expected, "{has} {offered}");
    }
    let former = desk.join(5, LEAVE);
    let heir = desk.take_over(former);
    assert!(!may(&mut desk, heir, TAKEOVER), "it takes over itself");
    desk.with(|main, cx| main.end_handover(cx, heir));
    assert!(may(&mut desk, heir, TAKEOVER));
}

/// One that takes over from `former` has proved itself, and `former` has just shown that it lives.
fn come(desk: &mut Desk, former: ControlKey) -> Token {
    let (challenge, access) = Challenge::passed(hello(1));
    let newcomer = desk.ctl_conn(Stage::Parked { challenge, access, rival: former });
    desk.main.sessions.get_mut(former).expect("it is there").rival = Some(newcomer);
    desk.with(|main, cx| main.answer_rival(cx, former));
    newcomer
}

#[test]
fn a_server_that_stops_lets_nobody_take_over() {
    for stops in [false, true] {
        let mut desk = Desk::new(ServerSettings::default());
        let former = desk.join(1, LEAVE);
        if stops {
            desk.tell(ToServerMain::Stop);
        }
        let newcomer = come(&mut desk, former);
        let (sessions, there) = (desk.main.sessions(), desk.main.slots.get(newcomer).is_some());
        assert_eq!((sessions, there), if stops { (1, false) } else { (2, true) });
    }
}

/// P-TAKE-5: what leaves takes no place, but the one before it makes room.
#[test]
fn a_takeover_needs_no_further_session_and_leaves_two_at_most() {
    let open_scope = Scope { max_sessions: 1, ..Scope::default() };
    let mut desk = Desk::new(ServerSettings { open_scope, ..ServerSettings::default() });
    let first = desk.join(1, LEAVE);
    let mut keys = vec![first];
    for round in 1..4 {
        come(&mut desk, *keys.last().expect("one at least"));
        keys = desk.main.sessions.keys().collect();
        assert_eq!(keys.len(), 2, "round {round}");
        assert_eq!(keys.contains(&first), round == 1);
    }
}

/// P-TAKE-3.
#[test]
fn who_is_taken_over_from_loses_its_ports_and_is_told() {
    let mut desk = Desk::new(ServerSettings::default());
    let former = desk.join(1, LEAVE);
    let heir = desk.take_over(former);
    desk.forget();
    desk.now = desk.now + Duration::from_secs(10);
    desk.with(|main, cx| main.on_deadline(cx));
    assert!(!desk.main.sessions.takes_over(heir));
    assert_eq!(desk.net.to_listener, [ToListener::Retire { control: former }]);
    assert_eq!(desk.said(former), [ServerMsg::Leave { code: LeaveCode::TakenOver }]);
}

/// P-TAKE-4: in each of its periods.
#[test]
fn a_newcomer_that_has_no_ctl_conn_has_more_time_to_take_over() {
    let mut desk = Desk::new(ServerSettings::default());
    let former = desk.join(1, LEAVE);
    let heir = desk.take_over(former);
    desk.lose(heir);
    for _ in 0..3 {
        desk.now = desk.now + Duration::from_secs(10);
        desk.with(|main, cx| main.on_deadline(cx));
        assert!(desk.main.sessions.takes_over(heir));
    }
    assert_eq!(desk.said(former), []);
}

/// P-TAKE-4.
#[test]
fn what_was_taken_over_goes_back_when_the_newcomer_is_gone_before_it_has_all() {
    let mut desk = Desk::new(ServerSettings::default());
    let former = desk.join(1, LEAVE);
    desk.register(former, 1, 6000);
    desk.register(former, 2, 6001);
    let said = desk.said(former);
    let heir = desk.take_over(former);
    desk.register(heir, 9, 6000);
    assert!(desk.main.sessions.takes_over(heir), "there is another");
    desk.with(|main, cx| main.end_session(cx, heir, CloseCode::Bye, AbortCode::SessionOver));
    let back = ServerMsg::TunnelClosed { tunnel: TunnelId(1), code: TunnelRefusal::PortInUse };
    assert_eq!(desk.said(former)[said.len()..], [back]);
}
