//! The measure of everything: what either end sees through the tunnel, it could have seen without it.
//!
//! Each visit that one end has left is run once more over a direct connection in a kernel of the same kind, with the
//! same socket buffers: the end that left sends what it sent, reads what it had read, shuts if it had shut, and resets;
//! the other sends what it sent, and begins to read only then. Through the tunnel the other end has read at least as
//! much, if it read on until it was told; and an end is told of a reset only if the other has left. Where neither
//! leaves, a direct connection gives both everything, and both must have got it.
//!
//! Times differ between the two, so each run of a direct connection is one of many that are possible. This one gives
//! the reader least: what the sender's kernel still held when it was reset is lost, and the window was never opened by
//! a read. More than that may come, and a clean end may come where the sender had shut before it left.
//!
//! Exempt is what the tunnel itself, or a fault, has broken: transfers that were aborted or refused, visitors that were
//! dropped for a reason that is noted, who had one of their programs killed, whose own connections the network has
//! broken, and who read nothing for `reset_linger`.

use super::World;
use super::actors::{Actor, Who};
use super::plan::Plan;
use crate::kernel::{Kernel, SockId};
use crate::oracle::{Finding, Kind, Property, Sometimes};
use crate::scenario::Outcome;
use crate::trace::Trace;
use core::net::SocketAddr;
use std::time::Duration;

/// What one end of a visit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Did {
    /// Bytes of a header in front of its own: they have taken room in the window.
    front: u64,
    sent: u64,
    received: u64,
    /// Ended its stream.
    shut: bool,
    /// Its script ended it before both streams had ended.
    left: bool,
    /// The other end, or the tunnel, reset it.
    was_reset: bool,
    /// It read until it was told of an end or a reset.
    heard_out: bool,
    /// It serves at a Unix socket.
    unix: bool,
    /// It has shut its reading half.
    unheard: bool,
}

/// A direct connection in a kernel of its own.
struct Line {
    kernel: Kernel,
    /// The end that leaves, and the other.
    socks: [SockId; 2],
    sent: [u64; 2],
}

const LEAVER: usize = 0;
const OTHER: usize = 1;
const CHUNK: usize = 16 * 1024;

impl Line {
    fn new(plan: &Plan) -> Self {
        let mut kernel = Kernel::new(plan.seed, Trace::new(false));
        let [here, there] = [kernel.host(), kernel.host()];
        let [near, far] = [kernel.spawn(here, 10), kernel.spawn(there, 10)];
        let at = SocketAddr::new(kernel.ip(there), 80);
        let (listener, _) = kernel.listen(far, at, 1, plan.foreign()).expect("nobody else is there");
        let sock = kernel.connect(near, at, plan.foreign()).expect("somebody listens");
        settle(&mut kernel);
        let (other, _) = kernel.accept(listener).expect("it was called");
        Self { kernel, socks: [sock, other], sent: [0; 2] }
    }

    /// Sends what is left of `total`, as far as there is room. Returns whether something moved.
    fn send(&mut self, end: usize, total: u64) -> bool {
        let before = self.sent[end];
        while self.sent[end] < total {
            let left = usize::try_from(total - self.sent[end]).unwrap_or(CHUNK).min(CHUNK);
            let Ok(n) = self.kernel.send(self.socks[end], &[0; CHUNK][..left]) else { break };
            self.sent[end] += n as u64;
        }
        settle(&mut self.kernel);
        self.sent[end] > before
    }

    /// Reads up to `most` bytes of what is there.
    fn read(&mut self, end: usize, most: u64) -> u64 {
        let mut buffer = [0; CHUNK];
        let mut got = 0;
        while got < most {
            let room = usize::try_from(most - got).unwrap_or(CHUNK).min(CHUNK);
            match self.kernel.recv(self.socks[end], &mut buffer[..room]) {
                Ok(n @ 1..) => got += n as u64,
                Ok(0) | Err(_) => break,
            }
        }
        settle(&mut self.kernel);
        got
    }
}

/// Everything that is on its way arrives.
fn settle(kernel: &mut Kernel) {
    let until = kernel.now() + Duration::from_millis(10);
    while kernel.next_event().is_some_and(|at| at <= until) {
        kernel.step();
    }
}

/// How many bytes a reader who waits until `leaver` has left gets of it, over a direct connection.
fn least(plan: &Plan, leaver: &Did, other: &Did) -> u64 {
    let mut line = Line::new(plan);
    let mut got = 0;
    loop {
        let moved = [line.send(LEAVER, leaver.sent), line.send(OTHER, other.sent)];
        let read = line.read(LEAVER, leaver.received - got);
        got += read;
        if moved == [false; 2] && read == 0 {
            break;
        }
    }
    if leaver.shut && line.sent[LEAVER] == leaver.sent {
        // It is up, so it can be shut.
        let _ = line.kernel.shut_write(line.socks[LEAVER]);
        settle(&mut line.kernel);
    }
    line.kernel.close(line.socks[LEAVER], true);
    settle(&mut line.kernel);
    line.read(OTHER, u64::MAX)
}

/// Whether `end` saw what it could have seen over a direct connection to `other`.
fn compare(plan: &Plan, end: &Did, other: &Did) -> Result<(), Finding> {
    if end.was_reset && !other.left {
        return Err((Property::AsDirect, "is reset, and the other end has not left".into()));
    }
    if other.left && !end.left && end.heard_out {
        // What was written to a Unix socket is never lost.
        let least = if other.unix { other.sent } else { least(plan, other, end).saturating_sub(other.front) };
        if end.received < least {
            let what = format!("reads {} of {} bytes; directly it would be {least}", end.received, other.sent);
            return Err((Property::AsDirect, what));
        }
    }
    // Of others each end that looks clean is held against what was sent, when it is read.
    if end.unix && !end.left && !other.left && end.heard_out && end.received < other.sent {
        let what = format!("reads an end behind {} of {} bytes, and nobody has left", end.received, other.sent);
        return Err((Property::AsDirect, what));
    }
    Ok(())
}

