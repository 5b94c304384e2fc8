//! What a peer sends on a path: what it says first, and its datagrams.

use protocol_sm::auth::{Channel, Prover, SessionKey, Transcript};
use protocol_sm::datagrams::{PathDatagram, PathState};
use protocol_sm::ids::{ClientId, SessionId};
use protocol_sm::settings::Token;
use protocol_sm::wire::{
    ClientHandshake, ClientHello, ConnKind, PATHS, Preface, Reply, ServerHandshake, ServerHello, ToClient, ToServer,
};

const SESSION: SessionId = SessionId([7; 16]);

/// The bytes are a datagram, and what was said first; neither is ever taken for what it is not.
pub fn path(data: &[u8]) {
    datagram(data);
    proofs(data);
}

/// It is a flow's, and as long as it was, or none.
fn datagram(data: &[u8]) {
    let Some(read) = PathDatagram::decode(data.to_vec()) else { return };
    let made = PathDatagram::new(read.conn, read.epoch, read.payload());
    assert_eq!((&made, made.clone().into_bytes().as_slice()), (&read, data), "there is one way to say it");
    let (conn, epoch, length) = (read.conn, read.epoch, read.payload().len());
    for (size, takes) in [(data.len(), true), (data.len() - 1, false), (usize::MAX, true)] {
        assert_eq!(PathState::Up { size }.takes(conn, epoch, length), takes, "{size}");
    }
    assert!(!PathState::Down.takes(conn, epoch, length));
}

/// The first bytes say of which channel it is, the others what somebody has changed of what is said there.
fn proofs(data: &[u8]) {
    let Some((&channel, changes)) = data.split_first_chunk::<32>() else { return };
    let (key, channel) = (key(), Channel(channel));
    let hello = key.path_hello(SESSION, &channel);
    let said = changed(&hello, changes);
    assert_eq!(key.answer_path(SESSION, &channel, &said).is_some(), said == hello, "none but the session's client");
    let answer = key.answer_path(SESSION, &channel, &hello).expect("it is proved");
    let said = changed(&answer, changes);
    assert_eq!(key.path_answer_matches(SESSION, &channel, &said), said == answer, "none but its server");
}

/// As many bytes as there are changes.
fn changed(said: &[u8], changes: &[u8]) -> Vec<u8> {
    let said = said.iter().copied().chain(std::iter::repeat(0));
    changes.iter().zip(said).map(|(change, byte)| change ^ byte).collect()
}

fn key() -> SessionKey {
    let (client, token, features) = (ClientId([1; 16]), true, PATHS);
    let hello = ClientHello { nonce: [2; 32], client, token, features, resume: None };
    let hello = ToServer::Handshake(ClientHandshake::Hello(hello));
    let answer = ToClient::Handshake(ServerHandshake::Hello(ServerHello { nonce: [3; 32], features }));
    let preface = Preface::ours(ConnKind::Ctl);
    let transcript = Transcript::new(preface.encode(), Reply::to(preface).encode(), &hello, &answer);
    Prover::new(Some(&Token::new(b"secret".to_vec())), transcript).session_key(SESSION)
}
