//! Proofs: HMAC-SHA-256 over everything both sides have said (PROTOCOL.md, "Authentication").
//!
//! Every value is bound to one purpose by its label and to one handshake by the transcript, so nothing
//! can be replayed, reflected or moved. Without a token the key is empty: the same code runs, and it
//! proves nothing, which is why such a server takes clients from loopback only.

use crate::ids::{ConnId, SessionId};
use crate::settings::Token;
use crate::wire::{ConnHello, Message, PREFACE_LEN, Proof, ToClient, ToServer, Welcome};
use alloc::vec::Vec;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

/// Bytes of what a client says first on a path.
pub const PATH_HELLO: usize = 48;

/// What the encrypted channel of one connection is known by, at its two ends and nowhere else: the exporter of its TLS
/// (RFC 9266, `tls-exporter`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Channel(pub [u8; 32]);

/// A hash over both prefaces and both hellos, and the channel that they came through where that was agreed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Transcript {
    digest: [u8; 32],
    /// Whether it covers the channel.
    bound: bool,
}

impl Transcript {
    /// Hashes what was said, as it stood on the wire.
    // PROTOCOL.md: P-AUTH-5, P-EVO-5.
    #[must_use]
    pub fn new(
        preface: [u8; PREFACE_LEN],
        reply: [u8; PREFACE_LEN],
        client_hello: &ToServer,
        server_hello: &ToClient,
    ) -> Self {
        let mut frames = Vec::new();
        client_hello.encode_to(&mut frames);
        server_hello.encode_to(&mut frames);
        let mut hash = Sha256::new();
        hash.update(preface);
        hash.update(reply);
        hash.update(&frames);
        Self { digest: hash.finalize().into(), bound: false }
    }

    /// The same, bound to `channel` where both sides have agreed on that.
    // PROTOCOL.md: P-AUTH-17.
    #[must_use]
    pub fn over(self, channel: Option<&Channel>) -> Self {
        let Some(channel) = channel else { return self };
        let digest = Sha256::new().chain_update(self.digest).chain_update(channel.0).finalize().into();
        Self { digest, bound: true }
    }
}

/// The secret both sides share in one session. Never sent; proves that a proxy_conn belongs to it. Its memory is
/// overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionKey {
    key: [u8; 32],
    bound: bool,
}

impl Drop for SessionKey {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl core::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SessionKey")
    }
}

/// What a token proves in one handshake.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prover<'a> {
    token: Option<&'a Token>,
    transcript: Transcript,
}

impl<'a> Prover<'a> {
    /// Proofs with this token over this transcript.
    #[must_use]
    pub fn new(token: Option<&'a Token>, transcript: Transcript) -> Self {
        Self { token, transcript }
    }

    // PROTOCOL.md: P-AUTH-2.
    fn mac(&self, label: &[u8], more: &[&[u8]]) -> Hmac<Sha256> {
        let mut parts = Vec::with_capacity(1 + more.len());
        parts.push(self.transcript.digest.as_slice());
        parts.extend_from_slice(more);
        mac(self.token.map_or(&[], Token::bytes), label, &parts)
    }

    /// The client's proof.
    #[must_use]
    pub fn client(&self) -> Proof {
        finish(self.mac(b"cproxy client", &[]))
    }

    /// Whether `proof` is the client's, in constant time.
    #[must_use]
    pub fn client_matches(&self, proof: &Proof) -> bool {
        self.mac(b"cproxy client", &[]).verify_slice(proof).is_ok()
    }

    // PROTOCOL.md: P-AUTH-6.
    fn server_mac(&self, welcome: &Welcome) -> Hmac<Sha256> {
        self.mac(
            b"cproxy server",
            &[
                &welcome.session.0,
                &[u8::from(welcome.resumed)],
                &welcome.received.to_le_bytes(),
                &welcome.proxy_port.to_le_bytes(),
            ],
        )
    }

    /// Fills in the server's proof over the other fields of `welcome`.
    #[must_use]
    pub fn welcome(&self, welcome: Welcome) -> Welcome {
        Welcome { proof: finish(self.server_mac(&welcome)), ..welcome }
    }

    /// Whether the server's proof matches, in constant time.
    #[must_use]
    pub fn welcome_matches(&self, welcome: &Welcome) -> bool {
        self.server_mac(welcome).verify_slice(&welcome.proof).is_ok()
    }

    /// The key of a new session.
    #[must_use]
    pub fn session_key(&self, session: SessionId) -> SessionKey {
        SessionKey { key: finish(self.mac(b"cproxy session", &[&session.0])), bound: self.transcript.bound }
    }
}

