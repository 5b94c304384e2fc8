//! What comes on the ctl_conn: it is read, acted on and answered.

use super::super::slab::Token;
use super::super::thread::Cx;
use super::{ClientMain, MainSys, Outcome, Stage};
use crate::auth::{Prover, Transcript};
use crate::codes::{CloseCode, MessageName, StateName, Violation};
use crate::notes::{Disconnect, Note};
use crate::session::Delivery;
use crate::sys_error::SysError;
use crate::wire::{CHANNEL, ClientHandshake, ConnKind, Ctl, Preface, ServerHandshake, ToClient, ToServer};
use alloc::vec::Vec;

/// Reads from the ctl_conn before others get their turn.
const READS: usize = 8;

impl<T> ClientMain<T> {
    /// Reads, acts on and answers what came on a ctl_conn.
    // PROTOCOL.md: P-CONN-4.
    pub(super) fn drive<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let mut bytes = Vec::new();
        for reads in 0.. {
            let Some(link) = self.slots.get_mut(token) else { return };
            if !link.port.readable {
                break;
            }
            if reads == READS {
                self.busy = true;
                break;
            }
            match link.port.recv(cx.sys, cx.scratch) {
                Ok(0) => return self.on_broken(cx, token, Disconnect::Lost),
                Ok(n) => {
                    bytes.clear();
                    bytes.extend_from_slice(&cx.scratch[..n]);
                }
                Err(SysError::WouldBlock) => break,
                Err(error) => return self.on_broken(cx, token, failed(error, Disconnect::Lost)),
            }
            if let Err(why) = self.on_bytes(cx, token, &bytes) {
                return self.on_broken(cx, token, why);
            }
        }
        if let Some(link) = self.slots.get_mut(token)
            && let Err(error) = link.flush(cx.sys)
        {
            self.on_broken(cx, token, failed(error, Disconnect::Lost));
        }
    }

    // PROTOCOL.md: P-REPL-3.
    pub(super) fn on_broken<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, token: Token, why: Disconnect) {
        if let Some(index) = self.left.iter().position(|left| left.token == token) {
            let close = if let Disconnect::Closed(code) = why {
                Some(code)
            } else {
                matches!(why, Disconnect::Violation(_)).then_some(CloseCode::Violation)
            };
            return self.end_left(cx, index, close);
        }
        match why {
            Disconnect::Violation(violation) if self.is_up() => {
                cx.sys.note(Note::Violation { conn: None, violation });
                self.leave(cx, CloseCode::Violation);
            }
            Disconnect::Closed(CloseCode::Replaced) => {
                self.end_session(cx);
                self.end_all_left(cx);
                self.outcome = Some(Outcome::Replaced);
            }
            Disconnect::Closed(_) => self.end_session(cx),
            Disconnect::Unresolved
            | Disconnect::Unreachable(_)
            | Disconnect::Proxy(_)
            | Disconnect::NotCproxy
            | Disconnect::Refused(_)
            | Disconnect::WrongServer
            | Disconnect::Unbound
            | Disconnect::ProxyPort(_)
            | Disconnect::Tls(_)
            | Disconnect::NoAnswer
            | Disconnect::Lost
            | Disconnect::Silent
            | Disconnect::Violation(_) => {}
        }
        self.disconnect(cx, why);
    }

    pub(super) fn on_bytes<S: MainSys<T>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        mut bytes: &[u8],
    ) -> Result<(), Disconnect> {
        while !bytes.is_empty() {
            let Some(link) = self.slots.get_mut(token) else { return Ok(()) };
            match link.framer.next(&mut bytes) {
                Ok(Some(message)) => self.on_frame(cx, token, message)?,
                Ok(None) => {}
                Err(_) => return Err(Disconnect::Violation(Violation::Malformed)),
            }
        }
        Ok(())
    }

    // PROTOCOL.md: P-AUTH-17.
    fn on_frame<S: MainSys<T>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        token: Token,
        message: ToClient,
    ) -> Result<(), Disconnect> {
        if let Some(left) = self.left.iter_mut().find(|left| left.token == token) {
            left.liveness.on_heard(cx.now);
            let serial = left.control.serial;
            return self.on_session_frame(cx, serial, message);
        }
        match (&mut self.stage, message) {
            (Stage::Challenged { .. } | Stage::Proved { .. }, Ctl::Handshake(ServerHandshake::Refused(refusal))) => {
                Err(Disconnect::Refused(refusal))
            }
            (
                Stage::Challenged { token, hello, channel, reply, until },
                Ctl::Handshake(ServerHandshake::Hello(server)),
            ) => {
                if server.features & !hello.features != 0 {
                    let (message, state) = (MessageName::Hello, StateName::FeatureNotOffered);
                    return Err(Disconnect::Violation(Violation::Unexpected { message, state }));
                }
                if channel.is_some() && server.features & CHANNEL == 0 {
                    return Err(Disconnect::Unbound);
                }
                self.features = server.features;
                let preface = Preface::ours(ConnKind::Ctl);
                let said = ToServer::Handshake(ClientHandshake::Hello(hello.clone()));
                let answer = Ctl::Handshake(ServerHandshake::Hello(server));
                let transcript = Transcript::new(preface.encode(), reply.encode(), &said, &answer);
                let transcript = transcript.over(channel.as_ref());
                let proof = Prover::new(self.settings.token.as_ref(), transcript).client();
                let (token, until) = (*token, *until);
                self.stage = Stage::Proved { token, transcript, until };
                self.push_on(token, &ToServer::Handshake(ClientHandshake::Proof(proof)));
                Ok(())
            }
            (Stage::Proved { token, transcript, .. }, Ctl::Handshake(ServerHandshake::Welcome(welcome))) => {
                let (token, transcript) = (*token, *transcript);
                self.on_welcome(cx, token, transcript, &welcome)
            }
            (Stage::Up { liveness, .. }, message) => {
                liveness.on_heard(cx.now);
                let serial = self.serial;
                self.on_session_frame(cx, serial, message)
            }
            (
                stage @ (Stage::Pausing(_)
                | Stage::Resolving(_)
                | Stage::Dialling { .. }
                | Stage::Challenged { .. }
                | Stage::Proved { .. }),
                message,
            ) => {
                let (message, state) = (message.name(), stage.name());
                Err(Disconnect::Violation(Violation::Unexpected { message, state }))
            }
        }
    }

    // PROTOCOL.md: P-SESS-8.
    fn on_session_frame<S: MainSys<T>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        serial: u64,
        message: ToClient,
    ) -> Result<(), Disconnect> {
        let Some(control) = self.session(serial) else { return Ok(()) };
        let session = &mut control.session;
        let done = match message {
            Ctl::Numbered { seq, msg } => match session.on_numbered(seq) {
                Ok(Delivery::Deliver { ack }) => {
                    if ack {
                        let received = session.mark_acked();
                        self.push(serial, &Ctl::Ack { received });
                    }
                    self.on_server_msg(cx, serial, msg)
                }
                Ok(Delivery::Duplicate) => Ok(()),
                Err(violation) => Err(violation),
            },
            Ctl::Ping { received } => {
                let acked = session.on_ack(received);
                let received = session.mark_acked();
                self.push(serial, &Ctl::Pong { received });
                acked
            }
            Ctl::Pong { received } | Ctl::Ack { received } => session.on_ack(received),
            Ctl::Close { code } => return Err(Disconnect::Closed(code)),
            message @ Ctl::Handshake(_) => {
                Err(Violation::Unexpected { message: message.name(), state: StateName::SessionUp })
            }
        };
        done.map_err(Disconnect::Violation)
    }
}

/// What a failed read or write says of a connection; `lost` if it is lost.
pub(super) fn failed(error: SysError, lost: Disconnect) -> Disconnect {
    match error {
        SysError::Tls(failure) => Disconnect::Tls(failure),
        SysError::WouldBlock
        | SysError::Reset
        | SysError::ResetBehindEnd
        | SysError::Refused
        | SysError::Unreachable
        | SysError::TimedOut
        | SysError::Exhausted
        | SysError::InUse
        | SysError::Unsupported
        | SysError::NoPort
        | SysError::NoAddress
        | SysError::Denied
        | SysError::Other(_) => lost,
    }
}
