//! The committed test vectors: they are what the codec says today, and what they say is what the codec
//! does. The proofs are computed here a second time, from PROTOCOL.md's formulas.
#[path = "../examples/vectors/document.rs"]
mod document;

use hmac::{Hmac, Mac};
use protocol_sm::auth::{Channel, Prover, Transcript};
use protocol_sm::datagrams::{Deframer, PathDatagram, TooLong};
use protocol_sm::ids::{ConnId, Epoch, SessionId};
use protocol_sm::settings::Token;
use protocol_sm::wire::{
    CHANNEL, ClientHandshake, ConnHello, ConnKind, Framer, Greeting, Message, Preface, PrefaceReader, ProxyToClient,
    ProxyToServer, Reply, ReplyReader, ServerHandshake, ToClient, ToServer, VERSION, WireError,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::Debug;

const COMMITTED: &str = include_str!("../vectors.json");

fn section(name: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(COMMITTED).expect("vectors.json is JSON");
    all[name].as_array().unwrap_or_else(|| panic!("vectors.json has {name}")).clone()
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_else(|| panic!("{key} is a string in {row}"))
}

fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_else(|| panic!("{key} is a number in {row}"))
}

fn unhex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2), "hex comes in pairs: {digits}");
    let byte = |i| u8::from_str_radix(&digits[i..i + 2], 16).expect("hex");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn bytes(row: &Value, key: &str) -> Vec<u8> {
    unhex(text(row, key))
}

fn eight(row: &Value, key: &str) -> [u8; 8] {
    bytes(row, key).try_into().expect("prefaces have eight bytes")
}

/// Turns the hex strings of byte arrays back into what serde expects.
fn message_from<M: DeserializeOwned>(fields: &Value) -> M {
    fn arrays(value: Value) -> Value {
        let Value::Object(fields) = value else { return value };
        let field = |(key, value): (String, Value)| {
            let is_bytes = ["nonce", "client", "session", "proof", "Proof", "pin"].contains(&key.as_str());
            let value = match value.as_str() {
                Some(digits) if is_bytes => unhex(digits).into(),
                Some(_) | None => arrays(value),
            };
            (key, value)
        };
        Value::Object(fields.into_iter().map(field).collect())
    }
    serde_json::from_value(arrays(fields.clone())).unwrap_or_else(|error| panic!("{error}: {fields}"))
}

/// Calls `check` with the message type that `direction` names.
fn with_direction(direction: &str, row: &Value, check: impl Check) {
    match direction {
        "ctl_to_server" => check.run::<ToServer>(row),
        "ctl_to_client" => check.run::<ToClient>(row),
        "proxy_to_server" => check.run::<ProxyToServer>(row),
        "proxy_to_client" => check.run::<ProxyToClient>(row),
        other => panic!("no such direction: {other}"),
    }
}

trait Check {
    fn run<M: Message + PartialEq + Debug>(self, row: &Value);
}

fn decode<M: Message>(frame: &[u8]) -> Result<Option<M>, WireError> {
    Framer::default().next(&mut &frame[..])
}

#[test]
fn the_committed_vectors_are_the_codecs() {
    for (now, committed) in document::document().lines().zip(COMMITTED.lines()) {
        assert_eq!(now, committed, "renew: cargo run -p protocol-sm --example vectors");
    }
    assert_eq!(document::document().len(), COMMITTED.len());
}

#[test]
fn messages_encode_and_decode_as_written() {
    struct Both;
    impl Check for Both {
        fn run<M: Message + PartialEq + Debug>(self, row: &Value) {
            let message: M = message_from(&row["message"]);
            let frame = bytes(row, "frame");
            let mut encoded = Vec::new();
            message.encode_to(&mut encoded);
            assert_eq!(encoded, frame, "{row}");
            assert_eq!(decode(&frame), Ok(Some(message)), "{row}");
        }
    }
    let rows = section("messages");
    assert!(rows.len() > 60, "every message and every code");
    for row in &rows {
        with_direction(text(row, "direction"), row, Both);
    }
}

#[test]
fn invalid_frames_are_refused_as_written() {
    struct Refused;
    impl Check for Refused {
        fn run<M: Message + PartialEq + Debug>(self, row: &Value) {
            let error = match text(row, "error") {
                "Length" => WireError::Length,
                "Malformed" => WireError::Malformed,
                other => panic!("no such error: {other}"),
            };
            assert_eq!(decode::<M>(&bytes(row, "frame")), Err(error), "{row}");
        }
    }
    for row in &section("invalid_frames") {
        with_direction(text(row, "direction"), row, Refused);
    }
}