impl SessionKey {
    /// Whether the handshake that began the session covers its channel; then each proxy_conn's does, too.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.bound
    }

    /// The key for the proofs on a proxy_conn that is encrypted as `channel`.
    // PROTOCOL.md: P-AUTH-18.
    #[must_use]
    pub fn over(&self, channel: Option<&Channel>) -> Self {
        match channel {
            Some(channel) if self.bound => {
                Self { key: finish(mac(&self.key, b"cproxy channel", &[&channel.0])), bound: true }
            }
            Some(_) | None => self.clone(),
        }
    }

    /// The first message on a new proxy_conn.
    #[must_use]
    pub fn hello(&self, session: SessionId, conn: ConnId) -> ConnHello {
        let mac = self.conn_mac(b"cproxy conn", session, conn);
        ConnHello { session, conn, proof: finish(mac) }
    }

    /// Whether the proof in `hello` matches, in constant time.
    #[must_use]
    pub fn hello_matches(&self, hello: &ConnHello) -> bool {
        let mac = self.conn_mac(b"cproxy conn", hello.session, hello.conn);
        mac.verify_slice(&hello.proof).is_ok()
    }

    /// The server's proof that it knows the session too.
    #[must_use]
    pub fn accept(&self, session: SessionId, conn: ConnId) -> Proof {
        finish(self.conn_mac(b"cproxy accept", session, conn))
    }

    /// Whether the server's proof matches, in constant time.
    #[must_use]
    pub fn accept_matches(&self, session: SessionId, conn: ConnId, proof: &Proof) -> bool {
        self.conn_mac(b"cproxy accept", session, conn).verify_slice(proof).is_ok()
    }

    /// The first thing that a client says on a path of `channel`: which session's it is, and a proof.
    // PROTOCOL.md: P-PATH-4.
    #[must_use]
    pub fn path_hello(&self, session: SessionId, channel: &Channel) -> [u8; PATH_HELLO] {
        let mut hello = [0; PATH_HELLO];
        hello[..16].copy_from_slice(&session.0);
        hello[16..].copy_from_slice(&finish(self.path_mac(b"cproxy path", session, channel)));
        hello
    }

    /// The server's answer to such a `hello`; none if its proof does not match, which is found in constant time.
    // PROTOCOL.md: P-PATH-4.
    #[must_use]
    pub fn answer_path(&self, session: SessionId, channel: &Channel, hello: &[u8]) -> Option<Proof> {
        let (id, proof) = hello.split_at_checked(16)?;
        let proved = self.path_mac(b"cproxy path", session, channel).verify_slice(proof).is_ok();
        (id == session.0 && proved).then(|| finish(self.path_mac(b"cproxy path answer", session, channel)))
    }

    /// Whether the server's answer matches, in constant time.
    // PROTOCOL.md: P-PATH-4.
    #[must_use]
    pub fn path_answer_matches(&self, session: SessionId, channel: &Channel, answer: &[u8]) -> bool {
        self.path_mac(b"cproxy path answer", session, channel).verify_slice(answer).is_ok()
    }

    /// A path is always bound to its channel, whatever the session's connections are.
    fn path_mac(&self, label: &[u8], session: SessionId, channel: &Channel) -> Hmac<Sha256> {
        mac(&self.key, label, &[&session.0, &channel.0])
    }

    fn conn_mac(&self, label: &[u8], session: SessionId, conn: ConnId) -> Hmac<Sha256> {
        mac(&self.key, label, &[&session.0, &conn.0.to_le_bytes()])
    }
}

fn mac(key: &[u8], label: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(label);
    for part in parts {
        mac.update(part);
    }
    mac
}

fn finish(mac: Hmac<Sha256>) -> Proof {
    mac.finalize().into_bytes().into()
}

/// Which proxy_conn numbers of a session were used: each is accepted once, within
/// [`ReplayWindow::SPAN`] of the highest. Older ones are refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReplayWindow {
    highest: u64,
    /// Bit `n % SPAN` tells whether number `n` was used, for the `SPAN` numbers up to `highest`.
    used: [u64; Self::WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { highest: 0, used: [0; Self::WORDS] }
    }
}

impl ReplayWindow {
    const WORDS: usize = 64;
    /// How far behind the highest number an unused one may lie.
    pub const SPAN: u64 = 64 * Self::WORDS as u64;
    /// How far ahead of the highest number the next one may lie: a client opens fewer at once.
    pub const LEAP: u64 = 1 << 32;

