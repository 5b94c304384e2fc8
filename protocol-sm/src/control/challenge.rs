//! The server's side of authentication: who may have a session, decided from what was said alone.
//!
//! ```text
//!   Hello ── new() ──▶ Challenge ── check(proof) ──▶ Access
//!              │                        │
//!              └──── HandshakeRefusal ◀─┘
//! ```

use crate::auth::{Prover, SessionKey, Transcript};
use crate::canary::{PlantedBug, planted};
use crate::codes::HandshakeRefusal;
use crate::ids::SessionId;
use crate::ledger::Holder;
use crate::settings::{Scope, ServerSettings, Token};
use crate::wire::{
    ClientHandshake, ClientHello, Ctl, FEATURES, Nonce, Preface, Proof, Reply, ServerHandshake, ServerHello, ToClient,
    Welcome,
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
    /// Answers `hello` with `nonce`, which must be fresh and random. `loopback`: the client is on this machine.
    ///
    /// # Errors
    /// The client cannot be let in, whatever it would prove.
    // PROTOCOL.md: P-AUTH-3, P-AUTH-4, P-EVO-2.
    pub fn new(
        settings: &ServerSettings,
        loopback: bool,
        preface: Preface,
        hello: ClientHello,
        nonce: Nonce,
    ) -> Result<(Self, ToClient), HandshakeRefusal> {
        match (settings.is_open(), hello.token) {
            (false, false) => return Err(HandshakeRefusal::TokenRequired),
            (true, _) if !loopback => return Err(HandshakeRefusal::LoopbackOnly),
            (true, true) => return Err(HandshakeRefusal::TokenUnexpected),
            (false, true) | (true, false) => {}
        }
        let features = hello.features & FEATURES;
        let answer = Ctl::Handshake(ServerHandshake::Hello(ServerHello { nonce, features }));
        let said = Ctl::Handshake(ClientHandshake::Hello(hello.clone()));
        let transcript = Transcript::new(preface.encode(), Reply::to(preface).encode(), &said, &answer);
        Ok((Self { hello, features, transcript }, answer))
    }

    /// Checks the client's proof against every credential.
    ///
    /// # Errors
    /// [`HandshakeRefusal::WrongToken`].
    // PROTOCOL.md: P-AUTH-7.
    pub fn check(&self, settings: &ServerSettings, proof: &Proof) -> Result<Access, HandshakeRefusal> {
        let (features, transcript) = (self.features, self.transcript);
        let proves = |token: Option<&Token>| Prover::new(token, transcript).client_matches(proof);
        if settings.is_open() {
            // The key is empty: this proves only that the client speaks the protocol.
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
