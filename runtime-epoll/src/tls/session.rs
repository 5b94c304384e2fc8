//! One encrypted connection, between the driver's plain bytes and the socket's.
//!
//! The driver sees a stream like any other. What it must not notice:
//! - A read ends with "would block" only when the socket said so and no plain byte is left here. Otherwise the driver
//!   would wait for an edge that never comes.
//! - A write is all or nothing per chunk. While some of a chunk's ciphertext is unsent the answer is "would block",
//!   and the driver comes again with the same bytes; only then are they counted. So no byte counts as forwarded
//!   that the kernel does not have, the back-pressure is that of the socket, and there is nothing to flush for a
//!   driver that has nothing to send.
//! - The handshake is made within these calls, whichever of them comes. While it lasts, readiness of either sort is
//!   reported as both, and its end is an event of its own ([`Session::take_news`]).
//!
//! Memory: what is read and what is encrypted passes through two buffers per thread. A connection keeps an
//! unfinished record, plain bytes that the driver had no room for, and unsent ciphertext: nothing while it is idle,
//! and never more than a few records.

use super::authority::UnknownAndAlone;
use super::exporter::Exporter;
use super::pin::WrongPin;
use super::words::said;
use protocol_sm::auth::Channel;
use protocol_sm::codes::TlsFailure;
use protocol_sm::driver::SysError;
use protocol_sm::wire::{ALPN, Opening};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{AlertDescription, CertificateError, ClientConfig, CommonState, Error, KeyLog, ServerConfig};
use std::fmt;
use std::sync::Arc;

/// Plain bytes encrypted at once: two records.
const CHUNK: usize = 2 * RECORD;
/// The most that a TLS 1.3 record adds to its plain bytes: header, content type, tag.
const RECORD_EXTRA: usize = 5 + 1 + 16;
/// Plain bytes of a full record.
const RECORD: usize = 16 * 1024;
/// The least that is read at once, however small the driver's buffer.
const LEAST_READ: usize = 4096;
/// Bytes that may come before the handshake is complete, and that an unfinished message may have after it.
const HANDSHAKE: usize = 32 * 1024;
/// How many received bytes are accepted for each plain byte that they contained. A record with a single plain byte is
/// shorter than this, unless it is padded.
const WORTH: usize = 64;

/// The socket beneath.
pub(crate) trait Wire {
    /// See [`protocol_sm::driver::Streams::recv`].
    fn recv(&mut self, into: &mut [u8]) -> Result<usize, SysError>;
    /// See [`protocol_sm::driver::Streams::send`].
    fn send(&mut self, from: &[u8]) -> Result<usize, SysError>;
    /// Whether a short read means that nothing is left.
    fn short_means_dry(&self) -> bool;
}

/// One thread's buffers.
pub(crate) struct Buffers {
    inbound: Box<[u8]>,
    outbound: Box<[u8]>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            inbound: vec![0; HANDSHAKE + CHUNK + LEAST_READ].into(),
            // An answer to a key update may go before the records.
            outbound: vec![0; CHUNK + (CHUNK / RECORD + 1) * RECORD_EXTRA + 1024].into(),
        }
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Buffers")
    }
}

/// What has happened since the last [`Session::take_news`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// The handshake is complete: the driver must be called, whatever it waits for.
    pub(crate) up: bool,
    /// How the connection failed, and the text for the log.
    pub(crate) failed: Option<(TlsFailure, String)>,
}

/// See the module.
pub(crate) struct Session {
    machine: Machine,
    /// Of a connection between client and server. A visitor's has none.
    exporter: Option<Arc<Exporter>>,
    phase: Phase,
    /// Whether the first read has begun the handshake, which the client does by sending.
    begun: bool,
    /// Ciphertext of an unfinished record or message.
    incoming: Vec<u8>,
    /// Plain bytes that the driver had no room for. It has taken those before `read` since.
    plain: Vec<u8>,
    read: usize,
    /// Ciphertext to send. The socket has taken what stands before `sent`.
    outgoing: Vec<u8>,
    sent: usize,
    /// How many of the driver's bytes are in `outgoing` and not yet reported as written.
    owed: usize,
    /// Bytes received, less [`WORTH`] for each plain byte among them: those of the handshake, then those of records
    /// with little in them.
    heard: usize,
    /// Whether the peer said that no more comes (close_notify).
    ended: bool,
    /// Whether the peer was told the same.
    finished: bool,
    news: News,
}

