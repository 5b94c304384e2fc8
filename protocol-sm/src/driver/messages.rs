//! What the threads tell each other. Each receiver gets the messages of one sender in order.

use super::inherit::Owner;
use super::paths::FromPaths;
use super::slab::Token;
use super::sys::Lookup;
use crate::auth::SessionKey;
use crate::bandwidth::{Direction, Rate};
use crate::codes::{AbortCode, RefuseCode, Violation};
use crate::control::server::Place;
use crate::crowd::Guest;
use crate::datagrams::{PathDatagram, PathState};
use crate::gate::Gate;
pub use crate::ids::ControlKey;
use crate::ids::{ConnId, Registration, SessionId, TunnelId};
use crate::ledger::Holder;
use crate::liveness::Line;
use crate::names::LocalAt;
use crate::outbound::Destination;
use crate::proxy_protocol::Ends;
use crate::reload::ClientReload;
use crate::report::{ListenerPart, LoopPart, Report};
use crate::routes::{Secured, Web};
use crate::settings::{Origin, Routing, ServerSettings, Serving, Timings};
use crate::sources::Network;
use crate::sys_error::SysError;
use crate::time::Instant;
use crate::visit::Label;
use crate::wire::{ClientBody, ClientMsg, ServerBody, ServerMsg, TransferMsg};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::num::NonZeroU64;

/// To an event loop of the server. `T` is a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ToServerLoop<T> {
    /// A client has a session: keep conns ready and take its visitors.
    Open {
        /// The session, by the server's key.
        control: ControlKey,
        /// This loop's share of its limits.
        limits: Limits,
    },
    /// The session is over: everything of it is reset and closed. A transfer that the client is done with may still
    /// finish, unless the code is [`AbortCode::Stopping`].
    Close {
        /// The session, by the server's key.
        control: ControlKey,
        /// What to say of its transfers.
        code: AbortCode,
    },
    /// A proxy_conn has finished its handshake.
    Conn {
        /// The session, by the server's key.
        control: ControlKey,
        /// Its number.
        conn: ConnId,
        /// Its socket.
        stream: T,
    },
    /// A visitor was accepted.
    Visitor(Arrival<T>),
    /// A public UDP port is open: read there, and serve whoever speaks.
    Port(UdpPort<T>),
    /// Who may visit a UDP tunnel is changed.
    Admit {
        /// The session, by the server's key.
        control: ControlKey,
        /// The tunnel.
        tunnel: TunnelId,
        /// Who may visit.
        gate: Box<Gate>,
    },
    /// Datagrams that come from these networks to UDP ports from now on say who has sent them.
    Trust(Vec<Network>),
    /// The client says something about a transfer.
    Transfer {
        /// The session, by the server's key.
        control: ControlKey,
        /// The message.
        msg: TransferMsg<ClientBody>,
    },
    /// Conns that this loop asked for will not come.
    ConnFailed {
        /// The session, by the server's key.
        control: ControlKey,
        /// The number of conns.
        count: u32,
    },
    /// A tunnel was closed: its waiting visitors are reset, its transfers go on, but for those of a UDP port, which is
    /// closed. `None`: all of them.
    CloseTunnel {
        /// The session, by the server's key.
        control: ControlKey,
        /// The tunnel.
        tunnel: Option<TunnelId>,
    },
    /// The visitors of a tunnel that wait for a conn, and whoever still comes to it, are another session's from now on.
    HandOver {
        /// The session, by the server's key, and the tunnel.
        from: (ControlKey, TunnelId),
        /// Where they go.
        to: (ControlKey, TunnelId),
    },
    /// The session gets no more visitors. Its transfers go on; a conn that is idle, or gets idle, is closed.
    Retire {
        /// The session, by the server's key.
        control: ControlKey,
    },
    /// What a tunnel may move now: the answer to [`FromServerLoop::WantBandwidth`].
    Bandwidth {
        /// The session, by the server's key.
        control: ControlKey,
        /// The tunnel.
        tunnel: TunnelId,
        /// Which of its directions.
        direction: Direction,
        /// Bytes.
        bytes: u64,
    },
    /// A session may use more or less from now on. Who is there already stays.
    Limits {
        /// The session, by the server's key.
        control: ControlKey,
        /// This loop's share of its limits.
        limits: Limits,
    },
    /// What the session's path takes now.
    Path {
        /// The session, by the server's key.
        control: ControlKey,
        /// What it takes.
        state: PathState,
    },
    /// A datagram has come by the session's path.
    Datagram {
        /// The session, by the server's key.
        control: ControlKey,
        /// The datagram.
        datagram: PathDatagram,
    },
    /// The path did not take a datagram: it goes by its flow's conn.
    Back {
        /// The session, by the server's key.
        control: ControlKey,
        /// The datagram.
        datagram: PathDatagram,
    },
    /// These deadlines and intervals count from now on.
    KeepTo(Box<Timings>),
    /// How the session's ctl_conn is: the answer to [`FromServerLoop::AskLine`], if there is one.
    Line {
        /// The session, by the server's key.
        control: ControlKey,
        /// The conn that it was asked for.
        conn: ConnId,
        /// The line.
        line: Line,
    },
    /// The server stops: no more visitors; tell [`FromServerLoop::Drained`] when no transfer is left.
    Drain,
    /// Visitors come no more for a while: tell [`FromServerLoop::Settled`] when none waits for a conn.
    Settle,
    /// Another process takes the visitors: as [`ToServerLoop::Drain`], but those that wait may go on waiting.
    Leave,
    /// Conns are scarce: close those idle ones at once that are not kept ready.
    Trim,
    /// The time to drain is over: reset and close everything.
    Stop,
    /// Somebody asks for a report: answered by [`FromServerLoop::Report`].
    Report {
        /// When it was asked for.
        asked: Instant,
    },
}

