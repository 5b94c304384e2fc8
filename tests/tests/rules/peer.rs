//! The protocol's two sides by hand: nothing is sent, answered or acknowledged unless the test says so.

use protocol_sm::auth::{Prover, SessionKey, Transcript};
use protocol_sm::codes::{CloseCode, HandshakeRefusal};
use protocol_sm::ids::{ClientId, ConnId, SessionId, TunnelId};
use protocol_sm::settings::{Token, TunnelLimits};
use protocol_sm::wire::{
    ClientHandshake, ClientHello, ClientMsg, ConnHello, ConnKind, FRAME_HEADER, Message, PREFACE_LEN, Preface, Proof,
    ProxyToClient, ProxyToServer, Reply, Resume, ServerHandshake, ServerHello, ServerMsg, ToClient, ToServer, Welcome,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tests::sockets::{LOOPBACK, bounded, connect, read_each, reset};
use tests::wait::{PATIENCE, eventually};

/// A connection that speaks frames, and raw bytes.
#[derive(Debug)]
pub(crate) struct Wire(TcpStream);

impl From<TcpStream> for Wire {
    fn from(stream: TcpStream) -> Self {
        Self(stream)
    }
}

impl Wire {
    pub(crate) fn connect(to: SocketAddr) -> Self {
        Self(connect(to))
    }

    /// A second handle to it, for another thread.
    pub(crate) fn try_clone(&self) -> Self {
        Self(self.0.try_clone().expect("a second handle"))
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        // Whoever is being told nonsense may hang up before all of it is said.
        let _ = self.0.write_all(bytes);
    }

    /// Whether the other side still takes bytes.
    pub(crate) fn tries_to_send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    pub(crate) fn send(&mut self, message: &impl Message) {
        let mut bytes = Vec::new();
        message.encode_to(&mut bytes);
        self.send_raw(&bytes);
    }

    /// Exactly `count` bytes; `None` if the connection ends before the first of them.
    #[track_caller]
    pub(crate) fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        let mut have = 0;
        while have < count {
            match self.0.read(&mut bytes[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("waiting for {count} bytes, have {have}: {error}"),
            }
        }
        assert!(have == 0 || have == count, "ended after {have} of {count} bytes");
        (have == count).then_some(bytes)
    }

    /// The next message; `None` if the connection ends.
    #[track_caller]
    pub(crate) fn next<M: Message>(&mut self) -> Option<M> {
        let header = self.bytes(FRAME_HEADER)?;
        let length = usize::from(u16::from_le_bytes([header[0], header[1]]));
        let body = self.bytes(length).expect("a whole frame");
        Some(M::decode(&body).expect("a message"))
    }

    #[track_caller]
    pub(crate) fn expect<M: Message>(&mut self, what: &str) -> M {
        self.next().unwrap_or_else(|| panic!("expected {what}, found the end"))
    }

    /// The first message for which `wanted` finds something. What it does about the others is its business.
    #[track_caller]
    pub(crate) fn find<M: Message, T>(&mut self, what: &str, mut wanted: impl FnMut(&mut Self, M) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let message = self.expect(what);
            if let Some(found) = wanted(self, message) {
                return found;
            }
        }
        panic!("expected within {PATIENCE:?}: {what}; only other messages came");
    }

    /// All bytes until the connection ends, well or by a reset.
    #[track_caller]
    pub(crate) fn until_the_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let _ = read_each(&mut self.0, |bytes| all.extend_from_slice(bytes));
        all
    }

    /// Waits until the other side ends the connection without another byte.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        assert_eq!(self.bytes(1), None, "no answer");
    }

    /// Whether these bytes have come, behind whatever else; nothing is taken.
    pub(crate) fn holds(&self, wanted: &[u8]) -> bool {
        let mut bytes = [0; 512];
        self.0.set_nonblocking(true).expect("non-blocking");
        let came = self.0.peek(&mut bytes).unwrap_or(0);
        self.0.set_nonblocking(false).expect("blocking");
        bytes[..came].windows(wanted.len()).any(|part| part == wanted)
    }

    pub(crate) fn finish(&self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }

    pub(crate) fn reset(self) {
        reset(self.0);
    }
}

/// What a client proves and asks for.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) client: ClientId,
    pub(crate) token: Option<Token>,
    pub(crate) resume: Option<Resume>,
    pub(crate) features: u64,
}

impl Identity {
    /// Another client than all others of this process, without a token.
    pub(crate) fn new() -> Self {
        Self { client: ClientId(fresh()), token: None, resume: None, features: 0 }
    }

