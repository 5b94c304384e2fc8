//! What a newcomer is told by this server itself: that its TLS ends here, where to go instead, what an authority asks for,
//! and why it is refused.

use super::*;
use crate::routes::challenge_met;

impl<T, L> Listener<T, L> {
    /// A newcomer has named a host. Who asks for the answer to a challenge waits for what is found of it.
    // PROTOCOL.md: P-HOST-12.
    pub(super) fn on_named<S>(&mut self, cx: &mut Cx<'_, S>, mut newcomer: Newcomer<T>, named: Named)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        let challenge = match (newcomer.web, &newcomer.stage) {
            (Web::Http, Stage::Reading(unrouted)) => unrouted.challenge().map(String::from),
            (Web::Http, Stage::Asking(..) | Stage::Waiting(..) | Stage::Told) | (Web::Https, _) => None,
        };
        let Some(name) = challenge else { return self.route(cx, newcomer, named) };
        if let Stage::Reading(unrouted) = newcomer.stage {
            newcomer.stage = Stage::Asking(unrouted, named);
        }
        let due = newcomer.came + self.newcomers.routing.timeout;
        if let Some(token) = self.keep(cx, newcomer, due)
            && !cx.sys.find_challenge(token, &name)
        {
            self.on_challenge(cx, token, None);
        }
    }

    /// What was found for somebody who asks. Who has gone meanwhile, or has waited for too long, needs it no more.
    pub(in super::super) fn on_challenge<S>(&mut self, cx: &mut Cx<'_, S>, token: Token, answer: Option<Vec<u8>>)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        let asks = match self.slots.get(token) {
            Some(Slot::Newcomer(newcomer)) => matches!(newcomer.stage, Stage::Asking(..)),
            Some(Slot::Port(_) | Slot::Door(_) | Slot::Waiting(_)) | None => false,
        };
        if !asks {
            return;
        }
        let mut newcomer = self.take(cx, token);
        let Stage::Asking(unrouted, named) = newcomer.stage else { unreachable!("it asks") };
        newcomer.stage = Stage::Waiting(unrouted, named.clone());
        match answer.filter(|_| !planted(PlantedBug::ChallengePassedOn)) {
            None if planted(PlantedBug::ChallengeKept) => {
                self.refuse_newcomer(cx, newcomer, None, Refusal::NobodysHost);
            }
            Some(answer) => self.tell_newcomer(cx, newcomer, &challenge_met(&answer)),
            None => self.route(cx, newcomer, named),
        }
        self.settle(cx);
    }

    /// What the service of a visitor speaks who has named a host over TLS, if that ends here.
    // PROTOCOL.md: P-HOST-8.
    pub(super) fn ends_tls<S: Listen>(&self, sys: &S, named: &Named) -> Option<Speaks> {
        self.sites.behind_tls(named).filter(|_| sys.certified(named.name()))
    }

    /// The port to which visitors of this host in the clear are sent instead.
    pub(super) fn redirects(&mut self, named: &Named) -> Option<u16> {
        let at = self.newcomers.at[Web::Https as usize]?;
        let service = self.sites.find(Web::Http, named)?.gate.service;
        service.redirect.then_some(at.port())
    }

    /// From here on a visitor's bytes are what is inside of its TLS, and name a host once more.
    pub(super) fn end_tls<S>(&mut self, cx: &mut Cx<'_, S>, mut newcomer: Newcomer<T>, named: Named, speaks: Speaks)
    where
        S: Listen<Stream = T, Listener = L> + Log + Tell<ToLoop<ToServerLoop<T>>>,
    {
        let inside = Stage::Reading(Unrouted::new(Web::Http));
        let (Stage::Reading(hello) | Stage::Waiting(hello, _)) = core::mem::replace(&mut newcomer.stage, inside) else {
            unreachable!("who was told something says nothing more")
        };
        let host = named.name().map(String::from);
        newcomer.sealed = Some(Box::new(named));
        match cx.sys.end_tls(newcomer.port.stream(), &hello.into_bytes(), speaks) {
            Ok(()) => {
                newcomer.port.readable = true;
                self.meet(cx, newcomer);
            }
            Err(_) => self.refuse_newcomer(cx, newcomer, host, Refusal::TlsFailed),
        }
    }

    /// Tells a visitor why it is refused.
    // PROTOCOL.md: P-HOST-7.
    pub(super) fn refuse_newcomer<S>(
        &mut self,
        cx: &mut Cx<'_, S>,
        newcomer: Newcomer<T>,
        host: Option<String>,
        why: Refusal,
    ) where
        S: Listen<Stream = T, Listener = L> + Log,
    {
        let (visitor, web) = (newcomer.who.from, newcomer.web);
        self.newcomers.refused.add(why);
        cx.sys.note(Note::NotRouted { visitor, web, host, why });
        if why == Refusal::TlsFailed {
            // TLS itself has told it why.
            return self.bid_farewell(cx, newcomer);
        }
        let plain = match &newcomer.stage {
            Stage::Reading(unrouted) | Stage::Asking(unrouted, _) | Stage::Waiting(unrouted, _) => unrouted.is_plain(),
            Stage::Told => false,
        };
        let answer = why.answer(newcomer.spoken(), plain);
        self.tell_newcomer(cx, newcomer, &answer);
    }

    /// Gives a visitor this answer, and no other.
    pub(super) fn tell_newcomer<S>(&mut self, cx: &mut Cx<'_, S>, newcomer: Newcomer<T>, answer: &[u8])
    where
        S: Listen<Stream = T, Listener = L> + Log,
    {
        // A fresh socket takes these few bytes whole, or the peer is not worth waiting for.
        if answer.is_empty() || cx.sys.send(newcomer.port.stream(), answer) != Ok(answer.len()) {
            return cx.sys.reset(newcomer.port.into_stream());
        }
        self.bid_farewell(cx, newcomer);
    }

    /// A visitor has its answer. What it still says is read and dropped, so that it can read that.
    fn bid_farewell<S>(&mut self, cx: &mut Cx<'_, S>, mut newcomer: Newcomer<T>)
    where
        S: Listen<Stream = T, Listener = L> + Log,
    {
        // Where there is no room for the word that nothing follows, the end comes with the close.
        if cx.sys.finish(newcomer.port.stream()).is_ok() {
            cx.sys.shut_write(newcomer.port.stream());
        }
        newcomer.stage = Stage::Told;
        let _kept = self.keep(cx, newcomer, cx.now + FAREWELL);
    }
}
