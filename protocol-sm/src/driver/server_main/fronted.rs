//! Connections from trusted proxies on the ctl and the proxy port, until their headers have said who is behind them: limits
//! and the rule that a server without a token takes clients from its own machine only count for whom they name.

use super::super::slab::Token;
use super::super::thread::Cx;
use super::super::unnamed::{Heard, Unnamed};
use super::{MainSys, ServerMain, Slot};
use crate::notes::HandshakeEnd;
use crate::sources::Source;
use crate::time::Instant;
use crate::wire::ConnKind;
use alloc::boxed::Box;
use core::net::SocketAddr;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fronted<T> {
    pub(super) unnamed: Unnamed<T>,
    /// The port that it came to.
    kind: ConnKind,
    /// When its handshake must be through.
    until: Instant,
    pub(super) deadline: Option<Instant>,
}

impl<T, L> ServerMain<T, L> {
    pub(super) fn on_fronted<S: MainSys<T, L>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        kind: ConnKind,
        stream: T,
        from: SocketAddr,
        until: Instant,
    ) {
        self.make_room(cx, Source::of(from.ip()));
        let unnamed = Unnamed::new(stream, from, cx.now);
        let deadline = unnamed.deadline().min(until);
        let made = self.slots.insert_with(|token| match cx.sys.watch(&unnamed.stream, token) {
            Ok(()) => Ok(Slot::Fronted(Box::new(Fronted { unnamed, kind, until, deadline: None }))),
            Err(_) => Err(unnamed.stream),
        });
        match made {
            Ok(token) => {
                self.begin_handshake(from, token, deadline);
                self.hear_front(cx, token);
            }
            Err(stream) => cx.sys.close(stream),
        }
    }

    /// Something may have come of a header, or behind it.
    pub(super) fn hear_front<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Fronted(fronted)) = self.slots.get_mut(token) else { return };
        match fronted.unnamed.hear(cx) {
            Heard::Nothing => {
                let at = fronted.unnamed.deadline().min(fronted.until);
                self.timers.set(token, &mut fronted.deadline, Some(at));
            }
            Heard::Visitor => self.on_front_named(cx, token),
            Heard::Gone => {
                if let Some(Fronted { unnamed, .. }) = self.take_fronted(token) {
                    cx.sys.close(unnamed.stream);
                }
            }
            Heard::Malformed => self.drop_handshake(cx, token, HandshakeEnd::NoHeader),
        }
    }

    /// One has been silent for too long, or long enough behind its header. Its timer has been removed.
    pub(super) fn on_front_waited<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Fronted(fronted)) = self.slots.get_mut(token) else { return };
        fronted.deadline = None;
        if fronted.unnamed.is_named() {
            self.on_front_named(cx, token);
        } else {
            self.drop_handshake(cx, token, HandshakeEnd::NoHeader);
        }
    }

    /// It is known who it is: from here on it is a connection as any other. Where nobody is named, it is nobody that could
    /// be let in: the relay's own address says nothing about a client.
    // PROTOCOL.md: P-FRONT-5.
    fn on_front_named<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Slot::Fronted(fronted)) = self.slots.get(token) else { return };
        let Some(name) = fronted.unnamed.name() else {
            return self.drop_handshake(cx, token, HandshakeEnd::NoHeader);
        };
        if let Some(Fronted { unnamed, kind, until, .. }) = self.take_fronted(token) {
            cx.sys.unwatch(&unnamed.stream);
            self.on_connection(cx, kind, unnamed.stream, name, until);
        }
    }

    fn take_fronted(&mut self, token: Token) -> Option<Fronted<T>> {
        let Some(Slot::Fronted(mut fronted)) = self.slots.remove(token) else { return None };
        self.timers.set(token, &mut fronted.deadline, None);
        self.leave_handshake_limit(fronted.unnamed.from, token);
        Some(*fronted)
    }
}
