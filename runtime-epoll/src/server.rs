//! The server's threads.

use crate::challenges::Challenges;
use crate::inherit::{Inherited, Lent};
use crate::mail::{Address, Outgoing};
use crate::notes::AccessLog;
use crate::operator::Answers;
use crate::path::Paths;
use crate::scoped::{NoInterface, ScopedIp};
use crate::sys::every_address;
use crate::sys::{Limits, Listener, Pipe, Stream};
use crate::thread::{Clock, DriverSlot, Host, Main, Outbox, Threads, Worker};
use crate::tls::{ServerTls, Tls, TlsInUse, VisitorTls, VisitorTlsInUse};
use crate::{Operator, Program, Stopper};
use protocol_sm::driver::listener::HeldPort;
use protocol_sm::driver::messages::{
    FromListener, FromServerLoop, Step, ToListener, ToLoop, ToOperator, ToServerLoop, ToServerMain,
};
use protocol_sm::driver::paths::ToPaths;
use protocol_sm::driver::server_loop::ServerLoop;
use protocol_sm::driver::server_main::{ServerMain, TurnedAway, Wanted};
use protocol_sm::driver::{Dropped, Strategy, SysError, Tell, listener};
use protocol_sm::purposes::{Purpose, Purposes};
use protocol_sm::reload::Changes;
use protocol_sm::routes::Web;
use protocol_sm::settings::{Routing, ServerSettings, Timings};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

/// Where to listen, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the ctl, proxy and public ports; `::` takes IPv4 too. None: every address of this machine.
    pub bind_addr: Option<ScopedIp>,
    /// Address of the ports for visitors, if that is another.
    pub public_bind_addr: Option<ScopedIp>,
    /// ctl port; 0 lets the kernel pick.
    pub ctl_port: u16,
    /// proxy port; 0 lets the kernel pick. A number that is there twice, here or in the next field, is one port.
    pub proxy_port: u16,
    /// The ports of hosts, for plain HTTP and for TLS, where they are wanted; 0 lets the kernel pick.
    pub host_ports: [Option<u16>; 2],
    /// Event loops. Each has a thread of its own, but the first, which shares the main thread.
    pub work_threads: NonZeroUsize,
    /// How payload is moved.
    pub relay: Strategy,
    /// Encrypts the ctl and the proxy port; clients that speak in the clear are refused.
    pub tls: Option<ServerTls>,
    /// Ends the TLS of visitors of the https port, where it has a certificate for their host.
    pub visitor_tls: Option<VisitorTls>,
    /// Where an authority's challenges are answered from, if they are.
    pub acme_webroot: Option<PathBuf>,
    /// Where visits are recorded, if they are.
    pub access_log: Option<AccessLog>,
    /// Everything else.
    pub settings: ServerSettings,
}

type MainWorker = Worker<ServerMain<Stream, Listener>, MainOut, ToServerMain<Stream>>;
type ListenWorker = Worker<listener::Listener<Stream, Listener>, ListenOut, ToListener<Stream>>;

/// A server whose ports are bound and which is not running yet.
#[derive(Debug)]
pub struct Server {
    host: Host,
    main: MainWorker,
    main_address: Address<ToServerMain<Stream>>,
    tls: TlsInUse,
    visitor_tls: VisitorTlsInUse,
    operator: Operator,
    listener: ListenWorker,
    paths: Paths<ToServerMain<Stream>>,
    loop_count: Vec<DriverSlot<ToServerLoop<Stream>>>,
    /// Of all event loops but the first, which has its seat on the main thread.
    hosts: Vec<Host>,
    /// Public ports that another process has left.
    held: Vec<HeldPort<Listener>>,
    lent: Lent,
    timings: Timings,
    relay: Strategy,
    access_log: Option<AccessLog>,
    clock: Clock,
    ctl: SocketAddr,
    proxy: SocketAddr,
    hosts_at: [Option<SocketAddr>; 2],
}

/// Why the server could not start: says what, where, and what to do.
#[derive(Debug)]
pub enum StartError {
    /// The interface of its address is not there.
    Interface(NoInterface),
    /// It cannot listen on the ctl port.
    CtlPort(SocketAddr, SysError),
    /// It cannot listen on the proxy port.
    ProxyPort(SocketAddr, SysError),
    /// It cannot listen on a port of hosts.
    HostPort(SocketAddr, SysError),
    /// The machine is out of descriptors.
    Io(io::Error),
}

