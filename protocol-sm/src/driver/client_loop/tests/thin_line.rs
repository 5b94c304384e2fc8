//! P-POOL-2: what a new conn has to wait behind is its client's own payload.

use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);

/// How payload moves.
#[derive(Clone, Copy)]
enum Moves {
    /// Sockets take it, and the server has it.
    Through,
    /// The server has more of what the sockets took long ago.
    Out,
    /// Sockets take it, and the server has none of it.
    In,
}

/// After how many limits a conn that the server does not answer is given up, where payload moves in the first `moving`.
fn patience(moves: Moves, moving: u32) -> u32 {
    let mut desk = Desk::new(&[address(9)]);
    desk.visit(1);
    let (session, conn) = (SessionId([1; 16]), ConnId(2));
    let (to, secret) = (Destination { to: address(3), through: None }, session_key(session));
    desk.net.unsent = 1000;
    desk.tell(ToClientLoop::Open { from: Origin::default(), to, conn, session, secret });
    let gone = FromClientLoop::ConnGone { serial: SERIAL, conn };
    for round in 1..100 {
        if round <= moving {
            let payload = b"payload";
            match moves {
                Moves::Through => {}
                Moves::Out => desk.net.unsent -= 1,
                Moves::In => desk.net.unsent += payload.len(),
            }
            if !matches!(moves, Moves::Out) {
                desk.local_says(payload);
            }
        }
        desk.now = desk.now + TIMEOUT;
        desk.with(|client, cx| client.on_deadline(cx));
        if desk.net.from_client_loop.contains(&gone) {
            return round;
        }
    }
    panic!("it is never given up");
}

#[test]
fn a_new_conn_has_as_long_again_while_payload_moves_and_not_for_ever() {
    for moves in [Moves::Through, Moves::Out] {
        assert_eq!([0, 1, 2, 11, 12, 99].map(|moving| patience(moves, moving)), [1, 2, 3, 12, 12, 12]);
    }
    assert_eq!(patience(Moves::In, 99), 1);
}
