//! The system calls that the drivers make, as traits: one for each thing that a system offers. A driver names those that
//! it uses, so a simulated system implements no others.
//!
//! | trait | what it offers | who uses it |
//! |---|---|---|
//! | [`Streams`] | TCP connections | every driver |
//! | [`Datagrams`] | UDP sockets | the event loops |
//! | [`Splice`] | pipes that move payload from one stream to another | the event loops |
//! | [`Listen`] | listening sockets | the server's main driver and its listener |
//! | [`Resolve`] | names | the client's main driver |
//! | [`Entropy`] | random bytes | both main drivers and the server's event loops |
//! | [`Log`] | a place for notes | every driver |

mod datagrams;
mod host;
mod listen;
mod splice;
mod streams;

pub use datagrams::{Address, Datagrams};
pub(crate) use host::random_u32;
pub use host::{Entropy, Log, Lookup, Resolve};
pub use listen::Listen;
pub use splice::Splice;
pub use streams::{Readiness, Received, Role, Streams};
