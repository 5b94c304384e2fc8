//! `status --watch`: the same every second, with the rate of each tunnel.

use super::table::{Rates, table};
use super::{fetch, print, size};
use crate::admin::{Asked, Question, Status, Target, ask};
use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The pause between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// Rates that are shown of each tunnel.
const SHOWN: usize = 20;

/// Shows what a program does until it ends, or the user has enough.
pub(super) fn watch(target: &mut Target, json: bool) -> Asked<()> {
    let mut history = History::default();
    let mut first = true;
    loop {
        if json {
            print(&format!("{}\n", ask(target, &Question::Status, "status")?))?;
        } else {
            let status = fetch(target)?;
            history.add(&status, Instant::now());
            print(&frame(&status, &history.rates, size(), std::mem::take(&mut first)))?;
        }
        sleep(PAUSE);
    }
}

/// What is printed at once. On a terminal it takes the place of the last one; elsewhere it follows it.
fn frame(status: &Status, rates: &Rates, size: Option<(usize, usize)>, first: bool) -> String {
    let text = table(status, Some(rates), size.map(|(columns, _)| columns));
    let Some((_, rows)) = size else { return if first { text } else { format!("\n{text}") } };
    // Each line erases what is left of the one before; the last row stays empty, or the terminal scrolls.
    let lines: String = text.lines().take(rows.saturating_sub(1)).map(|line| format!("{line}\x1b[K\n")).collect();
    let home = if first { "\x1b[2J\x1b[H" } else { "\x1b[H" };
    format!("{home}{lines}\x1b[J")
}

#[derive(Debug, Default)]
struct History {
    rates: Rates,
    /// Bytes of each tunnel the last time.
    last: BTreeMap<(String, String), u64>,
    at: Option<Instant>,
}

impl History {
    fn add(&mut self, status: &Status, now: Instant) {
        let passed = self.at.replace(now).map(|at| now.duration_since(at).as_secs_f64());
        let last = std::mem::take(&mut self.last);
        let mut rates = Rates::new();
        for session in &status.report.sessions {
            for tunnel in &session.tunnels {
                let name = (session.client.clone(), tunnel.name.clone());
                let bytes = tunnel.bytes_in + tunnel.bytes_out;
                let mut of_it = self.rates.remove(&name).unwrap_or_default();
                if let (Some(passed), Some(before)) = (passed, last.get(&name)) {
                    of_it.push(bytes.saturating_sub(*before) as f64 / passed.max(0.001));
                    let surplus = of_it.len().saturating_sub(SHOWN);
                    of_it.drain(..surplus);
                }
                rates.insert(name.clone(), of_it);
                self.last.insert(name, bytes);
            }
        }
        self.rates = rates;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::table::tests::status;

    #[test]
    fn rates_are_of_the_time_that_has_passed_and_end_with_their_tunnel() {
        let (mut history, start, name) =
            (History::default(), Instant::now(), ("0a1b2c3d".to_owned(), "web".to_owned()));
        let mut status = status("web");
        history.add(&status, start);
        assert!(history.rates[&name].is_empty());
        for second in 1..=30 {
            status.report.sessions[0].tunnels[0].bytes_out += 500;
            history.add(&status, start + Duration::from_secs(2 * second));
        }
        assert_eq!(history.rates[&name], [250.0; SHOWN]);
        status.report.sessions[0].tunnels.clear();
        history.add(&status, start + Duration::from_secs(99));
        assert!(history.rates.is_empty() && history.last.is_empty());
    }

    #[test]
    fn a_frame_fits_the_terminal_and_a_pipe_gets_plain_lines() {
        let (status, rates) = (status("web"), Rates::new());
        let small = frame(&status, &rates, Some((30, 5)), true);
        assert!(small.starts_with("\x1b[2J\x1b[H") && small.ends_with("\x1b[J"), "{small:?}");
        assert_eq!(small.matches('\n').count(), 4);
        assert!(frame(&status, &rates, Some((30, 5)), false).starts_with("\x1b[H"));
        let plain = frame(&status, &rates, None, false);
        assert!(!plain.contains('\x1b') && plain.starts_with("\ncproxy-server"), "{plain:?}");
    }
}
