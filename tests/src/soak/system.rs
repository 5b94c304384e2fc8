//! Both programs, each in a namespace, the line between them, the LocalServer and its name; and how they are disturbed.

use super::Disturbance;
use super::traffic::Services;
use crate::conversation::Draw;
use crate::group::Group;
use crate::link::Link;
use crate::process::Descriptors;
use crate::programs::{Client, Options, Program, Server, options};
use crate::services::Service;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const CTL: u16 = 8080;
const PROXY: u16 = 8090;
const PUBLIC: u16 = 7022;
const LOCAL: u16 = 7777;
/// The addresses that the LocalServer's name has in turn.
const ADDRESSES: [&str; 2] = ["127.0.0.2", "127.0.0.3"];
/// What either program may hold more than at first: sockets of a visitor that is just leaving, pipes that are kept for the
/// next visitors, and memory that was needed once.
const SOCKETS: usize = 4;
const PIPES: usize = 64;
const MEMORY: u64 = 32 << 20;
/// What the sockets of both programs may have.
const SOCKET_MEMORY: u64 = 64 << 20;
/// Surplus conns are closed after 60 s.
const SETTLES_WITHIN: Duration = Duration::from_secs(120);

/// One of the two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Server,
    Client,
}

/// What a program holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holding {
    descriptors: Descriptors,
    memory: u64,
}

/// See the module.
pub(super) struct System<'a> {
    link: &'a Link,
    server: Server,
    client: Client,
    /// Of both programs.
    group: Option<Group>,
    services: Services,
    _serving: Vec<Service>,
    hosts: PathBuf,
    _directory: TempDir,
    /// Which of the addresses the name has.
    address: usize,
    /// The descriptors that a program might have before some were taken away.
    limit: u64,
}

impl<'a> System<'a> {
    pub(super) fn start(link: &'a Link, services: &Services, draw: &mut Draw) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let hosts = directory.path().join("hosts");
        let serving = link.far.run(|| (0..ADDRESSES.len()).map(|index| services.serve_at(local(index))).collect());
        name(&hosts, services, 0);
        let group = Group::with_socket_memory(SOCKET_MEMORY);
        let server = start_server(link, group.as_ref(), draw);
        let client = start_client(link, group.as_ref(), &server, &hosts, draw);
        let (services, address, limit) = (services.clone(), 0, 0);
        Self { link, server, client, group, services, _serving: serving, hosts, _directory: directory, address, limit }
    }

    /// Where visitors come in.
    pub(super) fn public(&self) -> SocketAddr {
        (self.link.near.ip(), PUBLIC).into()
    }

    fn program(&self, side: Side) -> &Program {
        match side {
            Side::Server => &self.server,
            Side::Client => &self.client,
        }
    }

    pub(super) fn begin(&mut self, what: Disturbance) {
        match what {
            Disturbance::Kill(side) => self.program(side).kill(),
            Disturbance::Freeze(side) => self.program(side).signal(Signal::SIGSTOP),
            Disturbance::FewDescriptors(side) => {
                let program = self.program(side);
                let open = program.process().descriptors().total() as u64;
                self.limit = limit_descriptors(program.pid(), open);
            }
            Disturbance::Cut => self.link.cut(),
            Disturbance::NameMoves => {
                self.address = (self.address + 1) % ADDRESSES.len();
                name(&self.hosts, &self.services, self.address);
            }
        }
    }

    pub(super) fn end(&mut self, what: Disturbance, draw: &mut Draw) {
        match what {
            Disturbance::Kill(Side::Server) => self.server = start_server(self.link, self.group.as_ref(), draw),
            Disturbance::Kill(Side::Client) => {
                self.client = start_client(self.link, self.group.as_ref(), &self.server, &self.hosts, draw);
            }
            Disturbance::Freeze(side) => self.program(side).signal(Signal::SIGCONT),
            Disturbance::FewDescriptors(side) => {
                limit_descriptors(self.program(side).pid(), self.limit);
            }
            Disturbance::Cut => self.link.heal(),
            Disturbance::NameMoves => {}
        }
    }

    /// What the programs hold now: server, client.
    pub(super) fn holdings(&self) -> [Holding; 2] {
        [Side::Server, Side::Client].map(|side| {
            let process = self.program(side).process();
            Holding { descriptors: process.descriptors(), memory: process.memory() }
        })
    }

    /// Waits until the programs hold no more descriptors than `before`, or for as long as they may.
    pub(super) fn settle(&self, before: &[Holding; 2]) -> [Holding; 2] {
        let until = Instant::now() + SETTLES_WITHIN;
        loop {
            let now = self.holdings();
            if Instant::now() > until || before.iter().zip(&now).all(|(before, now)| holds_no_more(before, now)) {
                return now;
            }
            sleep(Duration::from_secs(1));
        }
    }
}

fn holds_no_more(before: &Holding, now: &Holding) -> bool {
    let Descriptors { sockets, pipes, others } = now.descriptors;
    sockets <= before.descriptors.sockets + SOCKETS
        && pipes <= before.descriptors.pipes + PIPES
        && others <= before.descriptors.others
        && now.memory <= before.memory + MEMORY
}

/// Prints what both programs held at first and hold at the end. `true`: it is not more.
pub(super) fn report(before: &[Holding; 2], after: &[Holding; 2]) -> bool {
    for ((name, before), after) in ["server", "client"].iter().zip(before).zip(after) {
        for (when, Holding { descriptors: Descriptors { sockets, pipes, others }, memory }) in
            [("at first", before), ("at the end", after)]
        {
            let mib = *memory as f64 / f64::from(1 << 20);
            println!("{name} {when}: {sockets} sockets, {pipes} ends of pipes, {others} others, {mib:.1} MiB");
        }
    }
    before.iter().zip(after).all(|(before, after)| holds_no_more(before, after))
}

fn local(index: usize) -> SocketAddr {
    SocketAddr::new(ADDRESSES[index].parse().expect("an address"), LOCAL)
}

/// The LocalServer's name has this address from now on.
fn name(hosts: &Path, services: &Services, index: usize) {
    services.moved_to(local(index));
    fs::write(hosts, format!("{} service.test\n", ADDRESSES[index])).expect("write the hosts file");
}

/// Nobody reads the log of every second one.
fn program(group: Option<&Group>, draw: &mut Draw) -> Options {
    let options = options().env("CPROXY_TOKEN", "far from each other");
    let options = group.into_iter().fold(options, Options::group);
    if draw.next(2) == 0 { options.unread_stderr() } else { options }
}

fn start_server(link: &Link, group: Option<&Group>, draw: &mut Draw) -> Server {
    let options = program(group, draw).network(&link.near).flag("bind-addr", link.near.ip());
    Server::start(options.flag("ctl-port", CTL).flag("proxy-port", PROXY))
}

fn start_client(link: &Link, group: Option<&Group>, server: &Server, hosts: &Path, draw: &mut Draw) -> Client {
    let options = program(group, draw).network(&link.far).hosts(hosts);
    Client::spawn(server, options.tunnel_at(format!("service.test:{LOCAL}"), PUBLIC))
}

/// Sets how many descriptors a process may have, and returns how many it might have before.
fn limit_descriptors(pid: u32, count: u64) -> u64 {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let pid = pid.cast_signed();
    // SAFETY: prlimit reads and writes one rlimit each, which outlive the calls.
    let read = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut before) };
    Errno::result(read).expect("its limits");
    let after = libc::rlimit { rlim_cur: count, ..before };
    // SAFETY: as above.
    let written = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const after, std::ptr::null_mut()) };
    Errno::result(written).expect("set its limits");
    before.rlim_cur
}
