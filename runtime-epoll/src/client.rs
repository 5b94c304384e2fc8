//! The client: placeholder bodies, final signatures.
use crate::Stopper;
use protocol_sm::settings::ClientSettings;
use std::num::NonZeroUsize;
use std::net::SocketAddr;

/// Where the server is, and what to expose.
#[derive(Clone, Debug)]
pub struct Config {
    /// `HOST:PORT` of the server's ctl port; resolved anew at each reconnect.
    pub server: String,
    /// `HOST:PORT` of the LocalServer of each tunnel, in the order of `settings.tunnels`.
    pub locals: Vec<String>,
    /// Event-loop threads.
    pub work_threads: NonZeroUsize,
    /// Everything else.
    pub settings: ClientSettings,
}

/// A tunnel that is reachable now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The tunnel's name.
    pub tunnel: String,
    /// The public port. The host to show is the one in `Config::server`.
    pub public: SocketAddr,
    /// The LocalServer, as configured.
    pub local: String,
}

/// A client that is not running yet.
#[derive(Debug)]
pub struct Client;

/// Why the client ended by itself.
#[derive(Debug)]
pub enum RunError {
    /// The server refused for good (wrong token, port not allowed, version): exit code 2. The text is a
    /// whole sentence for the user.
    Refused(String),
    /// Something local broke: exit code 1.
    Io(std::io::Error),
}

/// Totals of one run, for the closing log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Transfers that ended well, both directions.
    pub finished: u64,
    /// Transfers cut short (reset) or refused.
    pub aborted: u64,
    /// proxy_conns opened.
    pub proxy_conns: u64,
}

/// Prepares a client.
///
/// # Errors
/// The machine is out of descriptors.
pub fn start(_config: Config) -> Result<Client, std::io::Error> {
    Ok(Client)
}

impl Client {
    /// A handle that stops the client.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper
    }
    /// Runs until stopped or refused for good. Uses the calling thread as the main thread and calls
    /// `on_forwarding` on it, once per tunnel that becomes reachable or changes its public address.
    ///
    /// # Errors
    /// See [`RunError`].
    pub fn run(self, mut _on_forwarding: impl FnMut(&Forwarding)) -> Result<Summary, RunError> {
        Ok(Summary::default())
    }
}
