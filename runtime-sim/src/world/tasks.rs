//! What a thread of a server or a client is made of: a driver, its mailbox, and its poll.

use super::sys::{Mail, Pipe, Socket, Stream, ThreadSys};
use crate::kernel::{PipeId, PollId, ProcId, Rng};
use core::net::Ipv4Addr;
use protocol_sm::driver::client_loop::ClientLoop;
use protocol_sm::driver::client_main::ClientMain;
use protocol_sm::driver::listener::Listener;
use protocol_sm::driver::messages::ToOperator;
use protocol_sm::driver::paths::ToPaths;
use protocol_sm::driver::server_loop::ServerLoop;
use protocol_sm::driver::server_main::ServerMain;
use protocol_sm::driver::{Cx, Driver, Readiness, Token};
use protocol_sm::settings::{ClientSettings, ServerSettings, Timings};
use protocol_sm::time::Instant;
use std::collections::VecDeque;

/// What a thread runs.
#[allow(clippy::large_enum_variant)] // there are a dozen of them
pub(super) enum Task {
    ServerMain(ServerMain<Stream, Socket>),
    Listener(Listener<Stream, Socket>),
    ServerLoop(ServerLoop<Stream, Pipe>),
    ClientMain(ClientMain<Stream>),
    ClientLoop(ClientLoop<Stream, Pipe>),
}

impl Task {
    pub(super) fn server(settings: ServerSettings, timings: &Timings, loop_count: usize) -> Vec<Self> {
        let any = (Ipv4Addr::UNSPECIFIED, 0).into();
        let (visitors, trusted) = (settings.budget.visitors, settings.trusted_proxies.clone());
        let mut tasks = vec![
            Self::ServerMain(ServerMain::new(settings, loop_count, any)),
            Self::Listener(Listener::new(loop_count, visitors, trusted)),
        ];
        tasks.extend((0..loop_count).map(|loop_index| Self::ServerLoop(ServerLoop::new(loop_index, timings.clone()))));
        tasks
    }

    pub(super) fn client(settings: ClientSettings, server: String, loop_count: usize) -> Vec<Self> {
        let timings = settings.timings.clone();
        let mut tasks = vec![Self::ClientMain(ClientMain::new(settings, server, loop_count))];
        tasks.extend((0..loop_count).map(|loop_index| Self::ClientLoop(ClientLoop::new(loop_index, timings.clone()))));
        tasks
    }

    pub(super) fn on_message(&mut self, cx: &mut Cx<'_, ThreadSys<'_>>, mail: Mail) {
        match (self, mail) {
            (Self::ServerMain(task), Mail::ServerMain(message)) => task.on_message(cx, message),
            (Self::Listener(task), Mail::Listener(message)) => task.on_message(cx, message),
            (Self::ServerLoop(task), Mail::ServerLoop(message)) => task.on_message(cx, message),
            (Self::ClientMain(task), Mail::ClientMain(message)) => task.on_message(cx, message),
            (Self::ClientLoop(task), Mail::ClientLoop(message)) => task.on_message(cx, message),
            (
                Self::ServerMain(_)
                | Self::Listener(_)
                | Self::ServerLoop(_)
                | Self::ClientMain(_)
                | Self::ClientLoop(_),
                _,
            ) => unreachable!("mail goes to the thread that it is for"),
        }
    }

    pub(super) fn on_ready(&mut self, cx: &mut Cx<'_, ThreadSys<'_>>, token: Token, ready: Readiness) {
        match self {
            Self::ServerMain(task) => task.on_ready(cx, token, ready),
            Self::Listener(task) => task.on_ready(cx, token, ready),
            Self::ServerLoop(task) => task.on_ready(cx, token, ready),
            Self::ClientMain(task) => task.on_ready(cx, token, ready),
            Self::ClientLoop(task) => task.on_ready(cx, token, ready),
        }
    }