impl StartError {
    /// Whether the address is one that this machine does not have (yet): at boot it may come later than this program.
    #[must_use]
    pub fn lacks_the_address(&self) -> bool {
        matches!(
            self,
            Self::Interface(_)
                | Self::CtlPort(_, SysError::NoAddress)
                | Self::ProxyPort(_, SysError::NoAddress)
                | Self::HostPort(_, SysError::NoAddress)
        )
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, port, flag, error) = match self {
            Self::CtlPort(at, error) => (at, "ctl port", "--ctl-port", error),
            Self::ProxyPort(at, error) => (at, "proxy port", "--proxy-port", error),
            Self::HostPort(at, error) => (at, "port of hosts", "`http_port` or `https_port`", error),
            Self::Interface(missing) => {
                return write!(
                    f,
                    "{missing} yet; waiting for it (if it will never have it, choose another --bind-addr)"
                );
            }
            Self::Io(error) => {
                return write!(f, "cannot set up the event loops: {error}; raise the limit of open files (ulimit -n)");
            }
        };
        write!(f, "cannot listen on {at} ({port}): ")?;
        match *error {
            SysError::InUse => write!(f, "address in use; stop the other program or choose another {flag}"),
            SysError::Denied => {
                write!(f, "permission denied; ports below 1024 need a privilege: choose another {flag}")
            }
            SysError::Exhausted => write!(f, "{error}; raise the limit of open files (ulimit -n)"),
            SysError::NoAddress => {
                let what = "this machine does not have the address yet; waiting for it (if it will never have it, choose \
                            another --bind-addr)";
                f.write_str(what)
            }
            SysError::Unreachable => write!(f, "this machine has no such address; choose another --bind-addr"),
            SysError::WouldBlock
            | SysError::Reset
            | SysError::ResetBehindEnd
            | SysError::Refused
            | SysError::TimedOut
            | SysError::Unsupported
            | SysError::NoPort
            | SysError::Tls(_)
            | SysError::Other(_) => {
                write!(f, "{error}; choose another --bind-addr or {flag}")
            }
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Interface(missing) => Some(missing),
            Self::CtlPort(..) | Self::ProxyPort(..) | Self::HostPort(..) => None,
        }
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Totals of one run, for the closing log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Visitors accepted.
    pub visitors: u64,
    /// Transfers that ended well, both directions.
    pub finished: u64,
    /// Transfers cut short (reset).
    pub aborted: u64,
    /// proxy_conns taken from clients.
    pub proxy_conns: u64,
    /// Visitors turned away by source lists; not among `visitors`, as are those of the next field.
    pub refused_by_source: u64,
    /// Visitors turned away by connection rates.
    pub refused_by_rate: u64,
    /// Connections on the ctl and proxy ports refused in their handshake, and those dropped before it was through.
    pub turned_away: TurnedAway,
}

