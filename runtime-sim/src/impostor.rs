//! Somebody who has no business with the server, or none with its other clients, but knows the protocol and has listened:
//! what he says, and what he must never be told. Rings 3 and 4 send him as a fault; neither network nor time is known here.

use crate::kernel::Rng;
use crate::oracle::{Finding, Property, Sometimes};
use crate::scenario::neighbour_token;
use protocol_sm::auth::{Prover, Transcript};
use protocol_sm::codes::{AbortCode, HandshakeRefusal};
use protocol_sm::ids::{ClientId, ConnId, Epoch, SessionId, TunnelId};
use protocol_sm::settings::Token;
use protocol_sm::transfer::How;
use protocol_sm::wire::{
    ClientHandshake, ClientHello, ClientMsg, ConnHello, ConnKind, Ctl, Framer, MAGIC, Message, Preface, PrefaceReader,
    Proof, ProxyToClient, ProxyToServer, Reply, ReplyReader, Resume, ServerHandshake, ToClient, ToServer,
};
use std::collections::BTreeMap;

/// What honest clients were heard to say to the server.
#[derive(Debug, Default)]
pub(crate) struct Overheard {
    hellos: Vec<ClientHello>,
    proofs: Vec<Proof>,
    /// Hellos of conns that were not admitted yet. Whoever says such a hello first is admitted.
    pending: BTreeMap<usize, ConnHello>,
    admitted: Vec<ConnHello>,
}

impl Overheard {
    /// The server has read this from a ctl_conn or a proxy_conn that it knows as `conn`. What does not come in one
    /// piece is not understood.
    pub(crate) fn on_read(&mut self, conn: usize, mut bytes: &[u8]) {
        if bytes.starts_with(&MAGIC) {
            match PrefaceReader::default().next(&mut bytes).map(|preface| preface.map(|preface| preface.port)) {
                Ok(Some(ConnKind::Ctl)) => {
                    if let Some(Ctl::Handshake(ClientHandshake::Hello(hello))) = only::<ToServer>(bytes) {
                        self.hellos.push(hello);
                    }
                }
                Ok(Some(ConnKind::Proxy)) => {
                    if let Some(ProxyToServer::Hello(hello)) = only(bytes) {
                        self.pending.insert(conn, hello);
                    }
                }
                Ok(None) | Err(_) => {}
            }
        } else if let Some(Ctl::Handshake(ClientHandshake::Proof(proof))) = only::<ToServer>(bytes) {
            self.proofs.push(proof);
        }
    }

    /// Whether [`Overheard::on_read`] can make anything of it: most of what is read is not.
    pub(crate) fn is_of_use(bytes: &[u8]) -> bool {
        // A proof's frame: 34 bytes, `Handshake`, `Proof`.
        bytes.starts_with(&MAGIC) || bytes.len() == 36 && bytes.starts_with(&[34, 0, 0, 1])
    }

    /// The server has admitted this conn: its number is used up.
    pub(crate) fn on_admitted(&mut self, conn: usize) {
        self.admitted.extend(self.pending.remove(&conn));
    }
}

fn only<M: Message>(mut bytes: &[u8]) -> Option<M> {
    Framer::default().next(&mut bytes).ok().flatten()
}

/// What he tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ruse {
    /// He comes as a known client, perhaps in its session, with a token of his own.
    WrongToken,
    /// He comes as a known client without a token.
    NoToken,
    /// He comes as a known client with the proof from another handshake.
    OldProof,
    /// He comes as a known client, perhaps in its session, with another holder's token, which the server takes. Then he
    /// speaks of the known client's tunnels and conns.
    Neighbour,
    /// He says a conn's hello once more.
    OldHello,
    /// He says a conn's hello with another number.
    OtherNumber,
    /// He says a conn's hello in the name of another session.
    OtherSession,
    /// He says nothing behind the preface.
    Silence,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Impostor {
    ruse: Ruse,
    preface: Preface,
    hello: Option<ClientHello>,
    old_proof: Option<Proof>,
    /// He has a session, as a neighbour.
    inside: bool,
    /// The session that he named in his hello.
    resume: Option<Resume>,
    to_say: Vec<u8>,
    reply: ReplyReader,
    greeted: bool,
    ctl: Framer<ToClient>,
    proxy: Framer<ProxyToClient>,
}

