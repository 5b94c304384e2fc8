//! Visitors at the two ports that many tunnels share, until their first bytes have named a host ([`crate::routes`]).
//!
//! ```text
//!   accept ──▶ Reading ──names a host──▶ to its tunnel, with what was read
//!                 │    │                   nobody has it: ──▶ Waiting, shortly after an upgrade ──▶ to its tunnel
//!                 │    ╰─asks for a challenge──▶ Asking ──there is none──▶ as if it had only named the host
//!                 │ refused                        │ there is one   │ its time is up
//!                 ▼                                ▼                ▼
//!               Told: the answer is out, what still comes is read and dropped ──its end, or 2 s──▶ closed
//! ```
//! Visitors of a port that is there for clients, too, are brought by the main driver.
//! Where its TLS ends here, a newcomer reads twice: the name in its ClientHello leads back to Reading, and what is inside
//! names the host.
//!
//! One who says all at once is never seen here: nothing is kept of it. Where there are too many, the oldest one of the
//! source address that has most is closed.
//!
//! Invariants:
//! - N1 each has a deadline, and is counted until it goes;
//! - N2 there are no more of them than may be, nor than there is room for visitors: each may become one;
//! - R1 to R3 of [`crate::routes`].

mod answered;

use super::super::handshake_limit::HandshakeLimit;
use super::super::inherit::Given;
use super::super::messages::{ToLoop, ToServerLoop, Who};
use super::super::relay::Endpoint;
use super::super::slab::Token;
use super::super::sys::{Listen, Log, Readiness, Role, Streams};
use super::super::thread::{Cx, Tell};
use super::super::timers::Timers;
use super::super::unnamed::Unnamed;
use super::route::Member;
use super::sites::Sites;
use super::{Bind, Listener, Slot, accept_batch};
use crate::canary::{PlantedBug, planted};
use crate::notes::Note;
use crate::report::{Counted, Counts};
use crate::routes::{Agreed, Named, Refusal, Secured, Site, Speaks, Unrouted, Web, forwarded};
use crate::settings::Routing;
use crate::sources::Source;
use crate::sys_error::SysError;
use crate::time::Instant;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;

/// How long one who was told something may take to read it.
const FAREWELL: Duration = Duration::from_secs(2);
/// Reads in a row of what such a one still says.
const FAREWELL_READS: usize = 16;
/// How long those who came last may hold up an upgrade.
const SETTLE: Duration = Duration::from_secs(2);

/// All newcomers together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Newcomers {
    pub(super) routing: Routing,
    /// Where the two ports are, if they are open.
    at: [Option<SocketAddr>; 2],
    limit: HandshakeLimit,
    pub(super) timers: Timers,
    pub(super) refused: Counted<Counts<Refusal>>,
    /// A port of them was left by another process.
    adopted: bool,
    /// Until then clients are awaited that had their hosts there.
    awaited_until: Instant,
}

impl Newcomers {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.limit.len()
    }

    /// How many were refused, and why.
    pub(super) fn refused(&self) -> Counts<Refusal> {
        *self.refused
    }
}

/// One of the two ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Door<L> {
    listener: L,
    pub(super) web: Web,
    pub(super) queued: bool,
}

/// A visitor who is nobody's yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Newcomer<T> {
    port: Endpoint<T>,
    who: Who,
    web: Web,
    came: Instant,
    stage: Stage,
    deadline: Option<Instant>,
    /// Its TLS ends here: whom it has named there.
    sealed: Option<Box<Named>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Reading(Unrouted),
    /// It is looked whether there is an answer to the challenge that it asks for.
    Asking(Unrouted, Named),
    Waiting(Unrouted, Named),
    Told,
}

/// What came of reading.
enum Heard {
    More,
    Named(Named),
    Refused(Refusal),
    Lost,
}

impl<T> Newcomer<T> {
    pub(super) fn on_ready(&mut self, ready: Readiness) {
        self.port.on_ready(ready);
    }

