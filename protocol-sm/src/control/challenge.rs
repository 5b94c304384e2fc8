//! The server's side of authentication: who may have a session, decided from what was said alone.
//!
//! ```text
//!   Hello ── new() ──▶ Challenge ── check(proof) ──▶ Access
//!              │                        │
//!              └──── HandshakeRefusal ◀─┘
//! ```

use crate::auth::{Channel, Prover, SessionKey, Transcript};
use crate::canary::{PlantedBug, planted};
use crate::codes::HandshakeRefusal;
use crate::ids::SessionId;
use crate::ledger::Holder;
use crate::settings::{Scope, ServerSettings, Token};
use crate::wire::{
    CHANNEL, ClientHandshake, ClientHello, Ctl, FEATURES, Nonce, Preface, Proof, Reply, ServerHandshake, ServerHello,
    ToClient, Welcome,
};

/// A hello that was answered, and waits for its proof.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Challenge {
    /// What the client said.
    pub hello: ClientHello,
    features: u64,
    transcript: Transcript,
}

/// A client that proved itself: with which of the server's credentials; `None` without one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// Whose token it knows.
    pub credential: Holder,
    /// With which token; `None` without one.
    pub token: Option<Token>,
    /// The features chosen with it.
    pub features: u64,
    transcript: Transcript,
}

impl Challenge {
    /// Answers `hello`, which came through `channel`, with `nonce`, which must be fresh and random. `loopback`: the
    /// client is on this machine.
    ///
    /// # Errors
    /// The client cannot be let in, whatever it would prove.
    // PROTOCOL.md: P-AUTH-3, P-AUTH-4, P-AUTH-17, P-EVO-2.
    pub fn new(
        settings: &ServerSettings,
        loopback: bool,
        preface: Preface,
        hello: ClientHello,
        nonce: Nonce,
        channel: Option<&Channel>,
    ) -> Result<(Self, ToClient), HandshakeRefusal> {
        match (settings.is_open(), hello.token) {
            (false, false) if !(settings.open_to_loopback && loopback) => return Err(HandshakeRefusal::TokenRequired),
            (true, _) if !loopback => return Err(HandshakeRefusal::LoopbackOnly),
            (true, true) => return Err(HandshakeRefusal::TokenUnexpected),
            (false | true, false) | (false, true) => {}
        }
        let channel = channel.filter(|_| hello.features & CHANNEL != 0);
        let features = hello.features & FEATURES | if channel.is_some() { CHANNEL } else { 0 };
        let answer = Ctl::Handshake(ServerHandshake::Hello(ServerHello { nonce, features }));
        let said = Ctl::Handshake(ClientHandshake::Hello(hello.clone()));
        let transcript = Transcript::new(preface.encode(), Reply::to(preface).encode(), &said, &answer);
        Ok((Self { hello, features, transcript: transcript.over(channel) }, answer))
    }

    /// Checks the client's proof against every credential.
    ///
    /// # Errors
    /// [`HandshakeRefusal::WrongToken`].
    // PROTOCOL.md: P-AUTH-7.
    pub fn check(&self, settings: &ServerSettings, proof: &Proof) -> Result<Access, HandshakeRefusal> {
        let (features, transcript) = (self.features, self.transcript);
        let proves = |token: Option<&Token>| Prover::new(token, transcript).client_matches(proof);
        if !self.hello.token {
            // It is on this machine. The key is empty: this proves only that the client speaks the protocol.
            return if proves(None) {
                Ok(Access { credential: None, token: None, features, transcript })
            } else {
                Err(HandshakeRefusal::WrongToken)
            };
        }
        if planted(PlantedBug::AnyToken) {
            return Ok(Access {
                credential: Some(0),
                token: settings.credentials[0].tokens.first().cloned(),
                features,
                transcript,
            });
        }
        for (index, credential) in settings.credentials.iter().enumerate() {
            if let Some(token) = credential.tokens.iter().find(|token| proves(Some(token))) {
                return Ok(Access { credential: Some(index), token: Some(token.clone()), features, transcript });
            }
        }
        Err(HandshakeRefusal::WrongToken)
    }
}

impl Access {
    fn prover(&self) -> Prover<'_> {
        Prover::new(self.token.as_ref(), self.transcript)
    }

    /// What this client may do.
    #[must_use]
    pub fn scope<'a>(&self, settings: &'a ServerSettings) -> &'a Scope {
        settings.scope_of(self.credential)
    }

    /// The key of a new session.
    #[must_use]
    pub fn session_key(&self, session: SessionId) -> SessionKey {
        self.prover().session_key(session)
    }

    /// The welcome, with its proof.
    #[must_use]
    pub fn welcome(&self, welcome: Welcome) -> ToClient {
        Ctl::Handshake(ServerHandshake::Welcome(self.prover().welcome(welcome)))
    }
}

