//! What signals do. SIGTERM and SIGINT: the first asks for a graceful stop, a later one ends the process at once. SIGHUP
//! asks for a reload, SIGUSR2 a server for an upgrade. SIGUSR1, and on a client SIGUSR2, end nothing.
//! (SIGPIPE needs nothing here: Rust programs start with it ignored, and a write to a closed pipe fails.)

use crate::reload::Asker;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::io;
use std::time::{Duration, Instant};

/// How long another request to stop counts as the same one: `timeout` and shells that send it to a process and then to
/// its group do so within milliseconds.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Signals, caught: they wait here until [`Caught::serve`] says what to stop.
#[derive(Debug)]
pub struct Caught(Signals);

/// Catches the signals from now on.
///
/// # Errors
/// The machine is out of descriptors.
pub fn catch() -> io::Result<Caught> {
    Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2]).map(Caught)
}

/// What follows a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Nothing,
    Reload,
    Upgrade,
    Stop,
    EndAtOnce,
}

/// What was asked for until now.
#[derive(Debug, Default)]
struct Asked {
    /// When a stop was asked for first.
    stop: Option<Instant>,
}

impl Asked {
    fn on_signal(&mut self, signal: i32, now: Instant) -> Order {
        match (signal, self.stop) {
            (SIGTERM | SIGINT, None) => {
                self.stop = Some(now);
                Order::Stop
            }
            (SIGTERM | SIGINT, Some(first)) if now.saturating_duration_since(first) >= SAME_REQUEST => Order::EndAtOnce,
            (SIGHUP, _) => Order::Reload,
            (SIGUSR2, _) => Order::Upgrade,
            _ => Order::Nothing,
        }
    }
}

impl Caught {
    /// Waits for `pause`, while there is nothing to stop yet; `true` as soon as the process is asked to stop.
    pub fn asked_within(&mut self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        loop {
            if self.0.pending().any(|signal| matches!(signal, SIGTERM | SIGINT)) {
                return true;
            }
            let Some(left) = end.checked_duration_since(Instant::now()) else { return false };
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Serves the signals on a thread of their own, which lives as long as the process. The first request to stop calls
    /// `stop`, which waits for nothing; one that comes later than a second exits with code 1 wherever the first got
    /// stuck. `reload` is asked for reloads, and `upgrade`, where there is one, for upgrades.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn serve(mut self, stop: impl Fn() + Send + 'static, reload: Asker, upgrade: Option<Asker>) -> io::Result<()> {
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let mut asked = Asked::default();
            for signal in self.0.forever() {
                match asked.on_signal(signal, Instant::now()) {
                    Order::Nothing => {}
                    Order::Reload => reload.ask(),
                    Order::Upgrade => upgrade.iter().for_each(Asker::ask),
                    Order::Stop => {
                        // First the deed: a log line may have to wait.
                        stop();
                        tracing::info!(
                            event = "stopping",
                            "stopping; a second signal exits at once, if it comes 1 s later or more"
                        );
                    }
                    // Not `process::exit`: its clean-up could wait for a lock that a stuck thread holds.
                    Order::EndAtOnce => signal_hook::low_level::exit(i32::from(crate::exit::FAILED)),
                }
            }
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_to_stop_within_a_second_are_one() {
        let (mut asked, start) = (Asked::default(), Instant::now());
        let after = |millis| start + Duration::from_millis(millis);
        assert_eq!(asked.on_signal(SIGTERM, start), Order::Stop);
        for (signal, millis) in [(SIGTERM, 0), (SIGINT, 100), (SIGTERM, 999)] {
            assert_eq!(asked.on_signal(signal, after(millis)), Order::Nothing, "{signal} after {millis} ms");
        }
        assert_eq!(asked.on_signal(SIGINT, after(1000)), Order::EndAtOnce);
    }

    #[test]
    fn other_signals_stop_nothing() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        for (signal, order) in [
            (SIGHUP, Order::Reload),
            (SIGHUP, Order::Reload),
            (SIGUSR1, Order::Nothing),
            (SIGUSR2, Order::Upgrade),
            (SIGTERM, Order::Stop),
            (SIGHUP, Order::Reload),
        ] {
            assert_eq!(asked.on_signal(signal, now), order, "{signal}");
        }
    }
}
