//! The system calls.

use super::{
    Door, End, Holder, Kernel, Listening, PUBLIC_PORT, Pipe, Segment, Side, Socket, Stream, Told, VISITORS, Who, at,
};
use protocol_sm::auth::Channel;
use protocol_sm::driver::messages::{
    FromClientLoop, FromListener, FromServerLoop, ToClientLoop, ToListener, ToLoop, ToOperator, ToServerLoop,
};
use protocol_sm::driver::paths::ToPaths;
use protocol_sm::driver::{
    Datagrams, Entropy, Given, Listen, Log, Lookup, Note, Readiness, Received, Resolve, Role, Splice, Streams,
    SysError, Tell, Token,
};
use protocol_sm::settings::Origin;
use std::collections::VecDeque;
use std::net::SocketAddr;

impl Kernel<'_> {
    fn room(&self, from: End) -> usize {
        match self.net.sock(from.other()).holder {
            // A handshake fits.
            Holder::Peer | Holder::Closed | Holder::Backlog => usize::MAX,
            Holder::Driver(..) => self.net.sock(from.other()).room(self.net.window),
        }
    }

    fn write(&mut self, end: End, from: &[u8]) -> Result<usize, SysError> {
        assert!(!self.net.sock(end).shut, "nothing is written after the shutdown");
        if self.net.sock(end).dead {
            // The one error that is kept is told once, to whoever calls first.
            self.net.sock_mut(end).error = None;
            return Err(SysError::Reset);
        }
        assert!(!self.net.sock(end).connecting, "nothing is written before the connection is there");
        let count = from.len().min(self.room(end));
        if count == 0 {
            self.net.sock_mut(end).blocked = true;
            return Err(SysError::WouldBlock);
        }
        if self.who == Who::Listener {
            self.net.answer(end, from);
            self.story.at(self.who.party(), || String::from_utf8_lossy(from).into_owned());
            return Ok(from.len());
        }
        self.net.transmit(end, Segment::Bytes(from[..count].to_vec()), self.story);
        Ok(count)
    }

    fn read(&mut self, end: End, max: usize) -> Result<Vec<u8>, SysError> {
        assert!(max > 0, "a read has room");
        let sock = self.net.sock_mut(end);
        if sock.connecting {
            return Err(SysError::WouldBlock);
        }
        if !sock.arrived.is_empty() {
            let count = max.min(sock.arrived.len());
            let rest = sock.arrived.split_off(count);
            let bytes = std::mem::replace(&mut sock.arrived, rest);
            self.net.unblock(end.other());
            return Ok(bytes);
        }
        // A reset behind an end is never shown to a reader.
        if sock.ended {
            return Ok(Vec::new());
        }
        if let Some(error) = sock.error.take() {
            return Err(error);
        }
        if sock.dead { Ok(Vec::new()) } else { Err(SysError::WouldBlock) }
    }
}