    /// What it speaks that is read here.
    fn spoken(&self) -> Web {
        if self.sealed.is_some() { Web::Http } else { self.web }
    }

    /// Reads what has come: first what ends the handshake, where its TLS ends here.
    fn hear<S: Listen<Stream = T>>(&mut self, cx: &mut Cx<'_, S>) -> Heard {
        if let (Stage::Reading(_), Some(outside)) = (&self.stage, &self.sealed)
            && self.port.readable
        {
            match cx.sys.agreed(self.port.stream()) {
                Ok(None | Some(Agreed::Http1)) => {}
                // Its heads are not read: it gets whom it has named outside.
                Ok(Some(Agreed::Http2)) => return Heard::Named((**outside).clone()),
                Err(SysError::WouldBlock) => {
                    self.port.readable = false;
                    return Heard::More;
                }
                Err(SysError::Tls(_)) => return Heard::Refused(Refusal::TlsFailed),
                Err(_) => return Heard::Lost,
            }
        }
        let mut reads = 0;
        while self.port.readable {
            reads += 1;
            let most = match &self.stage {
                Stage::Reading(unrouted) => unrouted.room().min(cx.scratch.len()),
                // Whoever says so much does not listen.
                Stage::Told if reads > FAREWELL_READS => return Heard::Lost,
                Stage::Told => cx.scratch.len(),
                // The tunnel reads the rest.
                Stage::Asking(..) | Stage::Waiting(..) => return Heard::More,
            };
            let length = match self.port.recv(cx.sys, &mut cx.scratch[..most]) {
                Ok(0) => return Heard::Lost,
                Ok(length) => length,
                Err(SysError::WouldBlock) => break,
                Err(_) => return Heard::Lost,
            };
            if let Stage::Reading(unrouted) = &mut self.stage {
                match unrouted.on_bytes(&cx.scratch[..length]) {
                    Ok(None) => {}
                    Ok(Some(named)) => return Heard::Named(named),
                    Err(why) => return Heard::Refused(why),
                }
            }
        }
        Heard::More
    }
}

impl<T, L> Listener<T, L> {
    /// Opens the ports of hosts that are wanted at these addresses, or adopts those that another process has left, and
    /// returns their real addresses. First http, then https.
    ///
    /// # Errors
    /// The address that cannot be listened on, and why.
    pub fn open_doors<S>(
        &mut self,
        cx: &mut Cx<'_, S>,
        at: [Option<SocketAddr>; 2],
        left: [Option<L>; 2],
        routing: Routing,
    ) -> Result<[Option<SocketAddr>; 2], (SocketAddr, SysError)>
    where
        S: Listen<Stream = T, Listener = L>,
    {
        self.newcomers.routing = routing;
        for ((web, at), left) in Web::ALL.into_iter().zip(at).zip(left) {
            let Some(at) = at else { continue };
            let mut real = at;
            self.newcomers.adopted |= left.is_some();
            let made = self.slots.insert_with(|token| {
                let (listener, address) = match left {
                    Some(listener) => cx.sys.adopt(&listener, token).map(|address| (listener, address))?,
                    None => cx.sys.listen(at, token)?,
                };
                real = address;
                Ok(Slot::Door(Door { listener, web, queued: false }))
            });
            made.map_err(|error| (at, error))?;
            self.newcomers.at[web as usize] = Some(real);
        }
        Ok(self.newcomers.at)
    }

    /// Visitors of this kind come to `at`, which is there for clients, too: the main driver brings them. `adopted`: another
    /// process has left the port.
    pub fn expect(&mut self, web: Web, at: SocketAddr, adopted: bool) {
        self.newcomers.at[web as usize] = Some(at);
        self.newcomers.adopted |= adopted;
    }

    /// If a port of hosts was left by another process, clients are awaited until then that have had their hosts there.
    // PROTOCOL.md: P-LEAVE-5.
    pub(super) fn await_hosts(&mut self, until: Instant) {
        if self.newcomers.adopted {
            self.newcomers.awaited_until = until;
        }
    }

