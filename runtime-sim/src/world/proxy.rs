//! An outbound proxy, which answers in pieces, and sometimes as it should not. It stands in its client's socket, as
//! encryption does: the connection beneath goes to the server, and nobody else sees a difference.
//!
//! It is as strict as the strictest: what is said to it before its answer has been read is lost.

use crate::kernel::Rng;
use protocol_sm::outbound::Scheme;
use std::collections::VecDeque;

/// What it does with whoever has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Serves,
    Refuses,
    Closes,
    Hangs,
}

/// What a read of its answers gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Bytes(usize),
    /// Nothing now; `Later`: an event tells when there is more.
    Nothing,
    Later,
    End,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Proxy {
    scheme: Scheme,
    fate: Fate,
    /// A part of a request.
    heard: Vec<u8>,
    /// The answer to a whole one, as far as it was not read.
    says: VecDeque<u8>,
    /// SOCKS5: the first answer was given.
    greeted: bool,
    /// The last answer was given.
    answered: bool,
    /// Its next piece is there now.
    ready: bool,
}

impl Proxy {
    /// `faulty`: it may do something else than serve.
    pub(super) fn new(scheme: Scheme, rng: &mut Rng, faulty: bool) -> Self {
        let fate = match rng.below(20) {
            0 if faulty => Fate::Refuses,
            1 if faulty => Fate::Closes,
            2 if faulty => Fate::Hangs,
            _ => Fate::Serves,
        };
        Self { scheme, fate, heard: Vec::new(), says: VecDeque::new(), greeted: false, answered: false, ready: false }
    }

    /// Whether the rest is between client and server.
    pub(super) fn is_passed(&self) -> bool {
        self.answered && self.says.is_empty() && self.fate == Fate::Serves
    }

    /// Takes what a client says. Returns whether there is an answer now.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> bool {
        if self.answered || !self.says.is_empty() {
            return false;
        }
        self.heard.extend_from_slice(bytes);
        let answer = match self.scheme {
            Scheme::Http => self.heard.ends_with(b"\r\n\r\n").then(|| {
                self.answered = true;
                match self.fate {
                    Fate::Refuses => &b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno"[..],
                    Fate::Serves | Fate::Closes | Fate::Hangs => {
                        b"HTTP/1.0 200 Connection established\r\nVia: 1\r\n\r\n"
                    }
                }
            }),
            Scheme::Socks5 => match self.heard[..] {
                [5, 1, 0] if !self.greeted => {
                    self.greeted = true;
                    Some(&[5, 0][..])
                }
                [5, 1, 0, 1, ..] if self.heard.len() == 10 => {
                    self.answered = true;
                    Some(match self.fate {
                        Fate::Refuses => &[5, 5, 0, 1, 0, 0, 0, 0, 0, 0][..],
                        Fate::Serves | Fate::Closes | Fate::Hangs => b"\x05\0\0\x03\x01p\0\0",
                    })
                }
                _ => None,
            },
        };
        let Some(answer) = answer else { return false };
        self.heard.clear();
        if matches!(self.fate, Fate::Serves | Fate::Refuses) || !self.answered {
            self.says.extend(answer);
        }
        true
    }

    /// Gives a piece of its answer.
    pub(super) fn say(&mut self, rng: &mut Rng, into: &mut [u8]) -> Said {
        if self.says.is_empty() {
            return match (self.answered, self.fate) {
                (true, Fate::Refuses | Fate::Closes) => Said::End,
                (true | false, _) => Said::Nothing,
            };
        }
        if !core::mem::take(&mut self.ready) {
            self.ready = true;
            return Said::Later;
        }
        self.ready = rng.chance(70);
        let most = into.len().min(self.says.len());
        let bytes = rng.size(1, most);
        into.iter_mut().zip(self.says.drain(..bytes)).for_each(|(into, byte)| *into = byte);
        Said::Bytes(bytes)
    }
}
