//! What both ends of a TLS connection know, and nobody else: `tls-exporter` of RFC 9266.
//!
//! rustls derives keying material for connections with buffers of their own only. It shows the secret that this starts
//! from to a key log, though, and has the HMAC for the rest: RFC 8446, section 7.5.

use protocol_sm::auth::Channel;
use rustls::crypto::tls13::OkmBlock;
use rustls::{KeyLog, SupportedCipherSuite};
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// The key log of one connection. It keeps the exporter's secret until [`Exporter::channel`] takes it.
#[derive(Default)]
pub(super) struct Exporter(Mutex<Option<OkmBlock>>);

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter")
    }
}

impl KeyLog for Exporter {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if self.will_log(label) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(OkmBlock::new(secret));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == "EXPORTER_SECRET"
    }
}

impl Exporter {
    /// The channel of a connection whose handshake is complete: 32 bytes for the label `EXPORTER-Channel-Binding` and an
    /// empty context.
    // PROTOCOL.md: P-TLS-8.
    pub(super) fn channel(&self, suite: SupportedCipherSuite) -> Option<Channel> {
        let secret = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let suite = suite.tls13()?;
        let empty = suite.common.hash_provider.hash(&[]);
        let expander = suite.hkdf_provider.expander_for_okm(&secret);
        let length = u16::try_from(expander.hash_len()).ok()?;
        let derived = expander.expand_block(&[&info(length, b"EXPORTER-Channel-Binding", empty.as_ref())]);
        let mut channel = Channel([0; 32]);
        let info = info(32, b"exporter", empty.as_ref());
        suite.hkdf_provider.expander_for_okm(&derived).expand_slice(&[&info], &mut channel.0).ok()?;
        Some(channel)
    }
}

/// The `HkdfLabel` of RFC 8446, section 7.1.
fn info(length: u16, label: &[u8], context: &[u8]) -> Vec<u8> {
    let mut info = length.to_be_bytes().to_vec();
    for (prefix, part) in [(&b"tls13 "[..], label), (b"", context)] {
        info.push(u8::try_from(prefix.len() + part.len()).expect("labels and hashes are short"));
        info.extend_from_slice(prefix);
        info.extend_from_slice(part);
    }
    info
}