    /// Takes `conn`, once. `false`: it was used, is too old, or leaps too far ahead.
    // PROTOCOL.md: P-PROXY-3.
    pub fn take(&mut self, conn: ConnId) -> bool {
        let n = conn.0;
        if n == 0 || n.saturating_add(Self::SPAN) <= self.highest || n > self.highest.saturating_add(Self::LEAP) {
            return false;
        }
        if n > self.highest {
            if n - self.highest >= Self::SPAN {
                self.used = [0; Self::WORDS];
            } else {
                for passed in self.highest + 1..=n {
                    *self.word(passed) &= !bit(passed);
                }
            }
            self.highest = n;
        }
        let mask = bit(n);
        let word = self.word(n);
        let fresh = *word & mask == 0;
        *word |= mask;
        fresh
    }

    fn word(&mut self, n: u64) -> &mut u64 {
        let index = (n % Self::SPAN) / 64;
        &mut self.used[usize::try_from(index).expect("below WORDS")]
    }
}

fn bit(n: u64) -> u64 {
    1 << (n % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: Transcript = Transcript { digest: [7; 32], bound: false };

    #[test]
    fn a_conn_number_is_taken_once_whatever_the_order() {
        let mut window = ReplayWindow::default();
        assert!(!window.take(ConnId(0)));
        for n in [3, 1, 2, ReplayWindow::SPAN + 1, ReplayWindow::SPAN] {
            assert!(window.take(ConnId(n)), "{n} is new");
            assert!(!window.take(ConnId(n)), "{n} was used");
        }
        assert!(!window.take(ConnId(1)), "fell out of the window");
        assert!(window.take(ConnId(4)), "unused and still inside it");
        assert!(window.take(ConnId(10 * ReplayWindow::SPAN)));
        assert!(!window.take(ConnId(u64::MAX)), "a leap that no honest client makes");
    }

    /// Every bit of every proof counts.
    #[test]
    fn a_proof_with_one_bit_changed_matches_nothing() {
        let token = Token::new(b"secret".to_vec());
        for token in [None, Some(&token)] {
            let prover = Prover::new(token, SAID);
            let session = SessionId([1; 16]);
            let welcome = Welcome { session, resumed: true, received: 3, proxy_port: 8090, proof: [0; 32] };
            let welcome = prover.welcome(welcome);
            let key = prover.session_key(session);
            let (hello, accept) = (key.hello(session, ConnId(5)), key.accept(session, ConnId(5)));
            let matches = |flip: &dyn Fn(Proof) -> Proof| {
                [
                    prover.client_matches(&flip(prover.client())),
                    prover.welcome_matches(&Welcome { proof: flip(welcome.proof), ..welcome }),
                    key.hello_matches(&ConnHello { proof: flip(hello.proof), ..hello }),
                    key.accept_matches(session, ConnId(5), &flip(accept)),
                ]
            };
            assert_eq!(matches(&|proof| proof), [true; 4]);
            for bit in 0..256 {
                let flip = |mut proof: Proof| {
                    proof[bit / 8] ^= 1 << (bit % 8);
                    proof
                };
                assert_eq!(matches(&flip), [false; 4], "bit {bit}");
            }
        }
    }

    /// The server's proof covers each field of the welcome.
    #[test]
    fn a_welcome_with_one_field_changed_is_not_believed() {
        let prover = Prover::new(None, SAID);
        let session = |byte: usize| {
            let mut session = [1; 16];
            session[byte] ^= 1;
            SessionId(session)
        };
        let good =
            Welcome { session: SessionId([1; 16]), resumed: true, received: 3, proxy_port: 8090, proof: [0; 32] };
        let good = prover.welcome(good);
        assert!(prover.welcome_matches(&good));
        for byte in 0..16 {
            assert!(!prover.welcome_matches(&Welcome { session: session(byte), ..good }), "byte {byte}");
        }
        for bit in 0..64 {
            assert!(!prover.welcome_matches(&Welcome { received: 3 ^ (1 << bit), ..good }), "bit {bit}");
        }
        for bit in 0..16 {
            assert!(!prover.welcome_matches(&Welcome { proxy_port: 8090 ^ (1 << bit), ..good }), "bit {bit}");
        }
        assert!(!prover.welcome_matches(&Welcome { resumed: false, ..good }));
    }

    /// A proof is bound to what both sides have said, and to its purpose.
    #[test]
    fn a_proof_of_another_handshake_or_for_another_purpose_matches_nothing() {
        let token = Token::new(b"secret".to_vec());
        let prover = Prover::new(Some(&token), SAID);
        for byte in 0..32 {
            let mut transcript = [7; 32];
            transcript[byte] ^= 1;
            let other = Prover::new(Some(&token), Transcript { digest: transcript, bound: false });
            assert!(!prover.client_matches(&other.client()), "byte {byte} of the transcript");
            assert!(prover.session_key(SessionId([1; 16])) != other.session_key(SessionId([1; 16])));
        }
        for other in [&b"secreT"[..], b"Secret", b"secret ", b"secre", b""] {
            let other = Token::new(other.to_vec());
            assert!(!prover.client_matches(&Prover::new(Some(&other), SAID).client()), "{other:?}");
        }
        let session = SessionId([1; 16]);
        let key = prover.session_key(session);
        assert!(!key.hello_matches(&ConnHello { session, conn: ConnId(5), proof: key.accept(session, ConnId(5)) }));
        assert!(!prover.client_matches(&key.accept(session, ConnId(5))));
    }

    /// Where the channel is covered, a proof that came through another one matches nothing.
    #[test]
    fn a_proof_through_another_channel_matches_nothing() {
        let token = Token::new(b"secret".to_vec());
        let channel = Channel([9; 32]);
        let bound = Prover::new(Some(&token), SAID.over(Some(&channel)));
        assert!(!bound.client_matches(&Prover::new(Some(&token), SAID.over(None)).client()));
        let session = SessionId([1; 16]);
        let key = bound.session_key(session);
        assert!(key.is_bound() && !Prover::new(Some(&token), SAID).session_key(session).is_bound());
        let over = key.over(Some(&channel));
        let (hello, accept) = (over.hello(session, ConnId(5)), over.accept(session, ConnId(5)));
        assert!(!key.hello_matches(&hello) && !key.accept_matches(session, ConnId(5), &accept));
        for byte in 0..32 {
            let mut other = channel;
            other.0[byte] ^= 1;
            let elsewhere = Prover::new(Some(&token), SAID.over(Some(&other)));
            assert!(!bound.client_matches(&elsewhere.client()), "byte {byte}");
            let over = key.over(Some(&other));
            assert!(!over.hello_matches(&hello), "byte {byte}");
            assert!(!over.accept_matches(session, ConnId(5), &accept), "byte {byte}");
        }
        let unbound = Prover::new(Some(&token), SAID).session_key(session);
        assert!(unbound.over(Some(&channel)) == unbound, "it was not agreed on");
    }

    #[test]
    fn a_session_key_proves_one_conn_of_one_session() {
        let transcript = SAID;
        let session = SessionId([1; 16]);
        let token = Token::new(b"secret".to_vec());
        let key = Prover::new(Some(&token), transcript).session_key(session);
        let hello = key.hello(session, ConnId(5));
        assert!(key.hello_matches(&hello));
        assert!(!key.hello_matches(&ConnHello { conn: ConnId(6), ..hello }));
        assert!(!key.hello_matches(&ConnHello { session: SessionId([2; 16]), ..hello }));
        assert!(!key.accept_matches(session, ConnId(5), &hello.proof), "not reflectable");
        let other = Prover::new(None, transcript).session_key(session);
        assert!(!other.hello_matches(&hello));
    }

    /// P-PATH-4: the proofs on a path are its session's, its channel's, and each side's own.
    #[test]
    fn a_path_is_proved_by_both_sides_over_its_channel() {
        let token = Token::new(b"secret".to_vec());
        let (session, channel) = (SessionId([1; 16]), Channel([9; 32]));
        let key = Prover::new(Some(&token), SAID).session_key(session);
        let hello = key.path_hello(session, &channel);
        let answer = key.answer_path(session, &channel, &hello).expect("proved");
        assert!(key.path_answer_matches(session, &channel, &answer));
        assert!(!key.path_answer_matches(session, &channel, &hello[16..]), "not reflectable");
        let other = Prover::new(None, SAID).session_key(session);
        assert_eq!(other.answer_path(session, &channel, &hello), None);
        for bit in 0..PATH_HELLO * 8 {
            let mut hello = hello;
            hello[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.answer_path(session, &channel, &hello), None, "bit {bit}");
        }
        for bit in 0..256 {
            let (mut elsewhere, mut changed) = (channel, answer);
            elsewhere.0[bit / 8] ^= 1 << (bit % 8);
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.answer_path(session, &elsewhere, &hello), None, "bit {bit}");
            assert!(!key.path_answer_matches(session, &channel, &changed), "bit {bit}");
            assert!(!key.path_answer_matches(session, &elsewhere, &answer), "bit {bit}");
        }
        assert_eq!(key.answer_path(session, &channel, &hello[..40]), None);
    }
}
