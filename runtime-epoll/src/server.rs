//! The server: placeholder bodies, final signatures.
use crate::Stopper;
use protocol_sm::settings::ServerSettings;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;

/// Where to listen, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the ctl, proxy and public ports. `::` takes IPv4 too.
    pub bind_addr: IpAddr,
    /// ctl port; 0 lets the kernel pick.
    pub ctl_port: u16,
    /// proxy port; 0 lets the kernel pick.
    pub proxy_port: u16,
    /// Event-loop threads.
    pub work_threads: NonZeroUsize,
    /// Everything else.
    pub settings: ServerSettings,
}

/// A server whose ports are bound and which is not running yet.
#[derive(Debug)]
pub struct Server;

/// Why the server could not start: says what, where, and what to do.
#[derive(Debug)]
pub enum StartError {}

impl std::fmt::Display for StartError {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}

impl std::error::Error for StartError {}

/// Totals of one run, for the closing log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Visitors accepted.
    pub visitors: u64,
    /// Transfers that ended well, both directions.
    pub finished: u64,
    /// Transfers cut short (reset).
    pub aborted: u64,
    /// proxy_conns taken from clients.
    pub proxy_conns: u64,
}

/// Binds the ports.
///
/// # Errors
/// A port is taken, may not be bound, or the machine is out of descriptors.
pub fn start(_config: Config) -> Result<Server, StartError> {
    Ok(Server)
}

impl Server {
    /// The ctl port's real address.
    #[must_use]
    pub fn ctl_addr(&self) -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0], 0))
    }
    /// The proxy port's real address.
    #[must_use]
    pub fn proxy_addr(&self) -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0], 0))
    }
    /// A handle that stops the server.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper
    }
    /// Runs until stopped. Uses the calling thread as the main thread.
    ///
    /// # Errors
    /// A thread could not be started, or one of them died.
    pub fn run(self) -> Result<Summary, std::io::Error> {
        Ok(Summary::default())
    }
}
