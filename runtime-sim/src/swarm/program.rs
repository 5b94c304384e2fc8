//! The server and the client as hosts: production's drivers, each a thread that runs when the seed says so.

use super::orders::Order;
use super::plan::Plan;
use super::stage::{SERVER, Stage};
use super::sys::{Backlog, Door, LISTENER, Mailbox, Pipe, Process, Stream, Thread, shuffle};
use super::upgrade::Upgrade;
use crate::kernel::{ProcId, Rng};
use crate::oracle::{Kind, Property};
use crate::scenario::{CTL, PROXY, Reach, client_token, draw_client, draw_server, sort_left};
use protocol_sm::driver::client_loop::ClientLoop;
use protocol_sm::driver::client_main::{ClientMain, Outcome};
use protocol_sm::driver::listener::Listener;
use protocol_sm::driver::messages::{ToClientMain, ToServerMain};
use protocol_sm::driver::server_loop::ServerLoop;
use protocol_sm::driver::server_main::{ServerMain, Wanted};
use protocol_sm::driver::{Cx, Driver, Given, Totals};
use protocol_sm::purposes::{Purpose, Purposes};
use protocol_sm::reload::ClientReload;
use protocol_sm::routes::Web;
use protocol_sm::settings::{ClientSettings, ServerSettings, TunnelSpec};
use protocol_sm::sources::Network;
use protocol_sm::time::Instant;
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// More rounds than this without sleeping is spinning.
const ROUNDS: u32 = 20_000;
/// How soon a program that ended by itself is started again, as a service manager would.
const RESTART: Duration = Duration::from_millis(500);

/// A driver with its mailbox and buffer.
struct SimThread<D, M> {
    driver: D,
    /// The driver's `assert_consistent`.
    check: fn(&D),
    mailbox: Mailbox<M>,
    thread: Thread,
    rng: Rng,
    scratch: Vec<u8>,
    /// It has something to do, but does not get the processor before.
    runs_at: Option<Instant>,
}

impl<D: Driver<Thread, Message = M>, M> SimThread<D, M> {
    fn new(
        process: &Rc<RefCell<Process>>,
        index: usize,
        driver: D,
        check: fn(&D),
        mailbox: Mailbox<M>,
    ) -> Rc<RefCell<Self>> {
        let thread = Thread { process: Rc::clone(process), index };
        let (rng, scratch) = {
            let mut process = process.borrow_mut();
            (process.rng.fork(), vec![0; process.stage.plan.scenario.scratch])
        };
        Rc::new(RefCell::new(Self { driver, check, mailbox, thread, rng, scratch, runs_at: None }))
    }