impl World {
    /// Every visit is over: holds each against a direct connection.
    pub(super) fn check_direct(&mut self) {
        for index in 0..self.actors.all.len() {
            let Err((property, what)) = self.check_visit(index) else { continue };
            let actor = &self.actors.all[index];
            let who = self.actors.streams.show(actor.stream);
            return self.fail(Kind::Safety, property, format!("{who}, from {:?}: {what}", actor.began));
        }
    }

    /// The visit of one visitor.
    fn check_visit(&mut self, index: usize) -> Result<(), Finding> {
        let visitor = &self.actors.all[index];
        if !matches!(visitor.who, Who::Visitor { .. }) {
            return Ok(());
        }
        let Some(public) = self.kernel.peer(visitor.sock) else { return Ok(()) };
        let ends = self.watch.ends_of(public);
        let service = ends.local.and_then(|local| self.kernel.peer(local));
        let service = service.and_then(|sock| self.actors.all.iter().find(|actor| actor.sock == sock));
        let legs = [Some(visitor.sock), Some(public), ends.local, service.map(|actor| actor.sock)];
        let over = service.map(|actor| actor.ended.max(visitor.ended));
        let killed = ends
            .programs
            .iter()
            .flatten()
            .any(|&program| self.processes[program].killed.is_some_and(|at| over.is_none_or(|over| at <= over)));
        if ends.exempt || killed || legs.into_iter().flatten().any(|sock| self.kernel.was_struck(sock)) {
            return Ok(());
        }
        let did = |actor: &Actor| Did {
            front: self.kernel.peer(actor.sock).map_or(0, |public| self.visits.skipped(public)),
            sent: actor.sent as u64,
            received: self.actors.streams.got(actor.stream),
            shut: actor.shut,
            left: actor.outcome == Some(Outcome::Own),
            was_reset: matches!(actor.outcome, Some(Outcome::Reset(_))),
            heard_out: actor.heard_out,
            unix: self.kernel.is_unix(actor.sock),
            unheard: actor.unheard,
        };
        let visitor = did(visitor);
        let Some(service) = service else {
            // Where it was dialled, its service closed its door before it was let in.
            return if ends.local.is_none() && (visitor.sent > 0 || visitor.was_reset) {
                Err((Property::AsDirect, format!("no local_conn was opened for it: {visitor:?}")))
            } else {
                Ok(())
            };
        };
        let service = did(service);
        compare(&self.plan, &visitor, &service)?;
        compare(&self.plan, &service, &visitor)?;
        if service.unheard && visitor.sent > service.received && visitor.received == service.sent {
            self.coverage.saw(Sometimes::UnheardSpoke);
        }
        if visitor.left != service.left {
            self.coverage.saw(Sometimes::ComparedWithDirect);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Did = Did {
        front: 0,
        sent: 0,
        received: 0,
        shut: false,
        left: false,
        was_reset: false,
        heard_out: true,
        unix: false,
        unheard: false,
    };

    #[test]
    fn a_late_reader_gets_what_fits_its_window_before_a_reset() {
        let plan = Plan::new(7);
        let window = plan.buffers.1 as u64;
        let leaver = |sent| Did { sent, left: true, ..NOTHING };
        assert_eq!(least(&plan, &leaver(100), &NOTHING), 100);
        assert_eq!(least(&plan, &leaver(window), &NOTHING), window);
        assert_eq!(least(&plan, &leaver(window + 1000), &NOTHING), window, "the rest was in the sender's kernel");
        let heard = Did { sent: 3000, ..NOTHING };
        assert_eq!(least(&plan, &Did { received: 3000, ..leaver(100) }, &heard), 100);
    }

    #[test]
    fn less_than_a_direct_connection_gives_is_a_finding() {
        let plan = Plan::new(7);
        let leaver = Did { sent: 100, left: true, ..NOTHING };
        let reset = |received| Did { received, was_reset: true, ..NOTHING };
        assert_eq!(compare(&plan, &reset(100), &leaver), Ok(()));
        assert_eq!(compare(&plan, &reset(99), &leaver).unwrap_err().0, Property::AsDirect);
        let hasty = Did { heard_out: false, ..reset(0) };
        assert_eq!(compare(&plan, &hasty, &leaver), Ok(()), "it did not read what was there");
        let at_path = Did { unix: true, ..leaver };
        assert_eq!(compare(&plan, &reset(100), &at_path), Ok(()));
        let window = plan.buffers.1 as u64;
        let much = Did { sent: window + 1000, ..at_path };
        assert_eq!(
            compare(&plan, &reset(window), &much).unwrap_err().0,
            Property::AsDirect,
            "a Unix socket loses nothing"
        );
        let ended = Did { received: 99, ..Did { unix: true, ..NOTHING } };
        let whole = Did { sent: 100, shut: true, ..NOTHING };
        assert_eq!(compare(&plan, &ended, &whole).unwrap_err().0, Property::AsDirect, "nobody left");
        assert_eq!(compare(&plan, &reset(100), &whole).unwrap_err().0, Property::AsDirect, "nobody left");
    }
}