/// Binds the ports, or takes over those that another process has left; public ones wait there for their tunnels.
///
/// # Errors
/// A port is taken, may not be bound, or the machine is out of descriptors.
pub fn start(mut config: Config, inherited: &mut Inherited) -> Result<Server, StartError> {
    config.settings.tls_required = config.tls.is_some();
    config.settings.access_log = config.access_log.is_some();
    let bind_at = match &config.bind_addr {
        Some(address) => address.at(0).map_err(StartError::Interface)?,
        None => SocketAddr::new(every_address(), 0),
    };
    let public_at = match &config.public_bind_addr {
        Some(address) => address.at(0).map_err(StartError::Interface)?,
        None => bind_at,
    };
    let clock = Clock::start();
    let lane_count = config.work_threads.get();
    let mut host = Host::new(clock)?;
    let main = host.seat()?;
    let main_address = main.address();
    let listener = host.seat()?;
    let (loop_count, hosts) = host.loop_count(lane_count)?;
    let paths = host.seat()?;
    let to_paths = Outgoing::new(paths.address());
    let paths = Paths::new(paths, main_address.clone(), ToServerMain::Paths, clock);
    let challenges =
        config.acme_webroot.as_ref().map(|webroot| Challenges::serve(webroot, listener.address())).transpose()?;
    let answers = Answers::default();
    let operator = answers.operator(Program::Server(main_address.clone()));
    let main_out = MainOut {
        loop_count: lanes_out(&loop_count),
        listener: Outgoing::new(listener.address()),
        paths: to_paths,
        answers,
    };
    let (timings, relay) = (config.settings.timings.clone(), config.relay);
    let routing = config.settings.routing();
    let out = ListenOut { loop_count: lanes_out(&loop_count), main: Outgoing::new(main_address.clone()) };
    let (visitors, trusted) = (config.settings.budget.visitors, config.settings.trusted_proxies.clone());
    let mut listener = Worker::new(listener, out, listener::Listener::new(lane_count, visitors, trusted), clock);
    listener.sys.set_limits(Limits::for_visitors(&timings));
    listener.sys.notes().record_visits(config.access_log.clone());
    let own = own_ports(&config, bind_at, public_at);
    let driver = ServerMain::new(config.settings, lane_count, public_at);
    let mut main = Worker::new(main, main_out, driver, clock);
    main.sys.set_limits(Limits::new(&timings));
    let tls = TlsInUse::new(config.tls.map_or(Tls::Off, Tls::Server));
    main.sys.use_tls(tls.clone());
    let visitor_tls = VisitorTlsInUse::default();
    visitor_tls.set(config.visitor_tls);
    listener.sys.meet_challenges(challenges);
    listener.sys.end_visitors_tls(visitor_tls.clone());
    let lent = Lent::default();
    main.sys.lend_to(lent.clone());
    listener.sys.lend_to(lent.clone());
    let ([ctl, proxy], hosts_at) = open(own, &mut main, &mut listener, inherited, routing)?;
    Ok(Server {
        host,
        main,
        main_address,
        tls,
        visitor_tls,
        operator,
        listener,
        paths,
        loop_count,
        hosts,
        held: std::mem::take(&mut inherited.public),
        lent,
        timings,
        relay,
        access_log: config.access_log,
        clock,
        ctl,
        proxy,
        hosts_at,
    })
}

/// The server's own ports, and what each of them is there for. Any port is one of its own each time.
fn own_ports(config: &Config, bind_at: SocketAddr, public_at: SocketAddr) -> Vec<(SocketAddr, Purposes)> {
    let numbers = [Some(config.ctl_port), Some(config.proxy_port), config.host_ports[0], config.host_ports[1]];
    let mut ports: Vec<(SocketAddr, Purposes)> = Vec::new();
    for (purpose, number) in Purpose::ALL.into_iter().zip(numbers) {
        let Some(number) = number else { continue };
        let mut at = match purpose {
            Purpose::Ctl | Purpose::Proxy => bind_at,
            Purpose::Http | Purpose::Https => public_at,
        };
        at.set_port(number);
        match ports.iter_mut().find(|(other, _)| number != 0 && *other == at) {
            Some((_, purposes)) => *purposes = purposes.with(purpose),
            None => ports.push((at, Purposes::default().with(purpose))),
        }
    }
    ports
}

/// Opens the server's own ports, or takes over those that another process has left. A port for one kind of visitors alone is
/// the listener's. Returns where the ctl and the proxy port are, and those of hosts.
fn open(
    ports: Vec<(SocketAddr, Purposes)>,
    main: &mut MainWorker,
    listener: &mut ListenWorker,
    inherited: &mut Inherited,
    routing: Routing,
) -> Result<([SocketAddr; 2], [Option<SocketAddr>; 2]), StartError> {
    let (mut wanted, mut hosts, mut left_hosts) = (Vec::new(), [None; 2], [None, None]);
    for (at, purposes) in ports {
        let left = inherited.door(purposes, at);
        match purposes.only_host() {
            Some(web) => (hosts[web as usize], left_hosts[web as usize]) = (Some(at), left),
            None => wanted.push(Wanted { at, purposes, left }),
        }
    }
    inherited.close_doors();
    let mut own = [None; 2];
    for wanted in wanted {
        let (at, purposes, adopted) = (wanted.at, wanted.purposes, wanted.left.is_some());
        let real = main.call(|driver, cx| driver.listen(cx, wanted)).map_err(|error| match purposes.iter().next() {
            Some(Purpose::Proxy) => StartError::ProxyPort(at, error),
            Some(Purpose::Http | Purpose::Https) => StartError::HostPort(at, error),
            Some(Purpose::Ctl) | None => StartError::CtlPort(at, error),
        })?;
        let webs = Web::ALL.into_iter().filter(|&web| purposes.has(web.into()));
        webs.for_each(|web| listener.driver.expect(web, real, adopted));
        for (own, purpose) in own.iter_mut().zip([Purpose::Ctl, Purpose::Proxy]) {
            *own = own.or_else(|| purposes.has(purpose).then_some(real));
        }
    }
    let hosts = listener.call(|driver, cx| driver.open_doors(cx, hosts, left_hosts, routing));
    let hosts = hosts.map_err(|(at, error)| StartError::HostPort(at, error))?;
    Ok((own.map(|at| at.expect("a server has both")), hosts))
}

