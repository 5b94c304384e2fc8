//! The drivers' system over turmoil: sockets and pipes of one process, and its threads' mailboxes.
//!
//! The threads of a process are steps of one task. Calls that could move many bytes are cut short by chance, because
//! turmoil itself never does that.

use super::options::Lie;
use super::orders::Moment;
use super::socket::Socket;
use super::stage::{SERVER, Stage};
use super::watch::Watch;
use crate::impostor::Overheard;
use crate::kernel::{ProcId, Rng};
use crate::oracle::{Kind, Property, Sometimes};
use crate::scenario::{ANSWER, MET};
use protocol_sm::auth::Channel;
use protocol_sm::driver::messages::{
    FromClientLoop, FromListener, FromServerLoop, ToClientLoop, ToClientMain, ToListener, ToLoop, ToOperator,
    ToServerLoop, ToServerMain,
};
use protocol_sm::driver::paths::ToPaths;
use protocol_sm::driver::{
    Datagrams, Entropy, Given, Listen, Log, Lookup, Note, Readiness, Received, Resolve, Role, Splice, Streams,
    SysError, Tell, Token,
};
use protocol_sm::settings::Origin;
use protocol_sm::time::Instant;
use protocol_sm::wire::{ClientMsg, ServerMsg};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use turmoil::net::{TcpListener, TcpStream};

/// A connection of a process.
#[derive(Debug)]
pub(super) struct Stream(u64);

/// A listening socket of a process.
#[derive(Debug)]
pub(super) struct Door(u64);

/// A pipe.
#[derive(Debug)]
pub(super) struct Pipe {
    bytes: RefCell<VecDeque<u8>>,
    capacity: usize,
}

/// The place of the thread that accepts visitors among the server's.
pub(super) const LISTENER: usize = 1;
/// Up to so many bytes are sent whole or not at all.
const WHOLE: usize = 128;
/// Most bytes that a pipe holds.
const PIPE: usize = 64 * 1024;

/// A mailbox.
pub(super) type Mailbox<M> = Rc<RefCell<VecDeque<M>>>;

/// The mailboxes of a process's threads.
#[derive(Debug, Default)]
pub(super) struct Mail {
    pub(super) server_main: Mailbox<ToServerMain<Stream>>,
    pub(super) listener: Mailbox<ToListener<Stream>>,
    pub(super) server_loops: Vec<Mailbox<ToServerLoop<Stream>>>,
    pub(super) client_main: Mailbox<ToClientMain>,
    pub(super) client_loops: Vec<Mailbox<ToClientLoop>>,
}

struct Entry {
    socket: Socket,
    watch: Option<(usize, Token)>,
}

type Accepting = Pin<Box<dyn Future<Output = (TcpListener, io::Result<(TcpStream, SocketAddr)>)>>>;

/// A listening socket, with whom nobody has accepted yet.
pub(super) struct Backlog {
    pub(super) at: SocketAddr,
    accepting: Accepting,
    queue: VecDeque<(Socket, SocketAddr)>,
    /// None while it is held for whoever had it in another process.
    watch: Option<(usize, Token)>,
    edge: bool,
}

/// What the threads of one process share.
pub(super) struct Process {
    pub(super) stage: Rc<Stage>,
    pub(super) who: ProcId,
    pub(super) mail: Mail,
    pub(super) rng: Rng,
    pub(super) watch: Watch,
    sockets: BTreeMap<u64, Entry>,
    doors: BTreeMap<u64, Backlog>,
    /// What another process may take over.
    lent: Vec<(Given, u64)>,
    /// Listening sockets that another process has, until this one closes its own copies.
    given: BTreeSet<u64>,
    /// What whoever sees to an upgrade was answered.
    pub(super) done: Option<usize>,
    pipes: usize,
    lookups: Vec<(Instant, Lookup, Vec<SocketAddr>)>,
    /// Challenges of authorities that are looked for, until when, and whether there is an answer.
    challenges: Vec<(Instant, Token, bool)>,
    /// What was read last.
    last_read: Option<u64>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("who", &self.who).finish_non_exhaustive()
    }
}

