//! SOCKS5 (RFC 1928) with user and password (RFC 1929): one step per round trip.
//!
//! ```text
//!   Method ──▶ Login ──▶ Reply ──▶ Bound ──▶ through
//!      └─────────────────▲
//! ```
//! The address at the end of the reply, of whatever type, is read and not used.

use super::{Answer, Credentials, PassageFailure, Progress, Target};
use crate::settings::Token;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

const VERSION: u8 = 5;
/// The methods: no authentication, user and password, none of those that were offered.
const OPEN: u8 = 0;
const LOGIN: u8 = 2;
const NO_METHOD: u8 = 0xff;
/// Types of addresses.
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Socks5 {
    port: u16,
    /// The message about user and password, where there are some.
    login: Option<Token>,
    request: Vec<u8>,
    state: State,
    /// The answer that is read, as far as it has come.
    answer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// The proxy chooses a method: two bytes.
    Method,
    /// It judges the password: two bytes.
    Login,
    /// It says what has come of the request: two bytes, of which the second is not 0 if it failed.
    Reply,
    /// A byte without a meaning, the type of an address, and the first byte of that.
    Bound,
    /// The rest of the address and its port.
    Rest(usize),
}

impl Socks5 {
    pub(super) fn new(credentials: Option<&Credentials>, target: &Target) -> (Self, Token) {
        let login = credentials.map(|Credentials { user, password }| {
            let [user, password] = [user, password].map(|text| &text.bytes()[..text.bytes().len().min(255)]);
            Token::new([&[1, user.len() as u8], user, &[password.len() as u8], password].concat())
        });
        let hello = if login.is_some() { vec![VERSION, 2, OPEN, LOGIN] } else { vec![VERSION, 1, OPEN] };
        let request = request(target);
        let socks5 = Self { port: target.port, login, request, state: State::Method, answer: Vec::new() };
        (socks5, Token::new(hello))
    }

    pub(super) fn wants(&self) -> usize {
        self.length() - self.answer.len()
    }

    /// Bytes of what is read now.
    fn length(&self) -> usize {
        match self.state {
            State::Method | State::Login | State::Reply => 2,
            State::Bound => 3,
            State::Rest(length) => length,
        }
    }

    pub(super) fn on_bytes(&mut self, bytes: &[u8]) -> Result<Progress, PassageFailure> {
        self.answer.extend_from_slice(bytes);
        // What speaks something else is known by its first byte, and may say nothing more.
        if matches!(self.state, State::Method | State::Reply) && self.answer.first().is_some_and(|&at| at != VERSION) {
            return Err(PassageFailure::NotAProxy);
        }
        if self.wants() > 0 {
            return Ok(Progress::Read);
        }
        let answer = core::mem::take(&mut self.answer);
        let (state, progress) = match (self.state, &answer[..]) {
            (State::Method, [_, OPEN]) => (State::Reply, self.request()),
            (State::Method, [_, LOGIN]) => {
                let login = self.login.clone().ok_or(PassageFailure::NotAProxy)?;
                (State::Login, Progress::Send(login))
            }
            (State::Method, [_, NO_METHOD]) => {
                return Err(PassageFailure::NoMethod { known: self.login.is_some() });
            }
            (State::Login, [_, 0]) => (State::Reply, self.request()),
            (State::Login, [_, code]) => {
                return Err(PassageFailure::Credentials { known: true, answer: Answer::Login(*code) });
            }
            (State::Reply, [_, 0]) => (State::Bound, Progress::Read),
            (State::Reply, [_, code]) => return Err(self.refused(*code)),
            (State::Bound, [_, kind, first]) => {
                // One byte of the address is read already: of a name, that is its length.
                let left = match *kind {
                    IPV4 => 3,
                    IPV6 => 15,
                    NAME => usize::from(*first),
                    _ => return Err(PassageFailure::NotAProxy),
                };
                (State::Rest(left + 2), Progress::Read)
            }
            (State::Rest(_), _) => return Ok(Progress::Through),
            (State::Method | State::Login | State::Reply | State::Bound, _) => return Err(PassageFailure::NotAProxy),
        };
        self.state = state;
        Ok(progress)
    }

    fn request(&self) -> Progress {
        Progress::Send(Token::new(self.request.clone()))
    }

    fn refused(&self, code: u8) -> PassageFailure {
        let answer = Answer::Socks5(code);
        match code {
            2 => PassageFailure::Forbidden { port: self.port, answer },
            1 | 3..=6 => PassageFailure::NoWay(answer),
            _ => PassageFailure::Refused(answer),
        }
    }
}

/// The request for a connection to `target`; addresses go as such, and names as they are.
fn request(target: &Target) -> Vec<u8> {
    let mut request = vec![VERSION, 1, 0];
    match target.ip() {
        Some(IpAddr::V4(ip)) => {
            request.push(IPV4);
            request.extend_from_slice(&ip.octets());
        }
        Some(IpAddr::V6(ip)) => {
            request.push(IPV6);
            request.extend_from_slice(&ip.octets());
        }
        None => {
            let host = target.host.as_bytes();
            let host = &host[..host.len().min(255)];
            request.extend_from_slice(&[NAME, host.len() as u8]);
            request.extend_from_slice(host);
        }
    }
    request.extend_from_slice(&target.port.to_be_bytes());
    request
}
