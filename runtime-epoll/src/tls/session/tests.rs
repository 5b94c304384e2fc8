mod exporter;
mod near_misses;

use super::*;
use crate::tls::{ClientTls, Identity, ServerTls, Tls, Trust};
use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::crypto::ring::cipher_suite::TLS13_AES_256_GCM_SHA384;
use rustls::crypto::{CryptoProvider, GetRandomFailed, SecureRandom, ring};
use rustls::version::TLS13;
use rustls::{ClientConfig, ConnectionTrafficSecrets, ContentType, ProtocolVersion, RootCertStore, ServerConfig};
use std::collections::VecDeque;
use std::sync::Arc;

/// A dice that falls the same way in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// One direction of a connection with a small buffer; every call is cut short at random.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    ended: bool,
}

struct End<'a> {
    from: &'a mut Pipe,
    to: &'a mut Pipe,
    dice: &'a mut Dice,
    room: usize,
}

impl Wire for End<'_> {
    fn recv(&mut self, into: &mut [u8]) -> Result<usize, SysError> {
        if self.from.bytes.is_empty() {
            return if self.from.ended { Ok(0) } else { Err(SysError::WouldBlock) };
        }
        let n = into.len().min(self.from.bytes.len()).min(1 + self.dice.below(20_000));
        into.iter_mut().zip(self.from.bytes.drain(..n)).for_each(|(to, byte)| *to = byte);
        Ok(n)
    }

    fn send(&mut self, from: &[u8]) -> Result<usize, SysError> {
        let n = from.len().min(self.room - self.to.bytes.len().min(self.room)).min(1 + self.dice.below(20_000));
        if n == 0 {
            return Err(SysError::WouldBlock);
        }
        self.to.bytes.extend(&from[..n]);
        Ok(n)
    }

    fn short_means_dry(&self) -> bool {
        // Reads are cut at random.
        false
    }
}

/// A client and a server, and what is between them.
struct Pair {
    sessions: [Session; 2],
    buffers: Buffers,
    up: Pipe,
    down: Pipe,
    dice: Dice,
    room: usize,
}

impl Session {
    fn is_encrypted(&self) -> bool {
        matches!(self.phase, Phase::Up(_))
    }
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

fn tls() -> (ServerTls, ClientTls) {
    let made = rcgen::generate_simple_self_signed(["cproxy".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let identity = Identity { certificate: certificate.as_bytes(), key: key.as_bytes() };
    let server = ServerTls::new(identity, None, "").unwrap();
    let client = ClientTls::new(Trust::Pins(&[server.own().pin()]), "", "127.0.0.1", None).unwrap();
    (server, client)
}

impl Pair {
    fn new(seed: u64, room: usize) -> Self {
        let (server, client) = tls();
        Self::of(client, server, seed, room)
    }

    fn of(client: ClientTls, server: ServerTls, seed: u64, room: usize) -> Self {
        let sessions = [Tls::Client(client).connecting().unwrap().unwrap(), Tls::Server(server).accepted().unwrap()];
        let (up, down) = Default::default();
        Self { sessions, buffers: Buffers::default(), up, down, dice: Dice(seed), room }
    }

    fn with<R>(&mut self, who: usize, call: impl FnOnce(&mut Session, &mut End<'_>, &mut Buffers) -> R) -> R {
        let Self { sessions, buffers, up, down, dice, room } = self;
        let (from, to) = if who == CLIENT { (down, up) } else { (up, down) };
        call(&mut sessions[who], &mut End { from, to, dice, room: *room }, buffers)
    }

    fn recv(&mut self, who: usize, into: &mut [u8]) -> Result<(usize, bool), SysError> {
        self.with(who, |session, wire, buffers| session.recv(wire, buffers, into))
    }

    fn send(&mut self, who: usize, from: &[u8]) -> Result<usize, SysError> {
        self.with(who, |session, wire, buffers| session.send(wire, buffers, from))
    }

    /// Makes the handshake.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            for who in [CLIENT, SERVER] {
                assert_eq!(self.recv(who, &mut [0; 100]), Err(SysError::WouldBlock));
            }
            if self.sessions.iter().all(Session::is_encrypted) {
                return;
            }
        }
        panic!("the handshake comes to an end: {:?}", self.sessions);
    }
}

/// What a peer has sent and received so far.
#[derive(Default)]
struct Tally {
    sent: usize,
    received: usize,
}

fn byte(who: usize, at: usize) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8 ^ who as u8
}

