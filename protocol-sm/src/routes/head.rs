//! The host in the head of an HTTP/1.1 request: read once the head is whole, and never kept. Nothing of what follows is
//! looked at.
//!
//! `httparse` takes what other programs along the way would read in another way than this one; whatever could be meant
//! for two hosts is refused.

use super::Refusal;
use super::hello::HANDSHAKE;
use super::host::of_authority;
use alloc::string::String;
use httparse::{EMPTY_HEADER, Error, Request, Status};

/// Header lines that a head may have.
const HEADERS: usize = 100;
/// How a client of HTTP/2 begins that knows beforehand what it speaks with.
const H2: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// How far a head was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Scan {
    /// So many bytes.
    at: u16,
    /// Where the line begins.
    line: u16,
}

impl Scan {
    /// The host for which a request at the front of `bytes` is; `Ok(None)` if its head is not whole yet.
    ///
    /// # Errors
    /// It names none, or is no such request.
    pub(super) fn host(&mut self, bytes: &[u8]) -> Result<Option<String>, Refusal> {
        match bytes.first() {
            Some(&HANDSHAKE) => return Err(Refusal::TlsOnHttp),
            Some(first) if !first.is_ascii_alphabetic() => return Err(Refusal::BadRequest),
            Some(_) | None => {}
        }
        while let Some(&byte) = bytes.get(usize::from(self.at)) {
            let at = usize::from(self.at);
            let before = at.checked_sub(1).map(|before| bytes[before]);
            let ends = byte == b'\n';
            let fits = byte >= b' ' && byte != 0x7f || byte == b'\t' || byte == b'\r' || ends;
            // A carriage return and a line feed belong together.
            if !fits || ends != (before == Some(b'\r')) {
                return Err(Refusal::BadRequest);
            }
            self.at += 1;
            if ends {
                let is_empty = at == usize::from(self.line) + 1;
                self.line = self.at;
                if is_empty {
                    return of_head(&bytes[..=at]).map(Some);
                }
            }
        }
        Ok(None)
    }
}

/// The host in a whole head.
fn of_head(head: &[u8]) -> Result<String, Refusal> {
    if head == H2 {
        return Err(Refusal::Http2);
    }
    let mut headers = [EMPTY_HEADER; HEADERS];
    let mut request = Request::new(&mut headers);
    match request.parse(head) {
        Ok(Status::Complete(length)) if length == head.len() => {}
        Err(Error::TooManyHeaders) => return Err(Refusal::TooLarge),
        Ok(_) | Err(_) => return Err(Refusal::BadRequest),
    }
    let mut hosts = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(Refusal::BadRequest) };
    let of = |text: &str| of_authority(text).ok_or(Refusal::BadRequest);
    let host = of(core::str::from_utf8(host.value).map_err(|_| Refusal::BadRequest)?)?;
    let target = request.path.ok_or(Refusal::BadRequest)?;
    let authority = if request.method == Some("CONNECT") {
        Some(target)
    } else if target == "*" || target.starts_with('/') {
        None
    } else {
        let (_, rest) = target.split_once("://").ok_or(Refusal::BadRequest)?;
        rest.split(['/', '?', '#']).next()
    };
    match authority.map(of) {
        None => Ok(host),
        Some(Ok(named)) if named == host => Ok(host),
        Some(Ok(_) | Err(_)) => Err(Refusal::BadRequest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn host(head: &str) -> Result<Option<String>, Refusal> {
        Scan::default().host(head.as_bytes())
    }

    #[test]
    fn a_host_is_found_wherever_segments_end() {
        let head = b"POST /a?b HTTP/1.1\r\nAccept: */*\r\nhOST: \t App.Example.com.:8080 \r\nX: \xc3\xbc\r\n\r\n";
        let mut scan = Scan::default();
        for cut in 0..head.len() {
            assert_eq!(scan.host(&head[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(scan.host(head).unwrap().as_deref(), Some("app.example.com"));
        let more = [&head[..], b"\0\xff a body that is no second head"].concat();
        assert_eq!(Scan::default().host(&more).unwrap().as_deref(), Some("app.example.com"));
    }

    #[test]
    fn a_target_may_name_the_host_too() {
        for (target, name) in [
            ("http://a.example/x", Ok("a.example")),
            ("HTTP://A.Example:80?x", Ok("a.example")),
            ("http://a.example", Ok("a.example")),
            ("*", Ok("a.example")),
            ("http://b.example/x", Err(Refusal::BadRequest)),
            ("http://x@a.example/", Err(Refusal::BadRequest)),
            ("http:///x", Err(Refusal::BadRequest)),
            ("a.example:80", Err(Refusal::BadRequest)),
            ("x", Err(Refusal::BadRequest)),
        ] {
            let read = host(&format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
            assert_eq!(read, name.map(|name| Some(name.into())), "{target}");
        }
        let connect = |target: &str| host(&format!("CONNECT {target} HTTP/1.1\r\nHost: a.example:443\r\n\r\n"));
        assert_eq!(connect("a.example:443"), Ok(Some("a.example".into())));
        assert_eq!(connect("b.example:443"), Err(Refusal::BadRequest));
    }

    #[test]
    fn what_two_programs_could_read_in_two_ways_is_refused() {
        for lines in [
            "",
            "Host:\r\n",
            "Host: a\r\nHost: a\r\n",
            "Host: a\r\nhost: b\r\n",
            "Host : a\r\n",
            " Host: a\r\n",
            "X: y\r\n Host: a\r\nHost: b\r\n",
            "Host: a\r\n b\r\n",
            "Host: a\n",
            "X: y\nHost: a\r\n",
            "Host: a\rX: y\r\n",
            "Host: a\0b\r\n",
            "Host: a, b\r\n",
            "Host: a b\r\n",
            "Host: a/b\r\n",
            "Host: b\u{fc}cher.example\r\n",
            "Host\r\n",
            ": a\r\n",
            "H\u{f6}st: a\r\nHost: a\r\n",
        ] {
            assert_eq!(host(&format!("GET / HTTP/1.1\r\n{lines}\r\n")), Err(Refusal::BadRequest), "{lines:?}");
        }
        for head in [
            "\r\nGET / HTTP/1.1\r\n",
            "GET /\r\n",
            "GET  / HTTP/1.1\r\n",
            "GET / HTTP/2.0\r\n",
            "G\x01T",
            "\u{80}.",
            "get",
        ] {
            let read = host(&format!("{head}Host: a\r\n\r\n"));
            assert_eq!(read, Err(Refusal::BadRequest), "{head:?}");
        }
    }

    #[test]
    fn other_protocols_are_told_what_this_port_takes() {
        assert_eq!(Scan::default().host(&[HANDSHAKE]), Err(Refusal::TlsOnHttp));
        assert_eq!(host("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Err(Refusal::Http2));
        assert_eq!(host("SSH-2.0-OpenSSH_9\r\n\0"), Err(Refusal::BadRequest));
    }

    #[test]
    fn a_head_has_so_many_lines_and_no_more() {
        let head = |lines: usize| format!("GET / HTTP/1.0\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(lines - 1));
        assert_eq!(host(&head(HEADERS)), Ok(Some("a".into())));
        assert_eq!(host(&head(HEADERS + 1)), Err(Refusal::TooLarge));
    }
}