    fn call<R>(&mut self, now: Instant, call: impl FnOnce(&mut D, &mut Cx<'_, Thread>) -> R) -> R {
        let (strategy, turn) = {
            let scenario = &self.thread.process.borrow().stage.plan.scenario;
            (scenario.strategy, scenario.turn)
        };
        let mut cx = Cx { sys: &mut self.thread, now, scratch: &mut self.scratch, strategy, turn };
        call(&mut self.driver, &mut cx)
    }
}

/// A thread, whatever it runs.
trait Runs {
    /// Runs one batch, if there is something to do and the thread gets the processor. `false`: it did not.
    fn run(&mut self, now: Instant) -> bool;
    fn next_deadline(&self) -> Option<Instant>;
}

impl<D: Driver<Thread, Message = M>, M> Runs for SimThread<D, M> {
    fn run(&mut self, now: Instant) -> bool {
        let index = self.thread.index;
        let due = self.driver.is_busy()
            || self.driver.next_deadline().is_some_and(|at| at <= now)
            || !self.mailbox.borrow().is_empty()
            || self.thread.process.borrow().has_events(index);
        if !due {
            return false;
        }
        let lag = {
            let process = self.thread.process.borrow();
            process.stage.orders.with_status(process.who, |status| status.lag)
        };
        let runs_at = match self.runs_at {
            Some(at) => at,
            None if lag.is_zero() => now,
            None => now + Duration::from_micros(self.rng.below(lag.as_micros() as u64 + 1)),
        };
        if runs_at > now {
            self.runs_at = Some(runs_at);
            return false;
        }
        self.runs_at = None;
        // A thread may find only some of what others are just posting.
        let here = self.mailbox.borrow().len();
        let count = if self.rng.chance(30) { self.rng.size(0, here) } else { here };
        let messages: Vec<_> = self.mailbox.borrow_mut().drain(..count).collect();
        let events = self.thread.process.borrow_mut().take_events(index);
        self.call(now, |driver, cx| {
            for message in messages {
                driver.on_message(cx, message);
            }
            for (token, ready) in events {
                driver.on_ready(cx, token, ready);
            }
            if driver.next_deadline().is_some_and(|at| at <= now) {
                driver.on_deadline(cx);
            }
            driver.run_busy(cx);
        });
        (self.check)(&self.driver);
        true
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.runs_at.or_else(|| self.driver.next_deadline())
    }
}

/// All threads of a process.
struct Program {
    stage: Rc<Stage>,
    who: ProcId,
    process: Rc<RefCell<Process>>,
    threads: Vec<Rc<RefCell<dyn Runs>>>,
    rng: Rng,
    sleep: Pin<Box<Sleep>>,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("who", &self.who).finish_non_exhaustive()
    }
}