impl Process {
    pub(super) fn new(stage: &Rc<Stage>, who: ProcId, loop_count: usize) -> Rc<RefCell<Self>> {
        let mut mail = Mail::default();
        mail.server_loops.resize_with(loop_count, Mailbox::default);
        mail.client_loops.resize_with(loop_count, Mailbox::default);
        Rc::new(RefCell::new(Self {
            stage: Rc::clone(stage),
            who,
            mail,
            rng: stage.fork(),
            watch: Watch::new(stage),
            sockets: BTreeMap::new(),
            doors: BTreeMap::new(),
            lent: Vec::new(),
            given: BTreeSet::new(),
            done: None,
            pipes: 0,
            lookups: Vec::new(),
            challenges: Vec::new(),
            last_read: None,
        }))
    }

    /// Takes in what has come to any socket, and asks to be woken when more does.
    pub(super) fn pull(&mut self, cx: &mut Context<'_>) {
        for entry in self.sockets.values_mut() {
            entry.socket.pull(cx);
        }
        for door in self.doors.values_mut() {
            while let Poll::Ready((listener, accepted)) = door.accepting.as_mut().poll(cx) {
                let (stream, from) = accepted.expect("turmoil's accept does not fail");
                door.queue.push_back((Socket::accepted(&self.stage, self.who, true, stream), from));
                door.accepting = accepting(listener);
                door.edge = true;
            }
        }
        let now = self.stage.now();
        for index in (0..self.lookups.len()).rev() {
            if self.lookups[index].0 <= now {
                let (_, tag, addresses) = self.lookups.remove(index);
                self.mail.client_main.borrow_mut().push_back(ToClientMain::Resolved { tag, addresses });
            }
        }
        for (_, newcomer, met) in self.challenges.extract_if(.., |&mut (at, ..)| at <= now) {
            let answer = met.then(|| ANSWER.to_vec());
            self.mail.listener.borrow_mut().push_back(ToListener::Challenge { newcomer, answer });
        }
    }

