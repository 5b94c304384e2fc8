//! What each thing that a reload changes is told to whom.

use super::*;

fn reload(desk: &mut Desk, change: impl FnOnce(&mut ServerSettings)) {
    let mut new = desk.main.settings.clone();
    change(&mut new);
    desk.forget();
    desk.tell(ToServerMain::Reload(Box::new(new)));
}

/// P-AUTH-16.
#[test]
fn who_waits_for_a_rival_goes_with_its_token() {
    for kept in [false, true] {
        let token = |name: &str| Secret::new(format!("{name} has a long token").into_bytes());
        let credential = Credential { name: "a".into(), tokens: vec![token("a")], scope: Scope::default() };
        let mut desk = Desk::new(ServerSettings { credentials: vec![credential], ..ServerSettings::default() });
        let rival = desk.join(1, LEAVE);
        let (challenge, mut access) = Challenge::passed(hello(1));
        (access.credential, access.token) = (Some(0), Some(token("a")));
        let newcomer = desk.ctl_conn(Stage::Parked { challenge, access, rival });
        desk.main.sessions.get_mut(rival).expect("it is there").rival = Some(newcomer);
        reload(&mut desk, |new| {
            let a = kept.then(|| token("a"));
            new.credentials[0].tokens = a.into_iter().chain([token("b")]).collect();
        });
        assert_eq!(desk.main.slots.get(newcomer).is_some(), kept);
    }
}

#[test]
fn fewer_sessions_are_let_in() {
    let mut desk = Desk::new(ServerSettings::default());
    desk.join(1, LEAVE);
    reload(&mut desk, |new| new.max_sessions = 3);
    assert_eq!(desk.main.sessions.ledger().left(Good::Session), 2);
}

/// Each limit by itself reaches each of the loops, and no other change does.
#[test]
fn the_loops_are_told_what_a_session_may_use() {
    type Change = fn(&mut ServerSettings);
    let changes: [(bool, Change); 5] = [
        (true, |new| new.open_scope.max_waiting += 2),
        (true, |new| new.open_scope.max_connections += 2),
        (true, |new| new.open_scope.max_bandwidth = core::num::NonZeroU64::new(5000)),
        (true, |new| new.idle_conns += 2),
        (false, |new| new.open_scope.max_tunnels -= 1),
    ];
    for (index, (told, change)) in changes.into_iter().enumerate() {
        let mut desk = Desk::new(ServerSettings::default());
        let key = desk.join(1, LEAVE);
        reload(&mut desk, change);
        let settings = &desk.main.settings;
        let limits = |loop_index| desk.main.limits(None, &settings.open_scope, 0, loop_index);
        let expected: Vec<_> = (0..LOOPS)
            .filter(|_| told)
            .map(|loop_index| (loop_index, ToServerLoop::Limits { control: key, limits: limits(loop_index) }))
            .collect();
        assert_eq!(desk.net.to_loops, expected, "change {index}");
    }
}

#[test]
fn a_ctl_conn_holds_what_its_session_may_leave_unacknowledged_now() {
    let mut desk = Desk::new(ServerSettings::default());
    let key = desk.join(1, LEAVE);
    reload(&mut desk, |new| new.open_scope.max_connections *= 2);
    let entry = desk.main.sessions.get(key).expect("it is there");
    let token = entry.ctl_conn().expect("it has one");
    let Some(Slot::Ctl(conn)) = desk.main.slots.get(token) else { panic!("a ctl_conn") };
    let mut expected = conn.link.clone();
    expected.on_session(entry.control.session.max_unacked());
    assert_eq!(conn.link, expected);
}

#[test]
fn everybody_is_told_other_times() {
    let mut desk = Desk::new(ServerSettings::default());
    reload(&mut desk, |new| new.timings.wait_timeout *= 2);
    let (timings, routing) = (Box::new(desk.main.settings.timings.clone()), Box::new(desk.main.settings.routing()));
    let told: Vec<_> = (0..LOOPS).map(|loop_index| (loop_index, ToServerLoop::KeepTo(timings.clone()))).collect();
    assert_eq!(desk.net.to_loops, told);
    assert_eq!(desk.net.to_listener, [ToListener::KeepTo(timings, routing)]);
}
