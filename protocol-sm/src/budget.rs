//! How a server's descriptors are shared out, so that whoever uses up one kind of connection leaves the others theirs: a
//! newcomer is answered on the ctl port though every place for visitors or conns is taken.
//!
//! The shares are fixed at the start, from the number of descriptors that the process may open. Of those that are left
//! when the server's own are taken off, in sixteenths:
//!
//! | for | share |
//! |---|---|
//! | visitors, waiting and served | 5 |
//! | conns | 5 |
//! | pipes; where they are used up, payload is copied | 2 |
//! | connections in their handshake | 2 |
//! | ctl_conns of sessions | 1 |
//! | public ports | 1 |
//!
//! Invariant: B1 the shares and the server's own descriptors together are no more than there are.

/// What a server may have at once, whatever its settings say. See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Visitors.
    pub visitors: u32,
    /// Conns.
    pub conns: u32,
    /// Connections in their handshake.
    pub handshakes: u32,
    /// Sessions.
    pub sessions: u32,
    /// Tunnels.
    pub tunnels: u32,
}

impl Default for Budget {
    /// No bound: where descriptors are no concern.
    fn default() -> Self {
        let most = u32::MAX;
        Self { visitors: most, conns: most, handshakes: most, sessions: most, tunnels: most }
    }
}

impl Budget {
    /// Shares, in parts of [`Budget::PARTS`]: visitors, conns, handshakes, sessions, tunnels. The rest is for pipes.
    const SHARES: [u32; 5] = [5, 5, 2, 1, 1];
    const PARTS: u32 = 16;

    /// The server's own descriptors with so many event loops: standard streams, signals, listening sockets; and for
    /// each loop its poll and what wakes it.
    const fn own(loops: u32) -> u32 {
        16 + 8 * loops
    }

    /// The shares of `descriptors`, for a server with `loops` event loops.
    // PROTOCOL.md: P-LIM-3.
    #[must_use]
    pub fn of(descriptors: u64, loops: usize) -> Self {
        let descriptors = u32::try_from(descriptors).unwrap_or(u32::MAX);
        let left = descriptors.saturating_sub(Self::own(u32::try_from(loops).unwrap_or(u32::MAX)));
        // Division first: the largest count must not overflow. One at least: a server that has nothing is of no use.
        let [visitors, conns, handshakes, sessions, tunnels] =
            Self::SHARES.map(|share| (left / Self::PARTS * share + left % Self::PARTS * share / Self::PARTS).max(1));
        Self { visitors, conns, handshakes, sessions, tunnels }
    }

    /// Descriptors that a server with `loops` event loops needs for so many visitors.
    #[must_use]
    pub fn needed(visitors: u32, loops: usize) -> u64 {
        let own = u64::from(Self::own(u32::try_from(loops).unwrap_or(u32::MAX)));
        own + (u64::from(visitors) * u64::from(Self::PARTS)).div_ceil(u64::from(Self::SHARES[0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b1_no_more_is_shared_out_than_there_is() {
        for loops in [1, 4, 64] {
            for descriptors in [600, 1024, 4096, 65_537, 1 << 20, 1 << 30, u64::from(u32::MAX), u64::MAX] {
                let Budget { visitors, conns, handshakes, sessions, tunnels } = Budget::of(descriptors, loops);
                let all: u64 = [visitors, conns, handshakes, sessions, tunnels].map(u64::from).iter().sum();
                let own = 16 + 8 * loops as u64;
                assert!(own + all <= descriptors, "{descriptors} descriptors, {loops} loops");
                assert!([visitors, conns, handshakes, sessions, tunnels].iter().all(|&share| share > 0));
            }
        }
        assert_eq!(
            Budget::of(1024, 2),
            Budget { visitors: 310, conns: 310, handshakes: 124, sessions: 62, tunnels: 62 }
        );
    }

    #[test]
    fn what_is_said_to_be_needed_is_enough() {
        for visitors in [1, 2, 100, 10_000, 1_000_000] {
            assert!(Budget::of(Budget::needed(visitors, 4), 4).visitors >= visitors);
            assert!(
                visitors < 100 || Budget::of(Budget::needed(visitors, 4) - 8, 4).visitors < visitors,
                "and no more"
            );
        }
    }

    #[test]
    fn a_server_with_next_to_nothing_has_one_of_each() {
        let one = Budget { visitors: 1, conns: 1, handshakes: 1, sessions: 1, tunnels: 1 };
        assert_eq!((Budget::of(0, 1), Budget::of(20, 4)), (one, one));
    }
}
