//! ctl_conns: the handshake up to the welcome, and what becomes of a connection that goes no further.

use super::super::messages::{ControlKey, ToLoop, ToServerLoop};
use super::super::slab::Token;
use super::super::sys::{Listen, Log};
use super::super::thread::Cx;
use super::session_table::{Attachment, SessionTable};
use super::{CTL_TURN, MainSys, PROBE, ServerMain, Slot, Stage, Stop};
use crate::canary::{PlantedBug, planted};
use crate::codes::{AbortCode, CloseCode, HandshakeRefusal, Violation};
use crate::control::challenge::{Access, Challenge};
use crate::control::server::Control;
use crate::guesses::Claim;
use crate::ids::SessionId;
use crate::ledger::Good;
use crate::liveness::{Liveness, Pulse};
use crate::notes::Note;
use crate::report::time_since;
use crate::sys_error::SysError;
use crate::time::Instant;
use crate::wire::{
    ClientHandshake, ConnKind, Ctl, FRUGAL, Reply, SECURED, ServerHandshake, ServerMsg, ToServer, Welcome, WireError,
};
use core::time::Duration;

impl<T, L> ServerMain<T, L> {
    /// Reads, acts on and answers what came on a ctl_conn: one turn.
    // PROTOCOL.md: P-LIM-4.
    pub(super) fn drive_ctl<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let mut left = CTL_TURN;
        while left > 0 {
            let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) else { return };
            if !conn.link.port.readable {
                break;
            }
            let room = left.min(cx.scratch.len());
            let bytes = match conn.link.port.recv(cx.sys, &mut cx.scratch[..room]) {
                Ok(0) => return self.stop_ctl(cx, token, Stop::Lost),
                Ok(n) => cx.scratch[..n].to_vec(),
                Err(SysError::WouldBlock) => break,
                Err(_) => return self.stop_ctl(cx, token, Stop::Lost),
            };
            if let Err(stop) = self.on_bytes(cx, token, &bytes) {
                return self.stop_ctl(cx, token, stop);
            }
            if !planted(PlantedBug::CtlTurnEndless) {
                left -= bytes.len();
            }
        }
        if let Some(Slot::Ctl(conn)) = self.slots.get(token)
            && conn.link.port.readable
        {
            self.enqueue(token);
        }
        let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) else { return };
        if let Stage::Up(key, _) = conn.stage
            && let Some(entry) = self.sessions.get(key)
        {
            // What was received can be queued no more.
            conn.link.on_session(entry.control.session.unacked());
        }
        if conn.link.flush(cx.sys).is_err() {
            self.stop_ctl(cx, token, Stop::Lost);
        }
    }

    // PROTOCOL.md: P-AUTH-10, P-VIOL-2.
    pub(super) fn on_bytes<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        mut bytes: &[u8],
    ) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) else { return Ok(()) };
            if let Stage::Preface(reader) = &mut conn.stage {
                let came = bytes;
                let read = reader.next(&mut bytes);
                if read.is_err()
                    && let Some(what) = reader.foreign(came)
                {
                    cx.sys.note(Note::Foreign { from: conn.from, port: ConnKind::Ctl, what });
                }
                let preface = match read {
                    Ok(Some(preface)) => preface,
                    Ok(None) => return Ok(()),
                    Err(WireError::Tls) => {
                        conn.link.push_bytes(&Reply::to_tls(ConnKind::Ctl).encode());
                        return Err(Stop::Lost);
                    }
                    Err(WireError::NotCproxy | WireError::Length | WireError::Malformed) => return Err(Stop::Lost),
                };
                if preface.port != ConnKind::Ctl {
                    return Err(Stop::Lost);
                }
                let reply = Reply::to(preface);
                conn.link.push_bytes(&reply.encode());
                if let Some(refusal) = reply.refusal() {
                    self.turned_away.refused.add(refusal);
                    cx.sys.note(Note::HandshakeRefused { from: conn.from, credential: None, refusal });
                    return Err(Stop::Lost);
                }
                conn.stage = Stage::Hello(preface);
                continue;
            }
            if let Stage::Parked { .. } = conn.stage {
                // It must wait for its welcome.
                return Err(Stop::Lost);
            }
            match conn.link.framer.next(&mut bytes) {
                Ok(Some(message)) => self.on_frame(cx, token, message)?,
                Ok(None) => {}
                Err(_) => return Err(Violation::Malformed.into()),
            }
        }
        Ok(())
    }

    // PROTOCOL.md: P-AUTH-11, P-STATE-1.
    pub(super) fn on_frame<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        message: ToServer,
    ) -> Result<(), Stop> {
        let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) else { return Ok(()) };
        match (&mut conn.stage, message) {
            (Stage::Hello(preface), Ctl::Handshake(ClientHandshake::Hello(hello))) => {
                let channel = cx.sys.channel(conn.link.port.stream()).map_err(|_| Stop::Lost)?;
                if self.settings.tls_required && channel.is_none() {
                    return Err(HandshakeRefusal::TlsRequired.into());
                }
                let mut nonce = [0; 32];
                cx.sys.random(&mut nonce);
                let loopback = conn.from.ip().to_canonical().is_loopback();
                let claim = Claim { ip: conn.from.ip(), client: hello.client, session: self.sessions.named_by(&hello) };
                let (challenge, answer) =
                    Challenge::new(&self.settings, loopback, *preface, hello, nonce, channel.as_ref())?;
                if !self.guesses.may(cx.now, claim) {
                    return Err(HandshakeRefusal::TooManyFailures.into());
                }
                let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) else { return Ok(()) };
                conn.link.push(&answer);
                conn.stage = Stage::Proof(challenge);
                Ok(())
            }
            (Stage::Proof(challenge), Ctl::Handshake(ClientHandshake::Proof(proof))) => {
                let challenge = challenge.clone();
                let from = conn.from;
                let session = self.sessions.named_by(&challenge.hello);
                let claim = Claim { ip: from.ip(), client: challenge.hello.client, session };
                if !self.guesses.may(cx.now, claim) {
                    return Err(HandshakeRefusal::TooManyFailures.into());
                }
                match challenge.check(&self.settings, &proof) {
                    Ok(access) => {
                        conn.proved = Some(access.credential);
                        self.leave_handshake_limit(from, token);
                        self.on_proved(cx, token, challenge, access)
                    }
                    Err(refusal) => {
                        self.guesses.on_wrong(cx.now, claim);
                        Err(refusal.into())
                    }
                }
            }
            (Stage::Up(key, liveness), message) => {
                let key = *key;
                liveness.on_heard(cx.now);
                let next = Some(liveness.next_deadline());
                self.timers.set(token, &mut conn.deadline, next);
                self.answer_rival(cx, key);
                self.on_session_frame(cx, key, message)
            }
            (stage @ (Stage::Preface(_) | Stage::Hello(_) | Stage::Proof(_) | Stage::Parked { .. }), message) => {
                Err(Violation::Unexpected { message: message.name(), state: stage.name() }.into())
            }
        }
    }

    /// A client has proved itself: resume, replace, probe, or begin a session.
    // PROTOCOL.md: P-RES-2, P-REPL-1, P-REPL-2, P-REPL-5.
    pub(super) fn on_proved<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        challenge: Challenge,
        access: Access,
    ) -> Result<(), Stop> {
        let hello = &challenge.hello;
        if let Some(resume) = hello.resume
            && let Some(key) = self.sessions.find_id(&resume.session)
            && let Some(entry) = self.sessions.get(key)
            && (entry.control.client, entry.control.credential) == (hello.client, access.credential)
        {
            if self.sessions.on_ack(key, resume.received).is_ok() {
                self.resume(cx, token, key, &access);
                return Ok(());
            }
            // It claims what was never sent, or takes back what it had: nothing of that session can be trusted.
            self.end_session(cx, key, CloseCode::Violation, AbortCode::SessionOver);
        }
        if self.stopping.is_some() {
            return Err(HandshakeRefusal::Stopping.into());
        }
        // When a session that was to take over goes, the one before it is the client's again.
        while let Some(rival) = self.sessions.find_client(access.credential, hello.client)
            && let Some(entry) = self.sessions.get_mut(rival)
        {
            match entry.attachment() {
                Attachment::Attached(_) if entry.rival.is_some() => return Err(HandshakeRefusal::IdentityInUse.into()),
                Attachment::Attached(ctl_conn) => {
                    // Shorter than the newcomer's patience, or it would give up first, again and again.
                    let probe = PROBE.min(self.settings.timings.handshake_timeout / 2);
                    entry.rival = Some(token);
                    let received = entry.control.session.mark_acked();
                    if let Some(Slot::Ctl(conn)) = self.slots.get_mut(ctl_conn) {
                        conn.link.push(&Ctl::<ServerHandshake, ServerMsg>::Ping { received });
                        self.enqueue(ctl_conn);
                    }
                    if let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) {
                        conn.stage = Stage::Parked { challenge, access, rival };
                        self.timers.set(token, &mut conn.deadline, Some(cx.now + probe));
                    }
                    return Ok(());
                }
                Attachment::Detached { .. } | Attachment::Asleep { .. } => {
                    self.end_session(cx, rival, CloseCode::Replaced, AbortCode::SessionOver);
                }
            }
        }
        self.begin(cx, token, &challenge, &access)
    }

    /// A new session.
    // PROTOCOL.md: P-ID-3, P-LIM-2.
    pub(super) fn begin<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        challenge: &Challenge,
        access: &Access,
    ) -> Result<(), Stop> {
        if self.stopping.is_some() {
            return Err(HandshakeRefusal::Stopping.into());
        }
        let scope = access.scope(&self.settings);
        let max = scope.max_sessions;
        let is_full = |sessions: &SessionTable| sessions.ledger().room(access.credential, Good::Session, max) == 0;
        // A newcomer matters more than what a lost client has left.
        if is_full(&self.sessions)
            && let Some(asleep) = self.sessions.asleep(access.credential)
        {
            self.end_session(cx, asleep, CloseCode::Bye, AbortCode::SessionOver);
        }
        if is_full(&self.sessions) {
            return Err(HandshakeRefusal::Full.into());
        }
        self.open_session(cx, token, challenge, access, None);
        Ok(())
    }

    /// A session begins on this ctl_conn. `former`: the one that it takes over from, and until when.
    pub(super) fn open_session<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        challenge: &Challenge,
        access: &Access,
        former: Option<(ControlKey, Instant)>,
    ) {
        let Some(Slot::Ctl(conn)) = self.slots.get(token) else { return };
        let from = conn.from;
        let mut id = [0; 16];
        cx.sys.random(&mut id);
        let id = SessionId(id);
        let key = self.sessions.new_key();
        let secret = access.session_key(id);
        let scope = access.scope(&self.settings).clone();
        let client = challenge.hello.client;
        let mut control = Control::new(key, id, client, access.credential, secret, scope.clone(), self.loop_count);
        control.token.clone_from(&access.token);
        control.features = access.features;
        match former {
            Some((former, until)) => self.sessions.take_over(former, control, token, from, cx.now, until),
            None => self.sessions.insert(control, token, from, cx.now),
        }
        for loop_index in 0..self.loop_count {
            let limits = self.limits(access.credential, &scope, access.features, loop_index);
            cx.sys.tell(ToLoop { loop_index, message: ToServerLoop::Open { control: key, limits } });
        }
        self.welcome(cx, token, key, access, false);
    }

    /// A session goes on over a new ctl_conn.
    // PROTOCOL.md: P-RES-4.
    pub(super) fn resume<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        key: ControlKey,
        access: &Access,
    ) {
        let Some(Slot::Ctl(conn)) = self.slots.get(token) else { return };
        match self.sessions.attach(key, token, conn.from) {
            Some(Attachment::Attached(old)) => {
                if let Some(Slot::Ctl(mut conn)) = self.slots.remove(old) {
                    self.timers.set(old, &mut conn.deadline, None);
                    cx.sys.close(conn.link.port.into_stream());
                }
            }
            Some(Attachment::Detached { over, .. } | Attachment::Asleep { over }) => {
                self.healing.add(time_since(cx.now, over, self.settings.timings.kept()));
            }
            None => return,
        }
        if let Some(entry) = self.sessions.get_mut(key) {
            entry.control.token.clone_from(&access.token);
            let before = core::mem::replace(&mut entry.control.features, access.features);
            if (before ^ access.features) & (FRUGAL | SECURED) != 0 {
                self.tell_limits(cx, key);
            }
        }
        self.welcome(cx, token, key, access, true);
        self.review_path(cx, key);
        self.answer_rival(cx, key);
    }

    pub(super) fn welcome<S>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        key: ControlKey,
        access: &Access,
        resumed: bool,
    ) where
        S: Listen<Stream = T, Listener = L> + Log,
    {
        let Some(entry) = self.sessions.get_mut(key) else { return };
        let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) else { return };
        let frugal = entry.control.is_frugal();
        let timings = self.settings.timings.of(frugal);
        // Each of the two would ask just when the other does: a frugal client is left the first word.
        let lead = if frugal { timings.heartbeat_interval / 10 } else { Duration::ZERO };
        let liveness = Liveness::new(cx.now, timings.heartbeat_interval + lead, timings.heartbeat_timeout);
        if frugal {
            cx.sys.probe(conn.link.port.stream(), &timings);
        }
        let next = Some(liveness.next_deadline());
        self.timers.set(token, &mut conn.deadline, next);
        conn.stage = Stage::Up(key, liveness);
        let control = &mut entry.control;
        let received = control.session.mark_acked();
        let proxy_port = self.settings.advertise_proxy_port.unwrap_or(self.proxy_port);
        let welcome = Welcome { session: control.id, resumed, received, proxy_port, proof: [0; 32] };
        conn.link.push(&access.welcome(welcome));
        for (seq, msg) in control.session.replay() {
            conn.link.push(&Ctl::<ServerHandshake, _>::Numbered { seq, msg: msg.clone() });
        }
        let credential = self.settings.name_of(control.credential);
        cx.sys.note(Note::SessionUp { client: control.client, credential, from: conn.from, through: None, resumed });
        self.enqueue(token);
    }

    pub(super) fn on_heartbeat<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) else { return };
        conn.deadline = None;
        let Stage::Up(key, liveness) = &mut conn.stage else { return };
        let key = *key;
        let pulse = liveness.on_deadline(cx.now);
        let next = Some(liveness.next_deadline());
        if pulse == Pulse::Dead {
            return self.stop_ctl(cx, token, Stop::Lost);
        }
        self.timers.set(token, &mut conn.deadline, next);
        if pulse == Pulse::Ping
            && let Some(entry) = self.sessions.get_mut(key)
        {
            let received = entry.control.session.mark_acked();
            self.push(key, &Ctl::Ping { received });
        }
    }

    /// A connection on the ctl port goes no further.
    // PROTOCOL.md: P-VIOL-1.
    pub(super) fn stop_ctl<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token, stop: Stop) {
        let Some(Slot::Ctl(conn)) = self.slots.get_mut(token) else { return };
        let up = match conn.stage {
            Stage::Up(key, _) => Some(key),
            Stage::Preface(_) | Stage::Hello(_) | Stage::Proof(_) | Stage::Parked { .. } => None,
        };
        if let Stop::Violation(violation) = stop {
            cx.sys.note(Note::Violation { conn: None, violation });
        }
        match (up, stop) {
            (Some(key), Stop::Session(code)) => self.end_session(cx, key, code, AbortCode::SessionOver),
            (Some(key), Stop::Violation(_)) => self.end_session(cx, key, CloseCode::Violation, AbortCode::SessionOver),
            (Some(key), Stop::Lost | Stop::Refused(_)) => self.detach(cx, token, key),
            (None, stop) => {
                if let Stop::Refused(refusal) = stop {
                    self.turned_away.refused.add(refusal);
                    let credential = conn.proved.and_then(|holder| self.settings.name_of(holder));
                    cx.sys.note(Note::HandshakeRefused { from: conn.from, credential, refusal });
                    conn.link.push(&Ctl::<_, ServerMsg>::Handshake(ServerHandshake::Refused(refusal)));
                }
                let Some(Slot::Ctl(mut conn)) = self.slots.remove(token) else { return };
                self.timers.set(token, &mut conn.deadline, None);
                self.leave_handshake_limit(conn.from, token);
                if let Stage::Parked { rival, .. } = conn.stage
                    && let Some(entry) = self.sessions.get_mut(rival)
                {
                    entry.rival = None;
                }
                conn.link.close(cx.sys);
            }
        }
    }

    /// A session has lost its ctl_conn: it waits for a resume, unless a newcomer is there to replace it.
    // PROTOCOL.md: P-RES-6.
    pub(super) fn detach<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token, key: ControlKey) {
        if let Some(Slot::Ctl(mut conn)) = self.slots.remove(token) {
            self.timers.set(token, &mut conn.deadline, None);
            cx.sys.close(conn.link.port.into_stream());
        }
        let Some(entry) = self.sessions.get(key) else { return };
        let credential = self.settings.name_of(entry.control.credential);
        cx.sys.note(Note::SessionDetached { client: entry.control.client, credential });
        let has_rival = entry.rival.is_some();
        let timings = &self.settings.timings;
        self.sessions.detach(key, cx.now + timings.session_grace, cx.now + timings.kept());
        if has_rival {
            self.end_session(cx, key, CloseCode::Replaced, AbortCode::SessionOver);
        } else if self.was_upgraded() {
            // PROTOCOL.md: P-LEAVE-4.
            self.end_session(cx, key, CloseCode::Stopping, AbortCode::SessionOver);
        }
        self.end_if_deserted(cx, key);
    }
}
