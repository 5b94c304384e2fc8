//! Wrong proofs, at the real server: how many it checks.

use super::*;

/// P-AUTH-15: naming a session of one's own lifts the limit on wrong proofs for nobody who guesses.
#[test]
fn guesses_under_a_session_of_ones_own_are_counted() {
    let tables = "[[clients]]\nname = \"a\"\ntoken = \"token a\"\n[[clients]]\nname = \"b\"\ntoken = \"token b\"\n";
    let server = Server::start(options().tables(tables));
    let own = Identity::new().with_token("token a");
    let mut session = RawClient::with(server.ctl(), &own).expect("let in");
    let guess = own.clone().with_token("a guess").resuming(session.welcome.session, 0);
    let guess = || RawClient::with(server.ctl(), &guess).err();
    let guesses = (0..3000).take_while(|_| guess() == Some(HandshakeRefusal::WrongToken)).count();
    assert!((30..3000).contains(&guesses), "{guesses} guesses until one is not checked");
    session.expect_alive();
    // Another holder's client, from the same address, comes back to its session all the same.
    let other = Identity::new().with_token("token b");
    until("there is room for a newcomer again", || RawClient::with(server.ctl(), &other).is_ok());
}

/// P-AUTH-14: whoever comes with one wrong token again and again keeps no newcomer at its address out.
#[test]
fn a_client_with_a_wrong_token_keeps_no_other_at_its_address_out() {
    let server = Server::start(options().env("CPROXY_TOKEN", "the right token"));
    let wrong = Identity::new().with_token("a wrong token");
    for _ in 0..40 {
        let refusal = RawClient::with(server.ctl(), &wrong).expect_err("refused");
        assert!([HandshakeRefusal::WrongToken, HandshakeRefusal::TooManyFailures].contains(&refusal), "{refusal:?}");
        let newcomer = Identity::new().with_token("the right token");
        RawClient::with(server.ctl(), &newcomer).expect("a newcomer gets in").expect_alive();
    }
}

/// P-AUTH-13: whoever guesses is held back, with the right token too, and for seconds only; a session that is there
/// goes on meanwhile.
#[test]
fn guessing_is_slow_and_locks_nobody_out() {
    let server = Server::start(options().env("CPROXY_TOKEN", "the right token"));
    let right = Identity::new().with_token("the right token");
    let mut before = RawClient::with(server.ctl(), &right).expect("let in");
    let guess = || RawClient::with(server.ctl(), &Identity::new().with_token("a wrong token")).err();
    let guesses = (0..1000).take_while(|_| guess() == Some(HandshakeRefusal::WrongToken)).count();
    assert!((10..1000).contains(&guesses), "{guesses} guesses until one is not checked");
    before.expect_alive();
    let session = before.welcome.session;
    before.wire.reset();
    // As many as it takes for another to be refused unchecked: time passes meanwhile.
    until("even the right token is not looked at", || {
        while guess() == Some(HandshakeRefusal::WrongToken) {}
        match RawClient::with(server.ctl(), &Identity::new().with_token("the right token")) {
            Ok(_) => false,
            Err(refusal) => {
                assert_eq!(refusal, HandshakeRefusal::TooManyFailures);
                true
            }
        }
    });
    let resumed = RawClient::with(server.ctl(), &right.resuming(session, 0)).expect("a session that is there goes on");
    assert!(resumed.welcome.resumed);
    until("the right token is good again", || {
        RawClient::with(server.ctl(), &Identity::new().with_token("the right token")).is_ok()
    });
    assert!(server.log().contains("too many wrong tokens"), "the log says why: {}", server.log());
}
