//! SIGTERM and SIGINT: the first asks for a graceful stop, the second ends the process at once.
//! (SIGPIPE needs nothing here: Rust programs start with it ignored, and a write to a closed pipe fails.)

use runtime_epoll::Stopper;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::time::{Duration, Instant};

/// SIGTERM and SIGINT, caught: they wait here until [`Caught::stop_with`] says what to stop.
#[derive(Debug)]
pub struct Caught(Signals);

/// Catches SIGTERM and SIGINT from now on.
///
/// # Errors
/// The machine is out of descriptors.
pub fn catch() -> io::Result<Caught> {
    Signals::new([SIGTERM, SIGINT]).map(Caught)
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

    /// Serves the signals on a thread of their own, which lives as long as the process: the first stops
    /// what `stopper` stops, the second exits with code 1 wherever the first got stuck.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn stop_with(mut self, stopper: Stopper) -> io::Result<()> {
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let mut signals = self.0.forever();
            if signals.next().is_some() {
                tracing::info!("stopping; a second signal exits at once");
                stopper.stop();
            }
            if signals.next().is_some() {
                // Not `process::exit`: its clean-up could wait for a lock that a stuck thread holds.
                signal_hook::low_level::exit(i32::from(crate::exit::FAILED));
            }
        })?;
        Ok(())
    }
}
