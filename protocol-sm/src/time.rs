//! Time as the machines see it: an integer handed in by the caller. Nothing here reads a clock.

use core::time::Duration;

/// A point in time: nanoseconds since an origin that the runtime chooses once per process.
///
/// Wraps after 584 years, which the machines treat as never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The origin.
    pub const ZERO: Self = Self(0);

    /// The instant that lies `since_origin` after the origin.
    #[must_use]
    pub const fn from_nanos(since_origin: u64) -> Self {
        Self(since_origin)
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}
