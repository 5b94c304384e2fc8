//! The certificate that a program shows, which can be changed while it runs: handshakes that begin afterwards show the
//! new one, connections that are there stay.

use super::{Identity, PROVIDER, Pin, TlsError, key_error};
use crate::tls::{Piece, words};
use rustls::client::{ResolvesClientCert, verify_server_cert_signed_by_trust_anchor};
use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, RootCertStore, SignatureScheme};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use webpki::EndEntityCert;

/// The last second that a certificate can name: the end of the year 9999.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// One's own certificate and key, as they are shown now.
#[derive(Clone)]
pub struct OwnCertificate(Arc<RwLock<Shown>>);

/// What is shown.
struct Shown {
    certified: Arc<CertifiedKey>,
    pin: Pin,
    /// The hosts that it is for, in lower case.
    names: Vec<String>,
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnCertificate({})", self.pin())
    }
}

impl OwnCertificate {
    /// One that shows `identity`.
    ///
    /// # Errors
    /// Something of it is not what it should be.
    pub fn new(identity: Identity<'_>) -> Result<Self, TlsError> {
        Shown::of(identity).map(|shown| Self(Arc::new(RwLock::new(shown))))
    }

    /// Shows `identity` from the next handshake on.
    ///
    /// # Errors
    /// Something of it is not what it should be; the one that was there stays.
    pub fn renew(&self, identity: Identity<'_>) -> Result<(), TlsError> {
        let shown = Shown::of(identity)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(())
    }

    /// What clients can pin.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.0.read().unwrap_or_else(PoisonError::into_inner).pin
    }

    /// When the certificate ends, if it ever does.
    #[must_use]
    pub fn not_after(&self) -> Option<SystemTime> {
        let certified = self.certified();
        let parsed = ParsedCertificate::try_from(certified.end_entity_cert().ok()?).ok()?;
        // The verifier looks at the dates before anything else, and tells them: nothing else is asked of it here.
        let algorithms = PROVIDER.signature_verification_algorithms.all;
        let at = UnixTime::since_unix_epoch(LAST);
        let nobody = RootCertStore::empty();
        match verify_server_cert_signed_by_trust_anchor(&parsed, &nobody, &[], at, algorithms) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
                Some(SystemTime::UNIX_EPOCH + Duration::from_secs(not_after.as_secs()))
            }
            Ok(()) | Err(_) => None,
        }
    }

    /// The hosts that it is for: `app.example.com`, or `*.example.com`.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).names.clone()
    }

    /// Whether this is one of [`OwnCertificate::names`].
    pub(super) fn is_for(&self, name: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).names.iter().any(|own| own == name)
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).certified)
    }
}

impl Shown {
    fn of(identity: Identity<'_>) -> Result<Self, TlsError> {
        let (chain, key) = identity.read()?;
        let first = chain.first().ok_or_else(|| Piece::Certificate.wrong("no certificate"))?.clone();
        let pin = Pin::of(&first).map_err(|error| Piece::Certificate.wrong(words::said(&error)))?;
        let parsed = EndEntityCert::try_from(&first).ok();
        let names = parsed.iter().flat_map(|parsed| parsed.valid_dns_names()).map(str::to_lowercase).collect();
        let certified = CertifiedKey::from_der(chain, key, &PROVIDER).map_err(|error| key_error(&error, &first))?;
        Ok(Self { certified: Arc::new(certified), pin, names })
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
