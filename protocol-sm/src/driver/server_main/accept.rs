//! The ctl and the proxy port: connections come in, and those on the proxy port show whose they are.

use super::super::ctl_link::CtlLink;
use super::super::handshake_limit::Crowded;
use super::super::listener::accept_batch;
use super::super::messages::{ControlKey, ToLoop, ToServerLoop};
use super::super::relay::Endpoint;
use super::super::slab::Token;
use super::super::sys::{Listen, Log, Role, Streams};
use super::super::thread::Cx;
use super::upgrade::Upgrade;
use super::{CtlConn, MainSys, PAUSE, ProxyHand, ServerMain, Slot, Stage};
use crate::auth::Channel;
use crate::codes::{AbortCode, CloseCode, HandshakeRefusal};
use crate::control::server::Admission;
use crate::ids::ConnId;
use crate::ledger::Good;
use crate::notes::{HandshakeEnd, Note};
use crate::sources::Source;
use crate::sys_error::SysError;
use crate::time::Instant;
use crate::wire::{
    ConnHello, ConnKind, Framer, Message, PrefaceReader, ProxyToClient, ProxyToServer, Reply, WireError,
};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;

impl<T, L> ServerMain<T, L> {
    pub(super) fn accept<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        if self.paused_until.is_some() || self.upgrade.as_ref().is_some_and(Upgrade::is_settled) {
            // Both doors are tried when the pause is over.
            return;
        }
        let Some(Slot::Door(door)) = self.slots.get_mut(token) else { return };
        let kind = door.kind;
        let role = match kind {
            ConnKind::Ctl => Role::Ctl,
            ConnKind::Proxy => Role::Proxy,
        };
        let mut came = Vec::new();
        let end = accept_batch(cx.sys, &door.listener, role, |_, stream, from| came.push((stream, from)));
        let until = cx.now + self.settings.timings.handshake_timeout;
        for (stream, from) in came {
            if self.settings.trusted_proxies.iter().any(|network| network.contains(from.ip())) {
                self.on_fronted(cx, kind, stream, from, until);
            } else {
                self.on_connection(cx, kind, stream, from, until);
            }
        }
        match end {
            Ok(true) => self.enqueue(token),
            Ok(false) => {}
            Err(error) => {
                cx.sys.note(Note::CannotAccept { error });
                self.paused_until = Some(cx.now + PAUSE);
            }
        }
    }

    pub(super) fn on_connection<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        kind: ConnKind,
        stream: T,
        from: SocketAddr,
        until: Instant,
    ) {
        self.make_room(cx, Source::of(from.ip()));
        let made = self.slots.insert_with(|token| {
            if cx.sys.watch(&stream, token).is_err() {
                return Err(stream);
            }
            let port = Endpoint::new(stream);
            Ok(match kind {
                ConnKind::Ctl => Slot::Ctl(Box::new(CtlConn {
                    link: CtlLink::new(port),
                    from,
                    proved: None,
                    stage: Stage::Preface(PrefaceReader::default()),
                    queued: false,
                    deadline: None,
                })),
                ConnKind::Proxy => Slot::Proxy(ProxyHand {
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
            Ok(token) => self.begin_handshake(from, token, until),
            Err(stream) => cx.sys.close(stream),
        }
    }

    /// A connection counts as one whose handshake is not through, and has so long for what comes next.
    pub(super) fn begin_handshake(&mut self, from: SocketAddr, token: Token, deadline: Instant) {
        self.handshake_limit.add(Source::of(from.ip()), deadline, token);
        let kept = match self.slots.get_mut(token) {
            Some(Slot::Ctl(conn)) => &mut conn.deadline,
            Some(Slot::Proxy(hand)) => &mut hand.deadline,
            Some(Slot::Fronted(fronted)) => &mut fronted.deadline,
            Some(Slot::Door(_)) | None => unreachable!("it was put in just now"),
        };
        self.timers.set(token, kept, Some(deadline));
    }

    /// Closes whoever must go before a connection from `source` may come.
    pub(super) fn make_room<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, source: Source) {
        let most = [self.settings.max_handshakes, self.settings.max_handshakes_per_source];
        while let Some((oldest, crowded)) =
            self.handshake_limit.must_leave(most, source, |source| self.sessions.expected(source))
        {
            let why = match crowded {
                Crowded::Source => HandshakeEnd::SourceCrowded,
                Crowded::All => HandshakeEnd::Crowded,
            };
            self.drop_handshake(cx, oldest, why);
        }
    }

    /// Closes a connection whose handshake is not finished. Nothing is sent.
    pub(super) fn drop_handshake<S>(&mut self, cx: &mut Cx<'_, S>, token: Token, why: HandshakeEnd)
    where
        S: Listen<Stream = T, Listener = L> + Log,
    {
        let from = match self.slots.remove(token) {
            Some(Slot::Ctl(mut conn)) => {
                self.timers.set(token, &mut conn.deadline, None);
                if let Stage::Parked { rival, .. } = conn.stage
                    && let Some(entry) = self.sessions.get_mut(rival)
                {
                    entry.rival = None;
                }
                cx.sys.close(conn.link.port.into_stream());
                conn.from
            }
            Some(Slot::Proxy(mut hand)) => {
                self.timers.set(token, &mut hand.deadline, None);
                cx.sys.close(hand.port.into_stream());
                hand.from
            }
            Some(Slot::Fronted(mut fronted)) => {
                self.timers.set(token, &mut fronted.deadline, None);
                cx.sys.close(fronted.unnamed.stream);
                fronted.unnamed.from
            }
            Some(Slot::Door(_)) | None => unreachable!("a handshake that is not through has its connection"),
        };
        self.leave_handshake_limit(from, token);
        self.turned_away.dropped.add(why);
        cx.sys.note(Note::HandshakeDropped { from, why });
    }

    /// A connection's deadline has passed. Its timer has been removed.
    pub(super) fn on_timer<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        match self.slots.get_mut(token) {
            Some(Slot::Ctl(conn)) => {
                conn.deadline = None;
                match conn.stage {
                    Stage::Up(..) => self.on_heartbeat(cx, token),
                    // The session with its identity did not answer the probe.
                    Stage::Parked { rival, .. } => {
                        self.end_session(cx, rival, CloseCode::Replaced, AbortCode::SessionOver);
                    }
                    Stage::Preface(_) | Stage::Hello(_) | Stage::Proof(_) => {
                        self.drop_handshake(cx, token, HandshakeEnd::TooSlow);
                    }
                }
            }
            Some(Slot::Proxy(hand)) => {
                hand.deadline = None;
                self.drop_handshake(cx, token, HandshakeEnd::TooSlow);
            }
            Some(Slot::Fronted(_)) => self.on_front_waited(cx, token),
            Some(Slot::Door(_)) | None => {}
        }
    }

    // PROTOCOL.md: P-PROXY-2.
    pub(super) fn drive_proxy<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Proxy(hand)) = self.slots.get_mut(token) else { return };
        let hello = match read_hello(cx, hand) {
            HelloRead::Incomplete => return,
            HelloRead::Hello(hello) => match cx.sys.channel(hand.port.stream()) {
                Ok(None) if self.settings.tls_required => Err(ProxyStop::Refused(HandshakeRefusal::TlsRequired)),
                Ok(channel) => Ok((hello, channel)),
                Err(_) => Err(ProxyStop::Lost),
            },
            HelloRead::Stop(stop) => Err(stop),
        };
        let Some(Slot::Proxy(mut hand)) = self.slots.remove(token) else { return };
        self.timers.set(token, &mut hand.deadline, None);
        self.leave_handshake_limit(hand.from, token);
        let admitted =
            hello.and_then(|(hello, channel)| self.admit(&hello, channel.as_ref()).map_err(ProxyStop::Refused));
        let mut answer = Vec::new();
        if let Some(preface) = hand.preface {
            match &admitted {
                Ok(Admitted { admission: Admission { proof, .. }, .. }) => {
                    answer.extend_from_slice(&Reply::to(preface).encode());
                    ProxyToClient::Accepted { proof: *proof }.encode_to(&mut answer);
                }
                Err(ProxyStop::Lost | ProxyStop::Version) => answer.extend_from_slice(&Reply::to(preface).encode()),
                Err(ProxyStop::Refused(refusal)) => {
                    answer.extend_from_slice(&Reply::to(preface).encode());
                    ProxyToClient::Refused(*refusal).encode_to(&mut answer);
                }
                Err(ProxyStop::NotOurs) => {}
            }
        }
        // A fresh socket takes these few bytes whole, or the peer is not worth waiting for.
        let sent = answer.is_empty() || cx.sys.send(hand.port.stream(), &answer) == Ok(answer.len());
        let refusal = match admitted {
            Ok(Admitted { control, conn, admission }) if sent => {
                cx.sys.unwatch(hand.port.stream());
                self.trim_if_scarce(cx);
                let message = ToServerLoop::Conn { control, conn, stream: hand.port.into_stream() };
                return cx.sys.tell(ToLoop { loop_index: admission.loop_index, message });
            }
            Ok(Admitted { control, conn, admission }) => {
                let _lost = self.sessions.act(control, |control, _| control.on_conn_lost(conn, &admission));
                self.end_if_deserted(cx, control);
                None
            }
            Err(ProxyStop::Lost | ProxyStop::NotOurs) => None,
            Err(ProxyStop::Version) => Some(HandshakeRefusal::Version),
            Err(ProxyStop::Refused(refusal)) => Some(refusal),
        };
        if refusal == Some(HandshakeRefusal::Full) {
            self.trim_if_scarce(cx);
        }
        cx.sys.close(hand.port.into_stream());
        if let Some(refusal) = refusal {
            self.turned_away.refused.add(refusal);
            cx.sys.note(Note::HandshakeRefused { from: hand.from, credential: None, refusal });
        }
    }

    /// Where conns are scarce, those that no visitor needs are closed at once: they were asked for in a rush that is over.
    // PROTOCOL.md: P-LIM-3.
    fn trim_if_scarce<S: MainSys<T, L>>(&self, cx: &mut Cx<'_, S>) {
        if self.sessions.ledger().is_scarce(Good::Conn) {
            for loop_index in 0..self.loop_count {
                cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Trim });
            }
        }
    }

    // PROTOCOL.md: P-PROXY-6.
    fn admit(&mut self, hello: &ConnHello, channel: Option<&Channel>) -> Result<Admitted, HandshakeRefusal> {
        let control = self.sessions.find_id(&hello.session).ok_or(HandshakeRefusal::UnknownSession)?;
        let admission = self.sessions.act(control, |control, ledger| control.admit(hello, channel, ledger));
        Ok(Admitted { control, conn: hello.conn, admission: admission.ok_or(HandshakeRefusal::UnknownSession)?? })
    }
}

