//! Encrypted connections and epoll: which connections are in their handshake, and which must be reported as ready
//! although epoll reported nothing.

use super::socket::Stream;
use crate::notes::{Limiter, peer};
use crate::tls::session::{Buffers, News, Session, Wire};
use crate::tls::{Tls, TlsInUse, VisitorTlsInUse};
use protocol_sm::auth::Channel;
use protocol_sm::codes::TlsFailure;
use protocol_sm::driver::{Readiness, Received, SysError, Token};
use protocol_sm::routes::{Agreed, Speaks};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// One thread's part in encryption.
#[derive(Debug, Default)]
pub(super) struct Secure {
    /// For connections that are made here.
    pub(super) tls: TlsInUse,
    /// For visitors.
    pub(super) visitors: VisitorTlsInUse,
    /// Made when the first connection needs them.
    buffers: Option<Buffers>,
    /// Connections in their handshake. Readiness of either sort is reported as both, because a handshake may have to
    /// read for a driver that wants to write, and the other way round.
    handshaking: BTreeSet<Token>,
    /// Connections whose handshake has ended and whose driver was not told yet.
    woken: Vec<Token>,
    failures: Limiter,
}

/// A socket, as a session sees it.
struct Socket<'a> {
    stream: &'a Stream,
    urgent: bool,
}

impl Wire for Socket<'_> {
    fn recv(&mut self, into: &mut [u8]) -> Result<usize, SysError> {
        self.stream.recv(into)
    }

    fn send(&mut self, from: &[u8]) -> Result<usize, SysError> {
        self.stream.send(from)
    }

    fn short_means_dry(&self) -> bool {
        !self.urgent
    }
}

impl Secure {
    /// Whether [`Secure::take_woken`] has something to give.
    pub(super) fn has_woken(&self) -> bool {
        !self.woken.is_empty()
    }

    /// What `ready` means for the driver.
    pub(super) fn ready(&self, token: Token, ready: Readiness) -> Readiness {
        let both = !self.handshaking.is_empty() && self.handshaking.contains(&token);
        Readiness { readable: ready.readable || both, writable: ready.writable || both, ..ready }
    }

    /// Adds the connections that the driver must look at although epoll reported nothing.
    pub(super) fn take_woken(&mut self, ready: &mut Vec<(Token, Readiness)>) {
        let both = Readiness { readable: true, writable: true, ..Readiness::default() };
        ready.extend(self.woken.drain(..).map(|token| (token, both)));
    }

    /// A connection that was made here begins to be encrypted, if it is to be.
    pub(super) fn begin(&mut self, stream: &Stream) -> Result<(), SysError> {
        if stream.is_ours() {
            encrypt(stream, self.tls.get().connecting()?);
            stream.token.get().into_iter().for_each(|token| self.watch(stream, token));
        }
        Ok(())
    }

    pub(super) fn accepted(&self, stream: &Stream) {
        if stream.is_ours() && stream.tls.get().is_none() {
            encrypt(stream, self.tls.get().accepted());
            // A session may have to write while its driver only reads.
            stream.for_room.set(stream.tls.get().is_some());
        }
    }

    pub(super) fn watch(&mut self, stream: &Stream, token: Token) {
        if stream.tls.get().is_some_and(|session| session.borrow().is_handshaking()) {
            self.handshaking.insert(token);
        }
    }

    pub(super) fn forget(&mut self, token: Token) {
        self.handshaking.remove(&token);
        self.woken.retain(|&woken| woken != token);
    }

    pub(super) fn recv(
        &mut self,
        stream: &Stream,
        session: &RefCell<Session>,
        urgent: bool,
        into: &mut [u8],
    ) -> Result<Received, SysError> {
        let mut session = session.borrow_mut();
        let buffers = self.buffers.get_or_insert_default();
        let got = session.recv(&mut Socket { stream, urgent }, buffers, into);
        self.tell(stream, &mut session);
        got.map(|(bytes, drained)| Received { bytes, drained })
    }

