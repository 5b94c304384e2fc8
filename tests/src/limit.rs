//! A time limit for every test: one that hangs ends the whole run, and its name is the last thing that is said.
//!
//! [`arm`] is called by all of the harness that a test could hang on, so tests need not call it;
//! `tests/tests/time_limits.rs` finds those that use nothing of the kind. The limit is far beyond what any test takes
//! on a busy machine. `CPROXY_TEST_LIMIT` sets another, in seconds.

use std::io::Write;
use std::process::abort;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(300);

/// The threads of tests that run, and when their time is up.
static RUNNING: Mutex<Vec<Running>> = Mutex::new(Vec::new());

/// How many threads do something that takes as long as it takes.
static BUSY: AtomicUsize = AtomicUsize::new(0);

struct Running {
    thread: ThreadId,
    test: String,
    until: Instant,
}

/// Held by a test's thread as long as it lives.
struct Armed;

impl Armed {
    fn new() -> Self {
        static WATCHDOG: Once = Once::new();
        let limit = limit();
        // The test runner names threads after their tests. Threads that tests start have no name, or one with a space.
        if let Some(test) = thread::current().name().filter(|name| !name.contains(' ')) {
            let running =
                Running { thread: thread::current().id(), test: test.to_owned(), until: Instant::now() + limit };
            running_tests().push(running);
            WATCHDOG.call_once(|| drop(thread::spawn(move || watch(limit))));
        }
        Self
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        let this = thread::current().id();
        running_tests().retain(|running| running.thread != this);
    }
}

thread_local! {
    static ARMED: Armed = Armed::new();
}

/// Sets the time limit of the test whose thread calls this, unless it is set already.
pub fn arm() {
    // A thread that is about to end runs no test any more.
    let _ = ARMED.try_with(|_| ());
}

/// Does something that takes as long as it takes, such as building the programs: no test's time passes meanwhile.
pub fn unlimited<T>(work: impl FnOnce() -> T) -> T {
    BUSY.fetch_add(1, Ordering::SeqCst);
    let began = Instant::now();
    let result = work();
    let mut running = running_tests();
    running.iter_mut().for_each(|running| running.until += began.elapsed());
    BUSY.fetch_sub(1, Ordering::SeqCst);
    result
}

fn watch(limit: Duration) {
    loop {
        thread::sleep(limit.min(Duration::from_secs(1)) / 10);
        let running = running_tests();
        let now = Instant::now();
        if BUSY.load(Ordering::SeqCst) > 0 {
            continue;
        }
        if let Some(hung) = running.iter().find(|running| running.until <= now) {
            // Past the test runner's capture.
            let _ = writeln!(std::io::stderr(), "HANGS: test {} still runs after {limit:?}; aborted", hung.test);
            abort();
        }
    }
}

fn limit() -> Duration {
    let given = std::env::var("CPROXY_TEST_LIMIT").ok();
    given.map_or(LIMIT, |seconds| Duration::from_secs_f64(seconds.parse().expect("CPROXY_TEST_LIMIT in seconds")))
}

fn running_tests() -> MutexGuard<'static, Vec<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// Runs one of the tests below, which are ignored otherwise, with a limit of half a second.
    fn run(test: &str) -> std::process::Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", test]).env("CPROXY_TEST_LIMIT", "0.5");
        command.output().unwrap()
    }

    #[test]
    fn a_test_that_hangs_is_named_and_ends_the_run() {
        let output = run("limit::tests::hangs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.ends_with("HANGS: test limit::tests::hangs still runs after 500ms; aborted\n"), "it said: {said}");
        assert_eq!(output.status.signal(), Some(6), "SIGABRT");
    }

    #[test]
    fn a_test_that_has_ended_and_one_that_is_quick_are_left_alone() {
        let output = run("limit::tests::ends_and_leaves_a_thread_behind");
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    #[ignore = "hangs: the test above runs it"]
    fn hangs() {
        arm();
        loop {
            thread::park();
        }
    }

    #[test]
    #[ignore = "the test above runs it"]
    fn ends_and_leaves_a_thread_behind() {
        // A test, and then this thread, which lives on beyond the limit.
        let test = || thread::Builder::new().name("quick".to_owned());
        test().spawn(arm).unwrap().join().unwrap();
        thread::sleep(Duration::from_secs(1));
        // One whose programs must be built first.
        let builds = || {
            arm();
            unlimited(|| thread::sleep(Duration::from_secs(1)));
        };
        test().spawn(builds).unwrap().join().unwrap();
    }
}
