//! What is looked for: whose each datagram is that is delivered, and what became of all others.

use super::sys::{Said, Side};
use super::{HEAD, Sometimes, World, datagram, ip, relay};
use protocol_sm::driver::messages::{ToClientLoop, ToServerLoop};
use protocol_sm::driver::{Address, Driver};
use protocol_sm::proxy_protocol::{Sender, split};
use std::net::{Ipv4Addr, SocketAddr};

impl World {
    /// Holds what the loops have sent against what they were given.
    pub(super) fn look_at_said(&mut self) {
        for said in std::mem::take(&mut self.net.said) {
            self.said += 1;
            let looked = if said.socket == self.public { self.on_answer(&said) } else { self.on_question(&said) };
            if let Err(what) = looked {
                self.fail(what);
            }
        }
    }

    /// A datagram reaches the service, or finds nobody.
    fn on_question(&mut self, said: &Said) -> Result<(), String> {
        let Said { socket, bytes, .. } = said;
        let again = !self.spoken.insert(*socket);
        if let (1, Some((Side::Client(of), _))) = (self.owner, self.net.watched(*socket)) {
            self.carried.insert(of);
            if self.carried.len() == 2 {
                self.seen.insert(Sometimes::TakenOver);
            }
        }
        let (mut bytes, mut named) = (&bytes[..], None);
        if self.told == Some(false) || self.told == Some(true) && !again {
            let (sender, sent) = split(bytes).map_err(|_| "the service is not told who visits".to_owned())?;
            (bytes, named) = (sent, Some(sender));
        }
        let visitor = self.check(bytes, Some(*socket))?;
        if let (Some(named), Some(visitor)) = (named, visitor) {
            if !matches!(named, Sender::Visitor(ends) if ends.visitor == self.visitor_at(visitor)) {
                return Err(format!("the service takes visitor {visitor} for {named:?}"));
            }
            if again {
                self.seen.insert(Sometimes::ToldAgain);
            }
        }
        if let Some(visitor) = visitor {
            let owner = *self.owners.entry(*socket).or_insert(visitor);
            if owner != visitor {
                return Err(format!("the socket of visitor {owner} carries a datagram of visitor {visitor}"));
            }
            if self.owners.values().filter(|&&owner| owner == visitor).count() > 1 {
                self.seen.insert(Sometimes::SecondFlow);
            }
        }
        if self.net.service_away {
            self.seen.insert(Sometimes::Refused);
            return Ok(());
        }
        let Some(&visitor) = self.owners.get(socket) else { return Ok(()) };
        while self.rng.chance(self.chatty / 2) {
            let number = self.visitors[visitor].down.sent;
            self.visitors[visitor].down.sent += 1;
            let answer = datagram(visitor, true, number, self.longest);
            let whole = answer.len() >= HEAD;
            let from = Address { peer: (Ipv4Addr::LOCALHOST, 53).into(), own: Ipv4Addr::LOCALHOST.into() };
            if self.net.arrive(*socket, from, answer) && whole {
                self.visitors[visitor].down.arrived.push((number, Some(*socket)));
            }
        }
        Ok(())
    }

    /// A datagram reaches a visitor.
    fn on_answer(&mut self, said: &Said) -> Result<(), String> {
        let to = said.to.expect("a public socket is told where to");
        let Some(visitor) = self.check(&said.bytes, None)? else { return Ok(()) };
        let reached =
            if self.is_relayed(visitor) { to.peer.ip() == relay() } else { to.peer == self.visitor_at(visitor) };
        if !reached {
            return Err(format!("{} hears what is for visitor {visitor}", to.peer));
        }
        self.visitors[visitor].answered = true;
        if self.is_relayed(visitor) && self.visitors[visitor - 1].answered {
            self.seen.insert(Sometimes::SameAddress);
        }
        Ok(())
    }

    pub(super) fn visitor_at(&self, number: usize) -> SocketAddr {
        let number = if self.is_relayed(number) { number - 1 } else { number };
        SocketAddr::new(ip(7), 40_000 + u16::try_from(number).expect("few"))
    }

    pub(super) fn is_relayed(&self, visitor: usize) -> bool {
        self.relayed && visitor % 2 == 1
    }

    /// Whether these bytes are one datagram that was sent this way and may be delivered now: to the service by the client's
    /// socket `by`, or to a visitor. Whose it is.
    fn check(&mut self, bytes: &[u8], by: Option<usize>) -> Result<Option<usize>, String> {
        if bytes.is_empty() {
            self.seen.insert(Sometimes::Empty);
            return Ok(None);
        }
        let down = by.is_none();
        let stump = || format!("{} bytes that nobody sent", bytes.len());
        let (head, _) = bytes.split_at_checked(HEAD).ok_or_else(stump)?;
        let visitor = u32::from_be_bytes(head[..4].try_into().expect("four")) as usize;
        let number = u32::from_be_bytes(head[5..].try_into().expect("four"));
        if visitor >= self.visitors.len() || bytes != datagram(visitor, down, number, self.longest) {
            return Err(stump());
        }
        if bytes.len() == 65_507 {
            self.seen.insert(Sometimes::Longest);
        }
        let ordered = self.paths.is_none();
        let of = &mut self.visitors[visitor];
        let way = if down { &mut of.down } else { &mut of.up };
        way.deliver(number, by, ordered)
            .map_err(|what| format!("datagram {number} of visitor {visitor} is delivered {what}"))?;
        Ok(Some(visitor))
    }

    /// Nothing is to come: everything must be over and accounted for.
    pub(super) fn conclude(&mut self) {
        if !self.is_quiet() {
            return self.fail("a silent flow has not ended".into());
        }
        // PROTOCOL.md: P-PATH-7.
        if self.paths.as_ref().is_some_and(|paths| !paths.are_back()) {
            return self.fail("a path that answers is not used again".into());
        }
        let asked = self.now;
        self.with_server(|server, cx| server.on_message(cx, ToServerLoop::Report { asked }));
        for of in 0..2 {
            self.with_client(of, |client, cx| client.on_message(cx, ToClientLoop::Report { asked }));
        }
        self.carry_over();
        if self.lost > 0 {
            self.seen.insert(Sometimes::Counted);
        }
        let (heard, said) = (self.net.heard, self.said);
        if self.calm && heard != said + self.lost {
            self.fail(format!("{heard} datagrams were read, {said} sent, and {} counted as lost", self.lost));
        }
        if self.roomy && self.no_flow > 0 {
            self.fail(format!("{} datagrams lacked a flow, and there is room for all", self.no_flow));
        }
    }
}