    pub(super) fn send(&mut self, stream: &Stream, session: &RefCell<Session>, from: &[u8]) -> Result<usize, SysError> {
        let mut session = session.borrow_mut();
        let buffers = self.buffers.get_or_insert_default();
        let sent = session.send(&mut Socket { stream, urgent: true }, buffers, from);
        self.tell(stream, &mut session);
        sent
    }

    pub(super) fn channel(&mut self, stream: &Stream, session: &RefCell<Session>) -> Result<Option<Channel>, SysError> {
        let mut session = session.borrow_mut();
        let buffers = self.buffers.get_or_insert_default();
        let channel = session.channel(&mut Socket { stream, urgent: true }, buffers);
        self.tell(stream, &mut session);
        channel
    }

    pub(super) fn close(&mut self, stream: &Stream) {
        if let Some(session) = stream.tls.get() {
            // A peer that does not take it sees the end of the stream without it.
            let _unsaid = session.borrow_mut().finish(&mut Socket { stream, urgent: true });
        }
    }

    pub(super) fn finish(&mut self, stream: &Stream, session: &RefCell<Session>) -> Result<(), SysError> {
        session.borrow_mut().finish(&mut Socket { stream, urgent: true })
    }

    /// TLS that a visitor has begun with `hello` ends here.
    pub(super) fn end(&mut self, stream: &Stream, hello: &[u8], speaks: Speaks) -> Result<(), SysError> {
        let config = self.visitors.config(speaks).ok_or(SysError::Unsupported)?;
        encrypt(stream, Session::visitor(config).ok());
        let session = stream.tls.get().ok_or(SysError::Unsupported)?;
        stream.token.get().into_iter().for_each(|token| self.watch(stream, token));
        let mut session = session.borrow_mut();
        let begun = session.begin(&mut Socket { stream, urgent: true }, hello);
        self.tell(stream, &mut session);
        begun
    }

    pub(super) fn agreed(&mut self, stream: &Stream, session: &RefCell<Session>) -> Result<Option<Agreed>, SysError> {
        let mut session = session.borrow_mut();
        let buffers = self.buffers.get_or_insert_default();
        let protocol = session.protocol(&mut Socket { stream, urgent: true }, buffers);
        let agreed = protocol.map(|name| name.map(|name| if name == b"h2" { Agreed::Http2 } else { Agreed::Http1 }));
        self.tell(stream, &mut session);
        agreed
    }

    fn tell(&mut self, stream: &Stream, session: &mut Session) {
        let News { up, failed } = session.take_news();
        if let Some(token) = stream.token.get().filter(|_| up || failed.is_some()) {
            self.handshaking.remove(&token);
            self.woken.extend(up.then_some(token));
        }
        let Some((failure, text)) = failed else { return };
        let address = stream.peer().map(peer);
        let (peer_ip, peer_port) = (address.map(|(ip, _)| tracing::field::display(ip)), address.map(|(_, port)| port));
        match failure {
            // Mostly scanners, which connect to every public machine.
            _ if !stream.is_ours() => tracing::debug!(event = "tls_stranger", peer_ip, peer_port, "TLS: {text}"),
            TlsFailure::Broken if !matches!(*self.tls.get(), Tls::Client(_)) => {
                tracing::debug!(event = "tls_stranger", peer_ip, peer_port, "TLS: {text}");
            }
            TlsFailure::Broken
            | TlsFailure::NotTls
            | TlsFailure::WrongPin
            | TlsFailure::UnknownIssuer
            | TlsFailure::WrongName
            | TlsFailure::Expired
            | TlsFailure::NotYetValid
            | TlsFailure::BadCertificate
            | TlsFailure::CertificateWanted
            | TlsFailure::CertificateRefused => {
                let tls = self.tls.get();
                let trust = tls.trust();
                self.failures.line(|suppressed| {
                    tracing::warn!(event = "tls_failed", peer_ip, peer_port, trust, suppressed, "TLS: {text}");
                });
            }
        }
    }
}

fn encrypt(stream: &Stream, session: Option<Session>) {
    if let Some(session) = session {
        stream.tls.get_or_init(|| Box::new(RefCell::new(session)));
    }
}

#[cfg(test)]
mod tests;