/// So that a message or code that is added later finds its way into the vectors.
#[test]
fn nothing_decodes_behind_the_first_unknown_numbers() {
    struct Padded;
    impl Check for Padded {
        fn run<M: Message + PartialEq + Debug>(self, row: &Value) {
            let mut body = bytes(row, "frame").split_off(2);
            while body.len() <= 120 {
                assert_eq!(M::decode(&body), Err(WireError::Malformed), "{row}: {body:?}");
                body.push(0);
            }
        }
    }
    let rows = section("invalid_frames");
    let unknown: Vec<_> = rows.iter().filter(|row| text(row, "why").starts_with("the first unknown")).collect();
    assert_eq!(unknown.len(), 21, "every list of messages and codes, in every direction");
    for row in unknown {
        with_direction(text(row, "direction"), row, Padded);
    }
}

#[test]
fn varints_are_those_of_the_messages() {
    for row in &section("varints") {
        let received = number(row, "value");
        let body = [&[2][..], &bytes(row, "hex")].concat();
        assert_eq!(ToServer::decode(&body), Ok(ToServer::Ping { received }), "{row}");
    }
    for row in &section("invalid_varints") {
        let before: &[u8] = match number(row, "bits") {
            16 => &[1, 1, 0, 1],
            32 => &[1, 1, 2],
            64 => &[2],
            other => panic!("no integer has {other} bits"),
        };
        let after: &[u8] = if number(row, "bits") == 16 { &[0] } else { &[] };
        let body = [before, &bytes(row, "hex"), after].concat();
        assert_eq!(ToServer::decode(&body), Err(WireError::Malformed), "{row}");
    }
}

#[test]
fn streams_are_cut_alike_at_every_split() {
    struct Split;
    impl Check for Split {
        fn run<M: Message + PartialEq + Debug>(self, row: &Value) {
            let stream = bytes(row, "hex");
            let rest = bytes(row, "rest");
            let expected: Vec<M> = row["messages"].as_array().expect("a list").iter().map(message_from).collect();
            for split in 0..=stream.len() {
                let mut framer = Framer::<M>::default();
                let mut messages = Vec::new();
                let (first, second) = stream.split_at(split);
                let mut left = Vec::new();
                for mut part in [first, second] {
                    while messages.len() < expected.len() {
                        match framer.next(&mut part).expect("a valid stream") {
                            Some(message) => messages.push(message),
                            None => break,
                        }
                    }
                    left.extend_from_slice(part);
                }
                assert_eq!(messages, expected, "split at {split}: {row}");
                assert_eq!(left, rest, "split at {split}: {row}");
            }
        }
    }
    for row in &section("streams") {
        with_direction(text(row, "direction"), row, Split);
    }
}

/// P-UDP-2.
#[test]
fn flows_are_cut_alike_at_every_split() {
    for row in &section("flows") {
        let stream = bytes(row, "hex");
        let expected: Vec<_> =
            row["datagrams"].as_array().expect("a list").iter().map(|hex| unhex(hex.as_str().expect("hex"))).collect();
        for split in 0..=stream.len() {
            let (mut deframer, mut datagrams, mut refused) = (Deframer::default(), Vec::new(), false);
            let (first, second) = stream.split_at(split);
            for part in [first, second] {
                deframer.push(part);
                while !refused {
                    match deframer.pop() {
                        Ok(Some(datagram)) => datagrams.push(datagram.to_vec()),
                        Ok(None) => break,
                        Err(TooLong) => refused = true,
                    }
                }
            }
            assert_eq!(datagrams, expected, "split at {split}: {row}");
            assert_eq!(refused, row["rest"].is_null(), "split at {split}: {row}");
            assert_eq!(refused || deframer.is_empty(), refused || text(row, "rest").is_empty(), "{row}");
        }
    }
}

fn port(row: &Value) -> ConnKind {
    match text(row, "kind") {
        "ctl" => ConnKind::Ctl,
        "proxy" => ConnKind::Proxy,
        other => panic!("no such kind: {other}"),
    }
}

/// P-PATH-5.
#[test]
fn datagrams_of_paths_say_whose_they_are() {
    for row in &section("path_datagrams") {
        let read = PathDatagram::decode(bytes(row, "hex"));
        let flow = &row["flow"];
        if flow.is_null() {
            assert_eq!(read, None, "{row}");
            continue;
        }
        let epoch = u32::try_from(number(flow, "epoch")).expect("32 bits");
        let datagram = PathDatagram::new(ConnId(number(flow, "conn")), Epoch(epoch), &bytes(flow, "datagram"));
        assert_eq!(read.as_ref(), Some(&datagram), "{row}");
        assert_eq!(datagram.into_bytes(), bytes(row, "hex"), "{row}");
    }
}