#[cfg(test)]
impl Challenge {
    /// One that a client without a token has passed, at a server without tokens.
    pub(crate) fn passed(hello: ClientHello) -> (Self, Access) {
        let preface = Preface::ours(crate::wire::ConnKind::Ctl);
        let settings = ServerSettings::default();
        let (challenge, _) = Self::new(&settings, true, preface, hello, [0; 32], None).expect("it is open");
        let (features, transcript) = (challenge.features, challenge.transcript);
        (challenge, Access { credential: None, token: None, features, transcript })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ClientId;
    use crate::settings::Credential;
    use crate::wire::ConnKind;

    /// P-AUTH-17, P-EVO-2: the channel is covered where the client offers it and there is one; nothing else is chosen.
    #[test]
    fn the_channel_is_chosen_if_it_is_offered_and_there() {
        let settings = ServerSettings::default();
        let channel = Channel([9; 32]);
        for offered in [0, CHANNEL, FEATURES, 16, CHANNEL | 16, u64::MAX] {
            for channel in [None, Some(&channel)] {
                let (client, preface) = (ClientId([2; 16]), Preface::ours(ConnKind::Ctl));
                let hello = ClientHello { nonce: [1; 32], client, token: false, features: offered, resume: None };
                let (challenge, answer) =
                    Challenge::new(&settings, true, preface, hello.clone(), [3; 32], channel).expect("let in");
                let chosen = offered & (FEATURES | if channel.is_some() { CHANNEL } else { 0 });
                let expected = Ctl::Handshake(ServerHandshake::Hello(ServerHello { nonce: [3; 32], features: chosen }));
                assert_eq!(answer, expected, "{offered}");
                let said = Ctl::Handshake(ClientHandshake::Hello(hello));
                let transcript = Transcript::new(preface.encode(), Reply::to(preface).encode(), &said, &answer);
                let proof = |channel| Prover::new(None, transcript.over(channel)).client();
                assert!(challenge.check(&settings, &proof(channel.filter(|_| chosen & CHANNEL != 0))).is_ok());
                let other = Channel([8; 32]);
                assert!(challenge.check(&settings, &proof(Some(&other))).is_err(), "{offered}");
                assert_eq!(challenge.check(&settings, &proof(None)).is_ok(), chosen & CHANNEL == 0, "{offered}");
            }
        }
    }

    /// P-AUTH-7: each token of each holder lets in, as its holder, and is the one that is remembered.
    #[test]
    fn every_token_of_every_holder_is_tried() {
        let token = |text: &str| Token::new(text.as_bytes().to_vec());
        let holder = |tokens: &[&str]| Credential {
            name: alloc::string::String::new(),
            tokens: tokens.iter().map(|text| token(text)).collect(),
            scope: Scope::default(),
        };
        let settings = ServerSettings {
            credentials: alloc::vec![holder(&["one", "two"]), holder(&["three", "four", "five"])],
            ..ServerSettings::default()
        };
        let (client, preface) = (ClientId([2; 16]), Preface::ours(ConnKind::Ctl));
        let hello = ClientHello { nonce: [1; 32], client, token: true, features: 0, resume: None };
        let (challenge, _) = Challenge::new(&settings, false, preface, hello, [3; 32], None).expect("let in");
        for (whose, text) in [(0, "one"), (0, "two"), (1, "three"), (1, "four"), (1, "five")] {
            let proof = Prover::new(Some(&token(text)), challenge.transcript).client();
            let access = challenge.check(&settings, &proof).expect("a token of it");
            assert_eq!((access.credential, access.token), (Some(whose), Some(token(text))), "{text}");
        }
        let proof = Prover::new(Some(&token("six")), challenge.transcript).client();
        assert_eq!(challenge.check(&settings, &proof), Err(HandshakeRefusal::WrongToken));
    }

    /// P-AUTH-3, P-AUTH-4: only where it is said, only on this machine, and with the empty key alone.
    #[test]
    fn beside_tokens_this_machine_may_do_without_one() {
        let token = Token::new(b"secret".to_vec());
        let own = Credential { name: "own".into(), tokens: alloc::vec![token.clone()], scope: Scope::default() };
        let closed = ServerSettings { credentials: alloc::vec![own], ..ServerSettings::default() };
        let open = ServerSettings { open_to_loopback: true, ..closed.clone() };
        let (client, preface) = (ClientId([2; 16]), Preface::ours(ConnKind::Ctl));
        let ask = |settings, loopback, token| {
            let hello = ClientHello { nonce: [1; 32], client, token, features: 0, resume: None };
            Challenge::new(settings, loopback, preface, hello, [3; 32], None).map(|(challenge, _)| challenge)
        };
        for (settings, loopback) in [(&closed, true), (&closed, false), (&open, false)] {
            assert_eq!(ask(settings, loopback, false), Err(HandshakeRefusal::TokenRequired));
        }
        for (says_token, loopback) in [(false, true), (true, true), (true, false)] {
            let challenge = ask(&open, loopback, says_token).expect("let in");
            for (key, holder) in [(None, None), (Some(&token), Some(0))] {
                let proof = Prover::new(key, challenge.transcript).client();
                let taken = challenge.check(&open, &proof).map(|access| access.credential);
                let expected = if says_token == key.is_some() { Ok(holder) } else { Err(HandshakeRefusal::WrongToken) };
                assert_eq!(taken, expected, "{says_token} {loopback}");
            }
        }
        assert!(open.takes(None, None) && !closed.takes(None, None));
    }

    /// P-AUTH-3: whatever it says of a token.
    #[test]
    fn without_a_token_who_is_elsewhere_is_refused_for_that() {
        for (token, loopback, refusal) in [
            (false, false, HandshakeRefusal::LoopbackOnly),
            (true, false, HandshakeRefusal::LoopbackOnly),
            (true, true, HandshakeRefusal::TokenUnexpected),
        ] {
            let (client, preface) = (ClientId([2; 16]), Preface::ours(ConnKind::Ctl));
            let hello = ClientHello { nonce: [1; 32], client, token, features: 0, resume: None };
            let answer = Challenge::new(&ServerSettings::default(), loopback, preface, hello, [3; 32], None);
            assert_eq!(answer.err(), Some(refusal));
        }
    }
}