/// A visitor on its way to an event loop. `T` is a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Arrival<T> {
    /// The session, by the server's key.
    pub control: ControlKey,
    /// The tunnel.
    pub tunnel: TunnelId,
    /// Its socket; not watched yet.
    pub stream: T,
    /// Who it is.
    pub who: Who,
    /// What it is counted as.
    pub guest: Guest,
    /// What was read of it to find out whose visitor it is.
    pub head: Vec<u8>,
    /// Visitors that its tunnel may serve at once, over all event loops.
    pub tunnel_max: u32,
    /// What the access log calls its tunnel; none where that is off.
    pub label: Option<Arc<Label>>,
    /// Event loops left to try if there is no room for it.
    pub left: usize,
}

/// Who a visitor is, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    /// The address that it comes from.
    pub from: SocketAddr,
    /// The address that it has connected to, where a relay in front of the server says that.
    pub dialled: Option<Box<SocketAddr>>,
    /// What is known of its TLS, if anything is.
    pub secured: Option<Box<Secured>>,
}

impl From<SocketAddr> for Who {
    /// One who comes from there without a relay.
    fn from(from: SocketAddr) -> Self {
        Self { from, dialled: None, secured: None }
    }
}

impl From<Ends> for Who {
    fn from(Ends { visitor, public }: Ends) -> Self {
        Self { from: visitor, dialled: Some(Box::new(public)), secured: None }
    }
}

/// A public UDP socket on its way to an event loop. `T` is a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UdpPort<T> {
    /// The session, by the server's key.
    pub control: ControlKey,
    /// The tunnel.
    pub tunnel: TunnelId,
    /// The socket; not watched yet.
    pub socket: T,
    /// Where it is bound.
    pub public: SocketAddr,
    /// Who may visit.
    pub gate: Box<Gate>,
    /// Relays, whose datagrams say who has sent them.
    pub trusted: Vec<Network>,
}

/// A loop's share of what a session may use. All but `frugal`, `secured` and `keep` is what its holder may have over all its
/// sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Whose token the client proved to know.
    pub holder: Holder,
    /// Little is to be sent while nobody visits.
    pub frugal: bool,
    /// The client is told what is known of its visitors' TLS.
    pub secured: bool,
    /// Idle conns to keep ready. 0 where there are fewer than loops: this loop asks for a conn when a visitor waits.
    pub keep: u32,
    /// Visitors that may wait, of all sessions of the holder. 0 where there are fewer than loops: who finds no idle conn here is passed on.
    pub max_waiting: u32,
    /// Visitors that may be there at once, of all sessions of the holder.
    pub max_connections: u32,
    /// What each tunnel of the session may move in each direction.
    pub max_bandwidth: Rate,
    /// Event loops that share what a tunnel may use.
    pub loop_count: u32,
}