enum Machine {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl Machine {
    fn common(&self) -> &CommonState {
        match self {
            Self::Client(machine) => machine,
            Self::Server(machine) => machine,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has come: it may turn out not to be TLS.
    Opening,
    Handshake,
    /// A visitor's has no channel.
    Up(Option<Channel>),
    /// On a server: the client speaks in the clear, and is refused in the clear.
    Plain,
    Failed(TlsFailure),
}

/// The outcome of one read of the socket.
struct Got {
    /// Plain bytes.
    plain: usize,
    /// Whether the socket had nothing more to read.
    short: bool,
}

/// What a driver wants to be encrypted, and where to.
enum Encrypt<'a> {
    Data(&'a [u8], &'a mut [u8]),
    /// The notice that no more comes (close_notify).
    Close(&'a mut [u8]),
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session").field(&self.phase).finish()
    }
}

impl Session {
    /// A connection to the server called `name`.
    pub(crate) fn client(config: &ClientConfig, name: ServerName<'static>) -> Result<Self, Error> {
        let exporter: Arc<Exporter> = Arc::default();
        let mut config = config.clone();
        config.key_log = Arc::clone(&exporter) as Arc<dyn KeyLog>;
        let connection = UnbufferedClientConnection::new(config.into(), name)?;
        Ok(Self::new(Machine::Client(connection), Some(exporter)))
    }

    /// A connection from a client.
    pub(crate) fn server(config: &ServerConfig) -> Result<Self, Error> {
        let exporter: Arc<Exporter> = Arc::default();
        let mut config = config.clone();
        config.key_log = Arc::clone(&exporter) as Arc<dyn KeyLog>;
        Ok(Self::new(Machine::Server(UnbufferedServerConnection::new(config.into())?), Some(exporter)))
    }

    /// A connection from a visitor, whose ClientHello is known already: [`Session::begin`] comes first.
    pub(crate) fn visitor(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let machine = Machine::Server(UnbufferedServerConnection::new(config)?);
        Ok(Self { phase: Phase::Handshake, begun: true, ..Self::new(machine, None) })
    }

    fn new(machine: Machine, exporter: Option<Arc<Exporter>>) -> Self {
        Self {
            machine,
            exporter,
            phase: Phase::Opening,
            begun: false,
            incoming: Vec::new(),
            plain: Vec::new(),
            read: 0,
            outgoing: Vec::new(),
            sent: 0,
            owed: 0,
            heard: 0,
            ended: false,
            finished: false,
            news: News::default(),
        }
    }

    /// Whether readiness of either sort must be reported as both.
    pub(crate) fn is_handshaking(&self) -> bool {
        matches!(self.phase, Phase::Opening | Phase::Handshake)
    }

    pub(crate) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// Reads plain bytes, and says whether both the socket and the session are dry. 0 is the end of the stream.
    pub(crate) fn recv(
        &mut self,
        wire: &mut impl Wire,
        buffers: &mut Buffers,
        into: &mut [u8],
    ) -> Result<(usize, bool), SysError> {
        let kept = self.take_plain(into);
        if kept > 0 {
            return Ok((kept, false));
        }
        // Ends as soon as there are plain bytes: the peer decides how little a record holds, so it must not decide how
        // long this lasts.
        loop {
            match self.read_some(wire, buffers, into)? {
                // With plain bytes, a short read is proof enough that the socket is empty. For "would block" the socket
                // itself must have said so: the end of the stream may have come behind what was read.
                Some(got) if got.plain > 0 => {
                    return Ok((got.plain, got.short && self.plain.is_empty() && !self.ended));
                }
                Some(_) => {}
                None => return Ok((0, false)),
            }
        }
    }

    /// Handles what was received before the session was made, and answers it.
    pub(crate) fn begin(&mut self, wire: &mut impl Wire, hello: &[u8]) -> Result<(), SysError> {
        let read = self.digest(&mut hello.to_vec(), hello.len(), &mut []);
        self.answer(wire, read).map(drop)
    }

    /// What is known at both ends of what is encrypted, once the handshake is complete; `None` in the clear.
    pub(crate) fn channel(&mut self, wire: &mut impl Wire, buffers: &mut Buffers) -> Result<Option<Channel>, SysError> {
        self.open(wire, buffers)?;
        match self.phase {
            Phase::Up(channel) => Ok(channel),
            Phase::Plain | Phase::Failed(_) | Phase::Opening | Phase::Handshake => Ok(None),
        }
    }

    /// The application protocol, once the handshake is complete.
    pub(crate) fn protocol(&mut self, wire: &mut impl Wire, buffers: &mut Buffers) -> Result<Option<&[u8]>, SysError> {
        self.open(wire, buffers)?;
        Ok(self.machine.common().alpn_protocol())
    }

