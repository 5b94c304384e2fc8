//! Connections from trusted proxies on the server's own ports, until their headers have said who is behind them: limits
//! and the rule that a server without a token takes clients from its own machine only count for whom they name.

use super::super::messages::Who;
use super::super::slab::Token;
use super::super::sys::Streams;
use super::super::thread::Cx;
use super::super::unnamed::{Heard, Unnamed};
use super::{Caller, MainSys, ServerMain, Slot};
use crate::notes::HandshakeEnd;
use crate::purposes::Purposes;
use crate::sources::Source;
use crate::time::Instant;
use alloc::boxed::Box;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fronted<T> {
    pub(super) unnamed: Unnamed<T>,
    /// The port that it came to.
    pub(super) purposes: Purposes,
    pub(super) came: Instant,
    /// When its handshake must be through.
    until: Instant,
    pub(super) deadline: Option<Instant>,
}

impl<T> Fronted<T> {
    /// It goes no further. If it can have been a visitor, it is reset: to an end that is clean belongs an answer.
    pub(super) fn let_go<S: Streams<Stream = T>>(self, sys: &mut S) {
        if self.purposes.have_hosts() {
            sys.reset(self.unnamed.stream);
        } else {
            sys.close(self.unnamed.stream);
        }
    }
}

impl<T, L> ServerMain<T, L> {
    pub(super) fn on_fronted<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, caller: Caller<T>) {
        self.make_room(cx, Source::of(caller.who.from.ip()));
        let until = self.until(&caller);
        let Caller { stream, who: Who { from, .. }, purposes, came, .. } = caller;
        let unnamed = Unnamed::new(stream, from, cx.now);
        let deadline = unnamed.deadline().min(until);
        let made = self.slots.insert_with(|token| match cx.sys.watch(&unnamed.stream, token) {
            Ok(()) => Ok(Slot::Fronted(Box::new(Fronted { unnamed, purposes, came, until, deadline: None }))),
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
                if let Some(fronted) = self.take_fronted(token) {
                    fronted.let_go(cx.sys);
                }
            }
            Heard::Malformed => self.drop_handshake(cx, token, HandshakeEnd::NoHeader),
        }
        self.settle(cx);
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
        self.settle(cx);
    }

    /// It is known who it is, or that it is nobody: from here on it is a connection as any other.
    fn on_front_named<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Some(Fronted { unnamed, purposes, came, .. }) = self.take_fronted(token) else { return };
        cx.sys.unwatch(&unnamed.stream);
        let ends = unnamed.ends();
        let (who, is_named) = (ends.map_or(unnamed.from.into(), Who::from), ends.is_some());
        self.on_caller(cx, Caller { stream: unnamed.stream, who, is_named, came, purposes });
    }

    fn take_fronted(&mut self, token: Token) -> Option<Fronted<T>> {
        let Some(Slot::Fronted(mut fronted)) = self.slots.remove(token) else { return None };
        self.timers.set(token, &mut fronted.deadline, None);
        self.leave_handshake_limit(fronted.unnamed.from, token);
        Some(*fronted)
    }
}
