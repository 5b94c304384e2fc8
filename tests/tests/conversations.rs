//! The direct connection is the oracle: seeded conversations are held directly and through the tunnel, and both ends
//! must see through the tunnel what they could have seen without it.
//!
//! `CONVERSATIONS=5000 cargo test -p tests --test end_to_end conversations::` holds more; `FIRST_SEED` says where to begin.

use tests::conversation::{Conversation, Held, Outcome, Player, Seen, Step, compare};
use tests::limit::arm;
use tests::programs::{Client, Server, options};

/// How many are held, and from which seed on.
fn seeds() -> std::ops::Range<u32> {
    let number = |name: &str, otherwise| {
        std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let first = number("FIRST_SEED", 0);
    first..first + number("CONVERSATIONS", 300)
}

#[test]
fn what_both_ends_see_could_have_been_seen_directly() {
    let player = Player::start();
    let server = Server::start(options());
    let client = Client::start(&server, options().tunnel(player.addr()));
    if let Err(error) = compare(&player, client.public(), seeds()) {
        panic!("{error}");
    }
}

#[test]
fn what_could_not_have_been_seen_directly_is_noticed() {
    arm();
    let conversation = Conversation {
        seed: 1,
        visitor: vec![Step::ReadToEnd],
        service: vec![Step::Send(10), Step::Flush, Step::Reset],
    };
    let service = Outcome { sent: 10, read: 0, seen: Seen::Nothing };
    let held = |read, seen| Held { visitor: Outcome { sent: 0, read, seen }, service };
    let direct = [held(10, Seen::Reset)];
    assert_eq!(conversation.judge(held(10, Seen::Reset), &direct), Ok(()));
    for wrong in [held(9, Seen::Reset), held(9, Seen::End), held(10, Seen::End), held(11, Seen::Reset)] {
        assert!(conversation.judge(wrong, &direct).is_err(), "{wrong:?}");
    }
    let clean = Conversation { service: vec![Step::Send(10), Step::Shut, Step::ReadToEnd], ..conversation };
    assert!(clean.judge(held(10, Seen::Reset), &[held(10, Seen::End)]).is_err());
    assert_eq!(clean.judge(held(10, Seen::End), &[held(10, Seen::End)]), Ok(()));
}

#[test]
fn the_direct_connection_itself_is_never_judged_wrong() {
    let player = Player::start();
    if let Err(error) = compare(&player, player.addr(), seeds()) {
        panic!("{error}");
    }
}
