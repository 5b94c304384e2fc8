//! P-XFER-12: what a conn was given is not acknowledged.

use super::*;

#[test]
fn who_has_sent_and_is_not_heard_asks_for_the_line_and_gives_the_conn_up() {
    for is_well in [false, true] {
        let mut desk = Desk::new(&[address(9)]);
        desk.visit(1);
        let stream = desk.local_says(b"never acknowledged");
        let (began, asks) = (desk.now, FromClientLoop::AskLine { serial: SERIAL, loop_index: 0, conn: ConnId(1) });
        let mut repeats = 0;
        while !desk.net.from_client_loop.contains(&asks) {
            repeats += 1;
            let heard = desk.next().since(began);
            assert!(heard < Duration::from_secs(60), "nobody asks: {:?}", desk.net.from_client_loop);
            desk.net.unacked = Some(Unacked { repeats, heard });
            desk.pass();
        }
        let heard = if is_well { desk.now } else { began };
        let line = Line { since: Instant::ZERO, heard };
        desk.tell(ToClientLoop::Line { serial: SERIAL, conn: ConnId(1), line });
        let (conn, epoch, code) = (ConnId(1), Epoch(1), AbortCode::ConnLost);
        let abort = FromClientLoop::Message { serial: SERIAL, msg: ClientMsg::Abort { conn, epoch, code } };
        assert_eq!(desk.net.from_client_loop.contains(&abort), is_well);
        assert_eq!(desk.net.reset.contains(&stream), is_well);
        assert_eq!(desk.client.sockets(), if is_well { 0 } else { 2 });
    }
}
