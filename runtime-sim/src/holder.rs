//! A client with a token of its own that keeps to the protocol and means harm: what it says, and what must not come of
//! it. Rings 3 and 4 send it as a fault, beside honest clients; neither network nor time is known here.

use crate::kernel::Rng;
use crate::oracle::{Finding, Property, Sometimes};
use protocol_sm::auth::{Prover, SessionKey, Transcript};
use protocol_sm::codes::{AbortCode, CloseCode, TunnelRefusal};
use protocol_sm::ids::{ClientId, ConnId, Epoch, SessionId, TunnelId};
use protocol_sm::settings::{Credential, Scope, Token, TunnelLimits};
use protocol_sm::sources::SourceLists;
use protocol_sm::transfer::How;
use protocol_sm::wire::{
    ClientHandshake, ClientHello, ClientMsg, ConnKind, Ctl, Framer, Message, PREFACE_LEN, Preface, ProxyToServer,
    Reply, ReplyReader, Resume, ServerHandshake, ServerMsg, ToClient, ToServer,
};
use std::time::Duration;

/// The first of the public ports that it may use, and the last.
const PORTS: (u16, u16) = (5000, 5007);
/// Tunnels that it registers and closes: fewer than it may have, and more than there are ports of its choice.
const TUNNELS: u64 = 6;

fn secret() -> Token {
    Token::new(b"a token of its own".to_vec())
}

/// Whether this public port can only be his.
pub(crate) fn has_port(port: u16) -> bool {
    (PORTS.0..=PORTS.1).contains(&port)
}

/// What the server knows of it.
pub(crate) fn credential() -> Credential {
    let mut allow_ports = protocol_sm::ports::PortSet::none();
    allow_ports.insert(PORTS.0, PORTS.1).expect("a range");
    let scope = Scope { allow_ports, max_tunnels: 4, max_connections: 4, max_waiting: 4, ..Scope::default() };
    Credential { name: "holder".into(), tokens: vec![secret()], scope }
}

/// What it does next.
#[derive(Debug)]
pub(crate) enum Act {
    /// Nothing more than to speak.
    Speak,
    /// It opens conns, and says this on each of them.
    Conns(Vec<Vec<u8>>),
    /// Somebody visits one of its public ports.
    Visit(u16),
    /// It hangs up.
    Leave,
}

/// A session that it left without a word, to come back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Past {
    client: ClientId,
    resume: Resume,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    Challenged,
    Proved,
    Up,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Holder {
    rng: Rng,
    hello: ClientHello,
    reply: ReplyReader,
    reply_bytes: [u8; PREFACE_LEN],
    stage: Stage,
    framer: Framer<ToClient>,
    transcript: Option<Transcript>,
    session: Option<(SessionId, SessionKey)>,
    sent: u64,
    heard: u64,
    /// It acknowledges what it hears.
    acknowledges: bool,
    /// What it has heard when it last said so.
    told: u64,
    /// Tunnels that it has registered on this ctl_conn, and what it had heard before: each is answered.
    asked: u64,
    heard_before: u64,
    conns: u64,
    publics: Vec<u16>,
    acts_left: u64,
    /// How often it looks for an answer in its handshake.
    waits_left: u64,
    to_say: Vec<u8>,
}

impl Holder {
    /// One that comes for the first time, or back to what it left.
    pub(crate) fn new(mut rng: Rng, past: Option<Past>) -> Self {
        let mut nonce = [0; 32];
        nonce.fill_with(|| rng.next().to_le_bytes()[0]);
        let client = past.map_or_else(|| ClientId([0xb0 + rng.next().to_le_bytes()[0] % 3; 16]), |past| past.client);
        let hello = ClientHello { nonce, client, token: true, features: 0, resume: past.map(|past| past.resume) };
        let mut to_say = Preface::ours(ConnKind::Ctl).encode().to_vec();
        Self::say_hello(&hello).encode_to(&mut to_say);
        Self {
            hello,
            reply: ReplyReader::default(),
            reply_bytes: Reply::to(Preface::ours(ConnKind::Ctl)).encode(),
            stage: Stage::Greeting,
            framer: Framer::default(),
            transcript: None,
            session: None,
            sent: 0,
            heard: 0,
            acknowledges: rng.chance(60),
            told: 0,
            asked: 0,
            heard_before: 0,
            conns: 0,
            publics: Vec::new(),
            acts_left: rng.range(3, 25),
            waits_left: 100,
            to_say,
            rng,
        }
    }

    fn say_hello(hello: &ClientHello) -> ToServer {
        Ctl::Handshake(ClientHandshake::Hello(hello.clone()))
    }

