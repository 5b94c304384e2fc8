//! P-SESS-7: what a peer leaves unacknowledged is bounded.

use protocol_sm::codes::Violation;
use protocol_sm::session::NumberedMessages;

#[test]
fn a_peer_that_acknowledges_nothing_is_given_up() {
    let mut session = NumberedMessages::bounded(1000);
    for seq in 1..=1000 {
        assert_eq!(session.send(()), Ok(seq));
    }
    assert_eq!(session.send(()), Err(Violation::Unacknowledged));
    session.on_ack(1).expect("it was sent");
    assert_eq!(session.send(()), Ok(1001), "an acknowledgement makes room");
}