/// What the event loop `loop_index` of `loop_count` has of a `total`. The shares add up to it; a visitor that finds its
/// loop full is passed on.
pub(crate) fn share(total: u32, loop_index: u32, loop_count: u32) -> u32 {
    total / loop_count + u32::from(loop_index < total % loop_count)
}

/// From an event loop of the server to its main thread. `T` is a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FromServerLoop<T> {
    /// A `Fin` or an `Abort` that is to be sent to the client.
    Message {
        /// The session, by the server's key.
        control: ControlKey,
        /// The message.
        msg: ServerMsg,
    },
    /// A datagram that is to go by the session's path.
    Datagram {
        /// The session, by the server's key.
        control: ControlKey,
        /// The datagram.
        datagram: PathDatagram,
    },
    /// A visitor that the listener gave to this loop is gone.
    Left {
        /// The loop's index.
        loop_index: usize,
        /// What it was counted as.
        guest: Guest,
    },
    /// A UDP port that this loop had is closed here.
    PortClosed,
    /// This loop serves as many of the client's visitors as it may: another may have room.
    PassOn {
        /// The loop's index.
        loop_index: usize,
        /// The visitor.
        arrival: Box<Arrival<T>>,
    },
    /// A tunnel could move more than this loop has left for it.
    WantBandwidth {
        /// The session, by the server's key.
        control: ControlKey,
        /// The tunnel.
        tunnel: TunnelId,
        /// Which of its directions.
        direction: Direction,
        /// What it may move, in bytes per second.
        rate: NonZeroU64,
        /// The loop's index.
        loop_index: usize,
    },
    /// Nothing that was given to a conn has been acknowledged for long: is the whole line cut?
    AskLine {
        /// The session, by the server's key.
        control: ControlKey,
        /// The loop's index.
        loop_index: usize,
        /// The conn.
        conn: ConnId,
    },
    /// This loop wants more proxy_conns.
    Ask {
        /// The session, by the server's key.
        control: ControlKey,
        /// The loop's index.
        loop_index: usize,
        /// The number of conns.
        count: u32,
    },
    /// A conn is closed, and its number will not be used again.
    ConnGone {
        /// The session, by the server's key.
        control: ControlKey,
        /// The conn.
        conn: ConnId,
    },
    /// The client broke the protocol: end its session.
    Violation {
        /// The session, by the server's key.
        control: ControlKey,
        /// What it did.
        violation: Violation,
    },
    /// No transfer is left on this loop, after [`ToServerLoop::Drain`].
    Drained {
        /// The loop's index.
        loop_index: usize,
    },
    /// No visitor waits for a conn on this loop, after [`ToServerLoop::Settle`].
    Settled {
        /// The loop's index.
        loop_index: usize,
    },
    /// Its part of a report.
    Report(Box<LoopPart>),
}

