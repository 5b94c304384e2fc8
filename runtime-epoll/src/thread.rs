//! The loop that every thread runs, for one driver or for several, and the threads that belong together.

use crate::mail::{Address, Bell, Mailbox};
use crate::sys::{Event, Linux, Poller, Registrar, Timer};
use protocol_sm::driver::{Cx, Driver, Readiness, SCRATCH, Strategy, TURN, Token};
use protocol_sm::time::Instant;
use std::any::Any;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// The drivers' time: nanoseconds since this was made. One for all threads of a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(std::time::Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// The same time, as the standard library has it.
    pub(crate) fn to_std(self, at: Instant) -> std::time::Instant {
        self.0 + at.since(Instant::ZERO)
    }

    /// The drivers' time of one of the standard library's.
    pub(crate) fn of_std(self, at: std::time::Instant) -> Instant {
        Instant::ZERO + at.saturating_duration_since(self.0)
    }

    pub(crate) fn now(self) -> Instant {
        Instant::from_nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Messages for other drivers, posted at the end of each turn.
pub(crate) trait Outbox {
    fn flush(&mut self);
}

/// A thread before it runs: its epoll set, and what ends its sleep.
#[derive(Debug)]
pub(crate) struct Host {
    poller: Poller,
    bell: Arc<Bell>,
    timer: Timer,
    clock: Clock,
}

/// What a driver needs before it can be told anything.
#[derive(Debug)]
pub(crate) struct DriverSlot<M> {
    pub(crate) registrar: Registrar,
    pub(crate) mailbox: Mailbox<M>,
}

impl Host {
    pub(crate) fn new(clock: Clock) -> io::Result<Self> {
        let poller = Poller::new()?;
        let bell = Arc::new(Bell::new(poller.waker()?));
        let timer = Timer::new(&poller)?;
        Ok(Self { poller, bell, timer, clock })
    }

    /// A place for one more driver. [`Host::run`] expects the drivers in the order of their places.
    pub(crate) fn seat<M>(&mut self) -> io::Result<DriverSlot<M>> {
        Ok(DriverSlot { registrar: self.poller.registrar()?, mailbox: Mailbox::new(Arc::clone(&self.bell)) })
    }

    /// Seats for `count` event loops: the first one here, each of the others on a thread of its own.
    pub(crate) fn loop_count<M>(&mut self, count: usize) -> io::Result<(Vec<DriverSlot<M>>, Vec<Self>)> {
        let mut loop_count = vec![self.seat()?];
        let mut hosts = (1..count).map(|_| Self::new(self.clock)).collect::<io::Result<Vec<_>>>()?;
        for host in &mut hosts {
            loop_count.push(host.seat()?);
        }
        Ok((loop_count, hosts))
    }

    /// Runs drivers on this thread, in this order, until one of them has ended. Messages between them need no wake-up.
    pub(crate) fn run(&mut self, workers: &mut [&mut dyn Work]) -> io::Result<()> {
        let mut now = self.clock.now();
        loop {
            let timeout = if self.sleeps(workers, now)? { None } else { Some(Duration::ZERO) };
            self.poller.wait(timeout)?;
            self.bell.wake_up();
            for (seat, event) in self.poller.events() {
                workers[seat].on_event(event);
            }
            now = self.clock.now();
            for _ in 0..ROUNDS {
                if workers.iter_mut().any(|worker| worker.has_work(now) && worker.turn(now).is_break()) {
                    return Ok(());
                }
                if !has_mail(workers) {
                    break;
                }
            }
        }
    }

    /// Whether there is nothing to do until a socket, another thread or the timer wakes the thread. Their last turn was
    /// at `now`.
    fn sleeps(&mut self, workers: &[&mut dyn Work], now: Instant) -> io::Result<bool> {
        if workers.iter().any(|worker| worker.is_busy()) {
            return Ok(false);
        }
        if let Some(deadline) = workers.iter().filter_map(|worker| worker.next_deadline()).min() {
            if deadline <= now {
                return Ok(false);
            }
            if !self.timer.wakes_before(deadline, now) {
                self.timer.wake_at(deadline, self.clock.now())?;
            }
        }
        Ok(self.bell.fall_asleep(|| has_mail(workers)))
    }
}

/// How often the drivers of a thread are told what the others have just said, before sockets get their turn.
const ROUNDS: usize = 4;

fn has_mail(workers: &[&mut dyn Work]) -> bool {
    workers.iter().any(|worker| worker.has_mail())
}

impl<M> DriverSlot<M> {
    pub(crate) fn address(&self) -> Address<M> {
        self.mailbox.address()
    }
}

/// One driver's part of a thread.
pub(crate) trait Work {
    /// One of its sockets became ready: for the next turn.
    fn on_event(&mut self, event: Event);
    /// Whether a turn at this time would change anything.
    fn has_work(&self, now: Instant) -> bool;
    /// Handles what has come since the last turn. Breaks when the driver has ended.
    fn turn(&mut self, now: Instant) -> ControlFlow<()>;
    fn has_mail(&self) -> bool;
    /// Whether it has something to do at once.
    fn is_busy(&self) -> bool;
    /// When it must run even if nothing has come, as of its last turn.
    fn next_deadline(&self) -> Option<Instant>;
}

/// A driver, and all that it runs with.
#[derive(Debug)]
pub(crate) struct Worker<D, O, M> {
    pub(crate) driver: D,
    pub(crate) sys: Linux<O>,
    mailbox: Mailbox<M>,
    clock: Clock,
    strategy: Strategy,
    scratch: Box<[u8]>,
    /// The messages and events of one turn. They are kept between turns for their capacity.
    ready: Vec<(Token, Readiness)>,
    messages: Vec<M>,
    /// The driver's, which changes in a turn only. Before the first one: at once.
    next_deadline: Option<Instant>,
}

impl<D, O, M> Worker<D, O, M>
where
    D: Driver<Linux<O>, Message = M>,
    O: Outbox,
{
    pub(crate) fn new(seat: DriverSlot<M>, outbox: O, driver: D, clock: Clock) -> Self {
        Self {
            driver,
            sys: Linux::with_registrar(seat.registrar, outbox),
            mailbox: seat.mailbox,
            clock,
            strategy: Strategy::default(),
            scratch: vec![0; SCRATCH].into_boxed_slice(),
            ready: Vec::new(),
            messages: Vec::new(),
            next_deadline: Some(Instant::ZERO),
        }
    }

    /// Its driver moves payload in this way.
    pub(crate) fn with_strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Calls `call` as from inside of the loop.
    pub(crate) fn call<R>(&mut self, call: impl FnOnce(&mut D, &mut Cx<'_, Linux<O>>) -> R) -> R {
        let Self { driver, sys, clock, scratch, strategy, .. } = self;
        let mut cx = Cx { sys, now: clock.now(), scratch, strategy: *strategy, turn: TURN };
        call(driver, &mut cx)
    }

    /// Handles the last messages. The driver has ended then.
    pub(crate) fn finish(&mut self) {
        self.mailbox.address().close();
        let _through = self.turn(self.clock.now());
    }
}

impl<D, O, M> Work for Worker<D, O, M>
where
    D: Driver<Linux<O>, Message = M>,
    O: Outbox,
{
    fn on_event(&mut self, event: Event) {
        let event = self.sys.on_event(event);
        self.ready.push(event);
    }

    fn has_work(&self, now: Instant) -> bool {
        self.has_mail() || !self.ready.is_empty() || self.is_busy() || self.next_deadline.is_some_and(|at| at <= now)
    }

    fn turn(&mut self, now: Instant) -> ControlFlow<()> {
        let Self { driver, sys, mailbox, strategy, scratch, ready, messages, next_deadline, .. } = self;
        let open = mailbox.take(messages);
        let mut cx = Cx { sys, now, scratch, strategy: *strategy, turn: TURN };
        for message in messages.drain(..) {
            driver.on_message(&mut cx, message);
        }
        cx.sys.take_woken(ready);
        for (token, readiness) in ready.drain(..) {
            driver.on_ready(&mut cx, token, readiness);
        }
        if driver.next_deadline().is_some_and(|at| at <= cx.now) {
            driver.on_deadline(&mut cx);
        }
        // What is said to the peer from here on may come back at once: the other threads know by then what follows from it.
        cx.sys.outbox().flush();
        driver.run_busy(&mut cx);
        sys.outbox().flush();
        *next_deadline = driver.next_deadline();
        if open { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn has_mail(&self) -> bool {
        self.mailbox.has_mail()
    }

    fn is_busy(&self) -> bool {
        self.driver.is_busy() || self.sys.has_woken()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.next_deadline
    }
}

/// A program's first driver, which says when it is over: `after` is called after each of its turns.
pub(crate) struct Main<'a, D, O, M, F> {
    pub(crate) worker: &'a mut Worker<D, O, M>,
    pub(crate) after: F,
}

impl<D, O, M, F> Work for Main<'_, D, O, M, F>
where
    D: Driver<Linux<O>, Message = M>,
    O: Outbox,
    F: FnMut(&D, &mut Linux<O>) -> ControlFlow<()>,
{
    fn on_event(&mut self, event: Event) {
        self.worker.on_event(event);
    }

    fn has_work(&self, now: Instant) -> bool {
        self.worker.has_work(now)
    }

    fn turn(&mut self, now: Instant) -> ControlFlow<()> {
        self.worker.turn(now)?;
        (self.after)(&self.worker.driver, &mut self.worker.sys)
    }

    fn has_mail(&self) -> bool {
        self.worker.has_mail()
    }

    fn is_busy(&self) -> bool {
        self.worker.is_busy()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.worker.next_deadline()
    }
}

/// Threads that serve one main thread, and end with it: at the latest when this is dropped.
#[derive(Debug)]
pub(crate) struct Threads<R>(Vec<Member<R>>);

impl<R> Drop for Threads<R> {
    fn drop(&mut self) {
        // Threads are left here only if another could not be started, and that error is being returned.
        let _reports = self.join();
    }
}

struct Member<R> {
    name: String,
    close: Box<dyn Fn() + Send>,
    thread: JoinHandle<io::Result<R>>,
}

impl<R> fmt::Debug for Member<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Member").field(&self.name).finish()
    }
}

impl<R: Send + 'static> Threads<R> {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Starts a thread. What it did is said by `report` at its end. Whichever way it ends, the mailbox of
    /// `main` is closed: a program that has lost a thread must not go on half-dead.
    pub(crate) fn spawn<D, O, M, A>(
        &mut self,
        name: String,
        mut host: Host,
        mut worker: Worker<D, O, M>,
        report: fn(&D) -> R,
        main: &Address<A>,
    ) -> io::Result<()>
    where
        D: Driver<Linux<O>, Message = M> + Send + 'static,
        O: Outbox + Send + 'static,
        M: Send + 'static,
        A: Send + 'static,
    {
        let alarm = Alarm(main.clone());
        let address = worker.mailbox.address();
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            let _alarm = alarm;
            host.run(&mut [&mut worker])?;
            Ok(report(&worker.driver))
        })?;
        self.0.push(Member { name, close: Box::new(move || address.close()), thread });
        Ok(())
    }

    /// Runs `main` to its end, then ends the threads and returns their reports.
    ///
    /// # Errors
    /// The first thread that died, or what `main` failed with.
    pub(crate) fn serve(mut self, main: impl FnOnce() -> io::Result<()>) -> io::Result<Vec<R>> {
        let ended = catch_unwind(AssertUnwindSafe(main));
        let reports = self.join();
        ended.unwrap_or_else(|panic| Err(died("cproxy-main", panic.as_ref())))?;
        reports
    }
}

