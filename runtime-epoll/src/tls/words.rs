//! What went wrong, in words for the log and with the way out, where those of rustls need a specialist.

use super::authority::is_an_authoritys;
use rustls::{AlertDescription, CertificateError, Error};

/// What is to be said of `error`.
#[expect(clippy::wildcard_enum_match_arm, reason = "of a hundred errors, these few come from usual mistakes")]
pub(super) fn said(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(certificate) => of_certificate(certificate),
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "it speaks TLS, but not for CProxy: what ends TLS there must choose the protocol cproxy/1 (ALPN)".to_owned()
        }
        Error::AlertReceived(AlertDescription::ProtocolVersion) | Error::PeerIncompatible(_) => {
            format!("it does not speak TLS 1.3, which is needed: what ends TLS there must allow it ({error})")
        }
        other => other.to_string(),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "of many errors, these few come from usual mistakes")]
fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate was made for another purpose: the extended key usage of a server's must have serverAuth, of a \
             client's clientAuth, or be left out"
                .to_owned()
        }
        error if is_an_authoritys(error) => {
            "its certificate is an authority's own (CA:TRUE), and not one of those that are trusted here: name that very \
             file, or make a certificate with CA:FALSE"
                .to_owned()
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
            Some(webpki::Error::UnsupportedCertVersion) => {
                "the certificate is of X.509 version 1; make one of version 3 (`openssl x509 -req` does with -extfile)"
                    .to_owned()
            }
            Some(error) => format!("its certificate is not acceptable: {error}"),
            None => other.to_string(),
        },
        other => Error::InvalidCertificate(other.clone()).to_string(),
    }
}