#[test]
fn every_byte_arrives_once_and_in_order_however_calls_are_cut() {
    const TOTAL: usize = 300_000;
    for seed in 1..60 {
        let mut pair = Pair::new(seed, [700, 3_000, 70_000, 1 << 20][seed as usize % 4]);
        let mut tallies = [Tally::default(), Tally::default()];
        let mut idle = 0;
        while tallies.iter().any(|tally| tally.sent < TOTAL || tally.received < TOTAL) {
            let who = pair.dice.below(2);
            let length = 1 + pair.dice.below(40_000);
            let moved = if pair.dice.below(2) == 0 {
                let start = tallies[who].sent;
                let bytes: Vec<u8> = (start..TOTAL.min(start + length.max(CHUNK))).map(|at| byte(who, at)).collect();
                let sent = if bytes.is_empty() { Err(SysError::WouldBlock) } else { pair.send(who, &bytes) };
                sent.inspect(|n| tallies[who].sent += n)
            } else {
                let mut into = vec![0; length.min(CHUNK)];
                let got = pair.recv(who, &mut into);
                got.map(|(n, dry)| {
                    for &got in &into[..n] {
                        assert_eq!(got, byte(1 - who, tallies[who].received), "seed {seed}");
                        tallies[who].received += 1;
                    }
                    assert!(!dry || n < into.len(), "a full buffer says nothing of what is left");
                    n
                })
            };
            match moved {
                Ok(n) => {
                    assert!(n > 0, "seed {seed}: nobody has ended");
                    idle = 0;
                }
                Err(SysError::WouldBlock) => idle += 1,
                Err(error) => panic!("seed {seed}: {error}"),
            }
            assert!(idle < 10_000, "seed {seed}: both wait for ever at {} of {TOTAL}", tallies[0].received);
        }
        let idle = &pair.sessions[CLIENT];
        assert_eq!(
            idle.incoming.capacity() + idle.plain.capacity() + idle.outgoing.capacity(),
            0,
            "an idle one holds nothing"
        );
    }
}

#[test]
fn a_chunk_is_counted_when_the_socket_has_all_of_it() {
    let mut pair = Pair::new(7, 5_000);
    pair.settle();
    let chunk = [9; 20_000];
    assert_eq!(pair.send(CLIENT, &chunk), Err(SysError::WouldBlock));
    assert_eq!(pair.up.bytes.len(), 5_000, "the socket is full");
    assert_eq!(pair.send(CLIENT, &chunk), Err(SysError::WouldBlock));
    let mut sent = Err(SysError::WouldBlock);
    let mut received = 0;
    while sent == Err(SysError::WouldBlock) {
        if let Ok((n, _)) = pair.recv(SERVER, &mut [0; 10_000]) {
            received += n;
        }
        sent = pair.send(CLIENT, &chunk);
    }
    assert_eq!(sent, Ok(20_000));
    while let Ok((n, _)) = pair.recv(SERVER, &mut [0; 10_000]) {
        received += n;
    }
    assert_eq!(received, 20_000, "once, although it was presented again and again");
}

#[test]
fn the_end_of_the_handshake_is_news_on_either_side() {
    let mut pair = Pair::new(3, 1 << 20);
    pair.settle();
    for session in &mut pair.sessions {
        assert_eq!(session.take_news(), News { up: true, failed: None });
        assert_eq!(session.take_news(), News::default());
    }
}

/// P-TLS-7: nobody takes a connection that was cut for one that has ended.
#[test]
fn an_end_without_a_goodbye_is_a_reset() {
    for goodbye in [true, false] {
        let mut pair = Pair::new(5, 1 << 20);
        pair.settle();
        assert_eq!(pair.send(SERVER, b"last words"), Ok(10));
        if goodbye {
            pair.with(SERVER, |session, wire, _| session.finish(wire).expect("there is room"));
        }
        pair.down.ended = true;
        let mut into = [0; 100];
        assert_eq!(pair.recv(CLIENT, &mut into).map(|(n, _)| n), Ok(10));
        let end = if goodbye { Ok((0, false)) } else { Err(SysError::Reset) };
        assert_eq!(pair.recv(CLIENT, &mut into), end);
    }
}

