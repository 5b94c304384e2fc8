//! The ctl and the proxy port: connections come in, and those on the proxy port show whose they are.

use super::super::ctl_link::CtlLink;
use super::super::listener::accept_batch;
use super::super::messages::{ControlKey, ToLoop, ToServerLoop};
use super::super::relay::Endpoint;
use super::super::slab::Token;
use super::super::sys::{Listen, Log, Role, Streams};
use super::super::thread::Cx;
use super::handshake_limit::Crowded;
use super::{CtlConn, MainSys, PAUSE, ProxyHand, ServerMain, Slot, Stage};
use crate::codes::{AbortCode, CloseCode, HandshakeRefusal};
use crate::control::server::Admission;
use crate::notes::{HandshakeEnd, Note};
use crate::sources::Source;
use crate::sys_error::SysError;
use crate::wire::{
    ConnHello, ConnKind, Framer, Message, PrefaceReader, ProxyToClient, ProxyToServer, Reply, WireError,
};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;

impl<T, L> ServerMain<T, L> {
    pub(super) fn accept<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        if self.paused_until.is_some() {
            // Both doors are tried when the pause is over.
            return;
        }
        let Some(Slot::Door(door)) = self.slots.get_mut(token) else { return };
        let role = door.role;
        let mut came = Vec::new();
        let end = accept_batch(cx.sys, &door.listener, role, |_, stream, from| came.push((stream, from)));
        for (stream, from) in came {
            self.on_connection(cx, role, stream, from);
        }
        match end {
            Ok(true) => self.enqueue(token),
            Ok(false) => {}
            Err(_) => self.paused_until = Some(cx.now + PAUSE),
        }
    }

    pub(super) fn on_connection<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        role: Role,
        stream: T,
        from: SocketAddr,
    ) {
        let source = Source::of(from.ip());
        while let Some((oldest, crowded)) =
            self.handshake_limit.must_leave(&self.settings, source, |source| self.expected(source))
        {
            let why = match crowded {
                Crowded::Source => HandshakeEnd::SourceCrowded,
                Crowded::All => HandshakeEnd::Crowded,
            };
            self.drop_handshake(cx, oldest, why);
        }
        let made = self.slots.insert_with(|token| {
            if cx.sys.watch(&stream, token).is_err() {
                return Err(stream);
            }
            let port = Endpoint::new(stream);
            Ok(match role {
                Role::Ctl => Slot::Ctl(Box::new(CtlConn {
                    link: CtlLink::new(port),
                    from,
                    stage: Stage::Preface(PrefaceReader::default()),
                    queued: false,
                    deadline: None,
                })),
                Role::Proxy | Role::Local | Role::Public => Slot::Proxy(ProxyHand {
                    port,
                    from,
                    framer: Framer::default(),
                    reader: PrefaceReader::default(),
                    preface: None,
                    deadline: None,
                }),
            })
        });
        match made {
            Ok(token) => {
                let deadline = cx.now + self.settings.timings.handshake_timeout;
                self.handshake_limit.add(source, deadline, token);
                let at = Some(deadline);
                match self.slots.get_mut(token) {
                    Some(Slot::Ctl(conn)) => self.handshakes.set(token, &mut conn.deadline, at),
                    Some(Slot::Proxy(hand)) => self.handshakes.set(token, &mut hand.deadline, at),
                    Some(Slot::Door(_)) | None => {}
                }
            }
            Err(stream) => cx.sys.close(stream),
        }
    }

    /// Closes a connection whose handshake is not through, without a word.
    fn drop_handshake<S>(&mut self, cx: &mut Cx<'_, S>, token: Token, why: HandshakeEnd)
    where
        S: Listen<Stream = T, Listener = L> + Log,
    {
        let from = match self.slots.remove(token) {
            Some(Slot::Ctl(mut conn)) => {
                self.handshakes.set(token, &mut conn.deadline, None);
                if let Stage::Parked { rival, .. } = conn.stage
                    && let Some(seat) = self.controls.get_mut(&rival)
                {
                    seat.rival = None;
                }
                cx.sys.close(conn.link.port.stream);
                conn.from
            }
            Some(Slot::Proxy(mut hand)) => {
                self.handshakes.set(token, &mut hand.deadline, None);
                cx.sys.close(hand.port.stream);
                hand.from
            }
            Some(Slot::Door(_)) | None => unreachable!("a handshake that is not through has its connection"),
        };
        self.leave_handshake_limit(from, token);
        self.turned_away.dropped += 1;
        cx.sys.note(Note::HandshakeDropped { from, why });
    }

    pub(super) fn on_handshake_deadline<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let rival = match self.slots.get_mut(token) {
            Some(Slot::Ctl(conn)) => {
                conn.deadline = None;
                match &conn.stage {
                    Stage::Parked { rival, .. } => Some(*rival),
                    Stage::Preface(_) | Stage::Hello(_) | Stage::Proof(_) | Stage::Up(..) => None,
                }
            }
            Some(Slot::Proxy(hand)) => {
                hand.deadline = None;
                None
            }
            Some(Slot::Door(_)) | None => None,
        };
        match rival {
            // The session with its identity did not answer the probe.
            Some(rival) => self.end_session(cx, rival, CloseCode::Replaced, AbortCode::SessionOver),
            None => self.drop_handshake(cx, token, HandshakeEnd::TooSlow),
        }
    }

    pub(super) fn drive_proxy<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Proxy(hand)) = self.slots.get_mut(token) else { return };
        let hello = match read_hello(cx, hand) {
            Ok(None) => return,
            Ok(Some(_)) if self.settings.tls_required && !cx.sys.is_encrypted(&hand.port.stream) => {
                Err(Some(HandshakeRefusal::TlsRequired))
            }
            Ok(Some(hello)) => Ok(hello),
            Err(refusal) => Err(refusal),
        };
        let Some(Slot::Proxy(mut hand)) = self.slots.remove(token) else { return };
        self.handshakes.set(token, &mut hand.deadline, None);
        self.leave_handshake_limit(hand.from, token);
        let admitted = match hello {
            Ok(hello) => self.admit(&hello).map_err(Some),
            Err(refusal) => Err(refusal),
        };
        let mut answer = Vec::new();
        match (&admitted, hand.preface) {
            (_, None) => {}
            (Ok((_, Admission { proof, .. })), Some(preface)) => {
                answer.extend_from_slice(&Reply::to(preface).encode());
                ProxyToClient::Accepted { proof: *proof }.encode_to(&mut answer);
            }
            (Err(None | Some(HandshakeRefusal::Version)), Some(preface)) => {
                answer.extend_from_slice(&Reply::to(preface).encode());
            }
            (Err(Some(refusal)), Some(preface)) => {
                answer.extend_from_slice(&Reply::to(preface).encode());
                ProxyToClient::Refused(*refusal).encode_to(&mut answer);
            }
        }
        // A fresh socket takes these few bytes whole, or the peer is not worth waiting for.
        let sent = answer.is_empty() || cx.sys.send(&hand.port.stream, &answer) == Ok(answer.len());
        match admitted {
            Ok((control, Admission { loop_index, .. })) if sent => {
                cx.sys.unwatch(&hand.port.stream);
                let conn = hello_conn(hello);
                let message = ToServerLoop::Conn { control, conn, stream: hand.port.stream };
                cx.sys.tell(ToLoop { loop_index, message });
            }
            Ok((control, admission)) => {
                cx.sys.close(hand.port.stream);
                if let Some(seat) = self.controls.get_mut(&control) {
                    seat.control.on_conn_lost(hello_conn(hello), &admission);
                }
            }
            Err(refusal) => {
                cx.sys.close(hand.port.stream);
                if let Some(refusal) = refusal {
                    self.turned_away.refused += 1;
                    cx.sys.note(Note::HandshakeRefused { from: hand.from, refusal });
                }
            }
        }
    }

    pub(super) fn admit(&mut self, hello: &ConnHello) -> Result<(ControlKey, Admission), HandshakeRefusal> {
        let key = self.by_session.get(&hello.session).ok_or(HandshakeRefusal::UnknownSession)?;
        let seat = self.controls.get_mut(key).ok_or(HandshakeRefusal::UnknownSession)?;
        Ok((*key, seat.control.admit(hello)?))
    }
}