    pub(crate) fn with_token(self, token: &str) -> Self {
        Self { token: Some(Token::new(token.into())), ..self }
    }

    pub(crate) fn resuming(self, session: SessionId, received: u64) -> Self {
        Self { resume: Some(Resume { session, received }), ..self }
    }

    pub(crate) fn hello(&self) -> ToServer {
        ToServer::Handshake(ClientHandshake::Hello(ClientHello {
            nonce: [5; 32],
            client: self.client,
            token: self.token.is_some(),
            features: self.features,
            resume: self.resume,
        }))
    }
}

/// A client's end of a ctl_conn whose handshake is through up to the proof.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) wire: Wire,
    pub(crate) server_hello: ServerHello,
    identity: Identity,
    transcript: Transcript,
}

impl Asked {
    /// The proof that was sent.
    pub(crate) fn proof(&self) -> [u8; 32] {
        Prover::new(self.identity.token.as_ref(), self.transcript).client()
    }

    /// Says hello and sends the proof.
    #[track_caller]
    pub(crate) fn ask(ctl: SocketAddr, identity: &Identity) -> Result<Self, HandshakeRefusal> {
        Self::ask_with(ctl, identity, |proof| proof)
    }

    /// Says hello and sends what `change` makes of the proof.
    #[track_caller]
    pub(crate) fn ask_with(
        ctl: SocketAddr,
        identity: &Identity,
        change: impl FnOnce(Proof) -> Proof,
    ) -> Result<Self, HandshakeRefusal> {
        let mut wire = Wire::connect(ctl);
        let preface = Preface::ours(ConnKind::Ctl).encode();
        wire.send_raw(&preface);
        wire.send(&identity.hello());
        let reply: [u8; PREFACE_LEN] = wire.bytes(PREFACE_LEN).expect("a reply").try_into().expect("eight bytes");
        let answer = wire.expect("the server's hello");
        let server_hello = match answer {
            ToClient::Handshake(ServerHandshake::Hello(hello)) => hello,
            ToClient::Handshake(ServerHandshake::Refused(refusal)) => {
                wire.expect_end();
                return Err(refusal);
            }
            other => panic!("expected a hello, found {other:?}"),
        };
        let transcript = Transcript::new(preface, reply, &identity.hello(), &answer);
        let proof = Prover::new(identity.token.as_ref(), transcript).client();
        wire.send(&ToServer::Handshake(ClientHandshake::Proof(change(proof))));
        Ok(Self { wire, server_hello, identity: identity.clone(), transcript })
    }

    /// Waits for the answer to the proof.
    #[track_caller]
    pub(crate) fn answer(mut self) -> Result<RawClient, HandshakeRefusal> {
        match self.wire.expect("an answer to the proof") {
            ToClient::Handshake(ServerHandshake::Welcome(welcome)) => {
                let prover = Prover::new(self.identity.token.as_ref(), self.transcript);
                assert!(prover.welcome_matches(&welcome), "the server proves itself");
                let key = prover.session_key(welcome.session);
                let (wire, identity) = (self.wire, self.identity);
                Ok(RawClient { wire, identity, welcome, key, sent: welcome.received, heard: 0, conns: 0 })
            }
            ToClient::Handshake(ServerHandshake::Refused(refusal)) => {
                self.wire.expect_end();
                Err(refusal)
            }
            other => panic!("expected an answer to the proof, found {other:?}"),
        }
    }
}

/// A client's end of a session.
#[derive(Debug)]
pub(crate) struct RawClient {
    pub(crate) wire: Wire,
    pub(crate) identity: Identity,
    pub(crate) welcome: Welcome,
    pub(crate) key: SessionKey,
    pub(crate) sent: u64,
    /// The number of the server's last message.
    pub(crate) heard: u64,
    conns: u64,
}

impl RawClient {
    #[track_caller]
    pub(crate) fn start(ctl: SocketAddr) -> Self {
        Self::with(ctl, &Identity::new()).expect("let in")
    }

    #[track_caller]
    pub(crate) fn with(ctl: SocketAddr, identity: &Identity) -> Result<Self, HandshakeRefusal> {
        Asked::ask(ctl, identity)?.answer()
    }

    pub(crate) fn send(&mut self, msg: ClientMsg) {
        self.sent += 1;
        self.wire.send(&ToServer::Numbered { seq: self.sent, msg });
    }