    /// Leads a host to its tunnel.
    // PROTOCOL.md: P-HOST-4.
    pub(super) fn lead<S>(&mut self, cx: &mut Cx<'_, S>, bind: &Bind, site: Site) -> Result<SocketAddr, SysError>
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        let at = self.newcomers.at[site.web as usize].ok_or(SysError::NoAddress)?;
        let &Bind { control, registration, ref gate, .. } = bind;
        if gate.service.redirect && self.newcomers.at[Web::Https as usize].is_none() {
            return Err(SysError::NoAddress);
        }
        let member = Member { control, registration, gate: (**gate).clone(), turned_away: Counted::default() };
        self.sites.insert(site, member)?;
        if bind.examined {
            return Ok(at);
        }
        let waits = |(token, slot): (Token, &Slot<T, L>)| match slot {
            Slot::Newcomer(newcomer) => matches!(newcomer.stage, Stage::Waiting(..)).then_some(token),
            Slot::Port(_) | Slot::Door(_) | Slot::Waiting(_) => None,
        };
        let waiting: Vec<_> = self.slots.iter().filter_map(waits).collect();
        for token in waiting {
            if let Some(Slot::Newcomer(newcomer)) = self.slots.get(token)
                && let Stage::Waiting(_, named) = &newcomer.stage
                && self.has_way(cx.sys, newcomer, named)
            {
                let named = named.clone();
                let newcomer = self.take(cx, token);
                self.route(cx, newcomer, named);
            }
        }
        Ok(at)
    }