/// A proxy_conn that a session takes.
struct Admitted {
    control: ControlKey,
    conn: ConnId,
    admission: Admission,
}

/// How far a connection on the proxy port has come.
enum HelloRead {
    /// Its hello is not whole yet.
    Incomplete,
    /// It says whose it is.
    Hello(ConnHello),
    /// It goes no further.
    Stop(ProxyStop),
}

/// Why a connection on the proxy port goes no further.
enum ProxyStop {
    /// It is lost. If its preface came, the reply to that is sent all the same.
    Lost,
    /// It does not speak our protocol: nothing is sent.
    NotOurs,
    /// It has no version in common with us: the reply to its preface says so.
    Version,
    /// It is refused, with a message.
    Refused(HandshakeRefusal),
}

/// Reads up to a proxy_conn's hello.
// PROTOCOL.md: P-PROXY-5.
fn read_hello<T, S>(cx: &mut Cx<'_, S>, hand: &mut ProxyHand<T>) -> HelloRead
where
    S: Streams<Stream = T> + Log,
{
    while hand.port.readable {
        let length = match hand.port.recv(cx.sys, &mut cx.scratch[..512]) {
            Ok(0) => return HelloRead::Stop(ProxyStop::Lost),
            Ok(n) => n,
            Err(SysError::WouldBlock) => return HelloRead::Incomplete,
            Err(_) => return HelloRead::Stop(ProxyStop::Lost),
        };
        let mut bytes = &cx.scratch[..length];
        if hand.preface.is_none() {
            let read = hand.reader.next(&mut bytes);
            if read.is_err()
                && let Some(what) = hand.reader.foreign(&cx.scratch[..length])
            {
                cx.sys.note(Note::Foreign { from: hand.from, port: ConnKind::Proxy, what });
            }
            let preface = match read {
                Ok(Some(preface)) => preface,
                Ok(None) => continue,
                Err(WireError::Tls) => {
                    // Whoever does not take these few bytes is not told.
                    let _ = cx.sys.send(hand.port.stream(), &Reply::to_tls(ConnKind::Proxy).encode());
                    return HelloRead::Stop(ProxyStop::NotOurs);
                }
                Err(WireError::NotCproxy | WireError::Length | WireError::Malformed) => {
                    return HelloRead::Stop(ProxyStop::NotOurs);
                }
            };
            if preface.port != ConnKind::Proxy {
                return HelloRead::Stop(ProxyStop::NotOurs);
            }
            hand.preface = Some(preface);
            if Reply::to(preface).refusal().is_some() {
                return HelloRead::Stop(ProxyStop::Version);
            }
        }
        match hand.framer.next(&mut bytes) {
            Ok(None) => {}
            // Nothing may follow the hello before it is accepted.
            Ok(Some(ProxyToServer::Hello(hello))) if bytes.is_empty() => return HelloRead::Hello(hello),
            Ok(Some(_)) | Err(_) => return HelloRead::Stop(ProxyStop::NotOurs),
        }
    }
    HelloRead::Incomplete
}
