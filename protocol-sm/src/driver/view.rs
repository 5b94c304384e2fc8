//! A look at what an event loop holds, for tests and simulations.

use crate::ids::{ConnId, Epoch};

/// A proxy_conn as its event loop sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnView<'a, T> {
    /// Its number.
    pub id: ConnId,
    /// Its socket.
    pub stream: &'a T,
    /// The current transfer's number, or the last one's.
    pub epoch: Epoch,
    /// What it is used for.
    pub used: Use<'a, T>,
}

/// What a proxy_conn is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use<'a, T> {
    /// Its handshake is not through.
    Opening,
    /// It carries nothing.
    Idle,
    /// It carries a transfer.
    Active {
        /// The visitor's or the LocalServer's socket, while there is one.
        outer: Option<&'a T>,
    },
}
