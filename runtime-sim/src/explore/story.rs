//! A path through the states, as a chart: one column per party, one line per event.

use std::fmt::Write;

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Party {
    Visitors,
    Server,
    Client,
    Locals,
}

/// Lines of a chart, kept only while a path is told.
#[derive(Debug, Default)]
pub(super) struct Story(Option<String>);

const WIDTH: usize = 26;
const NAMES: [&str; 4] = ["visitors", "server", "client", "locals"];

impl Story {
    /// A story that is told.
    pub(super) fn told() -> Self {
        let mut text = String::new();
        for name in NAMES {
            let _ = write!(text, "{name:^WIDTH$}");
        }
        text.push('\n');
        Self(Some(text))
    }

    /// What was told.
    pub(super) fn text(self) -> String {
        self.0.unwrap_or_default()
    }

    /// Something travelled.
    pub(super) fn arrow(&mut self, from: Party, to: Party, what: impl FnOnce() -> String) {
        let Some(text) = &mut self.0 else { return };
        let (from, to) = (middle(from), middle(to));
        let mut cells = rails();
        let what = what();
        let (left, right) = (from.min(to), from.max(to));
        if left == right {
            let _ = writeln!(text, "{}", note(from, &what));
            return;
        }
        cells[left + 1..right].fill('-');
        cells[if from < to { right - 1 } else { left + 1 }] = if from < to { '>' } else { '<' };
        let label: Vec<char> = what.chars().take(right - left - 4).collect();
        let start = left + (right - left - label.len()) / 2;
        cells[start..start + label.len()].copy_from_slice(&label);
        let _ = writeln!(text, "{}", cells.into_iter().collect::<String>().trim_end());
    }

    /// Something happened at a party.
    pub(super) fn at(&mut self, party: Party, what: impl FnOnce() -> String) {
        if let Some(text) = &mut self.0 {
            let _ = writeln!(text, "{}", note(middle(party), &what()));
        }
    }

    /// Something happened to all.
    pub(super) fn remark(&mut self, what: impl FnOnce() -> String) {
        if let Some(text) = &mut self.0 {
            let _ = writeln!(text, "== {}", what());
        }
    }
}

fn middle(party: Party) -> usize {
    party as usize * WIDTH + WIDTH / 2
}

fn rails() -> Vec<char> {
    (0..NAMES.len() * WIDTH).map(|i| if i % WIDTH == WIDTH / 2 { '|' } else { ' ' }).collect()
}

fn note(at: usize, what: &str) -> String {
    let mut line: String = rails()[..at].iter().collect();
    line.push_str("* ");
    line.push_str(what);
    line
}