/// Feeds byte by byte and returns the answer and how many bytes it took.
fn read_slowly<T>(
    bytes: &[u8],
    mut next: impl FnMut(&mut &[u8]) -> Result<Option<T>, WireError>,
) -> (Result<Option<T>, WireError>, usize) {
    for (i, byte) in bytes.iter().enumerate() {
        match next(&mut [*byte].as_slice()) {
            Ok(None) => {}
            answer => return (answer, i + 1),
        }
    }
    (Ok(None), bytes.len())
}

#[test]
fn prefaces_are_read_and_refused_as_written() {
    for row in &section("prefaces") {
        let [min, max] = ["min", "max"].map(|key| u8::try_from(number(row, key)).expect("a byte"));
        let preface = Preface { port: port(row), min, max };
        let bytes = eight(row, "hex");
        assert_eq!(preface.encode(), bytes, "{row}");
        let mut reader = PrefaceReader::default();
        assert_eq!(read_slowly(&bytes, |input| reader.next(input)), (Ok(Some(preface)), 8));
    }
    for row in &section("invalid_prefaces") {
        let mut reader = PrefaceReader::default();
        let (answer, after) = read_slowly(&bytes(row, "hex"), |input| reader.next(input));
        assert_eq!(answer, Err(WireError::NotCproxy), "{row}");
        assert_eq!(after as u64, number(row, "refused_after"), "{row}");
        // P-PREF-4 alone: at the first byte that is not the magic's, or after the eighth.
        let bytes = bytes(row, "hex");
        let wrong = b"CPXY".iter().zip(&bytes).position(|(magic, byte)| magic != byte);
        assert_eq!(number(row, "without_p_tls_5"), wrong.map_or(8, |at| at as u64 + 1), "{row}");
    }
}

fn preface_of(row: &Value, key: &str) -> Preface {
    let read = PrefaceReader::default().next(&mut eight(row, key).as_slice());
    read.expect("ours").expect("whole")
}

