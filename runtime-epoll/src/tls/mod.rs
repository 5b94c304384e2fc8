//! TLS 1.3 on the connections between client and server (PROTOCOL.md, "TLS"), by rustls with ring.
//!
//! [`ServerTls`] and [`ClientTls`] are made once from what the user configured; `session` is one connection. So is
//! [`VisitorTls`], for visitors whose TLS ends at the server: 1.2, too.
//! Whether a connection must be encrypted, and what follows where it is not, is decided in [`protocol_sm`].

mod authority;
mod exporter;
mod own;
pub(crate) mod path;
mod pin;
mod self_made;
pub(crate) mod session;
mod visitors;
mod words;

pub use own::OwnCertificate;
pub use pin::{NotAPin, Pin};
pub use self_made::{SelfMade, self_made};
pub use visitors::VisitorTls;
pub(crate) use visitors::VisitorTlsInUse;

use authority::{ClientAuthority, ServerAuthority};
use protocol_sm::codes::TlsFailure;
use protocol_sm::driver::SysError;
use protocol_sm::wire::ALPN;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};
use session::Session;
use std::fmt;
use std::sync::{Arc, LazyLock, PoisonError, RwLock, RwLockReadGuard};

/// A piece of a TLS configuration that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    /// The piece.
    pub piece: Piece,
    /// What is wrong with it.
    pub what: String,
}

/// A piece of a TLS configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// One's own certificate.
    Certificate,
    /// Its key.
    Key,
    /// Certificates that others' must be signed by.
    Authority,
    /// The server's name.
    Name,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for TlsError {}

impl Piece {
    fn wrong(self, what: impl fmt::Display) -> TlsError {
        TlsError { piece: self, what: what.to_string() }
    }
}

/// One's own certificate and key, as PEM.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// The certificate, and those between it and the authority.
    pub certificate: &'a [u8],
    /// The key.
    pub key: &'a [u8],
}

impl fmt::Debug for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// How a client knows its server.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// By its key, which is one of these.
    Pins(&'a [Pin]),
    /// By a certificate that one of these authorities (PEM) signed for its name.
    Authority(&'a [u8]),
    /// By a certificate that one of the system's authorities signed for its name.
    System,
}

/// The server's side: TLS is required.
#[derive(Clone, Debug)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    own: OwnCertificate,
    trust: Arc<str>,
}

/// The client's side.
#[derive(Clone, Debug)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    own: Option<OwnCertificate>,
    name: ServerName<'static>,
    trust: Arc<str>,
}

/// What a thread does with its connections between client and server.
#[derive(Clone, Debug, Default)]
pub(crate) enum Tls {
    #[default]
    Off,
    Server(ServerTls),
    Client(ClientTls),
}

/// What all threads of a program do with connections that are made from now on.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsInUse(Arc<RwLock<Tls>>);

impl TlsInUse {
    pub(crate) fn new(tls: Tls) -> Self {
        Self(Arc::new(RwLock::new(tls)))
    }

    pub(crate) fn get(&self) -> RwLockReadGuard<'_, Tls> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that are there stay as they are. Returns whether others are encrypted now and were not, or the other
    /// way round.
    pub(crate) fn set(&self, tls: Tls) -> bool {
        let before = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), tls);
        matches!(before, Tls::Off) != matches!(*self.get(), Tls::Off)
    }
}

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

impl ServerTls {
    /// A server with this identity. With `client_authority` (PEM), clients need a certificate that it signed.
    /// `trust` says for the log by what the clients are known.
    ///
    /// # Errors
    /// Something of it is not what it should be.
    pub fn new(identity: Identity<'_>, client_authority: Option<&[u8]>, trust: &str) -> Result<Self, TlsError> {
        let own = OwnCertificate::new(identity)?;
        let config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Piece::Key.wrong(error))?;
        let config = match client_authority {
            None => config.with_no_client_auth(),
            Some(pem) => {
                let trusted = certificates(pem, Piece::Authority)?;
                let inner = WebPkiClientVerifier::builder_with_provider(roots(&trusted)?.into(), Arc::clone(&PROVIDER))
                    .build()
                    .map_err(|error| Piece::Authority.wrong(error))?;
                config.with_client_cert_verifier(Arc::new(ClientAuthority { inner, trusted }))
            }
        };
        let mut config = config.with_cert_resolver(Arc::new(own.clone()));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Conns are reused, so handshakes are few, and resumption is not worth its state.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config), own, trust: trust.into() })
    }

    /// The certificate that it shows.
    #[must_use]
    pub fn own(&self) -> &OwnCertificate {
        &self.own
    }
}