impl Server {
    /// The ctl port's real address.
    #[must_use]
    pub fn ctl_addr(&self) -> SocketAddr {
        self.ctl
    }

    /// The proxy port's real address.
    #[must_use]
    pub fn proxy_addr(&self) -> SocketAddr {
        self.proxy
    }

    /// The real addresses of the ports of hosts, for plain HTTP and for TLS, where there are some.
    #[must_use]
    pub fn host_addrs(&self) -> [Option<SocketAddr>; 2] {
        self.hosts_at
    }

    /// A handle that stops the server.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(Program::Server(self.main_address.clone()))
    }

    /// A handle that tells the server its configuration anew. There is one: the last that was asked for.
    #[must_use]
    pub fn reloader(&mut self) -> Reloader {
        let (sender, answers) = channel();
        self.main.sys.notes().answer_reloads(sender);
        let (tls, visitor_tls) = (self.tls.clone(), self.visitor_tls.clone());
        Reloader { main: self.main_address.clone(), tls, visitor_tls, answers }
    }

    /// A handle that lets another process take over.
    #[must_use]
    pub fn upgrader(&self) -> Upgrader {
        Upgrader { operator: self.operator.clone(), lent: self.lent.clone() }
    }

    /// A handle that asks the server what it does, and gives it orders.
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.operator.clone()
    }

    /// Runs until stopped. Uses the calling thread as the main thread.
    ///
    /// # Errors
    /// A thread could not be started, or one of them died.
    pub fn run(self) -> Result<Summary, io::Error> {
        let Self {
            mut host,
            mut main,
            main_address,
            mut listener,
            mut paths,
            loop_count,
            hosts,
            held,
            timings,
            relay,
            access_log,
            clock,
            ..
        } = self;
        let session_grace = timings.session_grace;
        listener.call(|driver, cx| driver.hold(held, cx.now + session_grace));
        let mut loops = loop_count.into_iter().enumerate().map(|(loop_index, seat)| {
            let driver = ServerLoop::<Stream, Pipe>::new(loop_index, timings.clone());
            let out = LoopOut(Outgoing::new(main_address.clone()));
            let mut worker = Worker::new(seat, out, driver, clock).with_strategy(relay);
            worker.sys.notes().record_visits(access_log.clone());
            worker
        });
        let mut first = loops.next().expect("there is a loop at least");
        let mut crew = Threads::new();
        for (nth, (host, worker)) in hosts.into_iter().zip(loops).enumerate() {
            crew.spawn(format!("cproxy-loop-{}", nth + 1), host, worker, ServerLoop::totals, &main_address)?;
        }
        let mut totals = crew.serve(|| {
            let after = |driver: &ServerMain<_, _>, _: &mut _| {
                if driver.is_over() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let main = &mut Main { worker: &mut main, after };
            host.run(&mut [main, &mut listener, &mut first, &mut paths])?;
            listener.finish();
            paths.finish();
            first.finish();
            Ok(())
        })?;
        totals.push(first.driver.totals());
        totals.push(listener.driver.totals());
        let turned_away = main.driver.turned_away();
        let kept_out = listener.driver.turned_away();
        let (refused_by_source, refused_by_rate) =
            (kept_out.get(Dropped::SourceDenied), kept_out.get(Dropped::TooOften));
        let empty = Summary { turned_away, refused_by_source, refused_by_rate, ..Summary::default() };
        Ok(totals.iter().fold(empty, |sum, totals| Summary {
            visitors: sum.visitors + totals.visitors,
            finished: sum.finished + totals.finished,
            aborted: sum.aborted + totals.aborted,
            proxy_conns: sum.proxy_conns + totals.proxy_conns,
            ..sum
        }))
    }
}

/// Tells a server that runs its configuration anew.
#[derive(Debug)]
pub struct Reloader {
    main: Address<ToServerMain<Stream>>,
    tls: TlsInUse,
    visitor_tls: VisitorTlsInUse,
    answers: Receiver<Option<Changes>>,
}

