//! Whether the kernel could encrypt by itself (kTLS): then bulk data could stay on the splice path. It is asked and
//! its answer told in the log; it is not used yet, because nobody has run it.

use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::net::{TcpListener, TcpStream};

/// Asks with a connection of this machine to itself.
pub(super) fn probe() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let _far = listener.accept()?;
    Ok(setsockopt(&near, sockopt::TcpUlp::default(), b"tls")?)
}