impl Streams for Kernel<'_> {
    type Stream = Stream;

    fn watch(&mut self, stream: &Stream, token: Token) -> Result<(), SysError> {
        let who = self.who;
        let sock = self.net.sock_mut(stream.0);
        sock.holder = Holder::Driver(who, Some(token));
        sock.ready.readable = !sock.arrived.is_empty() || sock.ended;
        sock.ready.hup = sock.ended;
        if sock.error.is_some() {
            sock.ready = Readiness { readable: true, writable: true, hup: true, error: true };
        }
        Ok(())
    }

    fn unwatch(&mut self, stream: &Stream) {
        let who = self.who;
        let sock = self.net.sock_mut(stream.0);
        sock.holder = Holder::Driver(who, None);
        sock.ready = Readiness::default();
    }

    fn connect(&mut self, _: &Origin, to: SocketAddr, role: Role, token: Token) -> Result<Stream, SysError> {
        let own = Holder::Driver(self.who, Some(token));
        let other = if role == Role::Local { Holder::Peer } else { Holder::Backlog };
        let door = self.net.doors.iter_mut().flatten().find(|door| door.port == to.port());
        let end = match (role, door) {
            (Role::Ctl, None) => return Err(SysError::Refused),
            (_, None) => self.net.add(role, own, other),
            (_, Some(_)) => {
                let end = self.net.add(role, own, other);
                let door = self.net.doors.iter_mut().flatten().find(|door| door.port == to.port());
                door.expect("found before").backlog.push_back(end.other());
                end
            }
        };
        // The others are through at once, and nothing is ever reported of that.
        self.net.sock_mut(end).connecting = role == Role::Local;
        Ok(Stream(end))
    }

    fn take_error(&mut self, stream: &Stream) -> Result<(), SysError> {
        let sock = self.net.sock_mut(stream.0);
        if sock.connecting {
            return Err(SysError::WouldBlock);
        }
        sock.error.take().map_or(Ok(()), Err)
    }

    fn recv(&mut self, stream: &Stream, into: &mut [u8]) -> Result<Received, SysError> {
        let bytes = self.read(stream.0, into.len())?;
        into[..bytes.len()].copy_from_slice(&bytes);
        Ok(Received { bytes: bytes.len(), drained: bytes.len() < into.len() })
    }

    fn peek(&mut self, _: &Stream, _: &mut [u8]) -> Result<usize, SysError> {
        unreachable!("nobody is in front of the server here")
    }

    fn skip(&mut self, _: &Stream, _: usize) {}

    fn send(&mut self, stream: &Stream, from: &[u8]) -> Result<usize, SysError> {
        assert!(!from.is_empty(), "a write has something to write");
        self.write(stream.0, from)
    }

    fn channel(&mut self, _: &Stream) -> Result<Option<Channel>, SysError> {
        Ok(None)
    }

    fn own_address(&self, _: &Stream) -> SocketAddr {
        at(PUBLIC_PORT)
    }

    fn unsent(&self, stream: &Stream) -> usize {
        // What has arrived at a driver is acknowledged.
        let coming = |segment: &Segment| match segment {
            Segment::Bytes(bytes) => bytes.len(),
            Segment::Fin | Segment::Rst => 0,
        };
        let on_the_way: usize = self.net.sock(stream.0.other()).coming.iter().map(coming).sum();
        on_the_way + self.net.unacknowledged(stream.0)
    }

    fn shut_write(&mut self, stream: &Stream) {
        let sock = self.net.sock_mut(stream.0);
        assert!(!sock.shut, "SHUT_WR exactly once");
        sock.shut = true;
        if !sock.dead {
            self.net.transmit(stream.0, Segment::Fin, self.story);
        }
    }

    fn close(&mut self, stream: Stream) {
        let end = stream.0;
        let outer = self.net.peer_of(end);
        let sock = self.net.sock_mut(end);
        assert!(sock.holder != Holder::Closed, "every fd closed exactly once");
        let (shut, dead, unread) = (sock.shut, sock.dead, !sock.arrived.is_empty() || !sock.coming.is_empty());
        if let Some((visit, side)) = outer
            && !dead
        {
            let answered = side == Side::Visitor && self.net.visits[visit].answered;
            let ended = self.net.visits[visit].peer(side).fin && !unread;
            assert!(
                shut && (ended || answered),
                "what was cut short is reset: {side:?} of visit {visit} was closed before its end"
            );
            self.net.visits[visit].peer(side).end = None;
            self.net.sock_mut(end.other()).holder = Holder::Closed;
        } else if !dead {
            if unread {
                self.net.transmit(end, Segment::Rst, self.story);
            } else if !shut {
                self.net.transmit(end, Segment::Fin, self.story);
            }
        }
        self.put_away(end);
    }

    fn reset(&mut self, stream: Stream) {
        let end = stream.0;
        assert!(self.net.sock(end).holder != Holder::Closed, "every fd closed exactly once");
        if !self.net.sock(end).dead {
            self.net.transmit(end, Segment::Rst, self.story);
        }
        self.put_away(end);
    }
}

/// No UDP here: such tunnels are refused.
impl Datagrams for Kernel<'_> {}

impl Splice for Kernel<'_> {
    type Pipe = Pipe;

    fn splice_in(&mut self, stream: &Stream, pipe: &Pipe, max: usize) -> Result<usize, SysError> {
        let held = self.net.pipes[usize::from(pipe.0)].as_ref().expect("every pipe closed exactly once");
        assert!(held.is_empty(), "a pipe is drained before it is filled");
        let bytes = self.read(stream.0, max.min(self.net.pipe_capacity))?;
        let count = bytes.len();
        self.net.pipes[usize::from(pipe.0)] = Some(bytes);
        Ok(count)
    }

    fn splice_out(&mut self, pipe: &Pipe, stream: &Stream, max: usize) -> Result<usize, SysError> {
        let held = self.net.pipes[usize::from(pipe.0)].clone().expect("every pipe closed exactly once");
        assert_eq!(max, held.len(), "taken - forwarded is what the pipe holds");
        let count = self.write(stream.0, &held)?;
        self.net.pipes[usize::from(pipe.0)] = Some(held[count..].to_vec());
        Ok(count)
    }

    fn read_pipe(&mut self, pipe: &Pipe, into: &mut [u8]) -> Result<(), SysError> {
        let held = self.net.pipes[usize::from(pipe.0)].take().expect("every pipe closed exactly once");
        into.copy_from_slice(&held);
        self.net.pipes[usize::from(pipe.0)] = Some(Vec::new());
        Ok(())
    }

    fn can_splice(&self, _: &Stream) -> bool {
        true
    }

    fn pipe(&mut self) -> Option<(Pipe, usize)> {
        if self.net.pipe_capacity == 0 {
            return None;
        }
        let free = self.net.pipes.iter().position(Option::is_none).unwrap_or_else(|| {
            self.net.pipes.push(None);
            self.net.pipes.len() - 1
        });
        self.net.pipes[free] = Some(Vec::new());
        Some((Pipe(u16::try_from(free).expect("few pipes")), self.net.pipe_capacity))
    }

    fn recycle(&mut self, pipe: Pipe, empty: bool) {
        let held = self.net.pipes[usize::from(pipe.0)].take().expect("every pipe closed exactly once");
        assert!(!empty || held.is_empty(), "a pipe with bytes in it is destroyed, never pooled");
    }
}

