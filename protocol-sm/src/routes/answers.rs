//! What a visitor is told that leads nowhere: in its own protocol, as far as that is known.

use super::{Refusal, Web};
use crate::canary::{PlantedBug, planted};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// TLS alerts (RFC 8446, 6; RFC 6066, 3).
const UNRECOGNIZED_NAME: u8 = 112;
const MISSING_EXTENSION: u8 = 109;
const DECODE_ERROR: u8 = 50;
const INTERNAL_ERROR: u8 = 80;

impl Refusal {
    /// The bytes that a visitor of `web` gets; none where nobody would read them. `plain`: what it has said begins like
    /// a request in the clear.
    #[must_use]
    pub fn answer(self, web: Web, plain: bool) -> Vec<u8> {
        let tls = web == Web::Https && !plain;
        match self {
            // TLS itself has told why.
            Self::TlsFailed => Vec::new(),
            Self::Silent | Self::Crowded | Self::Stopping | Self::NoHeader => Vec::new(),
            Self::TooSlow if tls => Vec::new(),
            Self::TooLarge if tls => alert(DECODE_ERROR),
            Self::NobodysHost if tls => alert(UNRECOGNIZED_NAME),
            Self::Away if tls => alert(INTERNAL_ERROR),
            Self::NoName => alert(MISSING_EXTENSION),
            Self::NotTls if tls => alert(DECODE_ERROR),
            Self::TooSlow => page("408 Request Timeout", "The request did not come in time."),
            Self::TooLarge => page(
                "431 Request Header Fields Too Large",
                "The head of the request is too long, or has too many lines.",
            ),
            Self::BadRequest => page("400 Bad Request", "This is not an HTTP/1.1 request for exactly one host."),
            Self::TlsOnHttp => {
                page("400 Bad Request", "This port takes plain HTTP: write http:// instead of https://.")
            }
            Self::Http2 => page(
                "505 HTTP Version Not Supported",
                "This port takes HTTP/1.1; HTTP/2 needs TLS: write https:// instead of http://.",
            ),
            Self::NotTls => page("400 Bad Request", "This port takes TLS: write https:// instead of http://."),
            Self::NobodysHost => page("404 Not Found", "There is no site of this name here."),
            Self::Misdirected => {
                page("421 Misdirected Request", "This connection was opened for another site: TLS has named that one.")
            }
            Self::Away => page("502 Bad Gateway", "The site of this name is not connected just now. Try again later."),
        }
    }
}

/// A fatal alert in a record of its own, which is in the clear at this time.
fn alert(description: u8) -> Vec<u8> {
    Vec::from([0x15, 3, 3, 0, 2, 2, description])
}

/// Sends whoever has asked with this head to the same place over TLS.
pub(super) fn redirect(head: &[u8], host: &str, port: u16) -> Vec<u8> {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let target = core::str::from_utf8(line).ok().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let path = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        _ if target.starts_with('/') => target,
        _ => "/",
    };
    let path = if planted(PlantedBug::RedirectElsewhere) { "/" } else { path };
    let slash = if path.starts_with('/') { "" } else { "/" };
    let port = if port == Web::Https.usual_port() { String::new() } else { format!(":{port}") };
    response(
        "308 Permanent Redirect",
        &format!("Location: https://{host}{port}{slash}{path}\r\n"),
        "This site takes TLS.",
    )
}

/// The answer to a challenge of an authority.
pub(crate) fn challenge_met(answer: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n",
        answer.len()
    );
    [head.as_bytes(), answer].concat()
}

/// A whole response, behind which the connection ends.
fn page(status: &str, sentence: &str) -> Vec<u8> {
    response(status, "", sentence)
}

/// The same, with more lines in its head.
fn response(status: &str, lines: &str, sentence: &str) -> Vec<u8> {
    let body = format!("{status}\n\n{sentence}\n");
    let head: String = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         {lines}Connection: close\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_to_the_same_place() {
        for (target, port, location) in [
            ("/a?b=c://d", 443, "https://a.example/a?b=c://d"),
            ("/", 8443, "https://a.example:8443/"),
            ("http://a.example/x", 443, "https://a.example/x"),
            ("http://a.example?x", 443, "https://a.example/?x"),
            ("http://a.example", 443, "https://a.example/"),
            ("*", 443, "https://a.example/"),
        ] {
            let head = format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n");
            let told = String::from_utf8(redirect(head.as_bytes(), "a.example", port)).unwrap();
            let found = told.lines().find_map(|line| line.strip_prefix("Location: "));
            assert_eq!(found, Some(location), "{target}");
        }
    }
}