/// To an event loop of the client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ToClientLoop {
    /// A new session began, under this serial number: conns are opened for it from now on.
    Session {
        /// The session, by the client's serial number.
        serial: u64,
    },
    /// Where a tunnel's LocalServer is, as it was looked up just now.
    Tunnel {
        /// The tunnel.
        tunnel: TunnelId,
        /// Its addresses. None: nothing new is known.
        locals: Vec<SocketAddr>,
        /// What its text says.
        place: LocalAt,
        /// The client's own addresses from which it is dialled.
        sources: Vec<IpAddr>,
        /// How its visitors are served.
        serving: Serving,
        /// What the access log calls it; none where that is off.
        label: Option<Arc<Label>>,
    },
    /// A tunnel was closed: visitors that are still started for it are refused, transfers go on.
    CloseTunnel {
        /// The tunnel.
        tunnel: TunnelId,
    },
    /// A tunnel's LocalServer is another one, which was not looked up yet: transfers go on, new visitors go there.
    Relocated {
        /// The tunnel.
        tunnel: TunnelId,
        /// What its text says.
        place: LocalAt,
    },
    /// These deadlines and intervals count from now on.
    KeepTo(Box<Timings>),
    /// Open a proxy_conn.
    Open {
        /// Where the connection begins.
        from: Origin,
        /// Where it goes.
        to: Destination,
        /// Its number.
        conn: ConnId,
        /// The session that it belongs to.
        session: SessionId,
        /// The key of that session.
        secret: SessionKey,
    },
    /// The server says something about a transfer.
    Transfer {
        /// The session, by the client's serial number.
        serial: u64,
        /// The message.
        msg: TransferMsg<ServerBody>,
    },
    /// What the session's path takes now.
    Path {
        /// The session, by the client's serial number.
        serial: u64,
        /// What it takes.
        state: PathState,
    },
    /// A datagram has come by the session's path.
    Datagram {
        /// The session, by the client's serial number.
        serial: u64,
        /// The datagram.
        datagram: PathDatagram,
    },
    /// The path did not take a datagram: it goes by its flow's conn.
    Back {
        /// The session, by the client's serial number.
        serial: u64,
        /// The datagram.
        datagram: PathDatagram,
    },
    /// A session is over: what belongs to it is reset and closed.
    End {
        /// The session, by the client's serial number.
        serial: u64,
        /// What to say of its transfers.
        code: AbortCode,
    },
    /// A tunnel's visitors are served in another way: what they may move changes for those who are
    /// there, too.
    Serve {
        /// The tunnel.
        tunnel: TunnelId,
        /// The new way.
        serving: Serving,
    },
    /// What a tunnel may move now: the answer to [`FromClientLoop::WantBandwidth`].
    Bandwidth {
        /// The tunnel.
        tunnel: TunnelId,
        /// Which of its directions.
        direction: Direction,
        /// Bytes.
        bytes: u64,
    },
    /// How the ctl_conn is: the answer to [`FromClientLoop::AskLine`], if there is one.
    Line {
        /// The session, by the client's serial number.
        serial: u64,
        /// The conn that it was asked for.
        conn: ConnId,
        /// The line.
        line: Line,
    },
    /// The client stops: tell [`FromClientLoop::Drained`] when no transfer is left.
    Drain {
        /// Nor any conn: the server closes those that are idle.
        idle_too: bool,
    },
    /// Somebody asks for a report: answered by [`FromClientLoop::Report`].
    Report {
        /// When it was asked for.
        asked: Instant,
    },
}

/// From an event loop of the client to its main thread. `serial` is the session that it is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FromClientLoop {
    /// A `Fin`, `Done`, `Abort` or `ConnFailed` that is to be sent to the server.
    Message {
        /// The session, by the client's serial number.
        serial: u64,
        /// The message.
        msg: ClientMsg,
    },
    /// A datagram that is to go by the session's path.
    Datagram {
        /// The session, by the client's serial number.
        serial: u64,
        /// The datagram.
        datagram: PathDatagram,
    },
    /// The first proxy_conn of this session stands on this loop.
    ConnUp {
        /// The session, by the client's serial number.
        serial: u64,
    },
    /// A proxy_conn is closed, or was never opened.
    ConnGone {
        /// The session, by the client's serial number.
        serial: u64,
        /// The conn.
        conn: ConnId,
    },
    /// A tunnel could move more than this loop has left for it.
    WantBandwidth {
        /// The tunnel.
        tunnel: TunnelId,
        /// Which of its directions.
        direction: Direction,
        /// What it may move, in bytes per second.
        rate: NonZeroU64,
        /// The loop's index.
        loop_index: usize,
    },
    /// Nothing that was given to a conn has been acknowledged for long: is the whole line cut?
    AskLine {
        /// The session, by the client's serial number.
        serial: u64,
        /// The loop's index.
        loop_index: usize,
        /// The conn.
        conn: ConnId,
    },
    /// Somebody is to be taken to a LocalServer whose addresses are getting old: look its name up.
    LookUp {
        /// The tunnel.
        tunnel: TunnelId,
    },
    /// A LocalServer could not be reached: perhaps its name has another address by now.
    LocalFailed {
        /// The tunnel.
        tunnel: TunnelId,
        /// The reason.
        code: RefuseCode,
    },
    /// The server broke the protocol: end the session.
    Violation {
        /// The session, by the client's serial number.
        serial: u64,
        /// What it did.
        violation: Violation,
    },
    /// No transfer is left on this loop, after [`ToClientLoop::Drain`].
    Drained {
        /// The loop's index.
        loop_index: usize,
    },
    /// Its part of a report.
    Report(Box<LoopPart>),
}

