//! CONNECT: one request, and the head of one answer.
//!
//! ```text
//!   StatusLine ──▶ Fields ──▶ through: 2xx
//!       ▲            │
//!       └── 1xx ─────┴──────▶ failed: any other status
//! ```
//! A line ends with LF, before which a CR does not count, and a head ends with an empty line. Of the lines only the first
//! is looked at. What a refusal has as its body is never read: the connection is closed.

use super::{Answer, Credentials, PassageFailure, Progress, Target};
use crate::settings::Token;
use alloc::format;
use alloc::vec::Vec;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use core::fmt;

/// Bytes that all heads of an answer may have together.
pub const MAX_HEAD: usize = 16 << 10;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Connect {
    /// The target's port, and whether credentials were sent: for what is said about a refusal.
    port: u16,
    known: bool,
    state: State,
    /// Bytes that have come.
    read: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    /// The first line, as far as it has come.
    StatusLine(Vec<u8>),
    /// The others. `empty`: the current one has no byte yet but, maybe, a CR.
    Fields { line: StatusLine, empty: bool },
}

impl Connect {
    pub(super) fn new(credentials: Option<&Credentials>, target: &Target) -> (Self, Token) {
        let mut out = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
        if let Some(Credentials { user, password }) = credentials {
            let pair = Token::new([user.bytes(), b":", password.bytes()].concat());
            let basic = Token::new(STANDARD.encode(pair.bytes()).into_bytes());
            // As long as it becomes: a secret that moves leaves a copy behind.
            out.reserve_exact(basic.bytes().len() + 64);
            out.extend_from_slice(b"Proxy-Authorization: Basic ");
            out.extend_from_slice(basic.bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        let state = State::StatusLine(Vec::new());
        (Self { port: target.port, known: credentials.is_some(), state, read: 0 }, Token::new(out))
    }

    /// The shortest way to the end of the head: an empty line, or the end of this one before it.
    pub(super) fn wants(&self) -> usize {
        match &self.state {
            State::Fields { empty: true, .. } => 1,
            State::StatusLine(_) | State::Fields { empty: false, .. } => 2,
        }
    }

    pub(super) fn on_bytes(&mut self, bytes: &[u8]) -> Result<Progress, PassageFailure> {
        self.read += bytes.len();
        for &byte in bytes {
            match (&mut self.state, byte) {
                (State::StatusLine(line), b'\n') => {
                    let line = StatusLine::new(line);
                    line.code().ok_or(PassageFailure::NotAProxy)?;
                    self.state = State::Fields { line, empty: true };
                }
                (State::StatusLine(line), byte) => {
                    if line.len() <= StatusLine::MAX {
                        line.push(byte);
                    }
                    // What speaks something else is known by its first byte, and may say nothing more.
                    if line.iter().zip(b"HTTP/1.").any(|(one, other)| one != other) {
                        return Err(PassageFailure::NotAProxy);
                    }
                }
                (State::Fields { line, empty: true }, b'\n') => {
                    let line = *line;
                    match line.code().unwrap_or_default() {
                        100..200 => self.state = State::StatusLine(Vec::new()),
                        200..300 => return Ok(Progress::Through),
                        code => return Err(self.refused(code, line)),
                    }
                }
                (State::Fields { empty, .. }, b'\n') => *empty = true,
                (State::Fields { .. }, b'\r') => {}
                (State::Fields { empty, .. }, _) => *empty = false,
            }
        }
        if self.read >= MAX_HEAD { Err(PassageFailure::NotAProxy) } else { Ok(Progress::Read) }
    }

    fn refused(&self, code: u16, line: StatusLine) -> PassageFailure {
        let answer = Answer::Http(line);
        match code {
            // tinyproxy says 401 to wrong credentials, and 407 where there are none.
            401 | 407 => PassageFailure::Credentials { known: self.known, answer },
            403 => PassageFailure::Forbidden { port: self.port, answer },
            404 | 500..600 => PassageFailure::NoWay(answer),
            _ => PassageFailure::Refused(answer),
        }
    }
}

/// The first line of an answer, as far as it is shown: its first bytes, none of which is a control character.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatusLine {
    bytes: [u8; Self::MAX],
    length: u8,
}

impl StatusLine {
    const MAX: usize = 55;

    /// Takes a line without its LF.
    fn new(line: &[u8]) -> Self {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut bytes = [0; Self::MAX];
        let mut length = 0;
        for (to, from) in bytes.iter_mut().zip(line) {
            *to = if matches!(from, b' '..=b'~') { *from } else { b'?' };
            length += 1;
        }
        Self { bytes, length }
    }

    fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    /// The status, if it is the line of an answer.
    fn code(&self) -> Option<u16> {
        let (version, rest) = self.text().split_once(' ')?;
        let (code, _) = rest.split_once(' ').unwrap_or((rest, ""));
        let digits = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
        if version.len() != 8 || !digits {
            return None;
        }
        code.parse().ok().filter(|code| (100..600).contains(code))
    }
}

impl fmt::Display for StatusLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Debug for StatusLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().fmt(f)
    }
}
