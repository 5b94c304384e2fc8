//! Which messages have been sent, with which codes: what no simulation sends, none has proven anything about.
//!
//! Without the feature `canary`, which only tests enable, nothing is noted and nothing can be asked; in a release build
//! neither. The sums are those of the whole process.

use crate::codes::{AbortCode, CloseCode, HandshakeRefusal, LeaveCode, MessageName, RefuseCode, TunnelRefusal};
use core::fmt;
#[cfg(feature = "canary")]
use core::sync::atomic::{AtomicU32, Ordering};

/// A message without its fields, but with its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where it travels.
    pub channel: Channel,
    /// Its name.
    pub name: MessageName,
    /// Its code, if it has one.
    pub code: Option<Code>,
}

/// The kinds of connections, and their directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is named after the type of its messages
pub enum Channel {
    ToServer,
    ToClient,
    ProxyToServer,
    ProxyToClient,
}

/// A code of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is documented where its type is
pub enum Code {
    Abort(AbortCode),
    Close(CloseCode),
    Handshake(HandshakeRefusal),
    Leave(LeaveCode),
    Refuse(RefuseCode),
    Tunnel(TunnelRefusal),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { channel, name, code } = self;
        write!(f, "{channel:?} {name}")?;
        match code {
            None => Ok(()),
            Some(Code::Abort(code)) => write!(f, ": {code:?}"),
            Some(Code::Close(code)) => write!(f, ": {code:?}"),
            Some(Code::Handshake(code)) => write!(f, ": {code:?}"),
            Some(Code::Leave(code)) => write!(f, ": {code:?}"),
            Some(Code::Refuse(code)) => write!(f, ": {code:?}"),
            Some(Code::Tunnel(code)) => write!(f, ": {code:?}"),
        }
    }
}

/// For each channel and name one bit per code, and the lowest for no code.
#[cfg(feature = "canary")]
static SENT: [[AtomicU32; 32]; 4] = [const { [const { AtomicU32::new(0) }; 32] }; 4];

#[cfg(feature = "canary")]
impl Label {
    fn place(self) -> (&'static AtomicU32, u32) {
        let number = self.code.map_or(0, |code| match code {
            Code::Abort(code) => 1 + code as u8,
            Code::Close(code) => 1 + code as u8,
            Code::Handshake(code) => 1 + code as u8,
            Code::Leave(code) => 1 + code as u8,
            Code::Refuse(code) => 1 + code as u8,
            Code::Tunnel(code) => 1 + code as u8,
        });
        (&SENT[self.channel as usize][self.name as usize], 1 << number)
    }

    /// Whether it was sent.
    #[must_use]
    pub fn was_sent(self) -> bool {
        let (sent, bit) = self.place();
        sent.load(Ordering::Relaxed) & bit != 0
    }
}

/// This message is sent.
#[cfg(feature = "canary")]
pub(crate) fn sent(label: Label) {
    if cfg!(debug_assertions) && !label.was_sent() {
        let (sent, bit) = label.place();
        sent.fetch_or(bit, Ordering::Relaxed);
    }
}

/// Without the feature nothing is noted.
#[cfg(not(feature = "canary"))]
pub(crate) const fn sent(_: Label) {}