#[test]
fn replies_are_read_and_refused_as_written() {
    for row in &section("replies") {
        let asked = preface_of(row, "to");
        let [version, min, max] = ["version", "min", "max"].map(|key| u8::try_from(number(row, key)).expect("a byte"));
        let greeting = match version {
            0 => Greeting::Refused { min, max },
            version => Greeting::Version { version, min, max },
        };
        let reply = Reply { port: asked.port, greeting };
        assert_eq!(reply.encode(), eight(row, "hex"), "{row}");
        if max == VERSION {
            assert_eq!(Reply::to(asked), reply, "what this server answers: {row}");
        }
        let read = ReplyReader::default().next(asked, &mut bytes(row, "hex").as_slice());
        assert_eq!(read, Ok(Some(reply)), "{row}");
    }
    for row in &section("invalid_replies") {
        let asked = preface_of(row, "to");
        let mut reader = ReplyReader::default();
        let (answer, after) = read_slowly(&bytes(row, "hex"), |input| reader.next(asked, input));
        assert_eq!(answer, Err(WireError::NotCproxy), "{row}");
        assert_eq!(after as u64, number(row, "refused_after"), "{row}");
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn message<M: Message>(row: &Value, key: &str) -> M {
    decode(&bytes(row, key)).expect("valid").expect("whole")
}

#[test]
fn handshakes_prove_what_the_formulas_say() {
    let rows = section("handshakes");
    let tokens: BTreeSet<_> = rows.iter().map(|row| row["token"].is_null()).collect();
    assert_eq!(tokens.len(), 2, "with a token and without");
    for row in &rows {
        let said = ["preface", "reply", "client_hello", "server_hello"];
        let said: Vec<u8> = said.iter().flat_map(|key| bytes(row, key)).collect();
        let mut transcript: [u8; 32] = Sha256::digest(said).into();
        let ToServer::Handshake(ClientHandshake::Hello(hello)) = message(row, "client_hello") else {
            panic!("a hello")
        };
        assert_eq!(hello.features & CHANNEL != 0, channel_of(row).is_some(), "{row}");
        if let Some(channel) = channel_of(row) {
            transcript = Sha256::digest([transcript, channel.0].concat()).into();
        }
        assert_eq!(transcript.as_slice(), bytes(row, "transcript"), "{row}");
        let secret = if row["token"].is_null() { Vec::new() } else { bytes(row, "token") };
        let session = bytes(row, "session");

        let proof = hmac(&secret, &[b"cproxy client", &transcript]);
        let expected = ToServer::Handshake(ClientHandshake::Proof(proof));
        assert_eq!(message::<ToServer>(row, "client_proof"), expected, "{row}");

        let ToClient::Handshake(ServerHandshake::Welcome(welcome)) = message(row, "welcome") else {
            panic!("a welcome: {row}")
        };
        let proof = hmac(
            &secret,
            &[
                b"cproxy server",
                &transcript,
                &session,
                &[u8::from(welcome.resumed)],
                &welcome.received.to_le_bytes(),
                &welcome.proxy_port.to_le_bytes(),
            ],
        );
        assert_eq!(welcome.proof, proof, "{row}");

        // The key stays that of the handshake that began the session (P-AUTH-9).
        let begun = bytes(row, "session_transcript");
        assert_eq!(begun == transcript, !welcome.resumed, "{row}");
        assert!(rows.iter().any(|row| bytes(row, "transcript") == begun), "the handshake that began it is here: {row}");
        let key = hmac(&secret, &[b"cproxy session", &begun, &session]);
        assert_eq!(key.as_slice(), bytes(row, "session_key"), "{row}");
        for conn in row["conns"].as_array().expect("a list") {
            let number = number(conn, "conn").to_le_bytes();
            let key = channel_of(conn).map_or(key, |channel| hmac(&key, &[b"cproxy channel", &channel.0]));
            let ProxyToServer::Hello(hello) = message(conn, "hello") else { panic!("a hello") };
            assert_eq!(hello.proof, hmac(&key, &[b"cproxy conn", &session, &number]), "{conn}");
            let proof = hmac(&key, &[b"cproxy accept", &session, &number]);
            assert_eq!(message::<ProxyToClient>(conn, "accepted"), ProxyToClient::Accepted { proof });
        }
        // P-PATH-4.
        let path = &row["path"];
        let channel = bytes(path, "channel");
        let proof = hmac(&key, &[b"cproxy path", &session, &channel]);
        assert_eq!(bytes(path, "hello"), [&session[..], &proof].concat(), "{row}");
        assert_eq!(bytes(path, "answer"), hmac(&key, &[b"cproxy path answer", &session, &channel]), "{row}");
    }
}

fn transcript_of(row: &Value) -> Transcript {
    Transcript::new(
        eight(row, "preface"),
        eight(row, "reply"),
        &message(row, "client_hello"),
        &message(row, "server_hello"),
    )
    .over(channel_of(row).as_ref())
}

/// Of a connection: its TLS channel, where the proofs cover it.
fn channel_of(row: &Value) -> Option<Channel> {
    (!row["channel"].is_null()).then(|| Channel(bytes(row, "channel").try_into().expect("32 bytes")))
}

#[test]
fn handshakes_are_accepted_and_spoilt_ones_are_not() {
    let rows = section("handshakes");
    for row in &rows {
        let transcript = transcript_of(row);
        let token = (!row["token"].is_null()).then(|| Token::new(bytes(row, "token")));
        let prover = Prover::new(token.as_ref(), transcript);
        let wrong = Token::new(b"wrong".to_vec());
        let stranger = Prover::new(Some(&wrong), transcript);

        let ToServer::Handshake(ClientHandshake::Proof(proof)) = message(row, "client_proof") else {
            panic!("a proof: {row}")
        };
        assert!(prover.client_matches(&proof) && !stranger.client_matches(&proof), "{row}");

        let ToClient::Handshake(ServerHandshake::Welcome(welcome)) = message(row, "welcome") else {
            panic!("a welcome: {row}")
        };
        assert!(prover.welcome_matches(&welcome) && !stranger.welcome_matches(&welcome), "{row}");
        let mut spoilt = welcome;
        spoilt.received += 1;
        assert!(!prover.welcome_matches(&spoilt), "the proof covers every field: {row}");

        let session = SessionId(bytes(row, "session").try_into().expect("16 bytes"));
        let begun = rows.iter().find(|begun| begun["transcript"] == row["session_transcript"]).expect("it is here");
        let key = Prover::new(token.as_ref(), transcript_of(begun)).session_key(session);
        let other = Prover::new(token.as_ref(), transcript).session_key(session);
        for conn in row["conns"].as_array().expect("a list") {
            let id = ConnId(number(conn, "conn"));
            let channel = channel_of(conn);
            let (key, other) = (key.over(channel.as_ref()), other.over(channel.as_ref()));
            let ProxyToServer::Hello(hello) = message(conn, "hello") else { panic!("a hello") };
            assert_eq!(key.hello(session, id), hello, "{conn}");
            assert!(key.hello_matches(&hello), "{conn}");
            assert_eq!(other.hello_matches(&hello), !welcome.resumed, "a resume makes no new key: {conn}");
            assert!(!key.hello_matches(&ConnHello { conn: ConnId(id.0 + 1), ..hello }), "{conn}");
            let ProxyToClient::Accepted { proof } = message(conn, "accepted") else { panic!("an answer") };
            assert!(key.accept_matches(session, id, &proof), "{conn}");
            assert!(!key.accept_matches(session, id, &hello.proof), "not reflectable: {conn}");
        }
    }
}