    pub(super) fn accept_newcomers<S>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> Result<bool, SysError>
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        let Some(Slot::Door(Door { listener, web, .. })) = self.slots.get(token) else { return Ok(false) };
        let (web, mut came) = (*web, Vec::new());
        let end = accept_batch(cx.sys, listener, Role::Public, |_, stream, from| came.push((stream, from)));
        for (stream, from) in came {
            // PROTOCOL.md: P-FRONT-1.
            if self.trusted.iter().any(|network| network.contains(from.ip())) {
                self.wait_for_name(cx, token, Unnamed::new(stream, from, cx.now));
            } else {
                self.welcome(cx, web, stream, from.into(), cx.now);
            }
        }
        // Who has said all at once is a visitor already.
        self.keep_within(cx);
        end
    }

    /// A visitor has come to a port that is there for clients, too.
    pub(super) fn on_passed<S>(&mut self, cx: &mut Cx<'_, S>, web: Web, mut stream: T, who: Who, came: Instant)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        cx.sys.assign(&mut stream, Role::Public);
        if self.newcomers.at[web as usize].is_none() {
            let why = Refusal::Stopping;
            self.newcomers.refused.add(why);
            cx.sys.note(Note::NotRouted { visitor: who.from, web, host: None, why });
            return cx.sys.reset(stream);
        }
        self.welcome(cx, web, stream, who, came);
        self.keep_within(cx);
    }

    /// A visitor has come to one of the two ports.
    pub(super) fn welcome<S>(&mut self, cx: &mut Cx<'_, S>, web: Web, stream: T, who: Who, came: Instant)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        let (port, stage) = (Endpoint::new(stream), Stage::Reading(Unrouted::new(web)));
        let newcomer = Newcomer { port, who, web, came, stage, deadline: None, sealed: None };
        self.meet(cx, newcomer);
    }

    /// A newcomer may have said something already. It is not kept yet.
    fn meet<S>(&mut self, cx: &mut Cx<'_, S>, mut newcomer: Newcomer<T>)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        match newcomer.hear(cx) {
            Heard::More => {
                let due = newcomer.came + self.newcomers.routing.timeout;
                let _kept = self.keep(cx, newcomer, due);
            }
            Heard::Named(named) => self.on_named(cx, newcomer, named),
            Heard::Refused(why) => self.refuse_newcomer(cx, newcomer, None, why),
            Heard::Lost => cx.sys.reset(newcomer.port.into_stream()),
        }
    }

    /// Something came of a newcomer that was kept.
    pub(super) fn hear_newcomer<S>(&mut self, cx: &mut Cx<'_, S>, token: Token)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        let Some(Slot::Newcomer(newcomer)) = self.slots.get_mut(token) else { return };
        match newcomer.hear(cx) {
            Heard::More => {}
            Heard::Named(named) => {
                let newcomer = self.take(cx, token);
                self.on_named(cx, newcomer, named);
            }
            Heard::Refused(why) => {
                let newcomer = self.take(cx, token);
                self.refuse_newcomer(cx, newcomer, None, why);
            }
            Heard::Lost => self.dismiss(cx, token),
        }
        self.settle(cx);
    }

    /// The time of a newcomer is up. Its timer has been removed.
    // PROTOCOL.md: P-HOST-2.
    pub(super) fn on_timeout<S>(&mut self, cx: &mut Cx<'_, S>, token: Token)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        let Some(Slot::Newcomer(newcomer)) = self.slots.get_mut(token) else { return };
        newcomer.deadline = None;
        let (why, host) = match &newcomer.stage {
            Stage::Told => return self.dismiss(cx, token),
            Stage::Reading(unrouted) => (unrouted.on_timeout(), None),
            Stage::Asking(_, named) | Stage::Waiting(_, named) => {
                let known = &self.newcomers.routing.known;
                (named.refusal(|name| known.contains(name)), named.name().map(String::from))
            }
        };
        let newcomer = self.take(cx, token);
        self.refuse_newcomer(cx, newcomer, host, why);
        self.settle(cx);
    }

    /// Whether somebody came just now who has named no host yet.
    pub(super) fn has_come_just_now(&self, now: Instant) -> bool {
        self.slots.iter().any(|(_, slot)| match slot {
            Slot::Newcomer(newcomer) => newcomer.came + SETTLE > now && !matches!(newcomer.stage, Stage::Told),
            Slot::Port(_) | Slot::Door(_) | Slot::Waiting(_) => false,
        })
    }

    /// Lends the ports of hosts to the next process. Returns their number.
    pub(super) fn lend_doors<S: Listen<Listener = L>>(&self, sys: &mut S) -> usize {
        for (_, slot) in self.slots.iter() {
            if let Slot::Door(door) = slot {
                sys.lend(&door.listener, &Given::Door(door.web.into()));
            }
        }
        self.doors()
    }

    /// A newcomer that was kept is gone, or was told all that it is told. One who was told nothing is reset: to an end that
    /// is clean belongs an answer.
    fn dismiss<S: Streams<Stream = T>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        let Newcomer { port, stage, .. } = self.take(cx, token);
        match stage {
            Stage::Told => cx.sys.close(port.into_stream()),
            Stage::Reading(_) | Stage::Asking(..) | Stage::Waiting(..) => cx.sys.reset(port.into_stream()),
        }
    }

    /// Nobody comes any more.
    pub(super) fn close_doors<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: Listen<Stream = T, Listener = L> + Log,
    {
        self.sites = Sites::default();
        self.newcomers.at = [None; 2];
        for token in self.slots.keys().collect::<Vec<_>>() {
            match self.slots.get(token) {
                Some(Slot::Newcomer(newcomer)) => {
                    let (visitor, web) = (newcomer.who.from, newcomer.web);
                    if !matches!(newcomer.stage, Stage::Told) {
                        self.newcomers.refused.add(Refusal::Stopping);
                        cx.sys.note(Note::NotRouted { visitor, web, host: None, why: Refusal::Stopping });
                    }
                    self.dismiss(cx, token);
                }
                Some(Slot::Door(_)) => {
                    if let Some(Slot::Door(door)) = self.slots.remove(token) {
                        cx.sys.unlisten(door.listener);
                    }
                    self.forget_waiting(cx.sys, token);
                }
                Some(Slot::Port(_) | Slot::Waiting(_)) | None => {}
            }
        }
    }

    /// Gives a visitor who has named a host to the tunnel that has it.
    // PROTOCOL.md: P-HOST-5, P-HOST-6.
    fn route<S>(&mut self, cx: &mut Cx<'_, S>, newcomer: Newcomer<T>, named: Named)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        if newcomer.web == Web::Https
            && newcomer.sealed.is_none()
            && let Some(speaks) = self.ends_tls(cx.sys, &named)
        {
            return self.end_tls(cx, newcomer, named, speaks);
        }
        if let (Web::Http, Stage::Reading(unrouted) | Stage::Waiting(unrouted, _)) = (newcomer.web, &newcomer.stage)
            && let Some(port) = self.redirects(&named)
            && !planted(PlantedBug::RedirectForgotten)
        {
            let answer = unrouted.redirect(&named, port);
            return self.tell_newcomer(cx, newcomer, &answer);
        }
        if newcomer.sealed.as_ref().is_some_and(|outside| !self.sites.are_of_one_holder(outside, &named)) {
            let host = named.name().map(String::from);
            return self.refuse_newcomer(cx, newcomer, host, Refusal::Misdirected);
        }
        let spoken = newcomer.spoken();
        let Newcomer { port, mut who, web, came, stage, deadline, sealed } = newcomer;
        let (Stage::Reading(unrouted) | Stage::Waiting(unrouted, _)) = stage else {
            unreachable!("who was told something says nothing more")
        };
        let found = if planted(PlantedBug::AnyHost) {
            let first = self.sites.registrations().next();
            first.and_then(|(control, registration)| self.sites.member(control, registration))
        } else {
            self.sites.find(spoken, &named)
        };
        if let Some(member) = found {
            let mut head = if planted(PlantedBug::HeadLost) { Vec::new() } else { unrouted.into_bytes() };
            // Of HTTP/2 no head is read.
            if member.gate.service.forwarded && spoken == Web::Http && !head.is_empty() {
                head = forwarded(&head, who.from.ip(), web.scheme());
            }
            if web == Web::Https {
                // What was agreed on once is known from then on.
                let agreed = sealed.as_ref().and_then(|_| cx.sys.agreed(port.stream()).ok().flatten());
                let host = sealed.as_deref().unwrap_or(&named).host();
                let is_known = host.is_some() || agreed.is_some();
                who.secured = is_known.then(|| Box::new(Secured { host, agreed }));
            }
            return self.deal.visitor(cx.sys, cx.now, member, port.into_stream(), who, head);
        }
        let stage = Stage::Waiting(unrouted, named);
        let newcomer = Newcomer { port, who, web, came, stage, deadline, sealed };
        let Stage::Waiting(_, named) = &newcomer.stage else { unreachable!("it waits") };
        let due = came + self.newcomers.routing.timeout;
        if cx.now < self.newcomers.awaited_until.min(due) {
            let _kept = self.keep(cx, newcomer, due);
            return;
        }
        let (known, host) = (&self.newcomers.routing.known, named.name().map(String::from));
        let why = named.refusal(|name| known.contains(name));
        self.refuse_newcomer(cx, newcomer, host, why);
    }

    /// Whether whoever has named a host has somewhere to go.
    fn has_way<S: Listen>(&self, sys: &S, newcomer: &Newcomer<T>, named: &Named) -> bool {
        let ends_here =
            || newcomer.web == Web::Https && newcomer.sealed.is_none() && self.ends_tls(sys, named).is_some();
        self.sites.takes(newcomer.spoken(), named) || ends_here()
    }

    /// Keeps a newcomer until more comes of it, until then at most. Returns what it is called, if there is room for it.
    fn keep<S>(&mut self, cx: &mut Cx<'_, S>, newcomer: Newcomer<T>, at: Instant) -> Option<Token>
    where
        S: Listen<Stream = T, Listener = L> + Log,
    {
        let source = Source::of(newcomer.who.from.ip());
        let [most, per_source] = self.newcomers.routing.most;
        self.make_room(cx, source, [most.min(self.room()), per_source]);
        let newcomer = Box::new(newcomer);
        let made = self.slots.insert_with(|token| match cx.sys.watch(newcomer.port.stream(), token) {
            Ok(()) => Ok(Slot::Newcomer(newcomer)),
            Err(_) => Err(newcomer),
        });
        match made {
            Ok(token) => {
                self.newcomers.limit.add(source, at, token);
                if let Some(Slot::Newcomer(newcomer)) = self.slots.get_mut(token) {
                    self.newcomers.timers.set(token, &mut newcomer.deadline, Some(at));
                }
                Some(token)
            }
            Err(newcomer) => {
                cx.sys.reset(newcomer.port.into_stream());
                None
            }
        }
    }

    /// How many visitors may still come, besides those who have, and those who have not said who they are.
    fn room(&self) -> u32 {
        self.deal.crowd.room().saturating_sub(u32::try_from(self.waiting()).unwrap_or(u32::MAX))
    }

    /// There are other bounds from now on.
    pub(super) fn change_routing<S>(&mut self, cx: &mut Cx<'_, S>, routing: Routing)
    where
        S: Listen<Stream = T, Listener = L> + Log,
    {
        self.newcomers.routing = routing;
        self.keep_within(cx);
    }

    /// There are fewer that may be, or less room.
    pub(super) fn keep_within<S>(&mut self, cx: &mut Cx<'_, S>)
    where
        S: Listen<Stream = T, Listener = L> + Log,
    {
        let [most, _] = self.newcomers.routing.most;
        let most = most.min(self.room()).saturating_add(1);
        self.make_room(cx, Source::of(Ipv4Addr::UNSPECIFIED.into()), [most, u32::MAX]);
    }

    /// The oldest ones go, until there are fewer than `most`, and fewer than so many of `source`.
    // PROTOCOL.md: P-HOST-2.
    fn make_room<S>(&mut self, cx: &mut Cx<'_, S>, source: Source, most: [u32; 2])
    where
        S: Listen<Stream = T, Listener = L> + Log,
    {
        while let Some((oldest, _)) = self.newcomers.limit.must_leave(most, source, |_| 0) {
            let Newcomer { port, who: Who { from: visitor, .. }, web, .. } = self.take(cx, oldest);
            self.newcomers.refused.add(Refusal::Crowded);
            cx.sys.note(Note::NotRouted { visitor, web, host: None, why: Refusal::Crowded });
            cx.sys.reset(port.into_stream());
        }
    }

    /// Takes out a newcomer that was kept.
    fn take<S: Streams<Stream = T>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> Newcomer<T> {
        let Some(Slot::Newcomer(mut newcomer)) = self.slots.remove(token) else {
            unreachable!("N1: it is there, and counted")
        };
        self.newcomers.timers.set(token, &mut newcomer.deadline, None);
        self.newcomers.limit.remove(Source::of(newcomer.who.from.ip()), token);
        cx.sys.unwatch(newcomer.port.stream());
        *newcomer
    }

    /// Ports of hosts that are open.
    #[must_use]
    pub fn doors(&self) -> usize {
        self.slots.iter().filter(|(_, slot)| matches!(slot, Slot::Door(_))).count()
    }

    /// # Panics
    /// An invariant does not hold.
    pub(super) fn assert_newcomers(&self) {
        let mut count = 0;
        for (token, slot) in self.slots.iter() {
            if let Slot::Newcomer(newcomer) = slot {
                let at = newcomer.deadline.expect("N1: it has a deadline");
                assert!(self.newcomers.timers.has(at, token), "N1: its deadline is a timer");
                count += 1;
            }
        }
        assert_eq!((count, count), (self.newcomers.timers.len(), self.newcomers.len()), "N1: each is counted");
        let [most, _] = self.newcomers.routing.most;
        assert!(count <= most.min(self.room()).max(1) as usize, "N2: no more than may be, or fit");
    }
}