/// To the server's listener. `T` is a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ToListener<T> {
    /// Open a public port: the first of several that can be bound; or lead a host to its tunnel. Answered by
    /// [`FromListener`], once, unless all ports of the session are closed before. A session asks for the next one after that.
    Bind {
        /// The session, by the server's key.
        control: ControlKey,
        /// Whose session it is: sessions of one holder share a turn.
        holder: Option<usize>,
        /// Whose it is to another process.
        owner: Owner,
        /// What is registered.
        registration: Registration,
        /// The address to listen on, with the port 0.
        at: SocketAddr,
        /// Its ports, of which 0 is any free one, or its host.
        place: Place,
        /// Who may visit.
        gate: Box<Gate>,
        /// Close it again at once: whether it could be opened is all that is asked.
        examined: bool,
    },
    /// Lead an open public port to a tunnel of another session from now on. Answered as [`ToListener::Bind`] is.
    HandOver {
        /// What it leads to now.
        former: Former,
        /// The session, by the server's key.
        control: ControlKey,
        /// What is registered.
        registration: Registration,
        /// Who may visit.
        gate: Box<Gate>,
    },
    /// A visitor has come to a port that is there for clients, too. What it has said is unread.
    Visitor {
        /// Of which of the two ports of hosts it is one.
        web: Web,
        /// Its connection.
        stream: T,
        /// Who it is.
        who: Who,
        /// When it came.
        came: Instant,
    },
    /// These deadlines and intervals count from now on, and this for visitors who have named no host.
    KeepTo(Box<Timings>, Box<Routing>),
    /// Visitors that come from these networks from now on say who they are.
    Trust(Vec<Network>),
    /// Who may visit a tunnel is changed.
    Admit {
        /// The session, by the server's key.
        control: ControlKey,
        /// What was registered; it is open, or being opened.
        registration: Registration,
        /// Who may visit.
        gate: Box<Gate>,
    },
    /// A visitor that was given to a loop was passed on to another one.
    Moved {
        /// The loop that had it.
        from: usize,
        /// The loop that has it now.
        to: usize,
    },
    /// A visitor is gone.
    Left {
        /// The loop that had it.
        loop_index: usize,
        /// What it was counted as.
        guest: Guest,
    },
    /// An event loop has closed a UDP port: its address may be free now.
    PortClosed,
    /// Close the public port that this registration has opened.
    Close {
        /// The session, by the server's key.
        control: ControlKey,
        /// What was registered.
        registration: Registration,
    },
    /// Close every public port of a session, and open none that it still waits for.
    CloseAll {
        /// The session, by the server's key.
        control: ControlKey,
    },
    /// The same, and the session gets no more visitors: see [`ToServerLoop::Retire`].
    Retire {
        /// The session, by the server's key.
        control: ControlKey,
    },
    /// What was found for an authority that asks: see [`Listen::find_challenge`](super::Listen::find_challenge).
    Challenge {
        /// Who asks, if it is still there.
        newcomer: Token,
        /// The answer; none: it is a visitor as any other.
        answer: Option<Vec<u8>>,
    },
    /// A step of an upgrade. [`Step::Lend`] is answered by [`FromListener::Lent`].
    Upgrade(Step),
    /// Somebody asks for a report: answered by [`FromListener::Report`].
    Report,
}

/// An open public port that is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Former {
    /// The session that has it, by the server's key.
    pub control: ControlKey,
    /// What was registered there.
    pub registration: Registration,
    /// The public address.
    pub public: SocketAddr,
}

/// From the server's listener to its main driver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FromListener {
    /// The answer to [`ToListener::Bind`].
    Bound {
        /// The session, by the server's key.
        control: ControlKey,
        /// What was registered.
        registration: Registration,
        /// The public address, or why there is none.
        bound: Result<SocketAddr, SysError>,
    },
    /// So many public ports were lent.
    Lent {
        /// Their number.
        count: usize,
    },
    /// Its part of a report.
    Report(Box<ListenerPart>),
}

