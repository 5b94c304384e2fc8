//! Two ends of a connection, both through `Linux`, and waits with an end.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used)]

use protocol_sm::driver::{Listen, Readiness, Received, Role, Streams, SysError, Token};
use protocol_sm::settings::Origin;
use runtime_epoll::{Linux, Listener, Poller, Stream};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A kernel and all readiness that it has reported.
pub(crate) struct Bench {
    pub(crate) linux: Linux,
    poller: Poller,
    ready: BTreeMap<Token, Readiness>,
    next: u64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let (poller, linux) = Linux::new(()).unwrap();
        Self { linux, poller, ready: BTreeMap::new(), next: 0 }
    }

    pub(crate) fn token(&mut self) -> Token {
        self.next += 1;
        Token::from_number(self.next).unwrap()
    }

    /// What becomes ready within `timeout`.
    pub(crate) fn poll(&mut self, timeout: Duration) -> Vec<(Token, Readiness)> {
        let mut news = Vec::new();
        self.linux.poll(&mut self.poller, Some(timeout), &mut news).unwrap();
        news
    }

    /// Waits until `what` holds of the readiness reported of `token` so far.
    pub(crate) fn wait_ready(&mut self, token: Token, what: impl Fn(Readiness) -> bool) -> Readiness {
        let until = Instant::now() + PATIENCE;
        loop {
            let seen = self.ready.get(&token).copied().unwrap_or_default();
            if what(seen) {
                return seen;
            }
            assert!(Instant::now() < until, "readiness of {token:?} within {PATIENCE:?}; there is only {seen:?}");
            for (token, new) in self.poll(Duration::from_millis(100)) {
                let seen = self.ready.entry(token).or_default();
                seen.readable |= new.readable;
                seen.writable |= new.writable;
                seen.hup |= new.hup;
                seen.error |= new.error;
            }
        }
    }

    /// Forgets what was reported of `token`, as a driver does that has run into `WouldBlock`.
    pub(crate) fn forget(&mut self, token: Token) {
        self.ready.remove(&token);
    }

    pub(crate) fn listen(&mut self) -> (Listener, Token, SocketAddr) {
        let token = self.token();
        let (listener, at) = self.linux.listen("127.0.0.1:0".parse().unwrap(), token).unwrap();
        (listener, token, at)
    }

    /// A connection: the end that connected, the end that was accepted, and their tokens.
    /// Waits until a connect is through. On the same machine that is mostly at once.
    pub(crate) fn connected(&mut self, stream: &Stream, token: Token) {
        while let Err(error) = self.linux.take_error(stream) {
            assert_eq!(error, SysError::WouldBlock, "a connect failed");
            self.wait_ready(token, |ready| ready.writable);
        }
    }

    pub(crate) fn pair(&mut self) -> ((Stream, Token), (Stream, Token)) {
        let (listener, listening, at) = self.listen();
        let dialled = self.token();
        let near = self.linux.connect(&Origin::default(), at, Role::Local, dialled).unwrap();
        self.connected(&near, dialled);
        self.wait_ready(listening, |ready| ready.readable);
        let (far, _) = self.linux.accept(&listener, Role::Public).unwrap();
        let accepted = self.token();
        self.linux.watch(&far, accepted).unwrap();
        self.linux.unlisten(listener);
        ((near, dialled), (far, accepted))
    }

    /// Reads once there is something, or an end.
    pub(crate) fn recv(&mut self, stream: &Stream, into: &mut [u8]) -> Result<Received, SysError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.linux.recv(stream, into) {
                Err(SysError::WouldBlock) => {}
                result => return result,
            }
            assert!(Instant::now() < until, "something to read within {PATIENCE:?}");
            self.poll(Duration::from_millis(10));
        }
    }

    /// Reads all up to the end or error.
    pub(crate) fn recv_all(&mut self, stream: &Stream) -> (Vec<u8>, Result<(), SysError>) {
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.recv(stream, &mut buffer) {
                Ok(Received { bytes: 0, .. }) => return (all, Ok(())),
                Ok(got) => all.extend_from_slice(&buffer[..got.bytes]),
                Err(error) => return (all, Err(error)),
            }
        }
    }

    pub(crate) fn send_all(&mut self, stream: &Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let sent = self.linux.send(stream, bytes).expect("room in the send buffer");
            bytes = &bytes[sent..];
        }
    }
}