    /// The server's next numbered message for which `wanted` finds something; pings are answered on the way.
    #[track_caller]
    pub(crate) fn find<T>(&mut self, what: &str, wanted: impl Fn(&ServerMsg) -> Option<T>) -> T {
        self.wire.find(what, |wire, message| match message {
            ToClient::Numbered { seq, msg } => {
                self.heard = seq;
                wanted(&msg)
            }
            ToClient::Ping { .. } => {
                wire.send(&ToServer::Pong { received: self.heard });
                None
            }
            ToClient::Pong { .. } | ToClient::Ack { .. } => None,
            other => panic!("expected {what}, found {other:?}"),
        })
    }

    /// Registers a tunnel on a port of the server's choice.
    #[track_caller]
    pub(crate) fn tunnel(&mut self, tunnel: u32) -> SocketAddr {
        let tunnel = TunnelId(tunnel);
        self.send(ClientMsg::RegisterTunnel {
            tunnel,
            public_port: 0,
            bind_addr: None,
            name: "raw".into(),
            limits: TunnelLimits::default(),
        });
        self.find("TunnelReady", |msg| match msg {
            ServerMsg::TunnelReady { tunnel: ready, public } if *ready == tunnel => Some(*public),
            _ => None,
        })
    }

    /// Opens a conn with the next number.
    #[track_caller]
    pub(crate) fn conn(&mut self, proxy: SocketAddr) -> RawConn {
        self.conns += 1;
        let id = ConnId(self.conns);
        let conn = self.conn_as(proxy, &self.key.hello(self.welcome.session, id)).expect("accepted");
        assert!(self.key.accept_matches(self.welcome.session, id, &conn.accepted), "the server proves itself");
        conn
    }

    /// Opens a conn with this hello.
    #[track_caller]
    pub(crate) fn conn_as(&self, proxy: SocketAddr, hello: &ConnHello) -> Result<RawConn, HandshakeRefusal> {
        let mut wire = Wire::connect(proxy);
        wire.send_raw(&Preface::ours(ConnKind::Proxy).encode());
        wire.send(&ProxyToServer::Hello(*hello));
        assert_eq!(wire.bytes(PREFACE_LEN).expect("a reply"), Reply::to(Preface::ours(ConnKind::Proxy)).encode());
        match wire.expect("an answer to the conn's hello") {
            ProxyToClient::Accepted { proof } => Ok(RawConn { wire, id: hello.conn, accepted: proof }),
            ProxyToClient::Refused(refusal) => {
                wire.expect_end();
                Err(refusal)
            }
            other => panic!("expected an answer to the conn's hello, found {other:?}"),
        }
    }

    /// Waits for `Close`, whatever comes before it, and for the end.
    #[track_caller]
    pub(crate) fn expect_close(&mut self, code: CloseCode) {
        let said = self.wire.find("Close", |_, message| match message {
            ToClient::Close { code } => Some(code),
            ToClient::Handshake(_)
            | ToClient::Numbered { .. }
            | ToClient::Ping { .. }
            | ToClient::Pong { .. }
            | ToClient::Ack { .. } => None,
        });
        assert_eq!(said, code);
        self.wire.expect_end();
    }

    /// Waits until the server ends the ctl_conn, without a `Close`.
    #[track_caller]
    pub(crate) fn expect_lost(&mut self) {
        while let Some(message) = self.wire.next::<ToClient>() {
            assert!(!matches!(message, ToClient::Close { .. }), "the session goes on");
        }
    }

    /// Shows that the session goes on.
    #[track_caller]
    pub(crate) fn expect_alive(&mut self) {
        self.wire.send(&ToServer::Ping { received: self.heard });
        let received = self.wire.find("Pong", |_, message| match message {
            ToClient::Pong { received } => Some(received),
            ToClient::Numbered { seq, .. } => {
                self.heard = seq;
                None
            }
            ToClient::Ping { .. } | ToClient::Ack { .. } => None,
            other => panic!("expected Pong, found {other:?}"),
        });
        assert_eq!(received, self.sent, "everything was handled");
    }
}

/// A client's end of a conn.
#[derive(Debug)]
pub(crate) struct RawConn {
    pub(crate) wire: Wire,
    pub(crate) id: ConnId,
    accepted: [u8; 32],
}

impl RawConn {
    /// The next `Start`; idle pings are answered on the way.
    #[track_caller]
    pub(crate) fn start(&mut self) -> ProxyToClient {
        self.wire.find("Start", |wire, message| match message {
            ProxyToClient::Ping => {
                wire.send(&ProxyToServer::Pong);
                None
            }
            start @ ProxyToClient::Start { .. } => Some(start),
            other => panic!("expected Start, found {other:?}"),
        })
    }
}

