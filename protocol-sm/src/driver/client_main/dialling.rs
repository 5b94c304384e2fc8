//! The race of the server's addresses: the first from which a reply comes has the ctl_conn.

use super::super::ctl_link::CtlLink;
use super::super::passing::pass;
use super::super::relay::Endpoint;
use super::super::slab::Token;
use super::super::sys::Role;
use super::super::thread::Cx;
use super::receive::failed;
use super::stage::{Attempt, Greeting};
use super::{ClientMain, MainSys, Stage};
use crate::control::client::Control;
use crate::ids::ClientId;
use crate::notes::Disconnect;
use crate::outbound::{Passage, PassageFailure};
use crate::race::Race;
use crate::sys_error::SysError;
use crate::wire::{
    CHANNEL, ClientHandshake, ClientHello, ConnKind, EXAMINE, FRUGAL, HOSTS, LEAVE, PATHS, Preface, Reply, ReplyReader,
    Resume, SECURED, TAKEOVER, ToServer, UDP,
};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;

/// What has come of an attempt.
enum News {
    Nothing,
    /// A reply, and what came behind it.
    Reply(Reply, Vec<u8>),
    Failed(Disconnect),
}

impl<T> ClientMain<T> {
    /// Tries the server's addresses.
    pub(super) fn dial<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        let until = cx.now + self.settings.timings.dial_timeout;
        let race = Race::new(self.server_name.in_order(), cx.now, until);
        let why = match self.settings.outbound {
            Some(_) => Disconnect::Proxy(PassageFailure::Unresolved),
            None => Disconnect::Unresolved,
        };
        self.stage = Stage::Dialling { race, attempts: Vec::new(), why };
        self.run_race(cx);
    }

    /// Tries the addresses that are due; without one left, pauses because of what was wrong.
    pub(super) fn run_race<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        while let Stage::Dialling { race, attempts, why } = &mut self.stage {
            if let Some(to) = race.next(cx.now) {
                self.attempt(cx, to);
                continue;
            }
            if race.is_lost(cx.now) {
                let silent = match attempts.iter().find(|attempt| attempt.until.is_some()) {
                    Some(Attempt { passage: Some(_), .. }) => Disconnect::Proxy(PassageFailure::Silent),
                    Some(_) => Disconnect::Silent,
                    None => unreachable(self.settings.outbound.is_some(), SysError::TimedOut),
                };
                let why = if attempts.is_empty() || why.is_lasting() { *why } else { silent };
                attempts.iter().for_each(|attempt| self.server_name.on_failed(attempt.to));
                self.disconnect(cx, why);
            }
            return;
        }
    }

    fn attempt<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, to: SocketAddr) {
        let made = self.slots.insert_with(|token| {
            let stream = cx.sys.connect(&self.settings.uplink, to, Role::Ctl, token)?;
            Ok(CtlLink::new(Endpoint::connecting(stream)))
        });
        match made {
            Ok(token) => {
                let proxy = self.settings.outbound.as_ref();
                let passage = proxy.map(|proxy| Box::new(Passage::new(proxy, &self.target)));
                if let Stage::Dialling { attempts, .. } = &mut self.stage {
                    attempts.push(Attempt { token, to, until: None, passage, greeting: None });
                }
                // It may be through already.
                self.on_attempt(cx, token);
            }
            Err(error) => self.on_attempt_failed(to, unreachable(self.settings.outbound.is_some(), error)),
        }
    }

    /// A connection that is in the race became ready.
    pub(super) fn on_attempt<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, token: Token) {
        match self.look_at(cx, token) {
            News::Nothing => {}
            News::Reply(reply, rest) => self.on_reply(cx, token, reply, &rest),
            News::Failed(why) => {
                let Stage::Dialling { attempts, .. } = &mut self.stage else { return };
                let Some(index) = attempts.iter().position(|attempt| attempt.token == token) else { return };
                let to = attempts.remove(index).to;
                if let Some(link) = self.slots.remove(token) {
                    cx.sys.close(link.port.into_stream());
                }
                self.on_attempt_failed(to, why);
                self.run_race(cx);
            }
        }
    }

    fn on_attempt_failed(&mut self, to: SocketAddr, failure: Disconnect) {
        let Stage::Dialling { race, why, .. } = &mut self.stage else { return };
        race.on_failed();
        // What somebody must change is told, whatever the others say.
        if !why.is_lasting() {
            *why = failure;
        }
        // Of want on this side the address is not guilty.
        if failure != unreachable(self.settings.outbound.is_some(), SysError::Exhausted) {
            self.server_name.on_failed(to);
        }
    }

    // PROTOCOL.md: P-PREF-6, P-AUTH-17.
    fn look_at<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> News {
        // Whoever has served before does not take over from the one that came since.
        let wants_path = self.wants_path();
        let is_new = !self.tunnels.have_served() && self.stopping.is_none();
        let Stage::Dialling { race, attempts, .. } = &mut self.stage else { return News::Nothing };
        let Some(attempt) = attempts.iter_mut().find(|attempt| attempt.token == token) else { return News::Nothing };
        let Some(link) = self.slots.get_mut(token) else { return News::Nothing };
        if attempt.until.is_none() {
            match cx.sys.take_error(link.port.stream()) {
                Ok(()) => {}
                Err(SysError::WouldBlock) => return News::Nothing,
                Err(error) => return News::Failed(unreachable(attempt.passage.is_some(), error)),
            }
            let until = cx.now + self.settings.timings.handshake_timeout;
            race.on_connected(cx.now, until);
            attempt.until = Some(until);
        }
        if let Some(passage) = &mut attempt.passage {
            match pass(passage, cx.sys, &mut link.port) {
                Ok(true) => attempt.passage = None,
                Ok(false) => return News::Nothing,
                Err(failure) => return News::Failed(Disconnect::Proxy(failure)),
            }
        }
        let greeting = match &mut attempt.greeting {
            Some(greeting) => greeting,
            none => {
                let channel = match cx.sys.channel(link.port.stream()) {
                    Ok(channel) => channel.filter(|_| !self.settings.tls_relay),
                    Err(SysError::WouldBlock) => return News::Nothing,
                    Err(error) => return News::Failed(failed(error, Disconnect::NoAnswer)),
                };
                link.port.readable = true;
                link.port.writable = true;
                let mut nonce = [0; 32];
                cx.sys.random(&mut nonce);
                // A session stays bound to the channels of its connections, or not.
                let control = self.control.as_ref().filter(|control| control.secret().is_bound() == channel.is_some());
                let resume = |control: &Control| Resume { session: control.id, received: control.session.received() };
                let of = |feature, is: bool| if is { feature } else { 0 };
                let frugal = of(FRUGAL, self.settings.frugal);
                let paths = of(PATHS, wants_path);
                let hello = ClientHello {
                    nonce,
                    client: ClientId(self.settings.client_id),
                    token: self.settings.token.is_some(),
                    features: LEAVE
                        | HOSTS
                        | UDP
                        | SECURED
                        | frugal
                        | paths
                        | of(TAKEOVER, is_new && !self.settings.examines)
                        | of(EXAMINE, self.settings.examines)
                        | of(CHANNEL, channel.is_some()),
                    resume: control.map(resume),
                };
                link.push_bytes(&Preface::ours(ConnKind::Ctl).encode());
                link.push(&ToServer::Handshake(ClientHandshake::Hello(hello.clone())));
                none.insert(Greeting { reader: ReplyReader::default(), hello, channel })
            }
        };
        while link.port.readable {
            let length = match link.port.recv(cx.sys, cx.scratch) {
                Ok(0) => return News::Failed(Disconnect::NoAnswer),
                Ok(length) => length,
                Err(SysError::WouldBlock) => break,
                Err(error) => return News::Failed(failed(error, Disconnect::NoAnswer)),
            };
            let mut rest = &cx.scratch[..length];
            match greeting.reader.next(Preface::ours(ConnKind::Ctl), &mut rest) {
                Ok(Some(reply)) => return News::Reply(reply, rest.to_vec()),
                Ok(None) => {}
                Err(_) => return News::Failed(Disconnect::NotCproxy),
            }
        }
        match link.flush(cx.sys) {
            Ok(()) => News::Nothing,
            Err(error) => News::Failed(failed(error, Disconnect::NoAnswer)),
        }
    }

    /// A server has answered: the race is over.
    fn on_reply<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, token: Token, reply: Reply, rest: &[u8]) {
        let Stage::Dialling { attempts, .. } = &mut self.stage else { return };
        let attempts = core::mem::take(attempts);
        for Attempt { token: of, to, until, greeting, .. } in attempts {
            if of != token {
                if let Some(link) = self.slots.remove(of) {
                    cx.sys.close(link.port.into_stream());
                }
            } else if let (Some(until), Some(Greeting { hello, channel, .. })) = (until, greeting) {
                self.server_at = Some(to);
                self.server_name.on_good(to);
                self.stage = Stage::Challenged { token, hello, channel, reply, until };
            }
        }
        if let Some(refusal) = reply.refusal() {
            return self.disconnect(cx, Disconnect::Refused(refusal));
        }
        match self.on_bytes(cx, token, rest) {
            Ok(()) => self.drive(cx, token),
            Err(why) => self.on_broken(cx, token, why),
        }
    }
}

/// There is no connection to the server, or to the proxy in between.
fn unreachable(proxy: bool, error: SysError) -> Disconnect {
    if proxy { Disconnect::Proxy(PassageFailure::Unreachable(error)) } else { Disconnect::Unreachable(error) }
}