/// P-TLS-1: TLS for something else, between those two, is not for us.
#[test]
fn a_peer_that_names_no_protocol_or_another_is_refused() {
    for names in [vec![], vec![b"h2".to_vec()]] {
        let (mut server, client) = tls();
        let mut config = ServerConfig::clone(&server.config);
        config.alpn_protocols = names;
        server.config = Arc::new(config);
        let mut pair = Pair::of(client, server, 11, 1 << 20);
        let mut last = [Err(SysError::WouldBlock); 2];
        for _ in 0..200 {
            for who in [CLIENT, SERVER] {
                last[who] = pair.recv(who, &mut [0; 100]);
            }
        }
        assert!(last.contains(&Err(SysError::Tls(TlsFailure::Broken))), "{last:?}");
        assert!(pair.sessions.iter().all(|session| !session.is_encrypted()));
    }
}

/// P-TLS-6, P-TLS-4: bytes in the clear.
#[test]
fn a_plain_server_is_recognised_and_a_plain_client_is_passed_on() {
    let mut pair = Pair::new(13, 1 << 20);
    let mut into = [0; 100];
    pair.down.bytes.extend(b"CPXYC\x00\x01\x01");
    let mut answer = Err(SysError::WouldBlock);
    while answer == Err(SysError::WouldBlock) {
        answer = pair.recv(CLIENT, &mut into);
    }
    assert_eq!(answer, Err(SysError::Tls(TlsFailure::NotTls)));

    let mut pair = Pair::new(17, 1 << 20);
    pair.up.bytes.extend(b"CPXYC\x01\x01\x00 and more");
    let mut heard = Vec::new();
    while let Ok((n, _)) = pair.recv(SERVER, &mut into) {
        heard.extend_from_slice(&into[..n]);
    }
    assert_eq!(heard, b"CPXYC\x01\x01\x00 and more");
    assert!(!pair.sessions[SERVER].is_encrypted());
    assert_eq!(pair.send(SERVER, b"in the clear"), Ok(12));
    assert!(pair.down.bytes.iter().eq(b"in the clear"));
}

#[test]
fn a_handshake_that_does_not_end_is_refused_after_bounded_bytes() {
    let mut pair = Pair::new(19, 1 << 20);
    // The beginning of a long message, in records that are never the last.
    let mut sent = 0;
    let end = loop {
        let body: &[u8] = if sent == 0 { &[1, 0, 0xff, 0xff] } else { &[0; 1000] };
        pair.up.bytes.extend([0x16, 3, 1, (body.len() >> 8) as u8, body.len() as u8]);
        pair.up.bytes.extend(body);
        sent += body.len();
        assert!(sent < 2 * HANDSHAKE, "it takes them all");
        match pair.recv(SERVER, &mut [0; 100]) {
            Err(SysError::WouldBlock) => {}
            end => break end,
        }
    };
    assert_eq!(end, Err(SysError::Tls(TlsFailure::Broken)));
}

/// A client's end whose user encrypts what it likes.
struct Forger {
    encrypter: Box<dyn MessageEncrypter>,
    seq: u64,
}

impl Forger {
    /// Takes the client's place in a pair that has made its handshake.
    fn in_place_of_the_client() -> (Self, Pair) {
        let (server, mut client) = tls();
        let mut config = ClientConfig::clone(&client.config);
        config.enable_secret_extraction = true;
        client.config = Arc::new(config);
        let mut pair = Pair::of(client, server, 23, 1 << 20);
        pair.settle();
        let [client, server] = pair.sessions;
        let (_, other) = tls();
        let idle = Tls::Client(other).connecting().unwrap().unwrap();
        let pair = Pair { sessions: [idle, server], ..pair };
        let Machine::Client(machine) = client.machine else { unreachable!("a client") };
        let (seq, secrets) = machine.dangerous_into_kernel_connection().unwrap().0.tx;
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!("another cipher suite") };
        let aead = TLS13_AES_256_GCM_SHA384.tls13().unwrap().aead_alg;
        (Self { encrypter: aead.encrypter(key, iv), seq }, pair)
    }

    fn record(&mut self, payload: &[u8]) -> Vec<u8> {
        self.encrypt(ContentType::ApplicationData, payload)
    }

    /// A record of `plain` bytes and much padding: zeros behind the content type, of which the last one stands where
    /// the type is written.
    fn padded(&mut self, plain: usize, padding: usize) -> Vec<u8> {
        let inner = [&vec![7; plain][..], &[u8::from(ContentType::ApplicationData)], &vec![0; padding]].concat();
        self.encrypt(ContentType::Unknown(0), &inner)
    }

    fn encrypt(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let payload = OutboundChunks::Single(payload);
        let message = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload };
        self.seq += 1;
        self.encrypter.encrypt(message, self.seq - 1).unwrap().encode()
    }
}

