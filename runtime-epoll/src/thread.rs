//! The loop that every thread runs, and the threads that belong together.

use crate::mail::{Address, Mailbox};
use crate::sys::{Linux, Poller};
use protocol_sm::driver::{Cx, Driver, SCRATCH, Strategy};
use protocol_sm::time::Instant;
use std::any::Any;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Duration;

/// The drivers' time: nanoseconds since this was made. One for all threads of a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(std::time::Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    fn now(self) -> Instant {
        Instant::from_nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Messages for other threads, posted at the end of each batch.
pub(crate) trait Outbox {
    fn flush(&mut self);
}

/// What a thread needs before it can be told anything.
#[derive(Debug)]
pub(crate) struct Seat<M> {
    pub(crate) poller: Poller,
    pub(crate) mailbox: Mailbox<M>,
}

impl<M> Seat<M> {
    pub(crate) fn new() -> io::Result<Self> {
        let poller = Poller::new()?;
        let mailbox = Mailbox::new(poller.waker()?);
        Ok(Self { poller, mailbox })
    }

    pub(crate) fn address(&self) -> Address<M> {
        self.mailbox.address()
    }
}

/// A driver, and all that it runs with.
#[derive(Debug)]
pub(crate) struct Worker<D, O, M> {
    pub(crate) driver: D,
    pub(crate) sys: Linux<O>,
    mailbox: Mailbox<M>,
    clock: Clock,
    scratch: Box<[u8]>,
}

impl<D, O, M> Worker<D, O, M>
where
    D: Driver<Linux<O>, Message = M>,
    O: Outbox,
{
    pub(crate) fn new(seat: Seat<M>, outbox: O, driver: D, clock: Clock) -> Self {
        let sys = Linux::with_poller(seat.poller, outbox);
        Self { driver, sys, mailbox: seat.mailbox, clock, scratch: vec![0; SCRATCH].into_boxed_slice() }
    }

    /// Calls `call` as from inside of the loop.
    pub(crate) fn call<R>(&mut self, call: impl FnOnce(&mut D, &mut Cx<'_, Linux<O>>) -> R) -> R {
        let Self { driver, sys, clock, scratch, .. } = self;
        let mut cx = Cx { sys, now: clock.now(), scratch, strategy: Strategy::default() };
        call(driver, &mut cx)
    }

    /// Runs until the mailbox is closed, or `after`, called after each batch, breaks.
    pub(crate) fn run(&mut self, mut after: impl FnMut(&D, &mut Linux<O>) -> ControlFlow<()>) -> io::Result<()> {
        let mut ready = Vec::new();
        let mut messages = Vec::new();
        loop {
            let mut timeout = self.time_left();
            if timeout != Some(Duration::ZERO) && !self.mailbox.fall_asleep() {
                timeout = Some(Duration::ZERO);
            }
            self.sys.poll(timeout, &mut ready)?;
            let open = self.mailbox.take(&mut messages);
            self.call(|driver, cx| {
                for message in messages.drain(..) {
                    driver.on_message(cx, message);
                }
                for &(token, readiness) in &ready {
                    driver.on_ready(cx, token, readiness);
                }
                if driver.next_deadline().is_some_and(|at| at <= cx.now) {
                    driver.on_deadline(cx);
                }
                driver.run_busy(cx);
            });
            self.sys.outbox().flush();
            if !open || after(&self.driver, &mut self.sys).is_break() {
                return Ok(());
            }
        }
    }

    /// How long the thread may sleep.
    fn time_left(&self) -> Option<Duration> {
        if self.driver.is_busy() {
            return Some(Duration::ZERO);
        }
        self.driver.next_deadline().map(|at| at.since(self.clock.now()))
    }
}

/// Threads that serve one main thread, and end with it: at the latest when this is dropped.
#[derive(Debug)]
pub(crate) struct Crew<R>(Vec<Member<R>>);

impl<R> Drop for Crew<R> {
    fn drop(&mut self) {
        // Only where a thread could not be started: the error that says so is on its way.
        let _reports = self.dismiss();
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

impl<R: Send + 'static> Crew<R> {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Starts a thread. What it did is said by `report` at its end. Whichever way it ends, the mailbox of
    /// `main` is closed: a program that has lost a thread must not go on half-dead.
    pub(crate) fn hire<D, O, M, A>(
        &mut self,
        name: String,
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
            worker.run(|_, _| ControlFlow::Continue(()))?;
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
        let reports = self.dismiss();
        ended.unwrap_or_else(|panic| Err(died("cproxy-main", panic.as_ref())))?;
        reports
    }
}

impl<R> Crew<R> {
    fn dismiss(&mut self) -> io::Result<Vec<R>> {
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
    use protocol_sm::driver::{Readiness, Tell, Token};

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
        let main = Seat::new().unwrap();
        let main_address = main.address();
        let mut crew = Crew::new();
        for (index, message) in first.into_iter().enumerate() {
            let seat = Seat::new().unwrap();
            seat.address().post(message);
            let out = ToMain(Outgoing::new(main_address.clone()));
            let worker = Worker::new(seat, out, Doubler { at: None, handled: 0 }, clock);
            crew.hire(format!("doubler-{index}"), worker, |doubler| doubler.handled, &main_address).unwrap();
        }
        let mut main = Worker::new(main, (), Main { heard: Vec::new(), wanted: 2 }, clock);
        let reports =
            crew.serve(|| {
                main.run(|main, _| {
                    if main.heard.len() == main.wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
            });
        (reports, main.driver.heard)
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
        let seat = Seat::new().unwrap();
        let main = Seat::<u32>::new().unwrap();
        let mut crew = Crew::new();
        let out = ToMain(Outgoing::new(main.address()));
        let worker = Worker::new(seat, out, Doubler { at: None, handled: 0 }, Clock::start());
        crew.hire("doubler".into(), worker, |doubler| doubler.handled, &main.address()).unwrap();
        let error = crew.serve(|| panic!("the main thread's reason")).unwrap_err().to_string();
        assert!(error.contains("cproxy-main") && error.contains("the main thread's reason"), "{error}");
    }
}
