//! What a program answers at its `metrics_addr`.

use crate::wait::PATIENCE;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// The whole answer to a request head, as it came.
///
/// # Panics
/// There is none.
#[must_use]
#[track_caller]
pub fn ask(at: SocketAddr, head: &str) -> String {
    try_ask(at, head).unwrap_or_else(|error| panic!("no answer from {at}: {error}"))
}

fn try_ask(at: SocketAddr, head: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Code and body of `path`.
///
/// # Panics
/// There is no answer.
#[must_use]
#[track_caller]
pub fn get(at: SocketAddr, path: &str) -> (u16, String) {
    try_get(at, path).unwrap_or_else(|error| panic!("no answer from {at}: {error}"))
}

/// The same, where nobody may listen yet.
///
/// # Errors
/// There is no answer.
///
/// # Panics
/// It is no HTTP.
pub fn try_get(at: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let answer = try_ask(at, &format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"))?;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    Ok((code(head), body.to_owned()))
}

/// The code of an answer.
///
/// # Panics
/// It has none.
#[must_use]
pub fn code(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no HTTP: {answer}"))
}