impl Reloader {
    /// The server goes on as `config` says, and nobody loses what they may still have. Waits until the server has taken
    /// it over, and returns what was changed; `None` if the server stops, and changes nothing any more. Its addresses,
    /// the event loops, the way that payload is moved, what its descriptors allow, and whether it encrypts stay as they
    /// were.
    pub fn reload(&mut self, config: Config) -> Option<Changes> {
        let encrypts = matches!(*self.tls.get(), Tls::Server(_));
        if let Some(tls) = config.tls.filter(|_| encrypts) {
            self.tls.set(Tls::Server(tls));
        }
        self.visitor_tls.set(config.visitor_tls);
        self.main.post(ToServerMain::Reload(Box::new(config.settings)));
        self.answers.recv().ok().flatten()
    }
}

/// Lets another process take a running server's listeners over.
#[derive(Clone, Debug)]
pub struct Upgrader {
    operator: Operator,
    lent: Lent,
}

impl Upgrader {
    /// Takes a step, and waits until it is done. Returns what [`Step`] says; 0 too if the server has ended.
    #[must_use]
    pub fn step(&self, step: Step) -> usize {
        let (to, done) = channel();
        let asked = self.operator.upgrade(step, move |count| {
            // Nobody waits for it any more: then nobody needs it.
            let _unheard = to.send(count);
        });
        let count = done.recv().unwrap_or(0);
        drop(asked);
        count
    }

    /// The listeners that were lent, with their names.
    #[must_use]
    pub fn take_lent(&self) -> Vec<(String, OwnedFd)> {
        self.lent.take()
    }
}

type LanesOut = Vec<Outgoing<ToServerLoop<Stream>>>;

fn lanes_out(loop_count: &[DriverSlot<ToServerLoop<Stream>>]) -> LanesOut {
    loop_count.iter().map(|loop_index| Outgoing::new(loop_index.address())).collect()
}

/// From the main thread.
#[derive(Debug)]
struct MainOut {
    loop_count: LanesOut,
    listener: Outgoing<ToListener<Stream>>,
    paths: Outgoing<ToPaths>,
    answers: Answers,
}

impl Tell<ToOperator> for MainOut {
    fn tell(&mut self, msg: ToOperator) {
        self.answers.tell(msg);
    }
}

impl Tell<ToLoop<ToServerLoop<Stream>>> for MainOut {
    fn tell(&mut self, msg: ToLoop<ToServerLoop<Stream>>) {
        self.loop_count[msg.loop_index].tell(msg.message);
    }
}

impl Tell<ToPaths> for MainOut {
    fn tell(&mut self, msg: ToPaths) {
        self.paths.tell(msg);
    }
}

impl Tell<ToListener<Stream>> for MainOut {
    fn tell(&mut self, msg: ToListener<Stream>) {
        self.listener.tell(msg);
    }
}

impl Outbox for MainOut {
    fn flush(&mut self) {
        // The loops first: they must know of a client before the listener can send them its visitors.
        self.loop_count.iter_mut().for_each(Outgoing::flush);
        self.listener.flush();
        self.paths.flush();
    }
}

/// From the listener.
#[derive(Debug)]
struct ListenOut {
    loop_count: LanesOut,
    main: Outgoing<ToServerMain<Stream>>,
}

impl Tell<ToLoop<ToServerLoop<Stream>>> for ListenOut {
    fn tell(&mut self, msg: ToLoop<ToServerLoop<Stream>>) {
        self.loop_count[msg.loop_index].tell(msg.message);
    }
}

impl Tell<FromListener> for ListenOut {
    fn tell(&mut self, msg: FromListener) {
        self.main.tell(ToServerMain::Listener(msg));
    }
}

impl Outbox for ListenOut {
    fn flush(&mut self) {
        self.loop_count.iter_mut().for_each(Outgoing::flush);
        self.main.flush();
    }
}

/// From an event loop.
#[derive(Debug)]
struct LoopOut(Outgoing<ToServerMain<Stream>>);

impl Tell<FromServerLoop<Stream>> for LoopOut {
    fn tell(&mut self, msg: FromServerLoop<Stream>) {
        self.0.tell(ToServerMain::Loop(msg));
    }
}

impl Outbox for LoopOut {
    fn flush(&mut self) {
        self.0.flush();
    }
}
