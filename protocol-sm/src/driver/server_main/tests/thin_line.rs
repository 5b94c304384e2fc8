//! P-AUTH-12: the conns that a client was asked for have to wait behind its own payload.

use super::*;

/// How many of `come` that say nothing are left after one, eleven and twelve limits, where their client was asked for
/// `asked`.
fn left(asked: u32, come: u32) -> [usize; 3] {
    let mut desk = Desk::new(ServerSettings::default());
    let key = desk.join(1, 0);
    let _asks = desk.main.sessions.act(key, |control, _| control.on_ask(0, asked));
    for stream in 1..=come {
        desk.net.put(stream, b"");
        let (came, purposes) = (desk.now, Purposes::default().with(Purpose::Proxy));
        let caller = Caller { stream, from: address(9), is_named: true, came, purposes };
        desk.with(|main, cx| main.on_client(cx, caller));
    }
    let began = desk.now;
    [1, 11, 12].map(|limits| {
        let until = began + desk.main.settings.timings.handshake_timeout * limits;
        while let Some(next) = Driver::<Net>::next_deadline(&desk.main).filter(|&next| next <= until) {
            desk.now = next;
            desk.with(|main, cx| main.on_deadline(cx));
        }
        desk.main.handshake_limit.len()
    })
}

#[test]
fn who_was_asked_for_has_longer_to_say_hello_and_others_have_not() {
    assert_eq!(left(0, 1), [0, 0, 0]);
    assert_eq!(left(2, 2), [2, 2, 0]);
    assert_eq!(left(2, 5), [2, 2, 0]);
}