    /// When something happens here by itself.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let sockets = self.sockets.values().filter_map(|entry| entry.socket.deadline());
        let looked_for = self.lookups.iter().map(|&(at, ..)| at).chain(self.challenges.iter().map(|&(at, ..)| at));
        sockets.chain(looked_for).min()
    }

    /// Whether a thread has events to take.
    pub(super) fn has_events(&self, thread: usize) -> bool {
        let socket = |entry: &Entry| entry.watch.is_some_and(|(owner, _)| owner == thread) && entry.socket.has_edge();
        let door = |door: &Backlog| door.edge && door.watch.is_some_and(|(owner, _)| owner == thread);
        self.sockets.values().any(socket) || self.doors.values().any(door)
    }

    /// What is to be reported to a thread, in any order.
    pub(super) fn take_events(&mut self, thread: usize) -> Vec<(Token, Readiness)> {
        let mut events = Vec::new();
        for entry in self.sockets.values_mut() {
            if let Some((_, token)) = entry.watch.filter(|&(owner, _)| owner == thread)
                && let Some(ready) = entry.socket.take_edge()
            {
                events.push((token, ready));
            }
        }
        for door in self.doors.values_mut() {
            if let Some((_, token)) = door.watch.filter(|&(owner, _)| owner == thread)
                && std::mem::take(&mut door.edge)
            {
                events.push((token, Readiness { readable: !door.queue.is_empty(), ..Readiness::default() }));
            }
        }
        shuffle(&mut self.rng, &mut events);
        events
    }

    /// What is open: sockets, listening sockets, pipes.
    pub(super) fn open(&self) -> (usize, usize, usize) {
        (self.sockets.len(), self.doors.len(), self.pipes)
    }

    fn insert(&mut self, socket: Socket, watch: Option<(usize, Token)>) -> Stream {
        let number = self.stage.number();
        self.sockets.insert(number, Entry { socket, watch });
        Stream(number)
    }

    /// Nobody takes over what it has lent so far.
    pub(super) fn forget_lent(&mut self) {
        self.lent.clear();
    }

    /// Gives what it has lent, and has open still, to another process, with all that waits there.
    pub(super) fn give(&mut self) -> Vec<(Given, Backlog)> {
        let mut left = Vec::new();
        for (given, door) in std::mem::take(&mut self.lent) {
            // A port that was closed meanwhile is another's, or nobody's.
            if let Some(backlog) = self.doors.remove(&door) {
                self.given.insert(door);
                left.push((given, Backlog { watch: None, ..backlog }));
            }
        }
        left
    }

    /// Takes what another process gives.
    pub(super) fn take(&mut self, backlog: Backlog) -> Door {
        let door = self.stage.number();
        self.doors.insert(door, backlog);
        Door(door)
    }

    fn socket(&mut self, stream: &Stream) -> &mut Socket {
        &mut self.sockets.get_mut(&stream.0).expect("a stream that is not closed").socket
    }

    /// How much of `length` a call moves at most. A few bytes are never cut in two by a socket with room.
    fn cut(&mut self, length: usize, least: usize) -> usize {
        if length > least && self.rng.chance(self.stage.plan.scenario.short_calls) {
            self.stage.saw(Sometimes::ShortWrite);
            return self.rng.log_size(least, length - 1);
        }
        length
    }

    /// Whether this call of splice(2) is let through: where the system refuses it, it may do so at any call.
    fn may_splice(&mut self) -> Result<(), SysError> {
        if self.rng.chance(self.stage.plan.scenario.no_splice) {
            self.stage.saw(Sometimes::SpliceRefused);
            return Err(SysError::Unsupported);
        }
        Ok(())
    }

    /// A transfer has come to such a moment: its conn is `stream`, or what was read last.
    fn ambush(&mut self, stream: Option<u64>, moment: Moment) {
        let mut sockets = [stream, self.last_read].into_iter().flatten().filter_map(|stream| self.sockets.get(&stream));
        let conn = sockets.find(|entry| entry.socket.role() == Some(Role::Proxy));
        if let Some(conn) = conn.filter(|_| self.stage.orders.is_ambushed(moment)) {
            conn.socket.strike();
        }
    }

    /// Whether this call finds memory. For a ctl_conn it always does: one that does not is lost, as by a reset.
    fn find_memory(&mut self, stream: &Stream) -> Result<(), SysError> {
        let chance = self.stage.orders.with_status(self.who, |status| status.no_memory);
        if chance > 0 && self.socket(stream).role() != Some(Role::Ctl) && self.rng.chance(chance) {
            self.stage.saw(Sometimes::NoMemory);
            return Err(SysError::Exhausted);
        }
        Ok(())
    }

    /// Whether the system does this wrong now.
    fn lies(&mut self, lie: Lie) -> bool {
        self.stage.lie == Some(lie) && self.rng.chance(10)
    }

    fn recv(&mut self, stream: &Stream, into: &mut [u8]) -> Result<usize, SysError> {
        let n = self.socket(stream).recv(into)?;
        self.last_read = Some(stream.0);
        if self.who == SERVER && Overheard::is_of_use(&into[..n]) {
            self.stage.oracle.overheard.borrow_mut().on_read(key(stream), &into[..n]);
        }
        if n > 100 && self.lies(Lie::ByteLost) {
            into.copy_within(51..n, 50);
            return Ok(n - 1);
        }
        if n > 100 && self.lies(Lie::BytesRepeated) {
            into.copy_within(20..50, 50);
        }
        Ok(n)
    }

    fn out_of_descriptors(&mut self) -> bool {
        let few = self.stage.orders.with_status(self.who, |status| status.few_descriptors) && self.rng.chance(60);
        if few {
            self.stage.saw(Sometimes::OutOfDescriptors);
        }
        few
    }
}

fn key(stream: &Stream) -> usize {
    usize::try_from(stream.0).expect("fits memory")
}

/// Any order.
pub(super) fn shuffle<T>(rng: &mut Rng, items: &mut [T]) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.size(0, i));
    }
}

fn accepting(listener: TcpListener) -> Accepting {
    Box::pin(async move {
        let accepted = listener.accept().await;
        (listener, accepted)
    })
}

/// One thread's view of its process.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) process: Rc<RefCell<Process>>,
    pub(super) index: usize,
}

impl Thread {
    fn close_as(&self, stream: Stream, reset: bool) {
        let mut process = self.process.borrow_mut();
        if process.lies(Lie::SocketLeaked) {
            return;
        }
        let mut entry = process.sockets.remove(&stream.0).expect("a stream that is closed for the first time");
        entry.socket.close(reset);
    }
}

impl Streams for Thread {
    type Stream = Stream;

    fn watch(&mut self, stream: &Stream, token: Token) -> Result<(), SysError> {
        let mut process = self.process.borrow_mut();
        let entry = process.sockets.get_mut(&stream.0).expect("a stream that is not closed");
        assert_eq!(entry.watch, None, "a stream is watched by one thread");
        entry.watch = Some((self.index, token));
        entry.socket.arm();
        Ok(())
    }