impl ClientTls {
    /// A client of the server called `name`, a host name or an IP address, with an identity of its own if the
    /// server wants one. `by` says for the log by what the server is known.
    ///
    /// # Errors
    /// Something of it is not what it should be.
    // PROTOCOL.md: P-TLS-1.
    pub fn new(trust: Trust<'_>, by: &str, name: &str, identity: Option<Identity<'_>>) -> Result<Self, TlsError> {
        let name = match (ServerName::try_from(name.to_owned()), trust) {
            (Ok(name), _) => name,
            // rustls wants a name, though nothing checks it.
            (Err(_), Trust::Pins(_)) => ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()),
            (Err(error), Trust::Authority(_) | Trust::System) => return Err(Piece::Name.wrong(error)),
        };
        let config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Piece::Key.wrong(error))?;
        let by_roots = |roots: RootCertStore| {
            WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&PROVIDER))
                .build()
                .map_err(|error| Piece::Authority.wrong(error))
        };
        let config = match trust {
            Trust::Pins(pins) => {
                let verifier = pin::PinVerifier { pins: pins.to_vec(), provider: Arc::clone(&PROVIDER) };
                config.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
            Trust::Authority(pem) => {
                let trusted = certificates(pem, Piece::Authority)?;
                let verifier = ServerAuthority { inner: by_roots(roots(&trusted)?)?, trusted };
                config.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
            Trust::System => {
                let verifier = ServerAuthority { inner: by_roots(system_roots()?)?, trusted: Vec::new() };
                config.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let own = identity.map(OwnCertificate::new).transpose()?;
        let mut config = match own.clone() {
            None => config.with_no_client_auth(),
            Some(own) => config.with_client_cert_resolver(Arc::new(own)),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), own, name, trust: by.into() })
    }

    /// The certificate that it shows, if it has one.
    #[must_use]
    pub fn own(&self) -> Option<&OwnCertificate> {
        self.own.as_ref()
    }
}

impl Tls {
    /// By what the other side is known, for the log.
    pub(crate) fn trust(&self) -> &str {
        match self {
            Self::Off => "",
            Self::Server(tls) => &tls.trust,
            Self::Client(tls) => &tls.trust,
        }
    }

    /// The session of a connection that was accepted. Where it cannot be had the connection is in the clear, which
    /// the server refuses.
    pub(crate) fn accepted(&self) -> Option<Session> {
        match self {
            Self::Server(tls) => Session::server(&tls.config).ok(),
            Self::Off | Self::Client(_) => None,
        }
    }

    /// The session of a connection to the server.
    ///
    /// # Errors
    /// It cannot be had: the connection must not be made, as it would be in the clear.
    pub(crate) fn connecting(&self) -> Result<Option<Session>, SysError> {
        match self {
            Self::Client(tls) => Session::client(&tls.config, tls.name.clone()).map(Some).map_err(|error| {
                tracing::warn!(event = "tls_unusable", "TLS: {error}");
                SysError::Tls(TlsFailure::Broken)
            }),
            Self::Off | Self::Server(_) => Ok(None),
        }
    }
}

impl Identity<'_> {
    fn read(self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        Ok((certificates(self.certificate, Piece::Certificate)?, private_key(self.key)?))
    }
}

fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| {
        if ENCRYPTED_MARKS.iter().any(|mark| has(text, mark)) {
            Piece::Key.wrong("it is encrypted with a password; take that off: openssl pkey -in KEY -out NEW-KEY")
        } else if matches!(error, pem::Error::NoItemsFound) {
            Piece::Key.wrong("there is no private key (PEM) in it")
        } else {
            Piece::Key.wrong(error)
        }
    })
}

/// How the two sorts of PEM say that a key needs a password.
const ENCRYPTED_MARKS: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];

/// Whether `part` is somewhere in `text`.
fn has(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn certificates(text: &[u8], piece: Piece) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text) {
        let entry = found.len() + 1;
        found.push(certificate.map_err(|error| piece.wrong(format!("certificate {entry} in it is broken: {error}")))?);
    }
    if found.is_empty() { Err(piece.wrong("there is no certificate (PEM) in it")) } else { Ok(found) }
}

fn roots(trusted: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for (nth, certificate) in trusted.iter().enumerate() {
        store.add(certificate.clone()).map_err(|error| {
            let (entry, count) = (nth + 1, trusted.len());
            Piece::Authority
                .wrong(format!("certificate {entry} of {count} in it cannot be used: {}", words::said(&error)))
        })?;
    }
    Ok(store)
}

/// The certificates that this machine trusts, wherever it keeps them.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let what =
            "this machine has no trusted certificates; install the package ca-certificates, or use tls_pin or tls_ca";
        return Err(Piece::Authority.wrong(what));
    }
    Ok(store)
}

/// What is wrong with the key of `certificate`.
fn key_error(error: &rustls::Error, certificate: &CertificateDer<'_>) -> TlsError {
    if let rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) = error {
        return Piece::Key.wrong("it is the key of another certificate");
    }
    let parsed = ParsedCertificate::try_from(certificate).ok();
    match parsed.and_then(|parsed| pin::unsupported_key(parsed.subject_public_key_info().as_ref())) {
        Some(what) => Piece::Key.wrong(format!("{what}; use P-256, P-384, Ed25519 or RSA of 2048 bits or more")),
        None => Piece::Key.wrong(error),
    }
}

#[cfg(test)]
mod tests;
