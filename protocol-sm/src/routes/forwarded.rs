//! Lines in the head of a request that tell a service for whom it comes, and nothing that a visitor could have said of
//! itself.

use crate::canary::{PlantedBug, planted};
use alloc::format;
use alloc::vec::Vec;
use core::net::IpAddr;

/// What only a proxy may say.
const OURS: [&[u8]; 4] = [b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"];
/// How long the connection may go on.
const KEEPING: [&[u8]; 2] = [b"connection", b"keep-alive"];

/// `bytes` begin with a whole head, whose request came from `visitor` with a URL of this scheme. The service is told that,
/// and to close behind its answer: what stands behind the head, which says for whom it comes, is not looked at. Where the
/// connection becomes one of another protocol, it does not end there.
// PROTOCOL.md: P-HOST-11.
pub(crate) fn forwarded(bytes: &[u8], visitor: IpAddr, scheme: &str) -> Vec<u8> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 2);
    let (head, rest) = bytes.split_at(end);
    let lines: Vec<&[u8]> = head.split_inclusive(|&byte| byte == b'\n').collect();
    let name = |line: &[u8]| line.split(|&byte| byte == b':').next().unwrap_or_default().to_ascii_lowercase();
    let value =
        |line: &[u8]| line.split(|&byte| byte == b':').skip(1).collect::<Vec<_>>().join(&b':').trim_ascii().to_vec();
    let upgrades = lines.iter().skip(1).any(|line| name(line) == b"upgrade");
    let host = lines.iter().skip(1).find(|line| name(line) == b"host").map(|line| value(line)).unwrap_or_default();
    let mut out = Vec::with_capacity(bytes.len() + 128);
    for (nth, line) in lines.iter().enumerate() {
        let name = name(line);
        let forged = OURS.contains(&&name[..]) && !planted(PlantedBug::ForgedKept);
        let goes = forged || KEEPING.contains(&&name[..]) && !upgrades;
        if nth == 0 || !goes {
            out.extend_from_slice(line);
        }
    }
    for _ in 0..if planted(PlantedBug::ToldTwice) { 2 } else { 1 } {
        out.extend_from_slice(
            format!("X-Forwarded-For: {visitor}\r\nX-Forwarded-Proto: {scheme}\r\nX-Forwarded-Host: ").as_bytes(),
        );
        out.extend_from_slice(&host);
        out.extend_from_slice(b"\r\n");
    }
    if !upgrades {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn told(head: &str) -> String {
        let told = forwarded(head.as_bytes(), "2001:db8::7".parse().unwrap(), "https");
        String::from_utf8(told).unwrap()
    }

    #[test]
    fn what_a_visitor_says_of_itself_is_replaced() {
        let head = "GET / HTTP/1.1\r\nHost: a.example:8443\r\nx-forwarded-for: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n\
                    Connection: keep-alive\r\nX: y\r\nX-FORWARDED-PROTO:http\r\n\r\nX-Forwarded-For: body\r\n\r\n";
        assert_eq!(
            told(head),
            "GET / HTTP/1.1\r\nHost: a.example:8443\r\nX: y\r\nX-Forwarded-For: 2001:db8::7\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: a.example:8443\r\nConnection: close\r\n\r\nX-Forwarded-For: body\r\n\r\n"
        );
    }

    #[test]
    fn a_connection_that_becomes_another_protocols_goes_on() {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let told = told(head);
        assert!(told.contains("Connection: Upgrade\r\nUpgrade: websocket\r\n") && !told.contains("close"), "{told}");
    }
}