/// From a main driver to whoever asked it for something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ToOperator {
    /// The answer to [`ToServerMain::Report`] or [`ToClientMain::Report`].
    Report {
        /// Who asked: all that asked before the parts were gathered.
        tags: Vec<u64>,
        /// What they asked for.
        report: Box<Report>,
    },
    /// The answer to [`ToServerMain::Order`] or [`ToServerMain::Upgrade`].
    Done {
        /// Who gave the order.
        tag: u64,
        /// How many sessions, tunnels or listeners it was about.
        count: usize,
    },
}

/// What a server's operator can order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// End the sessions of this client, which is named as in a report, or of this credential.
    // PROTOCOL.md: P-END-4.
    Kick(String),
    /// Close this public port for as long as the session lasts.
    // PROTOCOL.md: P-TUN-14.
    Close(u16),
}

/// A step of an upgrade: another process of the server takes its listeners over. They come in this order, and the last
/// one may come instead of any but the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Put copies of all listeners aside, and open and close none any more. Answered with their number; 0: the server
    /// stops, or is being upgraded already.
    Lend,
    /// Accept no more visitors, and when none waits for a conn, no connections at all. Answered then; with 0 if the
    /// server stops.
    Settle,
    /// The other process accepts now: tell the clients, and let transfers end. Answered with the number of sessions.
    // PROTOCOL.md: P-LEAVE-1.
    Leave,
    /// It does not: go on as before. Answered at once.
    GoOn,
}

/// To the server's main thread. `T` is a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ToServerMain<T> {
    /// From an event loop.
    Loop(FromServerLoop<T>),
    /// From the listener.
    Listener(FromListener),
    /// Of the clients' paths.
    Paths(FromPaths),
    /// The user says anew what is to be done. Answered by a note. What the process's descriptors allow, and whether
    /// clients must encrypt, stays as it was.
    Reload(Box<ServerSettings>),
    /// Somebody asks for a report, by the name `tag`: answered by [`ToOperator::Report`], once, unless the server ends
    /// before.
    Report {
        /// The asker's name for it.
        tag: u64,
    },
    /// The operator orders something: answered by [`ToOperator::Done`] at once.
    Order {
        /// The operator's name for it.
        tag: u64,
        /// What is to be done.
        order: Order,
    },
    /// Another process is to take over: answered by [`ToOperator::Done`].
    Upgrade {
        /// Whoever sees to it, by this name.
        tag: u64,
        /// How far it is.
        step: Step,
    },
    /// The user asks to stop.
    Stop,
}

/// To the client's main thread.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ToClientMain {
    /// From an event loop.
    Loop(FromClientLoop),
    /// Of its path.
    Paths(FromPaths),
    /// A name was looked up; no addresses if that failed.
    Resolved {
        /// What was looked up.
        tag: Lookup,
        /// Its addresses, best first.
        addresses: Vec<SocketAddr>,
    },
    /// The user says anew what is to be done. Answered by a note.
    Reload(Box<ClientReload>),
    /// The user closes a tunnel: no new visitors, transfers go on. An id that is no tunnel's is ignored.
    CloseTunnel {
        /// The tunnel.
        tunnel: TunnelId,
    },
    /// Somebody asks for a report, by the name `tag`: answered by [`ToOperator::Report`],
    /// once, unless the client ends before.
    Report {
        /// The asker's name for it.
        tag: u64,
    },
    /// The user asks to stop.
    Stop,
}

/// A message for one event loop, by its index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ToLoop<M> {
    /// The loop's index.
    pub loop_index: usize,
    /// The message.
    pub message: M,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_the_first_loops_have_what_is_left_over() {
        for (total, shares) in [(0, [0, 0, 0]), (1, [1, 0, 0]), (5, [2, 2, 1]), (6, [2, 2, 2])] {
            assert_eq!([0, 1, 2].map(|loop_index| share(total, loop_index, 3)), shares);
        }
        let all: u64 = (0..64).map(|loop_index| u64::from(share(u32::MAX, loop_index, 64))).sum();
        assert_eq!(all, u64::from(u32::MAX));
    }
}
