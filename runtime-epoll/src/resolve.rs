//! Names, looked up on a thread of their own: the system's resolver may block for many seconds.

use crate::mail::Address;
use crate::notes::Limiter;
use protocol_sm::driver::messages::ToClientMain;
use protocol_sm::driver::{Lookup, Resolve};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Sends names to the resolving thread. The thread ends after this is dropped, and nobody waits for it.
#[derive(Debug)]
pub(crate) struct Resolver {
    questions: Sender<(Lookup, String)>,
    answers: Address<ToClientMain>,
}

impl Resolver {
    /// Starts the thread; it answers to `answers`.
    pub(crate) fn start(answers: Address<ToClientMain>) -> io::Result<Self> {
        let (questions, asked) = channel();
        let to = answers.clone();
        std::thread::Builder::new().name("cproxy-resolve".into()).spawn(move || look_up_all(&asked, &to))?;
        Ok(Self { questions, answers })
    }
}

impl Resolve for Resolver {
    fn resolve(&mut self, tag: Lookup, name: &str) {
        if let Ok(address) = name.parse::<SocketAddr>() {
            self.answers.post(ToClientMain::Resolved { tag, addresses: vec![address] });
        } else if self.questions.send((tag, name.to_owned())).is_err() {
            // The thread is gone, which only a panic in the system's resolver could bring about.
            self.answers.post(ToClientMain::Resolved { tag, addresses: Vec::new() });
        }
    }
}

fn look_up_all(asked: &Receiver<(Lookup, String)>, answers: &Address<ToClientMain>) {
    let mut failures = Limiter::default();
    while let Ok((tag, name)) = asked.recv() {
        let addresses = match name.to_socket_addrs() {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                failures.line(|left_out| tracing::warn!("{name} does not resolve: {error}{left_out}"));
                Vec::new()
            }
        };
        answers.post(ToClientMain::Resolved { tag, addresses });
    }
}
