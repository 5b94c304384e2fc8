//! The wire: prefaces, frames and messages, byte for byte as PROTOCOL.md states them.

mod ctl;
mod frame;
#[cfg(feature = "canary")]
mod labels;
mod opening;
mod preface;
mod proxy;
mod tls;
mod transfer;

pub use ctl::{
    CHANNEL, ClientHandshake, ClientHello, ClientMsg, Ctl, EXAMINE, FEATURES, FRUGAL, HOSTS, LEAVE, Nonce, PATHS, Pin,
    Proof, Resume, SECURED, ServerHandshake, ServerHello, ServerMsg, TAKEOVER, ToClient, ToServer, UDP, Welcome,
};
pub use frame::{FRAME_HEADER, Framer, Message, WireError};
#[cfg(feature = "canary")]
pub use labels::labels;
pub use opening::{Foreign, Opening};
pub use preface::{ConnKind, Greeting, MAGIC, PREFACE_LEN, Preface, PrefaceReader, Reply, ReplyReader, VERSION};
pub use proxy::{ConnHello, ProxyToClient, ProxyToServer};
pub use tls::ALPN;
pub use transfer::{ClientBody, ServerBody, TransferMsg};
