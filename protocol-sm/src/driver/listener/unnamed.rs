//! Visitors from trusted proxies, until their headers have said who they are.
//!
//! They are bounded in number, each costs a slot, a deadline and the part of the header that has come, and where there are
//! too many, those whose time is over first make room.

use super::super::messages::{ToLoop, ToServerLoop, Who};
use super::super::slab::Token;
use super::super::sys::{Listen, Log};
use super::super::thread::{Cx, Tell};
use super::super::unnamed::{Heard, Unnamed};
use super::{Listener, Slot};
use crate::canary::{PlantedBug, planted};
use crate::notes::{Dropped, Note};
use crate::routes::Refusal;
use crate::time::Instant;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// As many may wait at once.
// PROTOCOL.md: P-FRONT-4.
const MOST: usize = 1024;

/// A visitor, and what it came for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Waiting<T> {
    unnamed: Unnamed<T>,
    /// The public port that it came to.
    port: Token,
    deadline: Option<Instant>,
}

impl<T, L> Listener<T, L> {
    /// A visitor has come that must say who it is.
    pub(super) fn wait_for_name<S>(&mut self, cx: &mut Cx<'_, S>, port: Token, unnamed: Unnamed<T>)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        while self.waiting() >= MOST || !self.deal.crowd.has_room_beside(self.waiting()) {
            let Some(first) = self.timers.pop_first() else {
                return self.give_up(cx, port, unnamed, Dropped::Resources);
            };
            self.on_waited(cx, first, Dropped::Resources);
        }
        let deadline = unnamed.deadline();
        let made = self.slots.insert_with(|token| match cx.sys.watch(&unnamed.stream, token) {
            Ok(()) => Ok(Slot::Waiting(Box::new(Waiting { unnamed, port, deadline: None }))),
            Err(_) => Err(unnamed),
        });
        match made {
            Ok(token) => {
                self.wait_until(token, Some(deadline));
                self.hear(cx, token);
            }
            Err(unnamed) => self.give_up(cx, port, unnamed, Dropped::Resources),
        }
    }

    fn wait_until(&mut self, token: Token, at: Option<Instant>) {
        if let Some(Slot::Waiting(waiting)) = self.slots.get_mut(token) {
            self.timers.set(token, &mut waiting.deadline, at);
        }
    }

    /// Something may have come of a visitor's header, or behind it.
    pub(super) fn hear<S>(&mut self, cx: &mut Cx<'_, S>, token: Token)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        let Some(Slot::Waiting(waiting)) = self.slots.get_mut(token) else { return };
        match waiting.unnamed.hear(cx) {
            Heard::Nothing => {
                let at = waiting.unnamed.deadline();
                self.wait_until(token, Some(at));
            }
            Heard::Visitor => self.name(cx, token),
            Heard::Gone => {
                if let Some(Waiting { unnamed, .. }) = self.take_waiting(token) {
                    cx.sys.reset(unnamed.stream);
                }
            }
            Heard::Malformed => self.refuse(cx, token, Dropped::NoHeader),
        }
        self.settle(cx);
    }

    /// The time of one that waits is over, because its header is late or for another reason. Its timer has been removed.
    pub(super) fn on_waited<S>(&mut self, cx: &mut Cx<'_, S>, token: Token, why: Dropped)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        let Some(Slot::Waiting(waiting)) = self.slots.get_mut(token) else { return };
        waiting.deadline = None;
        if waiting.unnamed.is_named() {
            self.name(cx, token);
        } else {
            self.refuse(cx, token, why);
        }
        self.settle(cx);
    }

    /// It is known who it is: from here on it is a visitor as any other.
    // PROTOCOL.md: P-FRONT-3.
    fn name<S>(&mut self, cx: &mut Cx<'_, S>, token: Token)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        let Some(Waiting { unnamed, port, .. }) = self.take_waiting(token) else { return };
        cx.sys.unwatch(&unnamed.stream);
        // Where nobody is named, it is the proxy itself.
        let ends = unnamed.ends().filter(|_| !planted(PlantedBug::NameForgotten));
        let who = ends.map_or(unnamed.from.into(), Who::from);
        match self.slots.get_mut(port) {
            Some(Slot::Port(port)) => {
                self.deal.visitor(cx.sys, cx.now, port.route.resolve(), unnamed.stream, who, Vec::new());
            }
            Some(Slot::Door(door)) => {
                let web = door.web;
                self.welcome(cx, web, unnamed.stream, who, cx.now);
            }
            Some(Slot::Newcomer(_) | Slot::Waiting(_)) | None => unreachable!("it goes with its port"),
        }
    }

    /// It has not said who it is.
    fn refuse<S>(&mut self, cx: &mut Cx<'_, S>, token: Token, why: Dropped)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        if let Some(Waiting { unnamed, port, .. }) = self.take_waiting(token) {
            self.give_up(cx, port, unnamed, why);
        }
    }

    fn give_up<S>(&mut self, cx: &mut Cx<'_, S>, port: Token, unnamed: Unnamed<T>, why: Dropped)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        match self.slots.get_mut(port) {
            Some(Slot::Port(port)) => {
                self.deal.turn_away(cx.sys, port.route.resolve(), unnamed.stream, unnamed.from, 0, why);
            }
            Some(Slot::Door(door)) => {
                let why = if why == Dropped::NoHeader { Refusal::NoHeader } else { Refusal::Crowded };
                self.newcomers.refused.add(why);
                cx.sys.note(Note::NotRouted { visitor: unnamed.from, web: door.web, host: None, why });
                cx.sys.reset(unnamed.stream);
            }
            Some(Slot::Newcomer(_) | Slot::Waiting(_)) | None => unreachable!("it goes with its port"),
        }
    }

    fn take_waiting(&mut self, token: Token) -> Option<Waiting<T>> {
        self.wait_until(token, None);
        match self.slots.remove(token)? {
            Slot::Waiting(waiting) => Some(*waiting),
            Slot::Port(_) | Slot::Door(_) | Slot::Newcomer(_) => unreachable!("a visitor's token"),
        }
    }

    /// A public port is closed.
    pub(super) fn forget_waiting<S>(&mut self, sys: &mut S, port: Token)
    where
        S: Listen<Stream = T, Listener = L>,
    {
        let of_port = self.slots.iter().filter_map(|(token, slot)| match slot {
            Slot::Waiting(waiting) => (waiting.port == port).then_some(token),
            Slot::Port(_) | Slot::Door(_) | Slot::Newcomer(_) => None,
        });
        for token in of_port.collect::<Vec<_>>() {
            if let Some(Waiting { unnamed, .. }) = self.take_waiting(token) {
                sys.reset(unnamed.stream);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
