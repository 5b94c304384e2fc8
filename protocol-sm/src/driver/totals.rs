//! What the event loops and the listener count.

/// What a loop has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Totals {
    /// Visitors that came, or transfers begun on the client.
    pub visitors: u64,
    /// Transfers that ended well.
    pub finished: u64,
    /// Transfers cut short, and visitors never served.
    pub aborted: u64,
    /// proxy_conns that became idle for the first time.
    pub proxy_conns: u64,
    /// Messages about things that were gone.
    pub stale: u64,
}