    /// Goes on until the handshake is complete.
    fn open(&mut self, wire: &mut impl Wire, buffers: &mut Buffers) -> Result<(), SysError> {
        while self.is_handshaking() {
            // What comes behind the handshake is kept for a read.
            if self.read_some(wire, buffers, &mut [])?.is_none() {
                return Err(SysError::Reset);
            }
        }
        match self.phase {
            Phase::Plain | Phase::Up(_) => Ok(()),
            Phase::Failed(failure) => Err(SysError::Tls(failure)),
            Phase::Opening | Phase::Handshake => unreachable!("the handshake is complete"),
        }
    }

    /// Takes some of `from`, or would block, and must then be called with the same bytes again.
    pub(crate) fn send(&mut self, wire: &mut impl Wire, buffers: &mut Buffers, from: &[u8]) -> Result<usize, SysError> {
        self.open(wire, buffers)?;
        if self.phase == Phase::Plain {
            return wire.send(from);
        }
        self.flush(wire)?;
        if self.owed > 0 {
            assert!(self.owed <= from.len(), "after a send that would block come the same bytes again");
            return Ok(std::mem::take(&mut self.owed));
        }
        let chunk = &from[..from.len().min(CHUNK)];
        let length = self.encrypt(Encrypt::Data(chunk, &mut buffers.outbound))?;
        let mut rest = &buffers.outbound[..length];
        while !rest.is_empty() {
            match wire.send(rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) => {
                    self.outgoing.extend_from_slice(rest);
                    self.owed = chunk.len();
                    return Err(error);
                }
            }
        }
        Ok(chunk.len())
    }

    /// Sends close_notify, once. Where that would block it must be called again.
    pub(crate) fn finish(&mut self, wire: &mut impl Wire) -> Result<(), SysError> {
        let mut notice = [0; 512];
        if matches!(self.phase, Phase::Up(_)) && !std::mem::replace(&mut self.finished, true) {
            let length = self.encrypt(Encrypt::Close(&mut notice))?;
            self.outgoing.extend_from_slice(&notice[..length]);
        }
        self.flush(wire)
    }

    fn take_plain(&mut self, into: &mut [u8]) -> usize {
        let rest = &self.plain[self.read..];
        let taken = rest.len().min(into.len());
        into[..taken].copy_from_slice(&rest[..taken]);
        self.read += taken;
        if self.read == self.plain.len() {
            self.plain = Vec::new();
            self.read = 0;
        }
        taken
    }

    /// Sends what is left of earlier ciphertext.
    fn flush(&mut self, wire: &mut impl Wire) -> Result<(), SysError> {
        while self.sent < self.outgoing.len() {
            self.sent += wire.send(&self.outgoing[self.sent..])?;
        }
        self.outgoing = Vec::new();
        self.sent = 0;
        Ok(())
    }