impl Impostor {
    /// One who tries something that what he has `overheard` allows.
    pub(crate) fn new(rng: &mut Rng, overheard: &Overheard) -> Self {
        let mut ruses = vec![Ruse::WrongToken, Ruse::NoToken, Ruse::Silence];
        if !overheard.proofs.is_empty() {
            ruses.push(Ruse::OldProof);
        }
        if overheard.hellos.iter().any(|hello| hello.token) {
            ruses.extend([Ruse::Neighbour, Ruse::Neighbour]);
        }
        if !overheard.admitted.is_empty() {
            ruses.extend([Ruse::OldHello, Ruse::OldHello, Ruse::OtherNumber, Ruse::OtherSession]);
        }
        let ruse = rng.pick(&ruses);
        let port = match ruse {
            Ruse::WrongToken | Ruse::NoToken | Ruse::OldProof | Ruse::Neighbour => ConnKind::Ctl,
            Ruse::OldHello | Ruse::OtherNumber | Ruse::OtherSession => ConnKind::Proxy,
            Ruse::Silence => rng.pick(&[ConnKind::Ctl, ConnKind::Proxy]),
        };
        let mut impostor = Self {
            ruse,
            preface: Preface::ours(port),
            hello: None,
            old_proof: None,
            inside: false,
            resume: None,
            to_say: Preface::ours(port).encode().to_vec(),
            reply: ReplyReader::default(),
            greeted: false,
            ctl: Framer::default(),
            proxy: Framer::default(),
        };
        match ruse {
            Ruse::WrongToken | Ruse::NoToken | Ruse::Neighbour => impostor.claim(rng, overheard),
            Ruse::OldProof => {
                impostor.claim(rng, overheard);
                impostor.old_proof = Some(rng.pick(&overheard.proofs));
            }
            Ruse::OldHello | Ruse::OtherNumber | Ruse::OtherSession => impostor.repeat(rng, overheard),
            Ruse::Silence => {}
        }
        impostor
    }

    /// Whether he has proved a token of his own and has a session: he is no stranger any more.
    pub(crate) fn is_inside(&self) -> bool {
        self.inside
    }

    /// The port that he comes to.
    pub(crate) fn port(&self) -> ConnKind {
        self.preface.port
    }

    /// He is a client, he says: if possible one that the server knows.
    fn claim(&mut self, rng: &mut Rng, overheard: &Overheard) {
        let mut nonce = [0; 32];
        nonce.fill_with(|| rng.next().to_le_bytes()[0]);
        let client = match overheard.hellos.as_slice() {
            [] => ClientId([0xee; 16]),
            hellos => hellos[rng.size(0, hellos.len() - 1)].client,
        };
        let resume = (rng.chance(50) && !overheard.admitted.is_empty())
            .then(|| Resume { session: rng.pick(&overheard.admitted).session, received: rng.below(3) });
        let hello = ClientHello { nonce, client, token: self.ruse != Ruse::NoToken, features: 0, resume };
        Ctl::Handshake::<_, ClientMsg>(ClientHandshake::Hello(hello.clone())).encode_to(&mut self.to_say);
        self.hello = Some(hello);
    }

    /// He says a conn's hello, as it was or changed.
    fn repeat(&mut self, rng: &mut Rng, overheard: &Overheard) {
        let mut hello = rng.pick(&overheard.admitted);
        if self.ruse == Ruse::OtherNumber {
            hello.conn = ConnId(hello.conn.0 + rng.range(1, 1000));
        }
        if self.ruse == Ruse::OtherSession {
            let others = overheard.admitted.iter().map(|other| other.session).filter(|other| *other != hello.session);
            let others: Vec<_> = others.collect();
            hello.session = if others.is_empty() { SessionId([0xee; 16]) } else { rng.pick(&others) };
        }
        ProxyToServer::Hello(hello).encode_to(&mut self.to_say);
    }

