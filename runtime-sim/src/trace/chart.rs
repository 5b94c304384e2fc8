//! The story as text: one column per party, one line per event.

use super::{Entry, Trace, is_news, seconds};
use crate::kernel::ProcId;
use std::fmt::Write;

const COLUMN: usize = 18;

impl Trace {
    /// A time-sequence chart of the last `lines` events worth telling.
    #[must_use]
    pub fn chart(&self, lines: usize) -> String {
        let news: Vec<_> = self.entries().iter().filter(|entry| is_news(entry)).collect();
        let shown = &news[news.len().saturating_sub(lines)..];
        let mut parties: Vec<ProcId> = shown.iter().flat_map(|entry| [entry.from, entry.to]).flatten().collect();
        parties.sort_unstable();
        parties.dedup();
        let mut out = format!("{:>14}", "");
        for &party in &parties {
            let _ = write!(out, "{:^COLUMN$}", self.party(Some(party)));
        }
        out.push('\n');
        if shown.len() < news.len() {
            let _ = writeln!(out, "{:>14}(after {} earlier events)", "", news.len() - shown.len());
        }
        for entry in shown {
            let _ = writeln!(out, "{:>13} {}", seconds(entry.at), line(entry, &parties));
        }
        out
    }
}

/// One event, drawn between the columns of its parties.
fn line(entry: &Entry, parties: &[ProcId]) -> String {
    let column = |party: Option<ProcId>| party.and_then(|party| parties.iter().position(|&p| p == party));
    let sock = entry.sock.map_or(String::new(), |sock| format!("#{} ", sock.0));
    let label = format!("{sock}{}", entry.what);
    let mut cells: Vec<char> =
        (0..parties.len() * COLUMN).map(|i| if i % COLUMN == COLUMN / 2 { '|' } else { ' ' }).collect();
    match (column(entry.from), column(entry.to)) {
        (Some(from), Some(to)) if from != to => {
            let (left, right) = (from.min(to) * COLUMN + COLUMN / 2, from.max(to) * COLUMN + COLUMN / 2);
            cells[left + 1..right].fill('-');
            if from < to {
                cells[right - 1] = '>';
            } else {
                cells[left + 1] = '<';
            }
            let room = right - left - 4;
            let text: Vec<char> = label.chars().take(room).collect();
            let start = left + 2 + (room - text.len()) / 2;
            cells[start..start + text.len()].copy_from_slice(&text);
            cells.into_iter().collect::<String>().trim_end().to_owned()
        }
        (Some(at), _) => {
            cells[at * COLUMN + COLUMN / 2] = '*';
            let columns: String = cells.into_iter().collect();
            format!("{columns} {label}")
        }
        (None, _) => format!("=== {label}"),
    }
}