/// A server by hand: its two ports.
#[derive(Debug)]
pub(crate) struct RawServer {
    ctl: TcpListener,
    proxy: TcpListener,
}

impl RawServer {
    pub(crate) fn start() -> Self {
        let listen = || {
            let listener = TcpListener::bind((LOOPBACK, 0)).expect("a free port");
            listener.set_nonblocking(true).expect("non-blocking");
            listener
        };
        Self { ctl: listen(), proxy: listen() }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.ctl.local_addr().expect("bound")
    }

    #[track_caller]
    fn accept(listener: &TcpListener) -> Wire {
        let (stream, _) = eventually("the client connects", || listener.accept().map_err(|error| error.to_string()));
        stream.set_nonblocking(false).expect("blocking");
        bounded(&stream, PATIENCE);
        Wire(stream)
    }

    /// Whether no ctl_conn waits to be taken.
    pub(crate) fn nobody_waits(&self) -> bool {
        self.ctl.accept().is_err()
    }

    /// Takes a ctl_conn and reads the preface and the hello.
    #[track_caller]
    pub(crate) fn greet(&self) -> Greeted {
        let mut wire = Self::accept(&self.ctl);
        assert_eq!(wire.bytes(PREFACE_LEN).expect("a preface"), Preface::ours(ConnKind::Ctl).encode());
        let said = wire.expect("the client's hello");
        let ToServer::Handshake(ClientHandshake::Hello(hello)) = &said else { panic!("expected a hello: {said:?}") };
        Greeted { hello: hello.clone(), said, wire, proxy_port: self.proxy.local_addr().expect("bound").port() }
    }

    /// Takes a client without a token: a new session.
    #[track_caller]
    pub(crate) fn welcome(&self) -> ServerEnd {
        self.greet().challenge().welcome(fresh_session(), false, 0)
    }

    /// Takes a client, and registers its one tunnel as it asks.
    #[track_caller]
    pub(crate) fn serve(&self) -> ServerEnd {
        let mut end = self.welcome();
        end.register();
        end
    }

    /// Takes a proxy_conn and reads its hello.
    #[track_caller]
    pub(crate) fn conn(&self) -> (Wire, ConnHello) {
        let mut wire = Self::accept(&self.proxy);
        assert_eq!(wire.bytes(PREFACE_LEN).expect("a preface"), Preface::ours(ConnKind::Proxy).encode());
        match wire.expect("a conn's hello") {
            ProxyToServer::Hello(hello) => (wire, hello),
            other => panic!("expected a conn's hello, found {other:?}"),
        }
    }

    /// Asks for a conn, and accepts it.
    #[track_caller]
    pub(crate) fn accepted(&self, end: &mut ServerEnd) -> ServerConn {
        end.send(ServerMsg::NeedConn { count: 1 });
        let (mut wire, hello) = self.conn();
        end.accept(&mut wire, &hello);
        ServerConn { wire, id: hello.conn }
    }
}

/// A session's name that was not used before.
pub(crate) fn fresh_session() -> SessionId {
    SessionId(fresh())
}

/// Sixteen bytes that were not used before in this process.
fn fresh() -> [u8; 16] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    u128::from(NEXT.fetch_add(1, Ordering::SeqCst)).to_le_bytes()
}

/// A server's end of a ctl_conn that was greeted.
#[derive(Debug)]
pub(crate) struct Greeted {
    pub(crate) wire: Wire,
    pub(crate) hello: ClientHello,
    said: ToServer,
    proxy_port: u16,
}

impl Greeted {
    #[track_caller]
    pub(crate) fn challenge(self) -> Challenged {
        self.challenge_with(ServerHello { nonce: [6; 32], features: 0 })
    }

    /// Answers the hello, and reads the proof.
    #[track_caller]
    pub(crate) fn challenge_with(mut self, hello: ServerHello) -> Challenged {
        let answer = self.hello_back(hello);
        let proof: ToServer = self.wire.expect("the client's proof");
        let reply = Reply::to(Preface::ours(ConnKind::Ctl)).encode();
        let transcript = Transcript::new(Preface::ours(ConnKind::Ctl).encode(), reply, &self.said, &answer);
        let expected = Prover::new(None, transcript).client();
        assert_eq!(proof, ToServer::Handshake(ClientHandshake::Proof(expected)));
        Challenged { wire: self.wire, transcript, proxy_port: self.proxy_port }
    }