impl Entropy for Kernel<'_> {
    fn random(&mut self, into: &mut [u8]) {
        // Names must differ; pauses and picked ports may not, so that histories of equal outcome meet.
        into.fill(0);
        if into.len() > 4 {
            self.net.draws += 1;
            into[..4].copy_from_slice(&self.net.draws.to_le_bytes());
        }
    }
}

impl Log for Kernel<'_> {
    fn note(&mut self, note: Note) {
        self.story.at(self.who.party(), || format!("{note:?}"));
        self.told.push(Told::Note(note));
    }
}

impl Kernel<'_> {
    fn put_away(&mut self, end: End) {
        let sock = self.net.sock_mut(end);
        *sock = Socket::new(Holder::Closed);
        sock.dead = true;
        self.net.sweep(end);
    }
}

impl Listen for Kernel<'_> {
    type Listener = Door;

    fn listen(&mut self, at: SocketAddr, token: Token) -> Result<(Door, SocketAddr), SysError> {
        let doors = &mut self.net.doors;
        if doors.iter().flatten().any(|door| door.port == at.port()) {
            return Err(SysError::InUse);
        }
        let free = doors.iter().position(Option::is_none).unwrap_or_else(|| {
            doors.push(None);
            doors.len() - 1
        });
        doors[free] = Some(Listening { port: at.port(), who: self.who, token, backlog: VecDeque::new() });
        Ok((Door(u16::try_from(free).expect("few ports")), at))
    }

    fn adopt(&mut self, _: &Door, _: Token) -> Result<SocketAddr, SysError> {
        unreachable!("no process of this ring leaves a listener to another")
    }

    fn lend(&mut self, _: &Door, _: &Given) {}

    fn accept(&mut self, listener: &Door, _role: Role) -> Result<(Stream, SocketAddr), SysError> {
        let door = self.net.doors[usize::from(listener.0)].as_mut().expect("every fd closed exactly once");
        let end = door.backlog.pop_front().ok_or(SysError::WouldBlock)?;
        self.net.hand_over(end, Some(self.who));
        let from = self.net.peer_of(end).map_or(1, |(visit, _)| VISITORS + u16::try_from(visit).expect("few visits"));
        Ok((Stream(end), at(from)))
    }

    fn unlisten(&mut self, listener: Door) {
        let door = self.net.doors[usize::from(listener.0)].take().expect("every fd closed exactly once");
        for end in door.backlog {
            self.net.hand_over(end, Some(self.who));
            self.reset(Stream(end));
        }
    }
}

impl Resolve for Kernel<'_> {
    fn resolve(&mut self, tag: Lookup, _name: &str) {
        self.told.push(Told::Resolve(tag));
    }
}

impl Tell<FromServerLoop<Stream>> for Kernel<'_> {
    fn tell(&mut self, msg: FromServerLoop<Stream>) {
        self.told.push(Told::FromServerLoop(msg));
    }
}

impl Tell<FromClientLoop> for Kernel<'_> {
    fn tell(&mut self, msg: FromClientLoop) {
        self.told.push(Told::FromClientLoop(msg));
    }
}

impl Tell<ToLoop<ToServerLoop<Stream>>> for Kernel<'_> {
    fn tell(&mut self, msg: ToLoop<ToServerLoop<Stream>>) {
        self.told.push(Told::ToServerLoop(msg.message));
    }
}

impl Tell<ToLoop<ToClientLoop>> for Kernel<'_> {
    fn tell(&mut self, msg: ToLoop<ToClientLoop>) {
        self.told.push(Told::ToClientLoop(msg.message));
    }
}

impl Tell<ToPaths> for Kernel<'_> {
    /// Nobody carries paths here: the client waits for one in vain, and conns have all datagrams.
    fn tell(&mut self, _: ToPaths) {}
}

impl Tell<ToOperator> for Kernel<'_> {
    fn tell(&mut self, msg: ToOperator) {
        match msg {
            ToOperator::Done { .. } => {}
            ToOperator::Report { .. } => unreachable!("nobody asks here: a report decides nothing"),
        }
    }
}

impl Tell<ToListener<Stream>> for Kernel<'_> {
    fn tell(&mut self, msg: ToListener<Stream>) {
        self.told.push(Told::ToListener(msg));
    }
}

impl Tell<FromListener> for Kernel<'_> {
    fn tell(&mut self, msg: FromListener) {
        self.told.push(Told::FromListener(msg));
    }
}
