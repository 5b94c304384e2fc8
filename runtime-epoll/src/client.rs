//! The client's threads.

use crate::mail::{Address, Outgoing};
use crate::notes::{AccessLog, Observer, browsers_refuse, seconds};
use crate::operator::Answers;
use crate::path::Paths;
use crate::resolve::Resolver;
use crate::sys::{Limits, Linux, Pipe, Stream};
use crate::thread::{Clock, DriverSlot, Host, Main, Outbox, Threads, Worker};
use crate::tls::{ClientTls, Tls, TlsInUse};
use crate::{Operator, Program, Stopper};
use protocol_sm::codes::TunnelRefusal;
use protocol_sm::driver::client_loop::ClientLoop;
use protocol_sm::driver::client_main::{ClientMain, Outcome};
use protocol_sm::driver::messages::{FromClientLoop, ToClientLoop, ToClientMain, ToLoop, ToOperator};
use protocol_sm::driver::paths::ToPaths;
use protocol_sm::driver::{Lookup, Note, Resolve, Strategy, Tell};
use protocol_sm::reload::{Changes, ClientReload};
use protocol_sm::settings::{ClientSettings, TunnelSpec};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Where the server is, and what to expose.
#[derive(Clone, Debug)]
pub struct Config {
    /// `HOST:PORT` of the server's ctl port; resolved anew at each reconnect.
    pub server: String,
    /// Event loops. Each has a thread of its own, but the first, which shares the main thread.
    pub work_threads: NonZeroUsize,
    /// How payload is moved.
    pub relay: Strategy,
    /// Encrypts the connections to the server.
    pub tls: Option<ClientTls>,
    /// Where visits are recorded, if they are.
    pub access_log: Option<AccessLog>,
    /// Everything else.
    pub settings: ClientSettings,
}

/// A tunnel that is reachable now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The tunnel's name.
    pub tunnel: String,
    /// The public port.
    pub public: SocketAddr,
    /// Where visitors reach it: at its host, or at the name under which this client reaches the server.
    pub url: String,
    /// The LocalServer, as configured.
    pub local: String,
}

/// A client that is not running yet.
#[derive(Debug)]
pub struct Client {
    config: Config,
    tls: TlsInUse,
    answers: Option<Sender<Option<Changes>>>,
    clock: Clock,
    host: Host,
    main: DriverSlot<ToClientMain>,
    reports: Answers,
    observer: Option<Observer>,
    loop_count: Vec<DriverSlot<ToClientLoop>>,
    paths: DriverSlot<ToPaths>,
    /// Of all event loops but the first, which has its seat on the main thread.
    hosts: Vec<Host>,
}

/// Why the client ended by itself.
#[derive(Debug)]
pub enum RunError {
    /// It never worked, and the server refused for good (wrong token, port not allowed, version): exit code 2. The
    /// text is a whole sentence for the user.
    Refused(String),
    /// Something local broke, or another client took over: exit code 1.
    Io(io::Error),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(sentence) => f.write_str(sentence),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(_) => None,
            Self::Io(error) => Some(error),
        }
    }
}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Totals of one run, for the closing log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Transfers that ended well, both directions.
    pub finished: u64,
    /// Transfers cut short (reset) or refused.
    pub aborted: u64,
    /// proxy_conns opened.
    pub proxy_conns: u64,
}

/// Prepares a client.
///
/// # Errors
/// The machine is out of descriptors.
pub fn start(mut config: Config) -> Result<Client, io::Error> {
    config.settings.access_log = config.access_log.is_some();
    let clock = Clock::start();
    let mut host = Host::new(clock)?;
    let main = host.seat()?;
    let (loop_count, hosts) = host.loop_count(config.work_threads.get())?;
    let paths = host.seat()?;
    let tls = TlsInUse::new(in_use(config.tls.take()));
    let (answers, reports, observer) = (None, Answers::default(), None);
    Ok(Client { config, tls, answers, clock, host, main, reports, observer, loop_count, paths, hosts })
}

fn in_use(tls: Option<ClientTls>) -> Tls {
    tls.map_or(Tls::Off, Tls::Client)
}

/// Tells a client that runs its configuration anew.
#[derive(Debug)]
pub struct Reloader {
    main: Address<ToClientMain>,
    tls: TlsInUse,
    answers: Receiver<Option<Changes>>,
}

