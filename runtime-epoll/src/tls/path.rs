//! The keys of paths (PROTOCOL.md, "Paths"): TLS 1.3 inside of QUIC. The server's key is made when it is first needed, for
//! as long as the process lives; the client knows its pin from the ctl_conn.

use super::PROVIDER;
use super::pin::{Pin, PinVerifier};
use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use std::io;
use std::sync::Arc;

/// What both sides say that they speak.
// PROTOCOL.md: P-PATH-3.
const ALPN: &[u8] = b"cproxy-path/1";
/// The name that a client gives, and nobody looks at.
pub(crate) const NAME: &str = "cproxy";

/// A new key of a server, and its pin.
///
/// # Errors
/// It could not be made.
pub(crate) fn server() -> io::Result<(QuicServerConfig, [u8; 32])> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let params = CertificateParams::new([NAME.to_owned()]).map_err(io::Error::other)?;
    let certificate = params.self_signed(&key).map_err(io::Error::other)?.der().clone();
    let pin = Pin::of(&certificate).map_err(io::Error::other)?.bytes();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&TLS13])
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![certificate], key))
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Every path proves its session anew.
    config.send_tls13_tickets = 0;
    Ok((QuicServerConfig::try_from(config).map_err(io::Error::other)?, pin))
}

/// A client's side, which takes a server with this key alone.
///
/// # Errors
/// None with the provider of this program.
// PROTOCOL.md: P-PATH-3.
pub(crate) fn client(pin: [u8; 32]) -> Result<QuicClientConfig, NoInitialCipherSuite> {
    let verifier = PinVerifier { pins: vec![Pin::from_bytes(pin)], provider: Arc::clone(&PROVIDER) };
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    QuicClientConfig::try_from(config)
}