    pub(crate) fn hello_back(&mut self, hello: ServerHello) -> ToClient {
        let answer = ToClient::Handshake(ServerHandshake::Hello(hello));
        self.wire.send_raw(&Reply::to(Preface::ours(ConnKind::Ctl)).encode());
        self.wire.send(&answer);
        answer
    }
}

/// A server's end of a ctl_conn whose client has proved itself.
#[derive(Debug)]
pub(crate) struct Challenged {
    pub(crate) wire: Wire,
    transcript: Transcript,
    proxy_port: u16,
}

impl Challenged {
    pub(crate) fn welcome(self, session: SessionId, resumed: bool, received: u64) -> ServerEnd {
        self.welcome_with(session, resumed, received, |welcome| welcome)
    }

    /// Says what `change` makes of a good welcome.
    pub(crate) fn welcome_with(
        mut self,
        session: SessionId,
        resumed: bool,
        received: u64,
        change: impl FnOnce(Welcome) -> Welcome,
    ) -> ServerEnd {
        let prover = Prover::new(None, self.transcript);
        let proxy_port = self.proxy_port;
        let welcome = change(prover.welcome(Welcome { session, resumed, received, proxy_port, proof: [0; 32] }));
        self.wire.send(&ToClient::Handshake(ServerHandshake::Welcome(welcome)));
        let key = prover.session_key(session);
        ServerEnd { wire: self.wire, session, key, sent: 0, heard: received }
    }
}

/// A server's end of a session.
#[derive(Debug)]
pub(crate) struct ServerEnd {
    pub(crate) wire: Wire,
    pub(crate) session: SessionId,
    pub(crate) key: SessionKey,
    pub(crate) sent: u64,
    /// The number of the client's last message.
    pub(crate) heard: u64,
}

impl ServerEnd {
    pub(crate) fn send(&mut self, msg: ServerMsg) {
        self.sent += 1;
        self.wire.send(&ToClient::Numbered { seq: self.sent, msg });
    }

    /// The client's next numbered message; pings are answered on the way.
    #[track_caller]
    pub(crate) fn msg(&mut self, what: &str) -> ClientMsg {
        self.wire.find(what, |wire, message| match message {
            ToServer::Numbered { seq, msg } => {
                self.heard = seq;
                Some(msg)
            }
            ToServer::Ping { .. } => {
                wire.send(&ToClient::Pong { received: self.heard });
                None
            }
            ToServer::Pong { .. } | ToServer::Ack { .. } => None,
            other => panic!("expected {what}, found {other:?}"),
        })
    }

    /// Lets the client register its tunnel.
    #[track_caller]
    pub(crate) fn register(&mut self) -> ClientMsg {
        let asked = self.msg("RegisterTunnel");
        let ClientMsg::RegisterTunnel { tunnel, .. } = asked else { panic!("expected RegisterTunnel: {asked:?}") };
        self.send(ServerMsg::TunnelReady { tunnel, public: SocketAddr::new(LOOPBACK, 6000) });
        asked
    }

    pub(crate) fn accept(&self, wire: &mut Wire, hello: &ConnHello) {
        assert!(hello.session == self.session && self.key.hello_matches(hello), "the client proves its session");
        wire.send_raw(&Reply::to(Preface::ours(ConnKind::Proxy)).encode());
        wire.send(&ProxyToClient::Accepted { proof: self.key.accept(self.session, hello.conn) });
    }

    /// Waits for `Close`, whatever comes before it, and for the end.
    #[track_caller]
    pub(crate) fn expect_close(&mut self, code: CloseCode) {
        let said = self.wire.find("Close", |_, message| match message {
            ToServer::Close { code } => Some(code),
            ToServer::Handshake(_)
            | ToServer::Numbered { .. }
            | ToServer::Ping { .. }
            | ToServer::Pong { .. }
            | ToServer::Ack { .. } => None,
        });
        assert_eq!(said, code);
        self.wire.expect_end();
    }

    /// Shows that the session goes on.
    #[track_caller]
    pub(crate) fn expect_alive(&mut self) {
        self.wire.send(&ToClient::Ping { received: self.heard });
        let received = self.wire.find("Pong", |_, message| match message {
            ToServer::Pong { received } => Some(received),
            ToServer::Numbered { seq, .. } => {
                self.heard = seq;
                None
            }
            ToServer::Ping { .. } | ToServer::Ack { .. } => None,
            other => panic!("expected Pong, found {other:?}"),
        });
        assert_eq!(received, self.sent, "everything was handled");
    }
}

/// A server's end of a conn.
#[derive(Debug)]
pub(crate) struct ServerConn {
    pub(crate) wire: Wire,
    pub(crate) id: ConnId,
}
