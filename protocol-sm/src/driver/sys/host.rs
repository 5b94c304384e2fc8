//! What a driver needs of its host besides sockets: a resolver, random bytes, and a place for its notes.

use crate::ids::TunnelId;
use crate::notes::Note;

/// A resolver. It never blocks the driver's thread.
pub trait Resolve {
    /// Looks up `name`, a `HOST:PORT`. The answer is a message that carries `tag`.
    fn resolve(&mut self, tag: Lookup, name: &str);
}

/// What a name is looked up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lookup {
    /// The server; the number says which one of those that the client has been told one after the other.
    Server(u32),
    /// A tunnel's LocalServer; the number says which one of those that it has had.
    Local(TunnelId, u32),
}

/// A source of random bytes.
pub trait Entropy {
    /// Fills `into` with random bytes fit for secrets.
    fn random(&mut self, into: &mut [u8]);
}

/// Where a driver's notes go: a log, counters or a trace.
pub trait Log {
    /// Takes one note.
    fn note(&mut self, note: Note);
}

/// Draws 32 random bits.
pub(crate) fn random_u32(sys: &mut impl Entropy) -> u32 {
    let mut bytes = [0; 4];
    sys.random(&mut bytes);
    u32::from_le_bytes(bytes)
}
