//! Connections that have not said yet whose they are, by source address: none takes the room of all others. On the ctl
//! and the proxy port these are the handshakes that are not through, on the ports of hosts the visitors who have named
//! none.
//!
//! What a client was asked for does not count: its conns come all at once, and each says its hello only when the client's
//! loop comes to it.

use super::slab::Token;
use crate::sources::Source;
use crate::time::Instant;
use alloc::collections::{BTreeMap, VecDeque};
use core::cmp::Reverse;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct HandshakeLimit {
    /// The connections of each source address with their deadlines, the oldest first. No entry is empty.
    by_source: BTreeMap<Source, VecDeque<(Instant, Token)>>,
    len: usize,
}

/// Why a connection must make room before its handshake is through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crowded {
    /// There are too many of its source address.
    Source,
    /// There are too many in all, and of no source address are there more.
    All,
}

impl HandshakeLimit {
    /// A connection came.
    pub(super) fn add(&mut self, source: Source, deadline: Instant, token: Token) {
        self.by_source.entry(source).or_default().push_back((deadline, token));
        self.len += 1;
    }

    /// A connection's handshake is through, or it is gone.
    pub(super) fn remove(&mut self, source: Source, token: Token) {
        let Some(of_source) = self.by_source.get_mut(&source) else { return };
        let Some(at) = of_source.iter().position(|&(_, other)| other == token) else { return };
        of_source.remove(at);
        self.len -= 1;
        if of_source.is_empty() {
            self.by_source.remove(&source);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Which connection must go before one from `source` may come, if any: there are `most` at once, and so many of one
    /// source. `expected` tells how many the clients at a source were asked for.
    // PROTOCOL.md: P-AUTH-12.
    pub(super) fn must_leave(
        &self,
        most: [u32; 2],
        source: Source,
        expected: impl Fn(Source) -> usize,
    ) -> Option<(Token, Crowded)> {
        let [most, most_of_source] = most.map(|n| n as usize);
        let surplus = |source, of_source: &VecDeque<_>| of_source.len().saturating_sub(expected(source));
        if let Some(own) = self.by_source.get(&source).filter(|own| own.len() >= most_of_source)
            && surplus(source, own) >= most_of_source
        {
            return own.front().map(|&(_, token)| (token, Crowded::Source));
        }
        if self.len < most {
            return None;
        }
        let mut all = 0;
        let counted = self.by_source.iter().filter_map(|(&source, of_source)| {
            let surplus = surplus(source, of_source);
            all += surplus;
            Some((surplus, of_source.front()?))
        });
        let (_, &(_, token)) =
            counted.max_by_key(|&(count, &(deadline, token))| (count, Reverse((deadline, token))))?;
        (all >= most).then_some((token, Crowded::All))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use core::time::Duration;

    fn token(n: u64) -> Token {
        Token::from_number(n + 1).unwrap()
    }

    fn source(n: u32) -> Source {
        Source::of(Ipv4Addr::from_bits(n).into())
    }

    fn at(n: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(n)
    }

    /// Nobody was asked for anything.
    fn nothing(_: Source) -> usize {
        0
    }

    #[test]
    fn what_was_asked_for_does_not_count() {
        let most = [3, 2];
        let mut limit = HandshakeLimit::default();
        for n in 0..6 {
            limit.add(source(1), at(n), token(n));
        }
        let asked = |count| move |at: Source| if at == source(1) { count } else { 0 };
        assert_eq!(limit.must_leave(most, source(1), asked(5)), None);
        assert_eq!(limit.must_leave(most, source(1), asked(4)), Some((token(0), Crowded::Source)));
        assert_eq!(limit.must_leave(most, source(2), asked(4)), None);
        assert_eq!(limit.must_leave(most, source(2), asked(3)), Some((token(0), Crowded::All)));
        limit.add(source(2), at(6), token(6));
        limit.add(source(3), at(7), token(7));
        limit.add(source(4), at(8), token(8));
        assert_eq!(limit.must_leave(most, source(5), asked(6)), Some((token(6), Crowded::All)), "a stranger's");
    }

    #[test]
    fn a_source_with_too_many_loses_its_own_oldest() {
        let most = [1024, 2];
        let tokens = [0, 1, 2, 3].map(token);
        let mut limit = HandshakeLimit::default();
        limit.add(source(1), at(0), tokens[0]);
        limit.add(source(2), at(1), tokens[1]);
        limit.add(source(2), at(2), tokens[2]);
        assert_eq!(limit.must_leave(most, source(1), nothing), None);
        assert_eq!(limit.must_leave(most, source(3), nothing), None);
        assert_eq!(limit.must_leave(most, source(2), nothing), Some((tokens[1], Crowded::Source)));
        limit.remove(source(2), tokens[1]);
        limit.remove(source(2), tokens[1]);
        assert_eq!(limit.must_leave(most, source(2), nothing), None);
    }

    #[test]
    fn where_there_are_too_many_the_source_with_most_makes_room() {
        let most = [4, 512];
        let tokens = [0, 1, 2, 3, 4].map(token);
        let mut limit = HandshakeLimit::default();
        limit.add(source(1), at(0), tokens[0]);
        limit.add(source(2), at(1), tokens[1]);
        limit.add(source(2), at(2), tokens[2]);
        assert_eq!(limit.must_leave(most, source(3), nothing), None);
        limit.add(source(3), at(3), tokens[3]);
        assert_eq!(
            limit.must_leave(most, source(4), nothing),
            Some((tokens[1], Crowded::All)),
            "not the oldest of all"
        );
        limit.remove(source(2), tokens[1]);
        limit.add(source(4), at(4), tokens[4]);
        assert_eq!(
            limit.must_leave(most, source(4), nothing),
            Some((tokens[0], Crowded::All)),
            "among equals the oldest"
        );
        for (n, token) in [(1, 0), (2, 2), (3, 3), (4, 4)] {
            limit.remove(source(n), tokens[token]);
        }
        assert_eq!(limit, HandshakeLimit::default());
    }
}