impl Program {
    fn new(process: Rc<RefCell<Process>>) -> Self {
        let (stage, who, rng) = {
            let mut process = process.borrow_mut();
            (Rc::clone(&process.stage), process.who, process.rng.fork())
        };
        Self { stage, who, process, threads: Vec::new(), rng, sleep: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }

    /// Runs its threads until all sleep, or `after`, called after each round, says that it is over.
    fn turn(&mut self, cx: &mut Context<'_>, mut after: impl FnMut() -> bool) -> Poll<()> {
        for _ in 0..ROUNDS {
            let now = self.stage.now();
            self.process.borrow_mut().pull(cx);
            let mut order: Vec<_> = (0..self.threads.len()).collect();
            shuffle(&mut self.rng, &mut order);
            let mut ran = false;
            for index in order {
                ran |= self.threads[index].borrow_mut().run(now);
            }
            if after() {
                return Poll::Ready(());
            }
            if ran {
                continue;
            }
            let threads = self.threads.iter().filter_map(|thread| thread.borrow().next_deadline());
            let Some(at) = threads.chain(self.process.borrow().deadline()).min() else { return Poll::Pending };
            self.sleep.as_mut().reset(tokio::time::Instant::now() + at.since(now));
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        let what = format!("{:?} ran {ROUNDS} rounds without sleeping", self.who);
        self.stage.breach(Kind::Safety, Property::NoSpinning, what);
        Poll::Ready(())
    }

    /// Everything must be closed by now.
    fn check_closed(&self, loop_sockets: usize) {
        let open = self.process.borrow().open();
        if open != (0, 0, 0) || loop_sockets > 0 {
            let what = format!(
                "{:?} stopped with {} sockets, {} listening sockets and {} pipes open, {loop_sockets} known to its loops",
                self.who, open.0, open.1, open.2
            );
            self.stage.breach(Kind::Safety, Property::ClosedOnce, what);
        }
    }
}

/// Runs the server until it is told to stop for good.
pub(super) async fn server(stage: Rc<Stage>) -> turmoil::Result {
    loop {
        stage.orders.awake(SERVER).await;
        let again = serve(&stage, Vec::new()).await;
        stage.orders.with_status(SERVER, |status| {
            status.up = false;
            status.stopped = true;
        });
        stage.oracle.forget_transfers();
        match again {
            // The machine goes on, and refuses connections.
            Order::Stop => std::future::pending().await,
            Order::Restart(pause) => tokio::time::sleep(pause).await,
        }
    }
}

/// What the server is told at its start.
fn server_settings(plan: &Plan) -> ServerSettings {
    let mut settings = plan.scenario.server(true);
    if plan.fronted {
        settings.trusted_proxies.push(Network::new(turmoil::lookup("visitors"), 32).expect("one address"));
    }
    settings
}

/// A process of the server, which takes over what another has left, and those that it leaves its own place to. Returns
/// what the last of them was told when all have ended.
pub(super) async fn serve(stage: &Rc<Stage>, left: Vec<(Given, Backlog)>) -> Order {
    let plan = &stage.plan;
    let settings = server_settings(plan);
    let (visitors, routing) = (settings.budget.visitors, settings.routing());
    let trusted = settings.trusted_proxies.clone();
    let any = Ipv4Addr::UNSPECIFIED;
    let process = Process::new(stage, SERVER, plan.scenario.loop_count);
    let left = left.into_iter().map(|(given, backlog)| (given, backlog.at, process.borrow_mut().take(backlog)));
    let ([ctl_left, proxy_left, http_left, https_left], held) = sort_left(left);
    let adopted = ctl_left.is_some();
    let mut program = Program::new(Rc::clone(&process));
    let seat = |index, mailbox| {
        let driver = ServerMain::<Stream, Door>::new(settings, plan.scenario.loop_count, (any, 0).into());
        SimThread::new(&process, index, driver, ServerMain::assert_consistent, mailbox)
    };
    let mailbox = Rc::clone(&process.borrow().mail.server_main);
    let main = seat(0, Rc::clone(&mailbox));
    let inbox = Rc::clone(&process.borrow().mail.listener);
    let listener = SimThread::new(
        &process,
        LISTENER,
        Listener::<Stream, Door>::new(plan.scenario.loop_count, visitors, trusted),
        Listener::assert_consistent,
        inbox,
    );
    let mut loops = Vec::new();
    for loop_index in 0..plan.scenario.loop_count {
        let inbox = Rc::clone(&process.borrow().mail.server_loops[loop_index]);
        let driver = ServerLoop::<Stream, Pipe>::new(loop_index, plan.scenario.timings.clone());
        loops.push(SimThread::new(&process, 2 + loop_index, driver, ServerLoop::assert_consistent, inbox));
    }
    let one_port = plan.scenario.one_port;
    let hosts = Web::ALL.map(|web| SocketAddr::from((any, plan.scenario.host_port(web))));
    listener.borrow_mut().call(stage.now(), |listener, cx| {
        let own = hosts.map(|at| one_port.is_none().then_some(at));
        listener.open_doors(cx, own, [http_left, https_left], routing).expect("the ports of hosts are free");
        for web in Web::ALL.into_iter().filter(|_| one_port.is_some()) {
            listener.expect(web, hosts[web as usize], adopted);
        }
        listener.hold(held, stage.now() + plan.scenario.timings.session_grace);
    });
    let [ctl, proxy] = [Purpose::Ctl, Purpose::Proxy].map(|purpose| Purposes::default().with(purpose));
    let ports = match one_port {
        Some(port) => vec![(port, Purpose::ALL.into_iter().collect(), ctl_left)],
        None => vec![(CTL, ctl, ctl_left), (PROXY, proxy, proxy_left)],
    };
    for (port, purposes, left) in ports {
        let wanted = Wanted { at: (any, port).into(), purposes, left };
        let bound = main.borrow_mut().call(stage.now(), |main, cx| main.listen(cx, wanted));
        assert!(bound.is_ok(), "the server's own ports are free: {bound:?}");
    }
    program.threads = vec![main.clone(), listener.clone()];
    program.threads.extend(loops.iter().map(|seat| Rc::clone(seat) as Rc<RefCell<dyn Runs>>));

    let mut order = None;
    let mut over = false;
    let mut upgrade = Upgrade::default();
    let sockets = || loops.iter().map(|seat| seat.borrow().driver.sockets()).sum::<usize>();
    poll_fn(|cx| {
        // The one that has its place is told everything.
        let told = !upgrade.has_left();
        if let Some(new) = told.then(|| stage.orders.take_order(SERVER, cx.waker())).flatten() {
            order = Some(new);
            mailbox.borrow_mut().push_back(ToServerMain::Stop);
        }
        if let Some(tag) = process.borrow().watch.question() {
            mailbox.borrow_mut().push_back(ToServerMain::Report { tag });
        }
        if told && stage.orders.take_upgrade(SERVER) {
            upgrade.begin(&process, &mailbox);
        }
        for draw in if told { stage.orders.take_reloads(SERVER) } else { Vec::new() } {
            let mut new = server_settings(plan);
            if let Some(draw) = draw {
                new = draw_server(&mut Rng::new(draw), reach(plan), plan.scenario.clients.len(), new);
            }
            mailbox.borrow_mut().push_back(ToServerMain::Reload(Box::new(new)));
        }
        program.turn(cx, || {
            upgrade.go_on(stage, &process, &mailbox, order.is_some());
            if !upgrade.has_left() {
                stage.orders.with_status(SERVER, |status| {
                    status.up = true;
                    status.loop_sockets = sockets();
                });
                main.borrow()
                    .driver
                    .assert_ports(&listener.borrow().driver, process.borrow().mail.listener.borrow().iter());
            }
            // The other threads handle the messages that are left.
            let was_over = over;
            over = main.borrow().driver.is_over();
            let quiet = process.borrow().mail.server_loops.iter().all(|inbox| inbox.borrow().is_empty());
            was_over && quiet && process.borrow().mail.listener.borrow().is_empty()
        })
    })
    .await;
    if !upgrade.has_left() {
        stage.orders.with_status(SERVER, |status| status.up = false);
    }
    program.check_closed(sockets() + main.borrow().driver.sockets() + listener.borrow().driver.ports());
    let totals: Vec<Totals> = loops.iter().map(|seat| seat.borrow().driver.totals()).collect();
    let turned_away = listener.borrow().driver.totals().visitors + listener.borrow().driver.turned_away().sum();
    let visits = totals.iter().map(|totals| totals.visitors).sum::<u64>() + turned_away;
    process.borrow().watch.check_visits(visits);
    for total in totals {
        if total.visitors != total.finished + total.aborted {
            stage.breach(Kind::Safety, Property::VisitorsAccountedFor, format!("{total:?}"));
        }
    }
    match upgrade.successor() {
        Some(successor) => successor.await.expect("a process that ends by itself"),
        None => order.unwrap_or(Order::Stop),
    }
}

/// Runs a client until it is told to stop for good. `identity` decides whom it replaces.
pub(super) async fn client(stage: Rc<Stage>, who: ProcId, identity: usize) -> turmoil::Result {
    loop {
        stage.orders.awake(who).await;
        match connect(&stage, who, identity).await {
            Order::Stop => std::future::pending().await,
            Order::Restart(pause) => tokio::time::sleep(pause).await,
        }
    }
}

/// How far reloads may go here: a client that is refused before it has worked ends, and public ports are known from what
/// the server opens.
fn reach(plan: &Plan) -> Reach {
    if plan.scenario.calm { Reach::Calm } else { Reach::InPlace }
}

/// What a client is told at its start.
fn client_settings(plan: &Plan, identity: usize) -> ClientReload {
    let spec = &plan.scenario.clients[identity];
    let settings = ClientSettings {
        token: Some(client_token(identity)),
        frugal: spec.frugal,
        access_log: true,
        timings: plan.scenario.timings_of(identity),
        ..ClientSettings::new(
            [u8::try_from(identity).expect("few clients"); 16],
            spec.tunnels
                .iter()
                .map(|&tunnel| TunnelSpec {
                    name: format!("tunnel-{tunnel}"),
                    public_port: plan.scenario.tunnels[tunnel].public_port,
                    bind_addr: None,
                    site: plan.scenario.tunnels[tunnel].site.clone(),
                    local: format!("service:{}", plan.scenario.tunnels[tunnel].service_port),
                    local_sources: Vec::new(),
                    limits: plan.scenario.limits(tunnel),
                    serving: plan.scenario.tunnels[tunnel].serving,
                })
                .collect(),
        )
    };
    ClientReload { server: format!("server:{CTL}"), settings, reconnect: false }
}

async fn connect(stage: &Rc<Stage>, who: ProcId, identity: usize) -> Order {
    let plan = &stage.plan;
    let spec = &plan.scenario.clients[identity];
    let ClientReload { server, settings, .. } = client_settings(plan, identity);
    let process = Process::new(stage, who, spec.loop_count);
    let mut program = Program::new(Rc::clone(&process));
    let mailbox = Rc::clone(&process.borrow().mail.client_main);
    let timings = settings.timings.clone();
    let driver = ClientMain::<Stream>::new(settings, server, spec.loop_count);
    let main = SimThread::new(&process, 0, driver, ClientMain::assert_consistent, Rc::clone(&mailbox));
    let mut loops = Vec::new();
    for loop_index in 0..spec.loop_count {
        let inbox = Rc::clone(&process.borrow().mail.client_loops[loop_index]);
        let driver = ClientLoop::<Stream, Pipe>::new(loop_index, timings.clone());
        loops.push(SimThread::new(&process, 1 + loop_index, driver, ClientLoop::assert_consistent, inbox));
    }
    main.borrow_mut().call(stage.now(), |main, cx| main.start(cx));
    program.threads = vec![main.clone()];
    program.threads.extend(loops.iter().map(|seat| Rc::clone(seat) as Rc<RefCell<dyn Runs>>));

    let mut order = None;
    let mut over = false;
    let sockets = || loops.iter().map(|seat| seat.borrow().driver.sockets()).sum::<usize>();
    poll_fn(|cx| {
        if let Some(new) = stage.orders.take_order(who, cx.waker()) {
            order = Some(new);
            mailbox.borrow_mut().push_back(ToClientMain::Stop);
        }
        if let Some(tag) = process.borrow().watch.question() {
            mailbox.borrow_mut().push_back(ToClientMain::Report { tag });
        }
        for draw in stage.orders.take_reloads(who) {
            let mut new = client_settings(plan, identity);
            if let Some(draw) = draw {
                new = draw_client(&mut Rng::new(draw), reach(plan), new, |tunnel| tunnel.local.clone());
            }
            mailbox.borrow_mut().push_back(ToClientMain::Reload(Box::new(new)));
        }
        program.turn(cx, || {
            stage.orders.with_status(who, |status| {
                status.up = main.borrow().driver.is_up();
                status.loop_sockets = sockets();
            });
            let was_over = over;
            over = main.borrow().driver.outcome().is_some();
            was_over && process.borrow().mail.client_loops.iter().all(|inbox| inbox.borrow().is_empty())
        })
    })
    .await;
    stage.orders.with_status(who, |status| {
        status.up = false;
        status.stopped = true;
    });
    program.check_closed(sockets());
    process.borrow().watch.check_visits(loops.iter().map(|seat| seat.borrow().driver.totals().visitors).sum());
    match main.borrow().driver.outcome() {
        Some(Outcome::Refused(why)) => {
            stage.breach(Kind::Liveness, Property::ClientsReturn, format!("{who:?} was refused for good: {why}"));
        }
        Some(Outcome::Stopped | Outcome::Replaced | Outcome::TakenOver) | None => {}
    }
    order.unwrap_or(Order::Restart(RESTART))
}