    /// What it says next; empty if nothing.
    pub(crate) fn speak(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.to_say)
    }

    /// How long it waits until it acts again.
    pub(crate) fn pause(&mut self) -> Duration {
        Duration::from_micros(self.rng.log_size(10, 300_000) as u64)
    }

    /// The session that it has left without a word.
    pub(crate) fn past(&self) -> Option<Past> {
        let (session, _) = self.session.as_ref()?;
        let resume = Resume { session: *session, received: self.heard };
        Some(Past { client: self.hello.client, resume })
    }

    fn numbered(&mut self, msg: ClientMsg) {
        self.sent += 1;
        ToServer::Numbered { seq: self.sent, msg }.encode_to(&mut self.to_say);
    }

    fn received(&mut self) -> u64 {
        self.told = if self.acknowledges { self.heard } else { self.heard_before };
        self.told
    }

    /// Whether it asks for more than it acknowledges: where other sessions of the same holder leave all that they may,
    /// its own may be ended, too.
    fn is_hasty(&self) -> bool {
        !self.acknowledges || self.asked.saturating_sub(self.told - self.heard_before) >= 64
    }

    /// It is its turn.
    pub(crate) fn act(&mut self) -> Act {
        if self.stage != Stage::Up {
            self.waits_left = self.waits_left.saturating_sub(1);
            return if self.waits_left == 0 { Act::Leave } else { Act::Speak };
        }
        if self.acts_left == 0 {
            if self.rng.chance(50) {
                ToServer::Close { code: CloseCode::Bye }.encode_to(&mut self.to_say);
            }
            return Act::Leave;
        }
        self.acts_left -= 1;
        match self.rng.below(20) {
            0..=8 => self.storm(),
            9..=11 => self.ask(),
            12 => self.talk_of_nothing(),
            13 => self.flood(),
            14 => self.numbered(ClientMsg::Drain),
            15..=17 => return self.open_conns(),
            _ if !self.publics.is_empty() => return Act::Visit(self.rng.pick(&self.publics)),
            _ => self.storm(),
        }
        Act::Speak
    }

    /// It registers tunnels and closes them, at once or before they are open: on ports that it has already, on such as
    /// it may not have, on any.
    fn storm(&mut self) {
        for _ in 0..self.rng.range(1, 30) {
            let tunnel = TunnelId(u32::try_from(self.rng.below(TUNNELS)).expect("few"));
            // One that is registered must not be registered once more.
            self.numbered(ClientMsg::CloseTunnel { tunnel });
            let public_port = self.rng.pick(&[0, 0, PORTS.0, PORTS.0, PORTS.0 + 1, PORTS.0 + 2, 80, 6000, 8080]);
            self.register(tunnel, public_port);
            if self.rng.chance(40) {
                self.numbered(ClientMsg::CloseTunnel { tunnel });
            }
        }
    }

    fn register(&mut self, tunnel: TunnelId, public_port: u16) {
        let many = (0..SourceLists::MAX_SENT).map(|n| format!("10.{n}.0.0/16").parse().expect("a network"));
        let lists = SourceLists { allow: Vec::new(), deny: many.collect() };
        let sources = if self.rng.chance(10) { lists } else { SourceLists::default() };
        let name = "n".repeat(self.rng.size(0, ClientMsg::MAX_NAME));
        let limits = TunnelLimits { sources, ..TunnelLimits::default() };
        self.asked += 1;
        self.numbered(ClientMsg::RegisterTunnel { tunnel, public_port, bind_addr: None, name, limits });
    }

    fn ask(&mut self) {
        let received = self.received();
        for _ in 0..self.rng.range(1, 200) {
            ToServer::Ping { received }.encode_to(&mut self.to_say);
        }
    }

    /// Of conns that it never had, which is stale, and of failures that nobody expects.
    fn talk_of_nothing(&mut self) {
        let (conn, epoch) = (ConnId(self.rng.range(100_000, 200_000)), Epoch(1));
        self.numbered(ClientMsg::Fin { conn, epoch, total: u64::MAX, how: How::Reset });
        self.numbered(ClientMsg::Done { conn, epoch });
        self.numbered(ClientMsg::Abort { conn, epoch, code: AbortCode::ConnLost });
        self.numbered(ClientMsg::ConnFailed { count: u32::MAX });
    }

    /// More answers than a server keeps for who never acknowledges one, in this session or together with others.
    fn flood(&mut self) {
        if self.acknowledges {
            return self.ask();
        }
        for tunnel in 0..self.rng.pick(&[2500, 4000, 9000]) {
            let (tunnel, limits) = (TunnelId(1000 + tunnel), TunnelLimits::default());
            let (public_port, bind_addr, name) = (80, None, String::new());
            self.numbered(ClientMsg::RegisterTunnel { tunnel, public_port, bind_addr, name, limits });
        }
    }

    /// Nobody asked for them, and nobody will hear of them again.
    fn open_conns(&mut self) -> Act {
        let Some((session, key)) = &self.session else { return Act::Speak };
        let count = self.rng.range(1, 30);
        let conns = (self.conns + 1..=self.conns + count).map(|conn| {
            let mut bytes = Preface::ours(ConnKind::Proxy).encode().to_vec();
            ProxyToServer::Hello(key.hello(*session, ConnId(conn))).encode_to(&mut bytes);
            bytes
        });
        let conns = conns.collect();
        self.conns += count;
        Act::Conns(conns)
    }

    /// The server has told it something. Returns what that shows.
    ///
    /// # Errors
    /// It got what it may not have, or was sent away although it kept to the protocol.
    pub(crate) fn on_bytes(&mut self, mut bytes: &[u8]) -> Result<Option<Sometimes>, Finding> {
        let garbled = |what: String| Err((Property::HonestPeersNeverViolate, what));
        if self.stage == Stage::Greeting {
            match self.reply.next(Preface::ours(ConnKind::Ctl), &mut bytes) {
                Ok(None) => return Ok(None),
                Ok(Some(reply)) => {
                    self.reply_bytes = reply.encode();
                    self.stage = Stage::Challenged;
                }
                Err(error) => return garbled(format!("no reply: {error:?}")),
            }
        }
        let mut seen = None;
        while !bytes.is_empty() {
            match self.framer.next(&mut bytes) {
                Ok(None) => break,
                Ok(Some(message)) => seen = self.on_message(message)?.or(seen),
                Err(error) => return garbled(format!("no message: {error:?}")),
            }
        }
        Ok(seen)
    }

    fn on_message(&mut self, message: ToClient) -> Result<Option<Sometimes>, Finding> {
        match (self.stage, message) {
            (Stage::Challenged, answer @ Ctl::Handshake(ServerHandshake::Hello(_))) => {
                let said = Self::say_hello(&self.hello);
                let preface = Preface::ours(ConnKind::Ctl).encode();
                let transcript = Transcript::new(preface, self.reply_bytes, &said, &answer);
                let proof = Prover::new(Some(&secret()), transcript).client();
                ToServer::Handshake(ClientHandshake::Proof(proof)).encode_to(&mut self.to_say);
                self.transcript = Some(transcript);
                self.stage = Stage::Proved;
            }
            (Stage::Proved, Ctl::Handshake(ServerHandshake::Welcome(welcome))) => {
                let transcript = self.transcript.expect("it has proved itself");
                let key = Prover::new(Some(&secret()), transcript).session_key(welcome.session);
                self.session = Some((welcome.session, key));
                self.sent = welcome.received;
                self.hello.resume = self.hello.resume.filter(|_| welcome.resumed);
                self.heard = self.hello.resume.map_or(0, |resume| resume.received);
                self.heard_before = self.heard;
                self.told = self.heard;
                // Numbers of conns are used once.
                self.conns = if welcome.resumed { self.rng.range(1000, 9000) } else { 0 };
                self.stage = Stage::Up;
                return Ok(Some(Sometimes::HolderCame));
            }
            // It is stopping, full, or another one has its identity.
            (_, Ctl::Handshake(ServerHandshake::Refused(_))) => {}
            (Stage::Up, Ctl::Numbered { seq, msg }) => {
                self.heard = seq;
                if self.acknowledges && self.heard - self.told >= 64 {
                    ToServer::Ack { received: self.received() }.encode_to(&mut self.to_say);
                }
                return self.on_msg(&msg);
            }
            (Stage::Up, Ctl::Ping { .. }) => {
                ToServer::Pong { received: self.received() }.encode_to(&mut self.to_say);
            }
            (Stage::Up, Ctl::Pong { .. } | Ctl::Ack { .. }) => {}
            (Stage::Up, Ctl::Close { code: CloseCode::Violation }) if self.is_hasty() => {
                return Ok(Some(Sometimes::UnacknowledgedEnded));
            }
            (
                Stage::Up,
                Ctl::Close { code: CloseCode::Stopping | CloseCode::Replaced | CloseCode::Bye | CloseCode::Kicked },
            ) => {}
            (stage, message) => {
                return Err((Property::HonestPeersNeverViolate, format!("{message:?} in {stage:?}")));
            }
        }
        Ok(None)
    }

    fn on_msg(&mut self, msg: &ServerMsg) -> Result<Option<Sometimes>, Finding> {
        match msg {
            ServerMsg::TunnelReady { public, .. } => {
                if !(PORTS.0..=PORTS.1).contains(&public.port()) {
                    return Err((Property::ScopesAreKept, format!("it got {public}")));
                }
                self.publics.push(public.port());
                Ok(None)
            }
            ServerMsg::TunnelRefused { code: TunnelRefusal::PortInUse, .. } => Ok(Some(Sometimes::HolderPortInUse)),
            ServerMsg::TunnelRefused { .. }
            | ServerMsg::TunnelClosed { .. }
            | ServerMsg::NeedConn { .. }
            | ServerMsg::Fin { .. }
            | ServerMsg::Abort { .. }
            | ServerMsg::AskStart { .. }
            | ServerMsg::Drain
            | ServerMsg::Leave { .. }
            | ServerMsg::DatagramPath { .. } => Ok(None),
        }
    }
}