/// A thread that reads on and on for one connection serves no other.
#[test]
fn records_with_hardly_anything_in_them_are_refused_after_bounded_bytes() {
    for plain in [0, 1] {
        let (mut forger, mut pair) = Forger::in_place_of_the_client();
        let sent: Vec<u8> = (0..20).flat_map(|_| forger.padded(plain, 16_000)).collect();
        pair.up.bytes.extend(&sent);
        let mut received = 0;
        let end = loop {
            match pair.recv(SERVER, &mut [0; 100]) {
                Ok((n, _)) => received += n,
                Err(end) => break end,
            }
        };
        let read = sent.len() - pair.up.bytes.len();
        assert_eq!(end, SysError::Tls(TlsFailure::Broken), "{received} bytes out of {read}");
        assert!(read <= 2 * HANDSHAKE, "{received} bytes out of {read}");
    }
}

/// Nor is it the peer that decides how long one call takes.
#[test]
fn small_records_arrive_and_one_call_reads_a_bounded_number_of_them() {
    let (mut forger, mut pair) = Forger::in_place_of_the_client();
    let sent: Vec<u8> = (0..100_000).map(|at| byte(CLIENT, at)).collect();
    for &byte in &sent {
        pair.up.bytes.extend(forger.record(&[byte]));
    }
    let mut received = Vec::new();
    let mut into = vec![0; CHUNK];
    while received.len() < sent.len() {
        let before = pair.up.bytes.len();
        let (n, _) = pair.recv(SERVER, &mut into).unwrap();
        received.extend_from_slice(&into[..n]);
        assert!(before - pair.up.bytes.len() <= 2 * CHUNK, "one call read {}", before - pair.up.bytes.len());
    }
    assert!(received == sent);
}

/// The goodbye may come in one read with the last bytes: no edge tells of it then.
#[test]
fn the_end_behind_the_last_bytes_is_not_waited_for() {
    struct Whole<'a>(&'a mut Pipe);
    impl Wire for Whole<'_> {
        fn recv(&mut self, into: &mut [u8]) -> Result<usize, SysError> {
            let n = into.len().min(self.0.bytes.len());
            into.iter_mut().zip(self.0.bytes.drain(..n)).for_each(|(to, byte)| *to = byte);
            if n == 0 { Err(SysError::WouldBlock) } else { Ok(n) }
        }
        fn send(&mut self, from: &[u8]) -> Result<usize, SysError> {
            Ok(from.len())
        }
        fn short_means_dry(&self) -> bool {
            true
        }
    }
    for goodbye in [false, true] {
        let mut pair = Pair::new(29, 1 << 20);
        pair.settle();
        assert_eq!(pair.send(CLIENT, b"last words"), Ok(10));
        if goodbye {
            pair.with(CLIENT, |session, wire, _| session.finish(wire).expect("there is room"));
        }
        let Pair { sessions: [_, server], buffers, up, .. } = &mut pair;
        assert_eq!(server.recv(&mut Whole(up), buffers, &mut [0; 100]), Ok((10, !goodbye)));
    }
}

/// P-TLS-6: a client that is to encrypt and cannot does not speak in the clear.
#[test]
fn a_client_without_randomness_does_not_connect() {
    #[derive(Debug)]
    struct Broken;
    impl SecureRandom for Broken {
        fn fill(&self, _: &mut [u8]) -> Result<(), GetRandomFailed> {
            Err(GetRandomFailed)
        }
    }
    let (_, mut client) = tls();
    let provider = CryptoProvider { secure_random: &Broken, ..ring::default_provider() };
    let config = ClientConfig::builder_with_provider(provider.into()).with_protocol_versions(&[&TLS13]).unwrap();
    client.config = Arc::new(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    assert_eq!(Tls::Client(client).connecting().unwrap_err(), SysError::Tls(TlsFailure::Broken));
}