fn hello_conn(hello: Result<ConnHello, Option<HandshakeRefusal>>) -> crate::ids::ConnId {
    hello.expect("only a hello is admitted").conn
}

/// Reads up to a proxy_conn's hello. `Err(None)`: not ours, or lost: no word.
fn read_hello<T, S>(cx: &mut Cx<'_, S>, hand: &mut ProxyHand<T>) -> Result<Option<ConnHello>, Option<HandshakeRefusal>>
where
    S: Streams<Stream = T>,
{
    while hand.port.readable {
        let length = match hand.port.recv(cx.sys, &mut cx.scratch[..512]) {
            Ok(0) => return Err(None),
            Ok(n) => n,
            Err(SysError::WouldBlock) => return Ok(None),
            Err(_) => return Err(None),
        };
        let mut bytes = &cx.scratch[..length];
        if hand.preface.is_none() {
            let preface = match hand.reader.next(&mut bytes) {
                Ok(Some(preface)) => preface,
                Ok(None) => continue,
                Err(WireError::Tls) => {
                    // Whoever does not take these few bytes is not told.
                    let _ = cx.sys.send(&hand.port.stream, &Reply::to_tls(ConnKind::Proxy).encode());
                    return Err(None);
                }
                Err(WireError::NotCproxy | WireError::Length | WireError::Malformed) => return Err(None),
            };
            if preface.port != ConnKind::Proxy {
                return Err(None);
            }
            hand.preface = Some(preface);
            if Reply::to(preface).refusal().is_some() {
                return Err(Some(HandshakeRefusal::Version));
            }
        }
        match hand.framer.next(&mut bytes) {
            Ok(None) => {}
            // Nothing may follow the hello before it is accepted.
            Ok(Some(ProxyToServer::Hello(hello))) if bytes.is_empty() => return Ok(Some(hello)),
            Ok(Some(_)) | Err(_) => {
                hand.preface = None;
                return Err(None);
            }
        }
    }
    Ok(None)
}
