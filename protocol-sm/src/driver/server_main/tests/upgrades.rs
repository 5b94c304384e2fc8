//! Each step of an upgrade, where it is due and where it is not.

use super::super::super::messages::FromServerLoop;
use super::super::super::stub::Inbox;
use super::*;

const STEPS: [Step; 4] = [Step::Lend, Step::Settle, Step::Leave, Step::GoOn];

/// How far an upgrade has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Far {
    No,
    /// The listener has not lent its ports yet.
    Lending,
    Lent,
    Settling,
    Settled,
    Left,
}

fn upgraded(far: Far) -> Desk {
    let mut desk = Desk::new(ServerSettings::default());
    type Go = fn(&mut Desk);
    let way: [(Far, Go); 5] = [
        (Far::Lending, |desk| desk.upgrade(Step::Lend)),
        (Far::Lent, |desk| desk.tell(ToServerMain::Listener(FromListener::Lent { count: 3 }))),
        (Far::Settling, |desk| desk.upgrade(Step::Settle)),
        (Far::Settled, |desk| (0..LOOPS).for_each(|loop_index| settle(desk, loop_index))),
        (Far::Left, |desk| desk.upgrade(Step::Leave)),
    ];
    let due = way.iter().position(|&(reached, _)| reached == far).map_or(0, |index| index + 1);
    way[..due].iter().for_each(|(_, go)| go(&mut desk));
    desk
}

fn settle(desk: &mut Desk, loop_index: usize) {
    desk.tell(ToServerMain::Loop(FromServerLoop::Settled { loop_index }));
}

#[test]
fn each_step_is_taken_in_its_place_and_by_a_server_that_goes_on() {
    for far in [Far::No, Far::Lending, Far::Lent, Far::Settling, Far::Settled, Far::Left] {
        for (step, stops) in STEPS.into_iter().flat_map(|step| [(step, false), (step, true)]) {
            let mut desk = upgraded(far);
            if stops {
                desk.tell(ToServerMain::Stop);
            }
            desk.forget();
            let before = desk.main.upgrade.clone();
            desk.upgrade(step);
            let taken = match (far, step) {
                (Far::No, Step::Lend) | (Far::Lent, Step::Settle) | (Far::Settled, Step::Leave) => !stops,
                (Far::Lending | Far::Lent | Far::Settling | Far::Settled, Step::GoOn) => true,
                _ => false,
            };
            let told: &[_] = if taken { &[ToListener::Upgrade(step)] } else { &[] };
            assert_eq!(desk.net.to_listener, told, "{step:?} at {far:?}, stops: {stops}");
            if !taken {
                assert_eq!((desk.done(), &desk.main.upgrade), (vec![0], &before), "{step:?} at {far:?}");
            }
        }
    }
}

#[test]
fn everything_is_lent_and_whoever_asked_is_told_when_the_listener_has_lent_too() {
    let mut desk = upgraded(Far::Lending);
    assert_eq!(desk.done(), [0; 0]);
    assert_eq!(desk.net.lent, [Purpose::Ctl, Purpose::Proxy].map(Given::Door));
    desk.tell(ToServerMain::Listener(FromListener::Lent { count: 3 }));
    assert_eq!(desk.done(), [5]);
}

#[test]
fn all_loops_have_settled_or_two_seconds_are_over() {
    let mut desk = upgraded(Far::Settling);
    desk.forget();
    (0..2).for_each(|_| settle(&mut desk, 0));
    assert_eq!(desk.done(), [0; 0]);
    settle(&mut desk, 1);
    assert_eq!(desk.done(), [1]);

    let mut desk = upgraded(Far::Settling);
    desk.forget();
    settle(&mut desk, 1);
    let next = Driver::<Net>::next_deadline(&desk.main).expect("it waits for the other loop");
    assert_eq!(next, desk.now + Duration::from_secs(2));
    desk.now = next;
    desk.with(|main, cx| main.on_deadline(cx));
    assert_eq!(desk.done(), [1]);
}

#[test]
fn whoever_came_to_the_doors_meanwhile_is_accepted_when_nobody_takes_over() {
    let mut desk = upgraded(Far::Settled);
    desk.net.inboxes.insert(1, Inbox::default());
    desk.net.backlog.push_back(1);
    let doors = desk.main.doors();
    desk.with(|main, cx| doors.iter().for_each(|&door| main.on_ready(cx, door, Readiness::default())));
    assert_eq!(desk.net.backlog.len(), 1, "the other process is to accept it");
    desk.upgrade(Step::GoOn);
    while Driver::<Net>::is_busy(&desk.main) {
        desk.with(|main, cx| main.run_busy(cx));
    }
    assert_eq!(desk.net.backlog.len(), 0);
}

/// P-LEAVE-1, P-TAKE-3.
#[test]
fn each_client_is_told_what_it_understands_and_who_is_away_is_let_go() {
    let mut desk = upgraded(Far::Settled);
    let (new, old, away, former) = (desk.join(1, LEAVE), desk.join(2, 0), desk.join(3, LEAVE), desk.join(4, LEAVE));
    let heir = desk.take_over(former);
    desk.lose(away);
    desk.forget();
    desk.upgrade(Step::Leave);
    assert_eq!(desk.done(), [4]);
    assert_eq!(desk.said(new), [ServerMsg::Leave { code: LeaveCode::Upgraded }]);
    assert_eq!(desk.said(old), [ServerMsg::Drain]);
    assert!(desk.main.sessions.get(away).is_none());
    assert_eq!(desk.said(former), [ServerMsg::Leave { code: LeaveCode::TakenOver }], "nothing is handed over any more");
    assert_eq!(desk.said(heir), [ServerMsg::Leave { code: LeaveCode::Upgraded }]);
    let told = |loop_index| desk.net.to_loops.contains(&(loop_index, ToServerLoop::Leave));
    assert!((0..LOOPS).all(told), "{:?}", desk.net.to_loops);
    assert_eq!(desk.net.closed, [address(8080), address(8090)]);
}
