//! Counts by reason.

use crate::codes::{AbortCode, HandshakeRefusal, RefuseCode};
use crate::datagrams::Lost;
use crate::notes::{Dropped, HandshakeEnd};
use crate::routes::Refusal;
use alloc::collections::BTreeMap;
use alloc::string::String;
use core::marker::PhantomData;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why something ended: one of a few, each with a label.
pub trait Reason: Copy + 'static {
    /// All of them, in the order of their numbers.
    const ALL: &'static [Self];

    /// Its number.
    fn index(self) -> usize;

    /// What it is called in JSON and metrics.
    fn label(self) -> &'static str;
}

macro_rules! reasons {
    ($of:ident { $($reason:ident => $label:literal),+ $(,)? }) => {
        impl Reason for $of {
            const ALL: &'static [Self] = &[$(Self::$reason),+];

            fn index(self) -> usize {
                self as usize
            }

            fn label(self) -> &'static str {
                match self {
                    $(Self::$reason => $label),+
                }
            }
        }
    };
}

reasons!(AbortCode {
    OuterReset => "outer_reset",
    ConnLost => "conn_lost",
    Deadline => "deadline",
    SessionOver => "session_over",
    Resources => "resources",
    Stopping => "stopping",
});
reasons!(RefuseCode {
    ConnectionRefused => "connection_refused",
    Unreachable => "unreachable",
    TimedOut => "timed_out",
    UnknownTunnel => "unknown_tunnel",
    Resources => "resources",
});
reasons!(Dropped {
    WaitedTooLong => "waited_too_long",
    QueueFull => "queue_full",
    TooMany => "too_many",
    TunnelFull => "tunnel_full",
    SourceDenied => "source_denied",
    TooOften => "too_often",
    SourceFull => "source_full",
    NoHeader => "no_header",
    Gone => "gone",
    Resources => "resources",
});
reasons!(Lost {
    Late => "late",
    NoRoom => "no_room",
    TooLong => "too_long",
    Ended => "ended",
    NotSent => "not_sent",
    Foreign => "foreign",
    NoFlow => "no_flow",
    NoHeader => "no_header",
    Stale => "stale",
});
reasons!(HandshakeRefusal {
    Version => "version",
    TokenRequired => "token_required",
    TokenUnexpected => "token_unexpected",
    WrongToken => "wrong_token",
    LoopbackOnly => "loopback_only",
    IdentityInUse => "identity_in_use",
    Full => "full",
    Stopping => "stopping",
    UnknownSession => "unknown_session",
    ReplayedConn => "replayed_conn",
    TooManyFailures => "too_many_failures",
    TlsRequired => "tls_required",
});
reasons!(HandshakeEnd {
    TooSlow => "too_slow",
    NoHeader => "no_header",
    SourceCrowded => "source_crowded",
    Crowded => "crowded",
});

reasons!(Refusal {
    Silent => "silent",
    TooSlow => "too_slow",
    TooLarge => "too_large",
    BadRequest => "bad_request",
    TlsOnHttp => "tls_on_http",
    Http2 => "http2",
    NotTls => "not_tls",
    NoName => "no_name",
    NobodysHost => "nobodys_host",
    Away => "away",
    Crowded => "crowded",
    Stopping => "stopping",
    NoHeader => "no_header",
    TlsFailed => "tls_failed",
    Misdirected => "misdirected",
});

/// More than there are reasons of any kind.
const REASONS: usize = 16;

/// How often something ended for each reason. In JSON: a number by label, for every reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Counts<K> {
    by: [u64; REASONS],
    of: PhantomData<K>,
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self { by: [0; REASONS], of: PhantomData }
    }
}

impl<K: Reason> Counts<K> {
    /// One more.
    pub fn add(&mut self, reason: K) {
        self.by[reason.index()] += 1;
    }

    /// All of `other`, too.
    pub fn add_all(&mut self, other: &Self) {
        self.by.iter_mut().zip(other.by).for_each(|(mine, theirs)| *mine += theirs);
    }

    /// How often for this reason.
    #[must_use]
    pub fn get(&self, reason: K) -> u64 {
        self.by[reason.index()]
    }

    /// How often in all.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.by.iter().sum()
    }

    /// Every reason, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (K, u64)> {
        K::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }
}

impl<K: Reason> Serialize for Counts<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(reason, count)| (reason.label(), count)))
    }
}

/// A reason that a newer program has is left out.
impl<'de, K: Reason> Deserialize<'de> for Counts<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let by = BTreeMap::<String, u64>::deserialize(deserializer)?;
        let mut counts = Self::default();
        for &reason in K::ALL {
            counts.by[reason.index()] = by.get(reason.label()).copied().unwrap_or(0);
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn labels<K: Reason>() -> Vec<&'static str> {
        assert!(K::ALL.len() <= REASONS);
        for (number, reason) in K::ALL.iter().enumerate() {
            assert_eq!(reason.index(), number, "{}", reason.label());
        }
        K::ALL.iter().map(|reason| reason.label()).collect()
    }

    #[test]
    fn each_reason_has_a_place_and_a_label_of_its_own() {
        let each = [
            labels::<AbortCode>(),
            labels::<RefuseCode>(),
            labels::<Dropped>(),
            labels::<HandshakeRefusal>(),
            labels::<HandshakeEnd>(),
            labels::<Lost>(),
        ];
        for mut of_kind in each {
            let count = of_kind.len();
            of_kind.sort_unstable();
            of_kind.dedup();
            assert_eq!(of_kind.len(), count);
        }
    }

    #[test]
    fn counts_are_read_as_they_were_written() {
        let mut counts = Counts::default();
        counts.add(RefuseCode::TimedOut);
        counts.add(RefuseCode::TimedOut);
        counts.add(RefuseCode::Resources);
        let text = serde_json::to_string(&counts).unwrap();
        assert!(text.contains("\"timed_out\":2") && text.contains("\"unreachable\":0"), "{text}");
        assert_eq!(serde_json::from_str::<Counts<RefuseCode>>(&text).unwrap(), counts);
        assert_eq!(counts.sum(), 3);
        let newer = "{\"timed_out\":2,\"resources\":1,\"tired\":9}";
        assert_eq!(serde_json::from_str::<Counts<RefuseCode>>(newer).unwrap(), counts);
    }
}