impl Reloader {
    /// The client goes on as `config` says, and loses nothing that stays. Waits until the client has taken it over, and
    /// returns what was changed; `None` if the client stops, and changes nothing any more. The event loops, the way that
    /// payload is moved, the access log, and the client's identity stay as they were.
    pub fn reload(&mut self, config: Config) -> Option<Changes> {
        let Config { server, tls, settings, .. } = config;
        let reconnect = self.tls.set(in_use(tls));
        self.main.post(ToClientMain::Reload(Box::new(ClientReload { server, settings, reconnect })));
        self.answers.recv().ok().flatten()
    }
}

impl Client {
    /// A handle that stops the client.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(Program::Client(self.main.address()))
    }

    /// A handle that tells the client its configuration anew. There is one: the last that was asked for.
    #[must_use]
    pub fn reloader(&mut self) -> Reloader {
        let (sender, answers) = channel();
        self.answers = Some(sender);
        Reloader { main: self.main.address(), tls: self.tls.clone(), answers }
    }

    /// A handle that asks the client what it does.
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.reports.operator(Program::Client(self.main.address()))
    }

    /// Shows every note to `see`, on the thread that makes it: `see` must not block.
    pub fn observe(&mut self, see: impl Fn(&Note) + Send + Sync + 'static) {
        self.observer = Some(Observer::new(see));
    }

    /// Runs until stopped or refused for good. Uses the calling thread as the main thread and calls
    /// `on_forwarding` on it, once per tunnel that becomes reachable, is reachable again after it was refused, or changes
    /// its public address.
    ///
    /// # Errors
    /// See [`RunError`].
    pub fn run(self, mut on_forwarding: impl FnMut(&Forwarding)) -> Result<Summary, RunError> {
        let Self {
            config: Config { server, settings, relay, access_log, .. },
            tls,
            answers,
            clock,
            mut host,
            main,
            reports,
            observer,
            loop_count,
            paths,
            hosts,
        } = self;
        let timings = settings.timings.clone();
        let main_address = main.address();
        let out = MainOut {
            loop_count: loop_count.iter().map(|loop_index| Outgoing::new(loop_index.address())).collect(),
            resolver: Resolver::new(main_address.clone()),
            paths: Outgoing::new(paths.address()),
            reports,
        };
        let mut paths = Paths::new(paths, main_address.clone(), ToClientMain::Paths, clock);
        let driver = ClientMain::<Stream>::new(settings, server, loop_count.len());
        let mut main = Worker::new(main, out, driver, clock);
        main.sys.use_tls(tls.clone());
        main.sys.set_limits(Limits::new(&timings));
        main.sys.notes().show(observer.clone());
        answers.into_iter().for_each(|answers| main.sys.notes().answer_reloads(answers));
        let mut loops = loop_count.into_iter().enumerate().map(|(loop_index, seat)| {
            let driver = ClientLoop::<Stream, Pipe>::new(loop_index, timings.clone());
            let mut worker =
                Worker::new(seat, LoopOut(Outgoing::new(main_address.clone())), driver, clock).with_strategy(relay);
            worker.sys.use_tls(tls.clone());
            worker.sys.set_limits(Limits::new(&timings));
            worker.sys.notes().record_visits(access_log.clone());
            worker.sys.notes().show(observer.clone());
            worker
        });
        let mut first = loops.next().expect("there is a loop at least");
        let mut crew = Threads::new();
        for (nth, (host, worker)) in hosts.into_iter().zip(loops).enumerate() {
            crew.spawn(format!("cproxy-loop-{}", nth + 1), host, worker, ClientLoop::totals, &main_address)?;
        }
        let mut totals = crew.serve(|| {
            main.call(|driver, cx| driver.start(cx));
            let after = |driver: &ClientMain<_>, sys: &mut Linux<_>| {
                for (tunnel, outcome) in sys.notes().tunnel_news() {
                    // One that was closed meanwhile is no news.
                    let spec = driver.tunnel(tunnel);
                    if let Some(forwarding) = spec.and_then(|spec| announce(spec, host_of(driver.server()), outcome)) {
                        on_forwarding(&forwarding);
                    }
                }
                if driver.outcome().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let main = &mut Main { worker: &mut main, after };
            host.run(&mut [main, &mut first, &mut paths])?;
            paths.finish();
            first.finish();
            Ok(())
        })?;
        totals.push(first.driver.totals());
        match main.driver.outcome() {
            Some(Outcome::Refused(sentence)) => return Err(RunError::Refused(sentence.clone())),
            Some(Outcome::Replaced) => {
                let sentence = "another client with the same identity took over; if both are to run, give each its \
                                own --client-id and its own tunnels";
                return Err(io::Error::other(sentence).into());
            }
            Some(Outcome::Stopped | Outcome::TakenOver) | None => {}
        }
        Ok(totals.iter().fold(Summary::default(), |sum, totals| Summary {
            finished: sum.finished + totals.finished,
            aborted: sum.aborted + totals.aborted,
            proxy_conns: sum.proxy_conns + totals.proxy_conns,
        }))
    }
}

