//! What a visitor says first, at a port that many tunnels share.

use protocol_sm::routes::{HEAD_MAX, Host, Named, Refusal, Unrouted, Web};
use rustls::server::Acceptor;

/// Any bytes as the head of a request, or as a ClientHello: the first one says which. Over TLS rustls is asked, too.
pub fn head(data: &[u8]) {
    let Some((&kind, said)) = data.split_first() else { return };
    let web = if kind % 2 == 0 { Web::Http } else { Web::Https };
    let (whole, kept) = read(web, said, said.len().max(1));
    assert_eq!(kept, said[..kept.len()], "what was read is kept as it came");
    for step in [1, 7] {
        let (slowly, kept) = read(web, said, step);
        assert_eq!(slowly, whole, "in pieces of {step}");
        assert_eq!(kept, said[..kept.len()], "in pieces of {step}");
    }
    let Some(Ok(named)) = &whole else { return };
    if let Some(name) = named.name().filter(|name| !name.starts_with('[') && name.len() <= Host::MAX) {
        let host: Host = name.parse().expect("a name that is read is one that a tunnel may have");
        assert_eq!(host.key(), name, "it is told as it is compared");
    }
    match web {
        Web::Http => {
            let lower = said.to_ascii_lowercase();
            assert!(lower.windows(5).any(|bytes| bytes == b"host:"), "a host is what a header says");
        }
        Web::Https => compare(named, said),
    }
}

/// Reads in pieces of `step` bytes. `None`: nothing is clear yet.
fn read(web: Web, said: &[u8], step: usize) -> (Option<Result<Named, Refusal>>, Vec<u8>) {
    let mut visitor = Unrouted::new(web);
    let mut rest = &said[..said.len().min(HEAD_MAX)];
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(step.min(rest.len()));
        rest = later;
        match visitor.on_bytes(piece) {
            Ok(None) => {}
            Ok(Some(named)) => return (Some(Ok(named)), visitor.into_bytes()),
            Err(why) => return (Some(Err(why)), visitor.into_bytes()),
        }
    }
    (None, visitor.into_bytes())
}

/// Where rustls understands the hello, too, it reads the same name.
fn compare(named: &Named, said: &[u8]) {
    let mut acceptor = Acceptor::default();
    let mut rest = said;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let theirs = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
                return assert_eq!(named.name(), theirs.as_deref(), "rustls reads another name");
            }
            Err(_) => return,
        }
    }
}