impl<R> Threads<R> {
    fn join(&mut self) -> io::Result<Vec<R>> {
        for member in &self.0 {
            (member.close)();
        }
        // All are joined before the first error is returned.
        let ended: Vec<_> = self.0.drain(..).map(|member| (member.name, member.thread.join())).collect();
        ended
            .into_iter()
            .map(|(name, ended)| match ended {
                Ok(Ok(report)) => Ok(report),
                Ok(Err(error)) => Err(io::Error::new(error.kind(), format!("thread {name}: {error}"))),
                Err(panic) => Err(died(&name, panic.as_ref())),
            })
            .collect()
    }
}

fn died(name: &str, panic: &(dyn Any + Send)) -> io::Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given");
    io::Error::other(format!("thread {name} panicked: {text}"))
}

/// Closes the main thread's mailbox when its own thread ends.
struct Alarm<A>(Address<A>);

impl<A> Drop for Alarm<A> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Outgoing;
    use protocol_sm::driver::Tell;

    /// Doubles what it is told, and reports to the main thread; 0 is too much for it.
    struct Doubler {
        at: Option<Instant>,
        handled: u32,
    }

    struct ToMain(Outgoing<u32>);

    impl Outbox for ToMain {
        fn flush(&mut self) {
            self.0.flush();
        }
    }

    impl Tell<u32> for ToMain {
        fn tell(&mut self, msg: u32) {
            self.0.tell(msg);
        }
    }

    impl Driver<Linux<ToMain>> for Doubler {
        type Message = u32;
        fn on_message(&mut self, cx: &mut Cx<'_, Linux<ToMain>>, message: u32) {
            assert_ne!(message, 0, "nothing to double");
            self.handled += 1;
            // Answers later, so that the loop has to keep a deadline.
            self.at = Some(cx.now + Duration::from_millis(1) * message);
        }
        fn on_ready(&mut self, _: &mut Cx<'_, Linux<ToMain>>, _: Token, _: Readiness) {}
        fn on_deadline(&mut self, cx: &mut Cx<'_, Linux<ToMain>>) {
            self.at = None;
            cx.sys.tell(self.handled * 2);
        }
        fn next_deadline(&self) -> Option<Instant> {
            self.at
        }
        fn run_busy(&mut self, _: &mut Cx<'_, Linux<ToMain>>) {}
        fn is_busy(&self) -> bool {
            false
        }
    }

    /// Notes what it is told, until it has heard `wanted`.
    struct Main {
        heard: Vec<u32>,
        wanted: usize,
    }

    impl Outbox for () {
        fn flush(&mut self) {}
    }

    impl Driver<Linux<()>> for Main {
        type Message = u32;
        fn on_message(&mut self, _: &mut Cx<'_, Linux<()>>, message: u32) {
            self.heard.push(message);
        }
        fn on_ready(&mut self, _: &mut Cx<'_, Linux<()>>, _: Token, _: Readiness) {}
        fn on_deadline(&mut self, _: &mut Cx<'_, Linux<()>>) {
            panic!("the threads answer within a minute");
        }
        fn next_deadline(&self) -> Option<Instant> {
            Some(Instant::ZERO + Duration::from_secs(60))
        }
        fn run_busy(&mut self, _: &mut Cx<'_, Linux<()>>) {}
        fn is_busy(&self) -> bool {
            false
        }
    }

    /// Two doublers and a main thread that sends each one of `first`, and ends after two answers.
    fn crew(first: [u32; 2]) -> (io::Result<Vec<u32>>, Vec<u32>) {
        let clock = Clock::start();
        let mut main_host = Host::new(clock).unwrap();
        let main = main_host.seat().unwrap();
        let main_address = main.address();
        let mut crew = Threads::new();
        for (index, message) in first.into_iter().enumerate() {
            let mut host = Host::new(clock).unwrap();
            let seat = host.seat().unwrap();
            seat.address().post(message);
            let out = ToMain(Outgoing::new(main_address.clone()));
            let worker = Worker::new(seat, out, Doubler { at: None, handled: 0 }, clock);
            crew.spawn(format!("doubler-{index}"), host, worker, |doubler| doubler.handled, &main_address).unwrap();
        }
        let mut main = Worker::new(main, (), Main { heard: Vec::new(), wanted: 2 }, clock);
        let after = |main: &Main, _: &mut Linux<()>| {
            if main.heard.len() == main.wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let reports = crew.serve(|| main_host.run(&mut [&mut super::Main { worker: &mut main, after }]));
        (reports, main.driver.heard)
    }

    /// Tells another thread what it is told; whether that one has it by the time sockets get their turn.
    struct Announcer {
        other: DriverSlot<u32>,
        is_known: Option<bool>,
    }

    impl Driver<Linux<ToMain>> for Announcer {
        type Message = u32;
        fn on_message(&mut self, cx: &mut Cx<'_, Linux<ToMain>>, message: u32) {
            cx.sys.tell(message);
        }
        fn on_ready(&mut self, _: &mut Cx<'_, Linux<ToMain>>, _: Token, _: Readiness) {}
        fn on_deadline(&mut self, _: &mut Cx<'_, Linux<ToMain>>) {}
        fn next_deadline(&self) -> Option<Instant> {
            None
        }
        fn run_busy(&mut self, _: &mut Cx<'_, Linux<ToMain>>) {
            self.is_known = Some(self.other.mailbox.has_mail());
        }
        fn is_busy(&self) -> bool {
            false
        }
    }

    /// A visitor may come by a tunnel's registration before the thread that wrote it goes on.
    #[test]
    fn other_threads_know_before_the_peer_does() {
        let clock = Clock::start();
        let (mut host, mut elsewhere) = (Host::new(clock).unwrap(), Host::new(clock).unwrap());
        let (seat, other) = (host.seat().unwrap(), elsewhere.seat().unwrap());
        seat.address().post(7);
        let out = ToMain(Outgoing::new(other.address()));
        let mut worker = Worker::new(seat, out, Announcer { other, is_known: None }, clock);
        assert!(worker.turn(clock.now()).is_continue());
        assert_eq!(worker.driver.is_known, Some(true));
    }

    #[test]
    fn deadlines_are_kept_and_the_threads_end_with_the_main_thread() {
        let (reports, heard) = crew([1, 2]);
        assert_eq!(heard, [2, 2]);
        assert_eq!(reports.unwrap(), [1, 1]);
    }

    #[test]
    fn a_thread_that_panics_ends_all_and_is_named() {
        let (reports, _) = crew([1, 0]);
        let error = reports.unwrap_err().to_string();
        assert!(error.contains("doubler-1") && error.contains("nothing to double"), "{error}");
    }

    #[test]
    fn a_panic_on_the_main_thread_ends_the_others_too() {
        let clock = Clock::start();
        let mut host = Host::new(clock).unwrap();
        let seat = host.seat().unwrap();
        let main = Host::new(clock).unwrap().seat::<u32>().unwrap();
        let mut crew = Threads::new();
        let out = ToMain(Outgoing::new(main.address()));
        let worker = Worker::new(seat, out, Doubler { at: None, handled: 0 }, clock);
        crew.spawn("doubler".into(), host, worker, |doubler| doubler.handled, &main.address()).unwrap();
        let error = crew.serve(|| panic!("the main thread's reason")).unwrap_err().to_string();
        assert!(error.contains("cproxy-main") && error.contains("the main thread's reason"), "{error}");
    }
}
