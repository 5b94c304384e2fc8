//! What a visitor says first, at a port that many tunnels share, and at one that is there for clients, too.

use protocol_sm::purposes::{Comer, Purpose, Purposes};
use protocol_sm::routes::{HEAD_MAX, Host, Named, Refusal, Unrouted, Web};
use protocol_sm::wire::{ALPN, PrefaceReader};
use rustls::server::{Acceptor, ClientHello};

/// Any bytes as the head of a request, or as a ClientHello: the first one says which. Over TLS rustls is asked, too.
pub fn head(data: &[u8]) {
    let Some((&kind, said)) = data.split_first() else { return };
    who(said);
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

/// Who has come does not depend on where the bytes are cut, and it is a client if it begins with a preface.
fn who(said: &[u8]) {
    let port: Purposes = Purpose::ALL.into_iter().collect();
    let told = port.tell(said, false);
    for cut in (0..said.len()).step_by((said.len() / 64).max(1)) {
        let early = port.tell(&said[..cut], false);
        assert!(early.is_none() || early == told, "{early:?} after {cut} bytes, {told:?} in the end");
    }
    let ended = port.tell(said, true).expect("it is decided by what is there");
    assert!(told.is_none_or(|told| told == ended));
    if matches!(PrefaceReader::default().next(&mut &said[..]), Ok(Some(_))) {
        assert_eq!(told, Some(Comer::Client));
    }
    with_rustls(said, |hello| {
        let ours = hello.alpn().is_some_and(|mut offers| offers.any(|offer| offer == ALPN));
        let comer = if ours { Comer::Client } else { Comer::Visitor(Web::Https) };
        // Of a hello that is longer than what is looked at nobody knows.
        assert!(told == Some(comer) || said.len() >= HEAD_MAX, "{told:?}, and rustls reads {comer:?}");
    });
}

/// Where rustls understands the hello, too, it reads the same name.
fn compare(named: &Named, said: &[u8]) {
    with_rustls(said, |hello| {
        let theirs = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        assert_eq!(named.name(), theirs.as_deref(), "rustls reads another name");
    });
}

/// What rustls reads of a ClientHello, where it takes it for one.
fn with_rustls(said: &[u8], look: impl FnOnce(&ClientHello<'_>)) {
    let mut acceptor = Acceptor::default();
    let mut rest = said;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => return look(&accepted.client_hello()),
            Err(_) => return,
        }
    }
}
