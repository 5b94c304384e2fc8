//! Certificates that an authority must have signed: what rustls says, and two things besides.
//!
//! - A certificate that is byte for byte one of those that are trusted is taken, even if it is an authority's (CA:TRUE),
//!   as `openssl req -x509` makes them: whoever trusts it for all that it signs may trust it for itself.
//! - Where the issuer is unknown and the certificate came alone, the user is told the usual reason.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use std::fmt;
use std::sync::Arc;

/// Nobody that is trusted signed the certificate, and those between it and an authority did not come with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnknownAndAlone;

impl fmt::Display for UnknownAndAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "its certificate is signed by nobody trusted here, and it came alone: if an authority stands in between, its \
             tls_cert must be the whole chain (fullchain.pem), not the first certificate (cert.pem)",
        )
    }
}

impl std::error::Error for UnknownAndAlone {}

/// Whether a certificate that was refused for `error` is taken all the same, for what it is itself.
fn is_trusted_itself(
    trusted: &[CertificateDer<'_>],
    end_entity: &CertificateDer<'_>,
    error: &CertificateError,
) -> bool {
    is_an_authoritys(error) && trusted.contains(end_entity)
}

/// Whether rustls refused a certificate for nothing but being an authority's. It has looked at the dates before that.
pub(super) fn is_an_authoritys(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Other(other)
        if matches!(other.0.downcast_ref::<webpki::Error>(), Some(webpki::Error::CaUsedAsEndEntity)))
}

/// `refused`, said with the usual reason.
fn explained(refused: Error, intermediates: &[CertificateDer<'_>]) -> Error {
    if intermediates.is_empty() && refused == Error::InvalidCertificate(CertificateError::UnknownIssuer) {
        CertificateError::Other(OtherError(Arc::new(UnknownAndAlone))).into()
    } else {
        refused
    }
}

/// How a client looks at its server's certificate.
#[derive(Debug)]
pub(super) struct ServerAuthority {
    pub(super) inner: Arc<WebPkiServerVerifier>,
    pub(super) trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for ServerAuthority {
    // PROTOCOL.md: P-TLS-2.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(error)) if is_trusted_itself(&self.trusted, end_entity, &error) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            Err(error) => Err(explained(error, intermediates)),
            Ok(verified) => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// How a server looks at its clients' certificates.
#[derive(Debug)]
pub(super) struct ClientAuthority {
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) trusted: Vec<CertificateDer<'static>>,
}

impl ClientCertVerifier for ClientAuthority {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.inner.verify_client_cert(end_entity, intermediates, now) {
            Err(Error::InvalidCertificate(error)) if is_trusted_itself(&self.trusted, end_entity, &error) => {
                Ok(ClientCertVerified::assertion())
            }
            Err(error) => Err(explained(error, intermediates)),
            Ok(verified) => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
