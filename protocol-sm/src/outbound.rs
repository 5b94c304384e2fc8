//! The way out of a network in which only a proxy reaches other networks: the client asks it, at the beginning of each
//! connection to the server, for a connection to there. HTTP proxies are asked with CONNECT, others with SOCKS5.
//!
//! A [`Passage`] is such a request on one connection. It says what to send, how many bytes may be read, and what the
//! answer means. It opens no connection, looks up no name (the proxy does), and knows no time: its owner has one deadline
//! for the passage and what follows it.
//!
//! Invariants:
//! - O1 nothing is read while there is something to send, and nothing is sent before the whole answer to what was sent
//!   has been read: proxies drop what comes early, or take it for a part of the request;
//! - O2 no byte behind the proxy's answer is read: it is the server's, and whoever reads next finds it;
//! - O3 what a proxy can make it keep is bounded, and so is the length of its answer;
//! - O4 a passage that has failed, or is through, is not asked again.

mod connect;
mod failure;
mod socks5;
#[cfg(test)]
mod tests;

pub use connect::{MAX_HEAD, StatusLine};
pub use failure::{Answer, PassageFailure};

use crate::settings::Token;
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use connect::Connect;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use socks5::Socks5;

/// A proxy between the client and the world. Prints without its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OutboundProxy {
    /// How it is asked.
    pub scheme: Scheme,
    /// Where it is, `HOST:PORT`.
    pub at: String,
    /// Who asks, if it wants to know.
    pub credentials: Option<Credentials>,
}

impl fmt::Display for OutboundProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.at)
    }
}

/// How a proxy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// CONNECT (RFC 9110, section 9.3.6).
    Http,
    /// SOCKS version 5 (RFC 1928).
    Socks5,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Socks5 => "socks5",
        })
    }
}

/// A user and a password of a proxy, of 255 bytes each at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// The user; without a colon for an HTTP proxy.
    pub user: Token,
    /// The password.
    pub password: Token,
}

/// What a proxy is asked for: a host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name or an address, without brackets.
    host: String,
    port: u16,
}

impl Target {
    /// That of a `HOST:PORT`; the interface of a link-local address means nothing to others, and is cut off. Without a
    /// port, which no configuration lets through, it is port 0, which a proxy refuses.
    #[must_use]
    pub fn new(address: &str) -> Self {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = host.split_once('%').map_or(host, |(ip, _)| ip);
        Self { host: host.to_owned(), port: port.parse().unwrap_or(0) }
    }

    /// The same host at another port.
    #[must_use]
    pub fn at_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip() {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Some(IpAddr::V4(_)) | None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Where a connection to the server goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The address that is dialled: the server's, or a proxy's.
    pub to: SocketAddr,
    /// What that proxy is asked for.
    pub through: Option<Arc<(OutboundProxy, Target)>>,
}

impl Destination {
    /// The way through its proxy, if there is one.
    #[must_use]
    pub fn passage(&self) -> Option<Box<Passage>> {
        self.through.as_ref().map(|through| Box::new(Passage::new(&through.0, &through.1)))
    }

    /// The port at the server.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.through.as_ref().map_or(self.to.port(), |through| through.1.port)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.through.as_deref() {
            None => self.to.fmt(f),
            Some((proxy, target)) => write!(f, "{target} through {proxy}"),
        }
    }
}

/// A request to a proxy on one connection: see the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Passage {
    machine: Machine,
    /// What is to be sent, with the secrets in it.
    out: Token,
    sent: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Machine {
    Connect(Connect),
    Socks5(Socks5),
}

/// What bytes of the proxy have come to.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More of its answer is to be read.
    Read,
    /// Its answer is whole, and asks for this.
    Send(Token),
    /// From the next byte on, the connection is one to the server.
    Through,
}

impl Passage {
    /// A request to `proxy` for a connection to `target`.
    #[must_use]
    pub fn new(proxy: &OutboundProxy, target: &Target) -> Self {
        let credentials = proxy.credentials.as_ref();
        let (machine, out) = match proxy.scheme {
            Scheme::Http => {
                let (connect, out) = Connect::new(credentials, target);
                (Machine::Connect(connect), out)
            }
            Scheme::Socks5 => {
                let (socks5, out) = Socks5::new(credentials, target);
                (Machine::Socks5(socks5), out)
            }
        };
        Self { machine, out, sent: 0 }
    }

    /// What is to be sent now, before anything is read.
    #[must_use]
    pub fn to_send(&self) -> &[u8] {
        &self.out.bytes()[self.sent..]
    }

    /// So many bytes of it were sent.
    ///
    /// # Panics
    /// If there were not so many.
    pub fn on_sent(&mut self, bytes: usize) {
        self.sent += bytes;
        assert!(self.sent <= self.out.bytes().len(), "no more is sent than there is");
    }

    /// How many bytes may be read at most: so many, at least, belong to the answer. Not 0.
    #[must_use]
    pub fn wants(&self) -> usize {
        match &self.machine {
            Machine::Connect(connect) => connect.wants(),
            Machine::Socks5(socks5) => socks5.wants(),
        }
    }

    /// Takes what was read, [`Passage::wants`] bytes at most. Returns whether it is through.
    ///
    /// # Errors
    /// The proxy refuses, or is none.
    ///
    /// # Panics
    /// If more was read, or there was something to send.
    pub fn on_bytes(&mut self, bytes: &[u8]) -> Result<bool, PassageFailure> {
        assert!(self.to_send().is_empty(), "what is to be sent goes first");
        assert!(bytes.len() <= self.wants(), "what stands behind the answer is the server's");
        let progress = match &mut self.machine {
            Machine::Connect(connect) => connect.on_bytes(bytes)?,
            Machine::Socks5(socks5) => socks5.on_bytes(bytes)?,
        };
        match progress {
            Progress::Read => Ok(false),
            Progress::Send(out) => {
                (self.out, self.sent) = (out, 0);
                Ok(false)
            }
            Progress::Through => Ok(true),
        }
    }
}
