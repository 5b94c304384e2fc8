//! P-POOL-5: what a visitor's conn has to wait behind is its client's own payload.

use super::*;
use crate::notes::Dropped;

const TIMEOUT: Duration = Duration::from_secs(10);

/// After how many limits a visitor is dropped that waits for a conn, where payload moves in the first `moving`.
fn patience(moving: u32, conns_failed: u32) -> u32 {
    let mut desk = serving();
    desk.visit(VISITOR + 1);
    desk.tell(ToServerLoop::ConnFailed { control: CONTROL, count: conns_failed });
    for round in 1..100 {
        if round <= moving {
            desk.hear(CONN, b"payload");
        }
        desk.now = desk.now + TIMEOUT;
        desk.with(|server, cx| server.on_deadline(cx));
        if desk.net.dropped.contains(&Dropped::WaitedTooLong) {
            return round;
        }
    }
    panic!("it is never dropped");
}

#[test]
fn who_waits_for_a_conn_has_as_long_again_while_payload_moves_and_not_for_ever() {
    assert_eq!([0, 1, 2, 11, 12, 99].map(|moving| patience(moving, 0)), [1, 2, 3, 12, 12, 12]);
}

#[test]
fn who_waits_for_nothing_that_is_on_its_way_has_no_longer() {
    assert_eq!(patience(99, 1), 1);
}
