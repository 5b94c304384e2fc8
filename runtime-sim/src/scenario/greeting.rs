//! What a visitor of a host says first.

use core::net::IpAddr;
use protocol_sm::routes::{CHALLENGES, Site, Web};

/// A challenge of an authority, to which the server has the answer.
pub(crate) const MET: &str = "met";
/// That answer.
pub(crate) const ANSWER: &[u8] = b"met.by-the-server";
/// One to which it has none.
const UNMET: &str = "unmet";
/// What a visitor says of itself that only a proxy may say.
const FORGED: &str = "x-forwarded-for: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nConnection: keep-alive\r\n";

/// The head of a request, or a ClientHello, that names the site's host, or one below it.
pub(super) fn greeting(site: &Site, web: Web) -> Vec<u8> {
    let host = visited(site);
    match web {
        Web::Http => request("/", &host, ""),
        Web::Https => client_hello(host.as_bytes()),
    }
}

/// The head of a request for the answer to a challenge.
pub(super) fn challenge(name: &str, host: &str) -> Vec<u8> {
    request(&format!("{CHALLENGES}{name}"), host, "")
}

/// The head of a request with more lines.
pub(super) fn request(target: &str, host: &str, more: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nAccept: */*\r\nHost: {host}:80\r\n{more}\r\n").into_bytes()
}

/// What a visitor's head is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manner {
    /// It asks for the answer to a challenge of an authority's, which is its service's to give.
    pub(crate) asks: bool,
    /// It says of itself what only a proxy may say.
    pub(crate) forges: bool,
}

impl Manner {
    /// The head of a visitor of this site.
    pub(super) fn head(self, site: &Site) -> Vec<u8> {
        request(&self.target(), &visited(site), if self.forges { FORGED } else { "" })
    }

    /// What its service is told instead, which is told for whom it comes.
    pub(super) fn told(self, site: &Site, visitor: IpAddr, scheme: &str) -> Vec<u8> {
        let host = visited(site);
        let lines = format!(
            "X-Forwarded-For: {visitor}\r\nX-Forwarded-Proto: {scheme}\r\nX-Forwarded-Host: {host}:80\r\n\
             Connection: close\r\n"
        );
        request(&self.target(), &host, &lines)
    }

    fn target(self) -> String {
        if self.asks { format!("{CHALLENGES}{UNMET}") } else { "/".into() }
    }
}

/// The name of the site that a visitor says.
pub(super) fn visited(site: &Site) -> String {
    site.host.to_string().replace('*', "Some.Where")
}

/// In records of a few bytes.
fn client_hello(name: &[u8]) -> Vec<u8> {
    let entry = [&[0], &sized(2, name)[..]].concat();
    let extension = [&[0, 0], &sized(2, &sized(2, &entry))[..]].concat();
    let fixed = [&[3, 3][..], &[7; 32], &[0], &sized(2, &[0x13, 1]), &sized(1, &[0])].concat();
    let body = [fixed, sized(2, &extension)].concat();
    let message = [&[1], &sized(3, &body)[..]].concat();
    message.chunks(40).flat_map(|chunk| [&[0x16, 3, 1], &sized(2, chunk)[..]].concat()).collect()
}

/// Behind their length, which takes `size` bytes.
fn sized(size: usize, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a few bytes").to_be_bytes();
    [&length[4 - size..], body].concat()
}