/// The host of a `HOST:PORT`.
fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

/// Logs what became of a tunnel; returns what to announce if it is reachable.
fn announce(
    spec: &TunnelSpec,
    server_host: &str,
    outcome: Result<SocketAddr, (TunnelRefusal, Duration)>,
) -> Option<Forwarding> {
    match outcome {
        Ok(public) => {
            if spec.local == format!("{server_host}:{}", public.port()) {
                let (tunnel, local) = (&spec.name, &spec.local);
                tracing::warn!(
                    event = "tunnel_into_itself",
                    tunnel,
                    local,
                    "its `local` is its own public port: each visitor would visit the tunnel once more, until \
                     max_connections are there; give the address of the service"
                );
            }
            let (tunnel, local) = (&spec.name, &spec.local);
            let remark = if spec.is_udp() { "" } else { browsers_refuse(public.port()) };
            tracing::info!(
                event = "tunnel_reachable",
                tunnel,
                public_port = public.port(),
                host = spec.site.as_ref().map(ToString::to_string),
                local,
                "the tunnel is reachable{remark}"
            );
            let url = spec.site.as_ref().map(|site| site.url(public.port()));
            let url = url.unwrap_or_else(|| {
                let scheme = if spec.is_udp() { "udp" } else { "tcp" };
                // At an address of its own it is not where the server's name leads.
                match spec.bind_addr.filter(|address| !address.is_unspecified()) {
                    Some(address) => format!("{scheme}://{}", SocketAddr::new(address, public.port())),
                    None => format!("{scheme}://{server_host}:{}", public.port()),
                }
            });
            Some(Forwarding { tunnel: spec.name.clone(), public, url, local: spec.local.clone() })
        }
        Err((code, pause)) => {
            let (tunnel, public_port, pause) = (&spec.name, spec.public_port, seconds(pause));
            let host = spec.site.as_ref().map(ToString::to_string);
            if code.is_final() {
                tracing::error!(
                    event = "tunnel_unreachable",
                    tunnel,
                    public_port,
                    host,
                    pause,
                    "not reachable: {code}; asked for again after a pause, and then more rarely"
                );
            } else {
                tracing::warn!(
                    event = "tunnel_not_reachable_yet",
                    tunnel,
                    public_port,
                    host,
                    pause,
                    "not reachable: {code}; asked for again after a pause"
                );
            }
            None
        }
    }
}

/// From the main thread.
#[derive(Debug)]
struct MainOut {
    loop_count: Vec<Outgoing<ToClientLoop>>,
    resolver: Resolver,
    paths: Outgoing<ToPaths>,
    reports: Answers,
}

impl Tell<ToOperator> for MainOut {
    fn tell(&mut self, msg: ToOperator) {
        self.reports.tell(msg);
    }
}

impl Tell<ToPaths> for MainOut {
    fn tell(&mut self, msg: ToPaths) {
        self.paths.tell(msg);
    }
}

impl Tell<ToLoop<ToClientLoop>> for MainOut {
    fn tell(&mut self, msg: ToLoop<ToClientLoop>) {
        self.loop_count[msg.loop_index].tell(msg.message);
    }
}

impl Resolve for MainOut {
    fn resolve(&mut self, tag: Lookup, name: &str) {
        self.resolver.resolve(tag, name);
    }
}

impl Outbox for MainOut {
    fn flush(&mut self) {
        self.loop_count.iter_mut().for_each(Outgoing::flush);
        self.paths.flush();
    }
}

/// From an event loop.
#[derive(Debug)]
struct LoopOut(Outgoing<ToClientMain>);

impl Tell<FromClientLoop> for LoopOut {
    fn tell(&mut self, msg: FromClientLoop) {
        self.0.tell(ToClientMain::Loop(msg));
    }
}

impl Outbox for LoopOut {
    fn flush(&mut self) {
        self.0.flush();
    }
}