    /// One read of the socket, and what follows from it. Plain bytes without room in `into` are kept. `None`: the
    /// end of the stream.
    // PROTOCOL.md: P-TLS-7.
    fn read_some(
        &mut self,
        wire: &mut impl Wire,
        buffers: &mut Buffers,
        into: &mut [u8],
    ) -> Result<Option<Got>, SysError> {
        if let Phase::Failed(failure) = self.phase {
            return Err(SysError::Tls(failure));
        }
        if self.phase == Phase::Plain {
            let n = wire.recv(into)?;
            return Ok((n > 0).then(|| Got { plain: n, short: n < into.len() && wire.short_means_dry() }));
        }
        if !self.begun {
            self.begun = true;
            self.run(&mut [], &mut [], None)?;
        }
        if self.owed == 0 {
            // What is left of the handshake is sent first. If the socket has no room, what has come is still read.
            match self.flush(wire) {
                Ok(()) | Err(SysError::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        if self.ended {
            return Ok(None);
        }
        let kept = self.incoming.len();
        let fitting = into.len().min(CHUNK) + into.len().div_ceil(RECORD) * RECORD_EXTRA;
        let most = fitting.saturating_sub(kept).max(LEAST_READ).min(buffers.inbound.len() - kept);
        let n = wire.recv(&mut buffers.inbound[kept..kept + most])?;
        if n == 0 {
            // No close_notify came: the stream was cut short.
            return Err(SysError::Reset);
        }
        buffers.inbound[..kept].copy_from_slice(&self.incoming);
        let read = self.digest(&mut buffers.inbound[..kept + n], n, into);
        let plain = self.answer(wire, read)?;
        Ok(Some(Got { plain, short: n < most && wire.short_means_dry() }))
    }

    /// Sends what rustls says to what was `read`: an answer of the handshake, or an alert. What the socket does not take now
    /// is sent later.
    fn answer(&mut self, wire: &mut impl Wire, read: Result<usize, SysError>) -> Result<usize, SysError> {
        if read.is_err() || !self.outgoing.is_empty() && self.owed == 0 {
            match self.flush(wire) {
                Ok(()) | Err(SysError::WouldBlock | SysError::Exhausted) => {}
                Err(error) => return Err(read.err().unwrap_or(error)),
            }
        }
        read
    }

    /// Handles what has been received and not yet used; the last `new` bytes came just now. Returns how many plain
    /// bytes are in `into`.
    // PROTOCOL.md: P-TLS-4, P-TLS-6.
    fn digest(&mut self, bytes: &mut [u8], new: usize, into: &mut [u8]) -> Result<usize, SysError> {
        if self.phase == Phase::Opening {
            match (&self.machine, Opening::of(bytes)) {
                (Machine::Server(_), Some(Opening::Tls))
                | (Machine::Client(_), Some(Opening::Tls | Opening::Stranger)) => {
                    self.phase = Phase::Handshake;
                }
                (Machine::Server(_), Some(Opening::Cproxy | Opening::Stranger) | None) => {
                    self.phase = Phase::Plain;
                    self.plain = bytes.to_vec();
                    return Ok(self.take_plain(into));
                }
                (Machine::Client(_), Some(Opening::Cproxy)) => {
                    return Err(self.fail(TlsFailure::NotTls, "it answered in the clear".into()));
                }
                (Machine::Client(_), None) => {
                    self.incoming = bytes.to_vec();
                    return Ok(0);
                }
            }
        }
        self.heard += new;
        let kept = self.plain.len();
        let ran = self.run(bytes, into, None)?;
        self.heard = self.heard.saturating_sub(WORTH * (ran.plain + self.plain.len() - kept));
        self.incoming.clear();
        self.incoming.extend_from_slice(&bytes[ran.used..]);
        if self.incoming.is_empty() {
            self.incoming = Vec::new();
        }
        if self.heard > HANDSHAKE || self.incoming.len() > HANDSHAKE {
            let what =
                if self.is_handshaking() { "its handshake is too long" } else { "there is too little in its records" };
            return Err(self.fail(TlsFailure::Broken, what.into()));
        }
        Ok(ran.plain)
    }

    /// Encrypts; returns the length.
    fn encrypt(&mut self, what: Encrypt<'_>) -> Result<usize, SysError> {
        let mut kept = std::mem::take(&mut self.incoming);
        let ran = self.run(&mut kept, &mut [], Some(what))?;
        kept.drain(..ran.used);
        self.incoming = kept;
        ran.encrypted.ok_or(SysError::Reset)
    }

    /// Lets rustls process `bytes` until it needs more of them. Plain bytes go to `into`, then to `self.plain`; what
    /// rustls itself has to send goes to `self.outgoing`.
    fn run(&mut self, bytes: &mut [u8], into: &mut [u8], mut encrypt: Option<Encrypt<'_>>) -> Result<Ran, SysError> {
        let mut ran = Ran::default();
        loop {
            let rest = &mut bytes[ran.used..];
            let mut out = Out { into, ran: &mut ran, plain: &mut self.plain, outgoing: &mut self.outgoing };
            let (discard, next) = match &mut self.machine {
                Machine::Client(machine) => out.step(machine.process_tls_records(rest), &mut encrypt),
                Machine::Server(machine) => out.step(machine.process_tls_records(rest), &mut encrypt),
            };
            ran.used += discard;
            match next {
                Next::Again => {}
                Next::Ended => self.ended = true,
                Next::Wait => break,
                Next::Failed(error) => {
                    // What is still to be said, and last the alert that tells the peer. A step beyond would look at the same
                    // bytes once more.
                    while self.machine.common().wants_write() {
                        let rest = &mut bytes[ran.used..];
                        let mut out = Out { into, ran: &mut ran, plain: &mut self.plain, outgoing: &mut self.outgoing };
                        let _ = match &mut self.machine {
                            Machine::Client(machine) => out.step(machine.process_tls_records(rest), &mut None),
                            Machine::Server(machine) => out.step(machine.process_tls_records(rest), &mut None),
                        };
                    }
                    return Err(self.fail(failure(&error), said(&error)));
                }
            }
        }
        if self.is_handshaking() && !self.machine.common().is_handshaking() {
            let channel = self.exported().map_err(|text| self.fail(TlsFailure::Broken, text))?;
            self.phase = Phase::Up(channel);
            self.heard = 0;
            self.news.up = true;
        }
        Ok(ran)
    }

    /// The channel of a complete handshake between client and server; a visitor's has none.
    fn exported(&self) -> Result<Option<Channel>, String> {
        let (Some(exporter), common) = (&self.exporter, self.machine.common()) else { return Ok(None) };
        if common.alpn_protocol() != Some(&ALPN) {
            return Err(said(&Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
        }
        let suite = common.negotiated_cipher_suite();
        let channel = suite.and_then(|suite| exporter.channel(suite));
        channel.map(Some).ok_or_else(|| "it exports no keying material".into())
    }

    fn fail(&mut self, failure: TlsFailure, text: String) -> SysError {
        self.phase = Phase::Failed(failure);
        self.news.failed = Some((failure, text));
        SysError::Tls(failure)
    }
}

/// The outcome of [`Session::run`].
#[derive(Default)]
struct Ran {
    /// Bytes that are used up.
    used: usize,
    /// Plain bytes that had room.
    plain: usize,
    /// The length of what was to be encrypted, once it is.
    encrypted: Option<usize>,
}

/// Where the bytes that rustls makes go.
struct Out<'a> {
    into: &'a mut [u8],
    ran: &'a mut Ran,
    plain: &'a mut Vec<u8>,
    outgoing: &'a mut Vec<u8>,
}

enum Next {
    Again,
    Ended,
    Wait,
    Failed(Error),
}

impl Out<'_> {
    /// Handles one state of the machine; returns how many bytes it is done with.
    fn step<Data>(
        &mut self,
        status: UnbufferedStatus<'_, '_, Data>,
        encrypt: &mut Option<Encrypt<'_>>,
    ) -> (usize, Next) {
        let UnbufferedStatus { mut discard, state } = status;
        let next = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                match traffic.next_record() {
                    Some(Ok(record)) => {
                        discard += record.discard;
                        let room = &mut self.into[self.ran.plain..];
                        let (now, later) = record.payload.split_at(room.len().min(record.payload.len()));
                        room[..now.len()].copy_from_slice(now);
                        self.ran.plain += now.len();
                        self.plain.extend_from_slice(later);
                    }
                    Some(Err(error)) => break Next::Failed(error),
                    None => break Next::Again,
                }
            },
            Ok(ConnectionState::EncodeTlsData(mut message)) => {
                let start = self.outgoing.len();
                match message.encode(&mut []) {
                    Err(EncodeError::InsufficientSize(size)) => self.outgoing.resize(start + size.required_size, 0),
                    Ok(_) | Err(EncodeError::AlreadyEncoded) => {}
                }
                match message.encode(&mut self.outgoing[start..]) {
                    Ok(_) | Err(EncodeError::AlreadyEncoded | EncodeError::InsufficientSize(_)) => Next::Again,
                }
            }
            // It is sent in this order, as soon as the socket takes it.
            Ok(ConnectionState::TransmitTlsData(sent)) => {
                sent.done();
                Next::Again
            }
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let encrypted = match encrypt.take() {
                    Some(Encrypt::Data(from, to)) => traffic.encrypt(from, to).map(Some),
                    Some(Encrypt::Close(to)) => traffic.queue_close_notify(to).map(Some),
                    None => Ok(None),
                };
                match encrypted {
                    Ok(length) => {
                        self.ran.encrypted = length;
                        Next::Wait
                    }
                    Err(error) => Next::Failed(Error::General(error.to_string())),
                }
            }
            Ok(ConnectionState::PeerClosed) => Next::Ended,
            Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Next::Wait,
            // Never offered, never accepted.
            Ok(_) => Next::Failed(Error::General("early data".into())),
            Err(error) => Next::Failed(error),
        };
        (discard, next)
    }
}

/// What the user is to know of an error.
#[expect(clippy::wildcard_enum_match_arm, reason = "of a hundred errors, these few are the user's business")]
fn failure(error: &Error) -> TlsFailure {
    match error {
        Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFailure::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsFailure::NotYetValid,
            // Another authority of the same name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsFailure::UnknownIssuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsFailure::WrongName
            }
            CertificateError::Other(other) if other.0.is::<UnknownAndAlone>() => TlsFailure::UnknownIssuer,
            CertificateError::Other(other) if other.0.is::<WrongPin>() => TlsFailure::WrongPin,
            _ => TlsFailure::BadCertificate,
        },
        Error::NoCertificatesPresented => TlsFailure::CertificateWanted,
        Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => TlsFailure::CertificateWanted,
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            // Signed by another authority of the same name.
            | AlertDescription::DecryptError => TlsFailure::CertificateRefused,
            _ => TlsFailure::Broken,
        },
        _ => TlsFailure::Broken,
    }
}

#[cfg(test)]
mod tests;
