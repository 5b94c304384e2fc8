//! Names, looked up on threads of their own: the system's resolver may block for many seconds, and no name waits for
//! another. A driver asks for each name once at a time, so there are as many threads as names that hang.

use crate::mail::Address;
use crate::notes::Limiter;
use crate::scoped::ScopedIp;
use protocol_sm::driver::messages::ToClientMain;
use protocol_sm::driver::{Lookup, Resolve};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};

/// Starts the threads. They end when the system's resolver returns, and nobody waits for them.
#[derive(Debug)]
pub(crate) struct Resolver {
    answers: Address<ToClientMain>,
    failures: Arc<Mutex<Limiter>>,
}

impl Resolver {
    /// It answers to `answers`.
    pub(crate) fn new(answers: Address<ToClientMain>) -> Self {
        Self { answers, failures: Arc::default() }
    }
}

impl Resolve for Resolver {
    fn resolve(&mut self, tag: Lookup, name: &str) {
        if let Some((ip, port)) = ScopedIp::with_port(name) {
            let address = ip.at(port).map_err(io::Error::other);
            let addresses = said(tag, name, &self.failures, address.map(|address| vec![address]));
            return self.answers.post(ToClientMain::Resolved { tag, addresses });
        }
        let (name, answers, failures) = (name.to_owned(), self.answers.clone(), Arc::clone(&self.failures));
        let look_up = move || {
            let addresses = name.to_socket_addrs().map(Iterator::collect);
            let addresses = said(tag, &name, &failures, addresses);
            answers.post(ToClientMain::Resolved { tag, addresses });
        };
        if std::thread::Builder::new().name("cproxy-resolve".into()).spawn(look_up).is_err() {
            // Too many threads: as a name that does not resolve just now.
            self.answers.post(ToClientMain::Resolved { tag, addresses: Vec::new() });
        }
    }
}

/// The addresses of `name`, without any if there was an error, which is logged.
fn said(tag: Lookup, name: &str, failures: &Mutex<Limiter>, addresses: io::Result<Vec<SocketAddr>>) -> Vec<SocketAddr> {
    match (addresses, tag) {
        (Ok(addresses), _) => addresses,
        (Err(error), Lookup::Local(..)) => {
            let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.line(|suppressed| {
                tracing::warn!(
                    event = "name_unresolved",
                    host = name,
                    suppressed,
                    "a tunnel's `local` does not resolve: {error}"
                );
            });
            Vec::new()
        }
        // What is said about the next attempt names the server.
        (Err(error), Lookup::Server(_)) => {
            tracing::debug!(event = "server_unresolved", host = name, "the server's name does not resolve: {error}");
            Vec::new()
        }
    }
}
