//! Somebody at a port that is there for visitors of hosts, too, until the first bytes have told whether it is a client
//! ([`crate::purposes`]). One who is untold counts as a handshake: it has as long, and there may be as many.

use super::super::messages::ToListener;
use super::super::slab::Token;
use super::super::sys::Streams;
use super::super::thread::Cx;
use super::accept::role_of;
use super::{Caller, MainSys, ServerMain, Slot};
use crate::canary::{PlantedBug, planted};
use crate::purposes::Comer;
use crate::routes::HEAD_MAX;
use crate::sources::Source;
use crate::sys_error::SysError;
use crate::time::Instant;
use alloc::boxed::Box;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Untold<T> {
    pub(super) caller: Caller<T>,
    pub(super) deadline: Option<Instant>,
}

/// What came of looking at the first bytes.
enum Look {
    Nothing,
    Told(Comer),
    Lost,
}

impl<T, L> ServerMain<T, L> {
    /// Somebody has come. Of one who says at once what it is nothing is kept.
    pub(super) fn on_untold<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, caller: Caller<T>) {
        match look(cx, &caller, false) {
            Look::Nothing => self.keep_untold(cx, caller),
            Look::Told(comer) => self.let_in(cx, caller, comer),
            Look::Lost => cx.sys.reset(caller.stream),
        }
    }

    fn keep_untold<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, caller: Caller<T>) {
        let (from, until) = (caller.who.from, self.until(&caller));
        self.make_room(cx, Source::of(from.ip()));
        let made = self.slots.insert_with(|token| match cx.sys.watch(&caller.stream, token) {
            Ok(()) => Ok(Slot::Untold(Box::new(Untold { caller, deadline: None }))),
            Err(_) => Err(caller.stream),
        });
        match made {
            Ok(token) => self.begin_handshake(from, token, until),
            Err(stream) => cx.sys.reset(stream),
        }
    }

    /// Something has come. `ended`: nothing follows it.
    pub(super) fn hear_untold<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, token: Token, ended: bool) {
        let Some(Slot::Untold(untold)) = self.slots.get(token) else { return };
        let looked = look(cx, &untold.caller, ended);
        if matches!(looked, Look::Nothing) {
            return;
        }
        let Some(Slot::Untold(mut untold)) = self.slots.remove(token) else { return };
        self.timers.set(token, &mut untold.deadline, None);
        self.leave_handshake_limit(untold.caller.who.from, token);
        cx.sys.unwatch(&untold.caller.stream);
        match looked {
            Look::Told(comer) => self.let_in(cx, untold.caller, comer),
            Look::Nothing | Look::Lost => cx.sys.reset(untold.caller.stream),
        }
        self.settle(cx);
    }

    // PROTOCOL.md: P-CONN-6.
    fn let_in<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, mut caller: Caller<T>, comer: Comer) {
        match comer {
            Comer::Client => {
                cx.sys.assign(&mut caller.stream, role_of(caller.purposes));
                self.on_client(cx, caller);
            }
            Comer::Visitor(web) => {
                self.on_visitor_passed();
                let Caller { stream, who, came, .. } = caller;
                cx.sys.tell(ToListener::Visitor { web, stream, who, came });
            }
        }
    }
}

/// Looks at what has come of the first bytes.
fn look<T, S: Streams<Stream = T>>(cx: &mut Cx<'_, S>, caller: &Caller<T>, ended: bool) -> Look {
    let most = cx.scratch.len().min(HEAD_MAX);
    match cx.sys.peek(&caller.stream, &mut cx.scratch[..most]) {
        Ok(length) => {
            if planted(PlantedBug::LookTakes) {
                cx.sys.skip(&caller.stream, length);
            }
            let ended = ended || length == 0 || length == most;
            caller.purposes.tell(&cx.scratch[..length], ended).map_or(Look::Nothing, Look::Told)
        }
        Err(SysError::WouldBlock) => Look::Nothing,
        Err(_) => Look::Lost,
    }
}