    pub(super) fn on_deadline(&mut self, cx: &mut Cx<'_, ThreadSys<'_>>) {
        match self {
            Self::ServerMain(task) => task.on_deadline(cx),
            Self::Listener(task) => task.on_deadline(cx),
            Self::ServerLoop(task) => task.on_deadline(cx),
            Self::ClientMain(task) => task.on_deadline(cx),
            Self::ClientLoop(task) => task.on_deadline(cx),
        }
    }

    pub(super) fn run_busy(&mut self, cx: &mut Cx<'_, ThreadSys<'_>>) {
        match self {
            Self::ServerMain(task) => task.run_busy(cx),
            Self::Listener(task) => task.run_busy(cx),
            Self::ServerLoop(task) => task.run_busy(cx),
            Self::ClientMain(task) => task.run_busy(cx),
            Self::ClientLoop(task) => task.run_busy(cx),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self {
            Self::ServerMain(task) => Driver::<ThreadSys<'_>>::next_deadline(task),
            Self::Listener(task) => Driver::<ThreadSys<'_>>::next_deadline(task),
            Self::ServerLoop(task) => Driver::<ThreadSys<'_>>::next_deadline(task),
            Self::ClientMain(task) => Driver::<ThreadSys<'_>>::next_deadline(task),
            Self::ClientLoop(task) => Driver::<ThreadSys<'_>>::next_deadline(task),
        }
    }

    /// Each checks its own tables.
    pub(super) fn assert_consistent(&self) {
        match self {
            Self::ServerMain(task) => task.assert_consistent(),
            Self::Listener(task) => task.assert_consistent(),
            Self::ServerLoop(task) => task.assert_consistent(),
            Self::ClientMain(task) => task.assert_consistent(),
            Self::ClientLoop(task) => task.assert_consistent(),
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        match self {
            Self::ServerMain(task) => Driver::<ThreadSys<'_>>::is_busy(task),
            Self::Listener(task) => Driver::<ThreadSys<'_>>::is_busy(task),
            Self::ServerLoop(task) => Driver::<ThreadSys<'_>>::is_busy(task),
            Self::ClientMain(task) => Driver::<ThreadSys<'_>>::is_busy(task),
            Self::ClientLoop(task) => Driver::<ThreadSys<'_>>::is_busy(task),
        }
    }
}

/// What a thread says to another one, to the operator, or to whoever carries paths.
#[allow(clippy::large_enum_variant)] // almost all are mail
pub(super) enum Said {
    To(usize, Mail),
    Answer(ToOperator),
    Paths(ToPaths),
}

/// Where in its batch a thread can lose the processor: what it has done to its sockets the world sees by then, what it
/// has said the others do not know yet.
#[derive(Clone, Copy)]
pub(super) enum Held {
    /// Behind its mail and events, before the turns of whoever is busy.
    Heard,
    /// At the end.
    Done,
}

pub(super) struct Thread {
    pub(super) process: usize,
    pub(super) proc: ProcId,
    pub(super) poll: PollId,
    pub(super) task: Task,
    pub(super) mail: VecDeque<Mail>,
    /// What it has said since it told the others last.
    pub(super) outgoing: Vec<Said>,
    /// It has parted with a connection since.
    pub(super) parted: bool,
    /// Where in its batch it has lost the processor.
    pub(super) held: Option<Held>,
    pub(super) pool: Vec<PipeId>,
    pub(super) rng: Rng,
    pub(super) scratch: Vec<u8>,
    /// When it runs next: only an event for exactly this time counts.
    pub(super) next_run: Option<Instant>,
    /// Runs in a row without anything to do but being busy.
    pub(super) spins: u32,
}

impl Thread {
    pub(super) fn new(process: usize, proc: ProcId, poll: PollId, task: Task, rng: Rng, scratch: usize) -> Self {
        Self {
            process,
            proc,
            poll,
            task,
            mail: VecDeque::new(),
            outgoing: Vec::new(),
            parted: false,
            held: None,
            pool: Vec::new(),
            rng,
            scratch: vec![0; scratch],
            next_run: None,
            spins: 0,
        }
    }
}
