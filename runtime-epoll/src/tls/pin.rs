//! A pin of a server's public key, for certificates that no authority signed.

use super::{PROVIDER, Piece, TlsError, private_key};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

const PREFIX: &str = "sha256:";

/// The SHA-256 of a certificate's public key (its SubjectPublicKeyInfo). Written `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a certificate's key.
    ///
    /// # Errors
    /// It is no certificate.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        Ok(Self(Sha256::digest(key.as_ref()).into()))
    }

    /// One that was made elsewhere.
    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub(super) fn bytes(self) -> [u8; 32] {
        self.0
    }

    /// The pin of a private key (PEM), of which there need not be a certificate yet.
    ///
    /// # Errors
    /// It is no key, or none that can be used.
    pub fn of_key(text: &[u8]) -> Result<Self, TlsError> {
        let key = PROVIDER.key_provider.load_private_key(private_key(text)?);
        let key = key.map_err(|error| Piece::Key.wrong(error))?;
        let public = key.public_key().ok_or_else(|| Piece::Key.wrong("it does not tell its public key"))?;
        Ok(Self(Sha256::digest(public.as_ref()).into()))
    }
}

/// What kind of key this public one (SubjectPublicKeyInfo, DER) is, if it is of a kind that ring does not take.
pub(super) fn unsupported_key(info: &[u8]) -> Option<&'static str> {
    /// RSA with a modulus of 2048 bits and the usual exponent is this long.
    const RSA_2048: usize = 294;
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    const CURVE: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const P_521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
    // The identifiers stand in front of the key itself.
    let head = &info[..info.len().min(32)];
    let has = |part: &[u8]| head.windows(part.len()).any(|window| window == part);
    if has(RSA) {
        (info.len() < RSA_2048).then_some("it is an RSA key of fewer than 2048 bits")
    } else if has(P_521) {
        Some("it is a key on the curve P-521, which is not supported")
    } else {
        has(CURVE).then_some("it is a key on a curve that is not supported")
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

/// A text that is no [`Pin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAPin;

impl fmt::Display for NotAPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pin is `sha256:` and 64 hex digits; copy the tls_pin line that the server prints when it starts")
    }
}

impl std::error::Error for NotAPin {}

impl FromStr for Pin {
    type Err = NotAPin;

    fn from_str(text: &str) -> Result<Self, NotAPin> {
        let digits = text.strip_prefix(PREFIX).ok_or(NotAPin)?.as_bytes();
        let mut pin = [0; 32];
        if digits.len() != 2 * pin.len() {
            return Err(NotAPin);
        }
        for (byte, pair) in pin.iter_mut().zip(digits.chunks(2)) {
            for &digit in pair {
                let value = char::from(digit).to_digit(16).ok_or(NotAPin)?;
                *byte = *byte << 4 | value as u8;
            }
        }
        Ok(Self(pin))
    }
}

/// The server has another key than the pinned one.
#[derive(Clone, Copy, Debug)]
pub(super) struct WrongPin {
    presented: Pin,
}

impl fmt::Display for WrongPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server's key has the pin {}", self.presented)
    }
}

impl std::error::Error for WrongPin {}

/// Takes a server that has one of the pinned keys, and proves it; names and dates in its certificate mean nothing.
#[derive(Debug)]
pub(super) struct PinVerifier {
    pub(super) pins: Vec<Pin>,
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    // PROTOCOL.md: P-TLS-2.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented = Pin::of(end_entity)?;
        if self.pins.contains(&presented) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::Other(OtherError(Arc::new(WrongPin { presented }))).into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_as_it_is_written() {
        let text = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(text.parse::<Pin>().unwrap().to_string(), text);
        assert_eq!(text.to_uppercase().replace("SHA", "sha").parse::<Pin>().unwrap().to_string(), text);
        for wrong in [
            "",
            "sha256:",
            &text[7..],
            &text[..70],
            &format!("{text}0"),
            &text.replace('f', "g"),
            &text.replace("0f", "+f"),
        ] {
            assert_eq!(wrong.parse::<Pin>(), Err(NotAPin), "{wrong}");
        }
    }
}