    /// What he says next, if anything: all at once, and once.
    pub(crate) fn speak(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.to_say)
    }

    /// The server has told him something. Returns what that shows.
    ///
    /// # Errors
    /// He was let in, or told what is none of his business.
    pub(crate) fn on_bytes(&mut self, mut bytes: &[u8]) -> Result<Option<Sometimes>, Finding> {
        let finding = |told: String| Err((Property::StrangersGetNothing, told));
        if !self.greeted {
            match self.reply.next(self.preface, &mut bytes) {
                Ok(reply) => self.greeted = reply.is_some(),
                Err(error) => return finding(format!("the reply to {:?} is none: {error:?}", self.ruse)),
            }
        }
        let mut seen = None;
        while !bytes.is_empty() {
            let was_inside = self.inside;
            let told = match self.preface.port {
                ConnKind::Ctl => self.ctl.next(&mut bytes).map(|told| told.map(|told| self.on_ctl(told))),
                ConnKind::Proxy => self.proxy.next(&mut bytes).map(|told| told.map(Self::on_proxy)),
            };
            match told {
                Ok(None) => break,
                Ok(Some(Ok(refusal))) => seen = seen.or(refusal.and_then(|refusal| self.on_refused(refusal))),
                Ok(Some(Err(told))) => return finding(format!("{:?} was answered with {told}", self.ruse)),
                Err(error) => return finding(format!("the answer to {:?} is none: {error:?}", self.ruse)),
            }
            if self.inside && !was_inside {
                seen = Some(Sometimes::NeighbourLetIn);
            }
        }
        Ok(seen)
    }

    fn on_ctl(&mut self, told: ToClient) -> Result<Option<HandshakeRefusal>, String> {
        match (told, self.hello.take()) {
            (Ctl::Handshake(ServerHandshake::Refused(refusal)), _) => Ok(Some(refusal)),
            (told @ Ctl::Handshake(ServerHandshake::Hello(_)), Some(hello)) => {
                self.resume = hello.resume;
                let said = Ctl::Handshake(ClientHandshake::Hello(hello));
                let reply = Reply::to(self.preface).encode();
                let transcript = Transcript::new(self.preface.encode(), reply, &said, &told);
                let token = match self.ruse {
                    Ruse::Neighbour => neighbour_token(),
                    Ruse::WrongToken
                    | Ruse::NoToken
                    | Ruse::OldProof
                    | Ruse::OldHello
                    | Ruse::OtherNumber
                    | Ruse::OtherSession
                    | Ruse::Silence => Token::new(b"a guess".to_vec()),
                };
                let proof = self.old_proof.unwrap_or_else(|| Prover::new(Some(&token), transcript).client());
                ToServer::Handshake(ClientHandshake::Proof(proof)).encode_to(&mut self.to_say);
                Ok(None)
            }
            // A session of his own, and never the one that he named.
            (Ctl::Handshake(ServerHandshake::Welcome(welcome)), None)
                if self.ruse == Ruse::Neighbour
                    && !self.inside
                    && !welcome.resumed
                    && self.resume.is_none_or(|resume| resume.session != welcome.session) =>
            {
                self.inside = true;
                self.meddle();
                Ok(None)
            }
            (
                Ctl::Numbered { .. } | Ctl::Ping { .. } | Ctl::Pong { .. } | Ctl::Ack { .. } | Ctl::Close { .. },
                None,
            ) if self.inside => Ok(None),
            (told, _) => Err(format!("{told:?}")),
        }
    }

    /// He speaks of what is not his: numbers mean nothing outside of their session.
    fn meddle(&mut self) {
        let (tunnel, conn, epoch) = (TunnelId(0), ConnId(1), Epoch(1));
        let messages = [
            ClientMsg::CloseTunnel { tunnel },
            ClientMsg::Fin { conn, epoch, total: 0, how: How::Shut },
            ClientMsg::Done { conn, epoch },
            ClientMsg::Abort { conn, epoch, code: AbortCode::OuterReset },
        ];
        for (seq, msg) in (1..).zip(messages) {
            ToServer::Numbered { seq, msg }.encode_to(&mut self.to_say);
        }
    }

    fn on_proxy(told: ProxyToClient) -> Result<Option<HandshakeRefusal>, String> {
        match told {
            ProxyToClient::Refused(refusal) => Ok(Some(refusal)),
            ProxyToClient::Accepted { .. }
            | ProxyToClient::Ping
            | ProxyToClient::Start { .. }
            | ProxyToClient::Secured(_) => Err(format!("{told:?}")),
        }
    }

    fn on_refused(&self, refusal: HandshakeRefusal) -> Option<Sometimes> {
        match (self.port(), refusal) {
            (ConnKind::Ctl, HandshakeRefusal::WrongToken) => Some(Sometimes::WrongTokenRefused),
            (ConnKind::Proxy, HandshakeRefusal::WrongToken) => Some(Sometimes::ForgedConnRefused),
            (ConnKind::Proxy, HandshakeRefusal::ReplayedConn) => Some(Sometimes::ReplayedConnRefused),
            (ConnKind::Ctl | ConnKind::Proxy, _) => None,
        }
    }
}