    fn unwatch(&mut self, stream: &Stream) {
        let mut process = self.process.borrow_mut();
        process.sockets.get_mut(&stream.0).expect("a stream that is not closed").watch = None;
    }

    fn connect(&mut self, _: &Origin, to: SocketAddr, role: Role, token: Token) -> Result<Stream, SysError> {
        let mut process = self.process.borrow_mut();
        if process.out_of_descriptors() {
            return Err(SysError::Exhausted);
        }
        if role == Role::Local {
            process.ambush(None, Moment::Dialling);
        }
        let socket = Socket::connect(&process.stage, process.who, Some(role), to);
        Ok(process.insert(socket, Some((self.index, token))))
    }

    fn take_error(&mut self, stream: &Stream) -> Result<(), SysError> {
        self.process.borrow_mut().socket(stream).take_error()
    }

    fn recv(&mut self, stream: &Stream, into: &mut [u8]) -> Result<Received, SysError> {
        assert!(!into.is_empty(), "a read of nothing would look like the end of the stream");
        let mut process = self.process.borrow_mut();
        process.find_memory(stream)?;
        let most = process.cut(into.len(), 1);
        let bytes = process.recv(stream, &mut into[..most])?;
        Ok(Received { bytes, drained: bytes < most })
    }

    fn assign(&mut self, stream: &mut Stream, role: Role) {
        let mut process = self.process.borrow_mut();
        let visitor = role == Role::Public;
        process.stage.saw(if visitor { Sometimes::VisitorAtOnePort } else { Sometimes::ClientAtOnePort });
        process.socket(stream).set_role(role);
    }

    fn peek(&mut self, stream: &Stream, into: &mut [u8]) -> Result<usize, SysError> {
        self.process.borrow_mut().socket(stream).peek(into)
    }

    fn skip(&mut self, stream: &Stream, bytes: usize) {
        // A reset has taken them: the next call tells.
        let _ = self.process.borrow_mut().socket(stream).recv(&mut vec![0; bytes]);
    }

    fn send(&mut self, stream: &Stream, from: &[u8]) -> Result<usize, SysError> {
        assert!(!from.is_empty(), "nothing to send");
        let mut process = self.process.borrow_mut();
        process.find_memory(stream)?;
        // Whom the server answers itself has a fresh socket, which takes these few bytes.
        let least = if process.who == SERVER && self.index == LISTENER { from.len() } else { WHOLE };
        let most = process.cut(from.len(), least);
        process.socket(stream).send(&from[..most])
    }

    fn channel(&mut self, _: &Stream) -> Result<Option<Channel>, SysError> {
        Ok(None)
    }

    fn own_address(&self, stream: &Stream) -> SocketAddr {
        self.process.borrow_mut().socket(stream).own_address()
    }

    fn unsent(&self, _: &Stream) -> usize {
        // A reset may overtake what was sent before it here, whatever is waited for.
        0
    }

    fn shut_write(&mut self, stream: &Stream) {
        let mut process = self.process.borrow_mut();
        if !process.lies(Lie::EndLost) {
            process.socket(stream).shut_write();
        }
    }

    fn close(&mut self, stream: Stream) {
        self.close_as(stream, false);
    }

    fn reset(&mut self, stream: Stream) {
        self.close_as(stream, true);
    }
}

/// No UDP here: such tunnels are refused.
impl Datagrams for Thread {}

impl Splice for Thread {
    type Pipe = Pipe;

    fn splice_in(&mut self, stream: &Stream, pipe: &Pipe, max: usize) -> Result<usize, SysError> {
        let mut process = self.process.borrow_mut();
        process.may_splice()?;
        process.find_memory(stream)?;
        let mut held = pipe.bytes.borrow_mut();
        if !held.is_empty() || max == 0 {
            process.stage.breach(Kind::Safety, Property::PipesEmptyAtRest, "filled while not empty".into());
        }
        let most = process.cut(max.min(pipe.capacity), 1);
        let mut bytes = vec![0; most];
        let n = process.recv(stream, &mut bytes)?;
        held.extend(&bytes[..n]);
        process.stage.saw(Sometimes::Spliced);
        if n == pipe.capacity {
            process.stage.saw(Sometimes::PipeFull);
        }
        Ok(n)
    }

