//! How a stream ends: by a shutdown or by a reset, at which byte (PROTOCOL.md, "Ends").

use crate::codes::Violation;
use serde::{Deserialize, Serialize};

/// The manner of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum How {
    /// Its sender shut its write half: a reader sees an end of the stream.
    Shut,
    /// The connection was reset: a reader sees an error behind the bytes.
    Reset,
}

/// What a `Fin` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fin {
    /// Bytes of the whole stream, exactly.
    pub total: u64,
    /// How it ended.
    pub how: How,
}

/// What is known of the end of the peer's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerEnd {
    /// What its first `Fin` said.
    pub fin: Fin,
    /// Behind an end that was shut, the connection was reset: a second `Fin` said so.
    pub reset_behind: bool,
}

impl PeerEnd {
    /// A `Fin` came where `known` was known.
    ///
    /// # Errors
    /// [`Violation::Repeated`] unless it is the first, or a reset right behind a shut end of the same total.
    // PROTOCOL.md: P-FIN-11.
    pub fn learn(known: Option<Self>, fin: Fin) -> Result<Self, Violation> {
        match known {
            None => Ok(Self { fin, reset_behind: false }),
            Some(Self { fin: Fin { total, how: How::Shut }, reset_behind: false })
                if fin == (Fin { total, how: How::Reset }) =>
            {
                Ok(Self { fin: Fin { total, how: How::Shut }, reset_behind: true })
            }
            Some(_) => Err(Violation::Repeated),
        }
    }

    /// Whether the peer's outer socket is gone: it takes nothing more.
    #[must_use]
    pub fn is_reset(self) -> bool {
        self.fin.how == How::Reset || self.reset_behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHUT: Fin = Fin { total: 5, how: How::Shut };
    const RESET: Fin = Fin { total: 5, how: How::Reset };

    #[test]
    fn only_a_reset_may_come_behind_a_shut_end_and_only_once() {
        let shut = PeerEnd::learn(None, SHUT).unwrap();
        assert!(!shut.is_reset());
        let both = PeerEnd::learn(Some(shut), RESET).unwrap();
        assert!(both.is_reset() && both.fin == SHUT);
        let reset = PeerEnd::learn(None, RESET).unwrap();
        assert!(reset.is_reset());
        for (known, fin) in [
            (shut, SHUT),
            (shut, Fin { total: 6, ..RESET }),
            (shut, Fin { total: 4, ..RESET }),
            (both, RESET),
            (both, SHUT),
            (reset, RESET),
            (reset, SHUT),
        ] {
            assert_eq!(PeerEnd::learn(Some(known), fin), Err(Violation::Repeated), "{known:?}, then {fin:?}");
        }
    }
}
