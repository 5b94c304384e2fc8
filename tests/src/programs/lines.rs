//! The lines that a child writes to a pipe, read as they come.

use crate::wait::PATIENCE;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// The lines that a child writes to a pipe, read as they come.
#[derive(Debug, Default)]
pub(super) struct Lines {
    state: Mutex<LinesState>,
    more: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct LinesState {
    /// The last [`Lines::KEPT`] lines.
    pub(super) lines: VecDeque<String>,
    /// Lines that were here before those.
    dropped: usize,
    pub(super) ended: bool,
}

impl Lines {
    const KEPT: usize = 20_000;

    pub(super) fn follow(self: &Arc<Self>, pipe: impl Read + Send + 'static) {
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let mut state = shared.state();
                if state.lines.len() == Self::KEPT {
                    state.lines.pop_front();
                    state.dropped += 1;
                }
                state.lines.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
                shared.more.notify_all();
            }
            shared.state().ended = true;
            shared.more.notify_all();
        });
    }

    /// Waits for a line, after the first `skip`, in which `wanted` finds something.
    #[track_caller]
    pub(super) fn find<T>(&self, name: &str, what: &str, skip: usize, wanted: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut next = skip;
        let mut state = self.state();
        loop {
            while next < state.dropped + state.lines.len() {
                let line = &state.lines[next.saturating_sub(state.dropped)];
                if let Some(found) = wanted(line) {
                    return found;
                }
                next += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = if state.ended { "it ended" } else { "nothing came" };
                drop(state);
                panic!("expected {what} from {name}; {why}");
            }
            state = self.more.wait_timeout(state, left).expect("no panic while locked").0;
        }
    }

    /// How many there were until now.
    pub(super) fn count(&self) -> usize {
        let state = self.state();
        state.dropped + state.lines.len()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, LinesState> {
        self.state.lock().expect("no panic while locked")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn shell(script: &str) -> Arc<Lines> {
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let lines = Arc::<Lines>::default();
        lines.follow(child.stdout.take().unwrap());
        child.wait().unwrap();
        lines
    }

    #[test]
    fn lines_are_found_also_when_they_came_before() {
        let lines = shell("printf 'one\\ntwo\\none again\\n'");
        let find = |skip| lines.find("sh", "one", skip, |line| line.contains("one").then(|| line.to_owned()));
        assert_eq!((find(0), find(1)), ("one".to_owned(), "one again".to_owned()));
    }

    #[test]
    #[should_panic(expected = "expected three from sh; it ended")]
    fn a_program_that_ends_is_not_waited_for() {
        shell("echo one").find("sh", "three", 0, |line| (line == "three").then_some(()));
    }
}
