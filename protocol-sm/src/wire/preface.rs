//! The first eight bytes in each direction: who we are and which version we speak (PROTOCOL.md,
//! "Preface"). Fixed size, so a stranger is told apart with nothing allocated for it.

use super::frame::WireError;
use super::opening::Foreign;
use super::tls::ClientHelloScan;
use crate::codes::HandshakeRefusal;

/// Length of a preface and of its answer, in bytes.
pub const PREFACE_LEN: usize = 8;
/// What every connection starts with, in both directions.
pub const MAGIC: [u8; 4] = *b"CPXY";
/// The one protocol version that this crate speaks.
// PROTOCOL.md: P-EVO-4.
pub const VERSION: u8 = 1;

/// Which of the two kinds of connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnKind {
    /// A ctl_conn.
    Ctl,
    /// A proxy_conn.
    Proxy,
}

impl ConnKind {
    fn byte(self) -> u8 {
        match self {
            Self::Ctl => b'C',
            Self::Proxy => b'P',
        }
    }
}

/// What a client sends first: `CPXY`, kind, lowest and highest version, zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Preface {
    /// Kind of connection.
    pub port: ConnKind,
    /// Lowest version spoken, from 1.
    pub min: u8,
    /// Highest version spoken.
    pub max: u8,
}

impl Preface {
    /// The preface of this crate's client.
    // PROTOCOL.md: P-PREF-1.
    #[must_use]
    pub fn ours(port: ConnKind) -> Self {
        Self { port, min: VERSION, max: VERSION }
    }

    /// The eight bytes.
    #[must_use]
    pub fn encode(self) -> [u8; PREFACE_LEN] {
        let [a, b, c, d] = MAGIC;
        [a, b, c, d, self.port.byte(), self.min, self.max, 0]
    }

    fn decode(bytes: [u8; PREFACE_LEN]) -> Result<Self, WireError> {
        let [a, b, c, d, kind, min, max, zero] = bytes;
        let port = match kind {
            b'C' => ConnKind::Ctl,
            b'P' => ConnKind::Proxy,
            _ => return Err(WireError::NotCproxy),
        };
        if [a, b, c, d] != MAGIC || min == 0 || min > max || zero != 0 {
            return Err(WireError::NotCproxy);
        }
        Ok(Self { port, min, max })
    }
}

/// What a server answers: `CPXY`, kind, chosen version (0 = refused), then its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Greeting {
    /// Go on in this version. A server that speaks others too says so, and the proofs cover it.
    Version {
        /// The version chosen.
        version: u8,
        /// Lowest version the server speaks.
        min: u8,
        /// Highest version the server speaks.
        max: u8,
    },
    /// No version in common: this server speaks `min..=max`. The connection closes.
    Refused {
        /// Lowest version the server speaks.
        min: u8,
        /// Highest version the server speaks.
        max: u8,
    },
}

/// A server's answer to a preface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    /// Kind of connection, as the client said.
    pub port: ConnKind,
    /// The version chosen, or why none.
    pub greeting: Greeting,
}

impl Reply {
    /// Chooses the highest version in common.
    // PROTOCOL.md: P-PREF-2, P-PREF-3.
    #[must_use]
    pub fn to(preface: Preface) -> Self {
        let greeting = if (preface.min..=preface.max).contains(&VERSION) {
            Greeting::Version { version: VERSION, min: VERSION, max: VERSION }
        } else {
            Greeting::Refused { min: VERSION, max: VERSION }
        };
        Self { port: preface.port, greeting }
    }

    /// What a server without TLS answers to one of our clients that speaks TLS: no version, in the clear.
    #[must_use]
    pub fn to_tls(port: ConnKind) -> Self {
        Self { port, greeting: Greeting::Refused { min: VERSION, max: VERSION } }
    }

    /// The eight bytes.
    #[must_use]
    pub fn encode(self) -> [u8; PREFACE_LEN] {
        let [a, b, c, d] = MAGIC;
        let (version, min, max) = match self.greeting {
            Greeting::Version { version, min, max } => (version, min, max),
            Greeting::Refused { min, max } => (0, min, max),
        };
        [a, b, c, d, self.port.byte(), version, min, max]
    }

    // PROTOCOL.md: P-PREF-5.
    fn decode(bytes: [u8; PREFACE_LEN], asked: Preface) -> Result<Self, WireError> {
        let [a, b, c, d, kind, version, min, max] = bytes;
        if [a, b, c, d] != MAGIC || kind != asked.port.byte() {
            return Err(WireError::NotCproxy);
        }
        let greeting = match version {
            0 => Greeting::Refused { min, max },
            version if (asked.min..=asked.max).contains(&version) => Greeting::Version { version, min, max },
            _ => return Err(WireError::NotCproxy),
        };
        Ok(Self { port: asked.port, greeting })
    }

    /// The refusal that a client reports for this reply, if it is one.
    #[must_use]
    pub fn refusal(self) -> Option<HandshakeRefusal> {
        match self.greeting {
            Greeting::Version { .. } => None,
            Greeting::Refused { .. } => Some(HandshakeRefusal::Version),
        }
    }
}

/// Collects eight bytes, refusing at the first byte that cannot be ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Eight {
    bytes: [u8; PREFACE_LEN],
    have: usize,
}

impl Eight {
    // PROTOCOL.md: P-PREF-4.
    fn take(&mut self, input: &mut &[u8]) -> Result<Option<[u8; PREFACE_LEN]>, WireError> {
        while self.have < PREFACE_LEN {
            let Some((&byte, rest)) = input.split_first() else {
                return Ok(None);
            };
            if self.have < MAGIC.len() && byte != MAGIC[self.have] {
                return Err(WireError::NotCproxy);
            }
            self.bytes[self.have] = byte;
            self.have += 1;
            *input = rest;
        }
        Ok(Some(self.bytes))
    }
}

/// Reads a client's preface, incrementally.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PrefaceReader {
    eight: Eight,
    scan: ClientHelloScan,
}

impl PrefaceReader {
    /// Takes what it needs off the front of `input`; `Ok(None)` until the preface is whole.
    ///
    /// # Errors
    /// [`WireError::NotCproxy`] at the first byte that shows it; [`WireError::Tls`] for a client of ours that
    /// speaks TLS.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Preface>, WireError> {
        let knocks = self.eight.have == 0 && input.first().is_some_and(|&first| ClientHelloScan::begins_with(first));
        if knocks || self.scan.has_begun() {
            return self.scan.next(input).map(|()| None);
        }
        self.eight.take(input)?.map(Preface::decode).transpose()
    }

    /// What came instead of a preface, if a person should hear of it; `last`: what was taken last.
    #[must_use]
    pub fn foreign(&self, last: &[u8]) -> Option<Foreign> {
        if self.scan.is_tls() { Some(Foreign::Tls) } else { Foreign::of(last) }
    }
}

/// Reads a server's reply, incrementally.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReplyReader(Eight);

impl ReplyReader {
    /// Takes what it needs off the front of `input`; `Ok(None)` until the reply is whole.
    ///
    /// # Errors
    /// [`WireError::NotCproxy`] for anything that does not answer `asked`.
    pub fn next(&mut self, asked: Preface, input: &mut &[u8]) -> Result<Option<Reply>, WireError> {
        self.0.take(input)?.map(|bytes| Reply::decode(bytes, asked)).transpose()
    }
}