    fn splice_out(&mut self, pipe: &Pipe, stream: &Stream, max: usize) -> Result<usize, SysError> {
        let mut process = self.process.borrow_mut();
        process.may_splice()?;
        process.find_memory(stream)?;
        let mut held = pipe.bytes.borrow_mut();
        if held.len() != max {
            process.stage.breach(
                Kind::Safety,
                Property::PipesEmptyAtRest,
                format!("{max} bytes wanted of {} held", held.len()),
            );
        }
        let most = process.cut(max, WHOLE);
        let sent = process.socket(stream).send(&held.make_contiguous()[..most]);
        held.drain(..sent.unwrap_or(0));
        if !held.is_empty() {
            process.stage.saw(Sometimes::PipeHeldBytes);
            process.ambush(Some(stream.0), Moment::PipeHeld);
        }
        sent
    }

    fn read_pipe(&mut self, pipe: &Pipe, into: &mut [u8]) -> Result<(), SysError> {
        let mut held = pipe.bytes.borrow_mut();
        if held.len() != into.len() {
            let what = format!("{} bytes wanted of {} held", into.len(), held.len());
            self.process.borrow().stage.breach(Kind::Safety, Property::PipesEmptyAtRest, what);
        }
        into.iter_mut().zip(held.drain(..)).for_each(|(to, byte)| *to = byte);
        Ok(())
    }

    fn can_splice(&self, _: &Stream) -> bool {
        true
    }

    fn pipe(&mut self) -> Option<(Pipe, usize)> {
        let mut process = self.process.borrow_mut();
        let no_pipe = process.stage.plan.scenario.no_pipe;
        if process.rng.chance(no_pipe) {
            process.stage.saw(Sometimes::NoPipe);
            return None;
        }
        process.pipes += 1;
        let capacity = process.rng.pick(&[4 * 1024, 16 * 1024, PIPE]);
        Some((Pipe { bytes: RefCell::default(), capacity }, capacity))
    }

    fn recycle(&mut self, pipe: Pipe, empty: bool) {
        let mut process = self.process.borrow_mut();
        process.pipes -= 1;
        let held = pipe.bytes.borrow().len();
        if empty && held > 0 {
            let what = format!("given back as empty with {held} bytes in it");
            process.stage.breach(Kind::Safety, Property::PipesEmptyAtRest, what);
        }
    }
}

impl Entropy for Thread {
    fn random(&mut self, into: &mut [u8]) {
        let mut process = self.process.borrow_mut();
        into.fill_with(|| process.rng.next().to_le_bytes()[0]);
    }
}

impl Log for Thread {
    fn note(&mut self, note: Note) {
        let process = self.process.borrow();
        process.watch.noted(&note);
        process.stage.note(process.who, &note);
        if let Note::Started { control, conn, epoch, .. } = note {
            process.watch.started(control, conn, epoch);
        } else if let Note::Visit(_) = note {
            process.watch.visit_over();
        }
    }
}

impl Listen for Thread {
    type Listener = Door;

    fn listen(&mut self, at: SocketAddr, token: Token) -> Result<(Door, SocketAddr), SysError> {
        let mut bind = std::pin::pin!(TcpListener::bind(at));
        let bound = match bind.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(bound) => bound,
            Poll::Pending => unreachable!("turmoil binds at once"),
        };
        let listener = bound.map_err(|_| SysError::InUse)?;
        let address = listener.local_addr().map_err(|_| SysError::Other(0))?;
        let backlog = Backlog {
            at: address,
            accepting: accepting(listener),
            queue: VecDeque::new(),
            watch: Some((self.index, token)),
            edge: false,
        };
        Ok((self.process.borrow_mut().take(backlog), address))
    }

    fn adopt(&mut self, listener: &Door, token: Token) -> Result<SocketAddr, SysError> {
        let mut process = self.process.borrow_mut();
        let door = process.doors.get_mut(&listener.0).expect("a listener that is not closed");
        door.watch = Some((self.index, token));
        door.edge = true;
        Ok(door.at)
    }

    fn lend(&mut self, listener: &Door, given: &Given) {
        self.process.borrow_mut().lent.push((given.clone(), listener.0));
    }

    fn accept(&mut self, listener: &Door, role: Role) -> Result<(Stream, SocketAddr), SysError> {
        let mut process = self.process.borrow_mut();
        let some = process.doors.get(&listener.0).is_some_and(|door| !door.queue.is_empty());
        if some && process.out_of_descriptors() {
            return Err(SysError::Exhausted);
        }
        let door = process.doors.get_mut(&listener.0).expect("a listener that is neither closed nor given on");
        let (socket, from) = door.queue.pop_front().ok_or(SysError::WouldBlock)?;
        socket.set_role(role);
        Ok((process.insert(socket, None), from))
    }

    fn find_challenge(&mut self, newcomer: Token, name: &str) -> bool {
        let mut process = self.process.borrow_mut();
        let met = name == MET;
        // Only so many are looked for at once.
        let looked_for = met || process.rng.chance(70);
        if looked_for {
            if !met {
                process.stage.saw(Sometimes::ChallengePassedOn);
            }
            let at = process.stage.now() + Duration::from_millis(process.rng.log_size(1, 50) as u64);
            process.challenges.push((at, newcomer, met));
        }
        looked_for
    }

    fn unlisten(&mut self, listener: Door) {
        // Connections that nobody has accepted are reset, as at the death of the process.
        let mut process = self.process.borrow_mut();
        if !process.given.remove(&listener.0) {
            process.doors.remove(&listener.0).expect("a listener closed for the first time");
        }
    }
}

