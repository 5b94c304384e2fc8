//! What a driver asks of its host besides sockets: names, random bytes, and a place for its notes.

use crate::ids::TunnelId;
use crate::notes::Note;

/// Names, looked up off the loops.
pub trait Resolve {
    /// Looks up `name`, a `HOST:PORT`, and answers with a message that carries `tag`.
    fn resolve(&mut self, tag: Lookup, name: &str);
}

/// What a name is looked up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lookup {
    /// The server.
    Server,
    /// A tunnel's LocalServer.
    Local(TunnelId),
}

/// Random bytes.
pub trait Entropy {
    /// Fills `into` with random bytes fit for secrets.
    fn random(&mut self, into: &mut [u8]);
}

/// Where a driver's notes go: a log, counters or a trace.
pub trait Log {
    /// Something worth a log line or a place in a trace.
    fn note(&mut self, note: Note);
}

/// 32 random bits from `sys`.
pub(crate) fn random_u32(sys: &mut impl Entropy) -> u32 {
    let mut bytes = [0; 4];
    sys.random(&mut bytes);
    u32::from_le_bytes(bytes)
}
