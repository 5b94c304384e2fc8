//! Waiting for conditions. A wait ends when its condition holds; the deadline only turns a hang into a
//! failure that tells what was expected.

use std::time::{Duration, Instant};

/// How long anything may take before it counts as hung. Generous: it is never a pass condition.
pub const PATIENCE: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(5);

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not hold within [`PATIENCE`]; `what` says what was expected.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || if condition() { Ok(()) } else { Err("not so".to_owned()) });
}

/// Waits until `probe` succeeds, and returns what it found.
///
/// # Panics
/// If it does not succeed within [`PATIENCE`]; with `what` was expected and the last error.
#[track_caller]
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    crate::limit::arm();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match probe() {
            Ok(found) => return found,
            Err(state) if Instant::now() >= deadline => {
                panic!("expected within {PATIENCE:?}: {what}; at the end: {state}")
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Waits until `value` has stood still for half a second, and returns it: for progress that stops because
/// buffers are full, which no condition can announce.
///
/// # Panics
/// If it still moves after [`PATIENCE`].
#[track_caller]
pub fn until_still(what: &str, mut value: impl FnMut() -> u64) -> u64 {
    let (mut last, mut since) = (value(), Instant::now());
    eventually(what, || {
        let now = value();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() < Duration::from_millis(500) {
            return Err(format!("still moving, at {now}"));
        }
        Ok(now)
    })
}
