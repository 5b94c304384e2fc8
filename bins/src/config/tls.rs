//! The keys about TLS: which files, and which way to know the other side. The files are read by [`crate::tls`].

use super::section::Section;
use super::settings::{Home, Of, keys_of};
use runtime_epoll::tls::Pin;
use std::path::PathBuf;

/// A value, and which key or flag says it, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<T> {
    /// The value.
    pub value: T,
    /// Who says so.
    pub by: String,
}

/// What both programs' files may say about TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsEntry {
    /// Whether to encrypt; without a word, the other keys decide.
    pub on: Option<bool>,
    /// One's own certificate and its key.
    pub identity: Option<(Named<PathBuf>, Named<PathBuf>)>,
    /// Certificates that the other side's must be signed by.
    pub authority: Option<Named<PathBuf>>,
    /// The server's key, for a client: one of these, at least one.
    pub pins: Option<Named<Vec<Pin>>>,
    /// The key that a server's next certificate will have.
    pub next_key: Option<Named<PathBuf>>,
    /// The name in the server's certificate, for a client.
    pub server_name: Option<Named<String>>,
    /// Whether TLS ends at a relay in front of the server, for a client.
    pub relay: bool,
}

impl TlsEntry {
    /// Whether to encrypt.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.unwrap_or(self.who_says_more().is_some())
    }

    /// Which key or flag says how to encrypt; what it says is not looked at without [`TlsEntry::is_on`].
    pub(crate) fn who_says_more(&self) -> Option<&str> {
        let pin = self.pins.as_ref().map(|pins| &pins.by);
        let next_key = self.next_key.as_ref().map(|key| &key.by);
        let authority = self.authority.as_ref().map(|authority| &authority.by);
        let identity = self.identity.as_ref().map(|(certificate, _)| &certificate.by);
        let name = self.server_name.as_ref().map(|name| &name.by);
        pin.or(authority).or(identity).or(name).or(next_key).map(String::as_str)
    }
}

/// One of the `[[certificates]]`: what visitors of its hosts are shown, whose TLS ends at the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateEntry {
    /// The certificate.
    pub certificate: Named<PathBuf>,
    /// Its key.
    pub key: Named<PathBuf>,
    /// Whether it is shown to visitors for whose name there is none, too.
    pub default: bool,
}

/// Reads the `[[certificates]]`.
pub(super) fn certificates(top: &Section<'_>) -> Vec<CertificateEntry> {
    let mut entries: Vec<CertificateEntry> = Vec::new();
    for section in top.tables("certificates", &keys_of(Of::Server, Home::Certificates)) {
        let there = "at the top level: move it above the first [[certificates]]";
        section.reject_unknown(|key| keys_of(Of::Server, Home::Top).contains(&key).then_some(there));
        for key in ["cert", "key"].into_iter().filter(|key| !section.has(key)) {
            section.problem(key, format!("is missing; write `{key} = \"…\"`, the path of a file in PEM"));
        }
        let default = section.boolean("default").unwrap_or(false);
        if default && entries.iter().any(|other| other.default) {
            section.problem("default", "is there twice; one certificate is for all other names".into());
        }
        let files = file(&section, "cert").zip(file(&section, "key"));
        entries.extend(files.map(|(certificate, key)| CertificateEntry { certificate, key, default }));
    }
    if top.has("certificates") && !top.has("https_port") {
        top.problem("certificates", "stands without `https_port`: visitors are shown them there".into());
    } else if top.has("certificates") && !top.has("http_port") {
        let what = "stands without `http_port`, which the tunnels behind them have; it may be the same as `https_port`";
        top.problem("certificates", what.into());
    }
    entries
}

pub(super) fn server(top: &Section<'_>) -> TlsEntry {
    TlsEntry { authority: file(top, "tls_client_ca"), next_key: file(top, "tls_next_key"), ..both(top) }
}

pub(super) fn client(top: &Section<'_>) -> TlsEntry {
    let pins = pins(top).map(|value| Named { value, by: top.locate("tls_pin") });
    let authority = file(top, "tls_ca");
    if top.has("tls_pin") && top.has("tls_ca") {
        top.problem("tls_ca", "stands beside `tls_pin`; keep one of the two ways to know the server".into());
    }
    let name = top.text("tls_server_name").map(str::to_owned);
    let server_name = name.map(|value| Named { value, by: top.locate("tls_server_name") });
    TlsEntry { authority, pins, server_name, relay: top.boolean("tls_relay").unwrap_or(false), ..both(top) }
}

/// Reads `tls_pin`, one or a list.
fn pins(top: &Section<'_>) -> Option<Vec<Pin>> {
    let expected = "a pin in quotes, or a list of them";
    let texts = top.texts("tls_pin", expected)?;
    if texts.is_empty() {
        top.problem("tls_pin", format!("names no key; write {expected}"));
        return None;
    }
    let mut pins = Vec::new();
    for (line, text) in texts {
        match text.parse() {
            Ok(pin) => pins.push(pin),
            Err(error) => top.item_problem("tls_pin", line, &format!("\"{}\": {error}", text.escape_debug())),
        }
    }
    Some(pins)
}

fn both(top: &Section<'_>) -> TlsEntry {
    for (one, other) in [("tls_cert", "tls_key"), ("tls_key", "tls_cert")] {
        if top.has(one) && !top.has(other) {
            top.problem(one, format!("stands alone; set `{other}` too: a certificate and its key belong together"));
        }
    }
    let identity = file(top, "tls_cert").zip(file(top, "tls_key"));
    TlsEntry { on: top.boolean("tls"), identity, ..TlsEntry::default() }
}

/// The file that `key` names.
fn file(top: &Section<'_>, key: &str) -> Option<Named<PathBuf>> {
    let path = top.text(key)?;
    if path.is_empty() {
        top.problem(key, "is empty; write the path of a file in PEM".into());
        return None;
    }
    Some(Named { value: top.directory(key).join(path), by: top.locate(key) })
}
