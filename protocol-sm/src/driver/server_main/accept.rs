//! The server's own ports: connections come in, and those on the proxy port show whose they are.

use super::super::handshake_limit::Crowded;
use super::super::listener::accept_batch;
use super::super::messages::{ControlKey, ToLoop, ToServerLoop, Who};
use super::super::relay::Endpoint;
use super::super::slab::Token;
use super::super::sys::{Listen, Log, Role, Streams};
use super::super::thread::Cx;
use super::upgrade::Upgrade;
use super::{Caller, CtlConn, MainSys, PAUSE, ProxyHand, ServerMain, Slot, Stage};
use crate::auth::Channel;
use crate::codes::{AbortCode, CloseCode, HandshakeRefusal};
use crate::control::server::Admission;
use crate::ids::ConnId;
use crate::ledger::Good;
use crate::notes::{HandshakeEnd, Note};
use crate::purposes::{Purpose, Purposes};
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
        let purposes = door.purposes;
        let role = if purposes.have_hosts() { Role::Untold } else { role_of(purposes) };
        let mut came = Vec::new();
        let end = accept_batch(cx.sys, &door.listener, role, |_, stream, from| came.push((stream, from)));
        for (stream, from) in came {
            let caller = Caller { stream, who: from.into(), is_named: true, came: cx.now, purposes };
            if self.settings.trusted_proxies.iter().any(|network| network.contains(from.ip())) {
                self.on_fronted(cx, caller);
            } else {
                self.on_caller(cx, caller);
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

    /// Somebody has come, and it is known from where.
    pub(super) fn on_caller<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, caller: Caller<T>) {
        if caller.purposes.have_hosts() {
            self.on_untold(cx, caller);
        } else {
            self.on_client(cx, caller);
        }
    }

    /// Somebody has come who may be a client. Where nobody is named, it is nobody that could be let in: a relay's own
    /// address says nothing about a client.
    // PROTOCOL.md: P-FRONT-5.
    pub(super) fn on_client<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, caller: Caller<T>) {
        let until = self.until(&caller);
        let Caller { stream, who: Who { from, .. }, is_named, purposes, .. } = caller;
        if !is_named {
            cx.sys.close(stream);
            return self.on_dropped(cx, from, HandshakeEnd::NoHeader);
        }
        self.make_room(cx, Source::of(from.ip()));
        let made = self.slots.insert_with(|token| {
            if cx.sys.watch(&stream, token).is_err() {
                return Err(stream);
            }
            let port = Endpoint::new(stream);
            Ok(if purposes.has(Purpose::Proxy) {
                Slot::Proxy(ProxyHand {
                    port,
                    from,
                    purposes,
                    framer: Framer::default(),
                    reader: PrefaceReader::default(),
                    preface: None,
                    deadline: None,
                })
            } else {
                Slot::Ctl(Box::new(CtlConn::new(port, from, None)))
            })
        });
        match made {
            Ok(token) => self.begin_handshake(from, token, until),
            Err(stream) => cx.sys.close(stream),
        }
    }

    /// When somebody's handshake must be through.
    pub(super) fn until(&self, caller: &Caller<T>) -> Instant {
        caller.came + self.settings.timings.handshake_timeout
    }

    /// A connection counts as one whose handshake is not through, and has so long for what comes next.
    pub(super) fn begin_handshake(&mut self, from: SocketAddr, token: Token, deadline: Instant) {
        self.handshake_limit.add(Source::of(from.ip()), deadline, token);
        let kept = match self.slots.get_mut(token) {
            Some(Slot::Ctl(conn)) => &mut conn.deadline,
            Some(Slot::Proxy(hand)) => &mut hand.deadline,
            Some(Slot::Fronted(fronted)) => &mut fronted.deadline,
            Some(Slot::Untold(untold)) => &mut untold.deadline,
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
                let from = fronted.unnamed.from;
                fronted.let_go(cx.sys);
                from
            }
            Some(Slot::Untold(mut untold)) => {
                self.timers.set(token, &mut untold.deadline, None);
                // To an end that is clean belongs an answer, if this was a visitor.
                cx.sys.reset(untold.caller.stream);
                untold.caller.who.from
            }
            Some(Slot::Door(_)) | None => unreachable!("a handshake that is not through has its connection"),
        };
        self.leave_handshake_limit(from, token);
        self.on_dropped(cx, from, why);
    }

    /// Somebody's connection was closed without a word.
    pub(super) fn on_dropped<S: Log>(&mut self, cx: &mut Cx<'_, S>, from: SocketAddr, why: HandshakeEnd) {
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
            Some(Slot::Untold(untold)) => {
                untold.deadline = None;
                self.drop_handshake(cx, token, HandshakeEnd::TooSlow);
                self.settle(cx);
            }
            Some(Slot::Door(_)) | None => {}
        }
    }

    // PROTOCOL.md: P-PROXY-2.
    pub(super) fn drive_proxy<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Proxy(hand)) = self.slots.get_mut(token) else { return };
        let hello = match read_hello(cx, hand) {
            HelloRead::Incomplete => return,
            HelloRead::Ctl(said) => return self.on_ctl(cx, token, &said),
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

    /// What came to a port for both is a ctl_conn, on which this was said.
    fn on_ctl<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token, said: &[u8]) {
        self.slots.update(token, |slot| match slot {
            Slot::Proxy(mut hand) => {
                cx.sys.assign(hand.port.stream_mut(), Role::Ctl);
                Slot::Ctl(Box::new(CtlConn::new(hand.port, hand.from, hand.deadline)))
            }
            other @ (Slot::Door(_) | Slot::Ctl(_) | Slot::Fronted(_) | Slot::Untold(_)) => other,
        });
        match self.on_bytes(cx, token, said) {
            Ok(()) => self.enqueue(token),
            Err(stop) => self.stop_ctl(cx, token, stop),
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

/// As what a client's connection is accepted at a port for this. One that may be either is a proxy_conn until it has said.
pub(super) fn role_of(purposes: Purposes) -> Role {
    if purposes.has(Purpose::Proxy) { Role::Proxy } else { Role::Ctl }
}

/// How far a connection on the proxy port has come.
enum HelloRead {
    /// Its hello is not whole yet.
    Incomplete,
    /// It is a ctl_conn, on which this was said.
    Ctl(Vec<u8>),
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
                cx.sys.note(Note::Foreign { from: hand.from, port: hand.purposes.kind(), what });
            }
            let preface = match read {
                Ok(Some(preface)) => preface,
                Ok(None) => continue,
                Err(WireError::Tls) => {
                    // Whoever does not take these few bytes is not told.
                    let _ = cx.sys.send(hand.port.stream(), &Reply::to_tls(hand.purposes.kind()).encode());
                    return HelloRead::Stop(ProxyStop::NotOurs);
                }
                Err(WireError::NotCproxy | WireError::Length | WireError::Malformed) => {
                    return HelloRead::Stop(ProxyStop::NotOurs);
                }
            };
            match preface.port {
                ConnKind::Proxy => {}
                ConnKind::Ctl if hand.purposes.has(Purpose::Ctl) => {
                    return HelloRead::Ctl([&preface.encode()[..], bytes].concat());
                }
                ConnKind::Ctl => return HelloRead::Stop(ProxyStop::NotOurs),
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