impl Resolve for Thread {
    fn resolve(&mut self, tag: Lookup, name: &str) {
        let mut process = self.process.borrow_mut();
        let (host, port) = name.rsplit_once(':').expect("HOST:PORT");
        let port = port.parse().expect("a port");
        let fails = process.stage.orders.with_status(process.who, |status| status.no_names);
        let addresses = if fails { Vec::new() } else { vec![SocketAddr::new(turmoil::lookup(host), port)] };
        let at = process.stage.now() + Duration::from_millis(process.rng.log_size(1, 200) as u64);
        process.lookups.push((at, tag, addresses));
    }
}

fn post<M>(to: &Mailbox<M>, message: M) {
    to.borrow_mut().push_back(message);
}

impl Tell<ToLoop<ToServerLoop<Stream>>> for Thread {
    fn tell(&mut self, msg: ToLoop<ToServerLoop<Stream>>) {
        let process = self.process.borrow();
        process.watch.told_server_loop(&msg.message);
        if let ToServerLoop::Conn { stream, .. } = &msg.message {
            process.stage.oracle.overheard.borrow_mut().on_admitted(key(stream));
        }
        post(&process.mail.server_loops[msg.loop_index], msg.message);
    }
}

impl Tell<ToLoop<ToClientLoop>> for Thread {
    fn tell(&mut self, msg: ToLoop<ToClientLoop>) {
        let process = self.process.borrow();
        process.watch.told_client_loop(&msg.message);
        post(&process.mail.client_loops[msg.loop_index], msg.message);
    }
}

impl Tell<ToListener<Stream>> for Thread {
    fn tell(&mut self, msg: ToListener<Stream>) {
        post(&self.process.borrow().mail.listener, msg);
    }
}

impl Tell<FromListener> for Thread {
    fn tell(&mut self, msg: FromListener) {
        post(&self.process.borrow().mail.server_main, ToServerMain::Listener(msg));
    }
}

impl Tell<FromServerLoop<Stream>> for Thread {
    fn tell(&mut self, msg: FromServerLoop<Stream>) {
        let mut process = self.process.borrow_mut();
        process.watch.said_by_server_loop(&msg);
        if matches!(&msg, FromServerLoop::Message { msg: ServerMsg::Fin { .. }, .. }) && process.lies(Lie::FinLost) {
            return;
        }
        post(&process.mail.server_main, ToServerMain::Loop(msg));
    }
}

impl Tell<ToPaths> for Thread {
    /// Nobody carries paths here: the client waits for one in vain, and conns have all datagrams.
    fn tell(&mut self, _: ToPaths) {}
}

impl Tell<ToOperator> for Thread {
    fn tell(&mut self, msg: ToOperator) {
        let mut process = self.process.borrow_mut();
        if let ToOperator::Done { count, .. } = msg {
            process.done = Some(count);
        }
        process.watch.answered(&msg);
    }
}

impl Tell<FromClientLoop> for Thread {
    fn tell(&mut self, msg: FromClientLoop) {
        let mut process = self.process.borrow_mut();
        process.watch.said_by_client_loop(&msg);
        if matches!(&msg, FromClientLoop::Message { msg: ClientMsg::Done { .. }, .. }) && process.lies(Lie::DoneLost) {
            return;
        }
        post(&process.mail.client_main, ToClientMain::Loop(msg));
    }
}
