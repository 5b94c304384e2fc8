//! The story as a drawing: one life line per party, one arrow per event.

use super::{Entry, MERGE, Trace, is_news, seconds};
use crate::kernel::ProcId;
use std::fmt::Write;

const LEFT: usize = 110;
const COLUMN: usize = 190;
const ROW: usize = 18;
const TOP: usize = 50;

impl Trace {
    /// The last `rows` events worth telling as an SVG document. Packets of one socket that follow each other at
    /// once are drawn as one arrow.
    #[must_use]
    pub fn svg(&self, title: &str, rows: usize) -> String {
        let merged = merge(self.entries().iter().filter(|entry| is_news(entry)));
        let shown = &merged[merged.len().saturating_sub(rows)..];
        let mut parties: Vec<ProcId> = shown.iter().flat_map(|entry| [entry.from, entry.to]).flatten().collect();
        parties.sort_unstable();
        parties.dedup();
        let width = LEFT + COLUMN * parties.len().max(1) + 260;
        let height = TOP + ROW * (shown.len() + 2);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             font-family=\"monospace\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"8\" y=\"16\">{}</text>\n",
            escape(title)
        );
        for (i, &party) in parties.iter().enumerate() {
            let x = LEFT + COLUMN * i + COLUMN / 2;
            let _ = writeln!(
                out,
                "<text x=\"{x}\" y=\"36\" text-anchor=\"middle\" font-weight=\"bold\">{}</text>\
                 <line x1=\"{x}\" y1=\"42\" x2=\"{x}\" y2=\"{height}\" stroke=\"#bbb\"/>",
                escape(self.party(Some(party)))
            );
        }
        for (row, entry) in shown.iter().enumerate() {
            let y = TOP + ROW * (row + 1);
            let _ = writeln!(out, "<text x=\"8\" y=\"{y}\" fill=\"#666\">{}</text>", seconds(entry.at));
            out.push_str(&draw(entry, &parties, y));
        }
        out.push_str("</svg>\n");
        out
    }
}

fn draw(entry: &Entry, parties: &[ProcId], y: usize) -> String {
    let x = |party: Option<ProcId>| {
        let index = party.and_then(|party| parties.iter().position(|&p| p == party))?;
        Some(LEFT + COLUMN * index + COLUMN / 2)
    };
    let sock = entry.sock.map_or(String::new(), |sock| format!("#{} ", sock.0));
    let label = escape(&format!("{sock}{}", entry.what));
    let colour = if entry.what == "RST" { "#c00" } else { "#036" };
    match (x(entry.from), x(entry.to)) {
        (Some(from), Some(to)) if from != to => {
            let (head, middle) = (if from < to { to - 6 } else { to + 6 }, usize::midpoint(from, to));
            format!(
                "<line x1=\"{from}\" y1=\"{y}\" x2=\"{to}\" y2=\"{y}\" stroke=\"{colour}\"/>\
                 <path d=\"M{to} {y} L{head} {} L{head} {} Z\" fill=\"{colour}\"/>\
                 <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" fill=\"{colour}\">{label}</text>\n",
                y - 3,
                y + 3,
                y - 3
            )
        }
        (Some(at), _) => format!(
            "<circle cx=\"{at}\" cy=\"{y}\" r=\"3\" fill=\"#080\"/><text x=\"{}\" y=\"{}\" fill=\"#080\">{label}</text>\n",
            at + 6,
            y + 4
        ),
        (None, _) => format!("<text x=\"{LEFT}\" y=\"{y}\" fill=\"#c60\" font-weight=\"bold\">{label}</text>\n"),
    }
}

/// Data that follows data of the same socket at once becomes one entry.
fn merge<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<Entry> {
    let mut merged: Vec<Entry> = Vec::new();
    for entry in entries {
        if let Some(last) = merged.last_mut()
            && last.sock == entry.sock
            && entry.at.since(last.at) < MERGE
            && let (Some(a), Some(b)) = (bytes(last), bytes(entry))
        {
            last.what = format!("{} B", a + b);
            continue;
        }
        merged.push(entry.clone());
    }
    merged
}

fn bytes(entry: &Entry) -> Option<usize> {
    entry.what.strip_suffix(" B")?.parse().ok()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
