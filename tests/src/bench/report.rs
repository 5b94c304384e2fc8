//! What the reader sees: a table per case as it completes, one Markdown table at the end, and JSON lines.

use std::fs::File;
use std::io::Write;

use serde_json::{Map, Value, json};

use super::cases::Case;
use super::outcome::Run;
use super::stats::percentile;
use super::summary::{CaseSummary, PeerSummary};

/// The table of one case: a row per peer, a column per figure, each `median (min–max) ratio-to-S`.
pub(super) fn case_table(summary: &CaseSummary) -> String {
    let columns = summary.columns();
    let mut rows = vec![vec![summary.case.clone()]];
    rows[0].extend(columns.iter().map(|(name, unit)| format!("{name} {unit}")));
    for peer in &summary.peers {
        let mut row = vec![format!("  {}", peer.peer)];
        if peer.failure.is_none() {
            row.extend(columns.iter().map(|(name, _)| cell(summary, peer, name)));
        }
        rows.push(row);
    }
    let widths: Vec<usize> = (0..=columns.len())
        .map(|i| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut table = String::new();
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let failure = i.checked_sub(1).and_then(|peer| summary.peers[peer].failure.as_ref());
        let failure = failure.map(|why| format!("  FAILED: {why}")).unwrap_or_default();
        table.push_str(format!("{}{failure}", cells.join("   ")).trim_end());
        table.push('\n');
    }
    table
}

fn cell(summary: &CaseSummary, peer: &PeerSummary, name: &str) -> String {
    let Some(figure) = summary.figure(&peer.peer, name) else { return "–".to_owned() };
    let spread = figure.spread;
    let ratio = summary.ratio(&peer.peer, name).map(|r| format!(" {r:.2}×")).unwrap_or_default();
    format!("{} ({}–{}){ratio}", number(spread.median), number(spread.min), number(spread.max))
}

/// Medians of every figure side by side, each of our builds with its ratio to S and whether that meets the target.
pub(super) fn markdown(summaries: &[CaseSummary], peers: &[String], ours: &[String]) -> String {
    let mut table = format!("| case | figure | {} |", peers.join(" | "));
    for name in ours {
        table.push_str(&format!(" {name} / S | target |"));
    }
    table.push_str(&format!("\n|---|---|{}\n", "---|".repeat(peers.len() + 2 * ours.len())));
    for summary in summaries {
        for (name, unit) in summary.columns() {
            table.push_str(&format!("| {} | {name}, {unit} |", summary.case));
            for peer in peers {
                let failed = summary.peers.iter().any(|p| p.peer == *peer && p.failure.is_some());
                let median = summary.figure(peer, name).map(|figure| number(figure.spread.median));
                let text = median.unwrap_or_else(|| if failed { "failed" } else { "–" }.to_owned());
                table.push_str(&format!(" {text} |"));
            }
            for own in ours {
                let ratio = summary.ratio(own, name).map_or("–".to_owned(), |r| format!("{r:.2}"));
                let verdict = summary.verdict(own, name).map_or(String::new(), |(target, met)| {
                    let met = match met {
                        Some(true) => "met",
                        Some(false) => "**missed**",
                        None => "unknown",
                    };
                    format!("{target} {met}")
                });
                table.push_str(&format!(" {ratio} | {verdict} |"));
            }
            table.push('\n');
        }
    }
    table
}

/// Three significant digits, whole numbers from 100 on.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A file of JSON lines; without a path, nothing.
pub(super) struct Lines(Option<File>);

impl Lines {
    pub(super) fn create(path: Option<&std::path::Path>) -> Result<Self, String> {
        let create =
            |path: &std::path::Path| File::create(path).map_err(|e| format!("cannot write {}: {e}", path.display()));
        path.map(create).transpose().map(Self)
    }

    pub(super) fn line(&mut self, value: &Value) -> Result<(), String> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        writeln!(file, "{value}").map_err(|e| format!("cannot write JSON: {e}"))
    }

    /// One run, as soon as it is over.
    pub(super) fn run(
        &mut self,
        case: &Case,
        peer: &str,
        round: usize,
        result: &Result<Run, String>,
    ) -> Result<(), String> {
        let mut line = json!({ "kind": "run", "case": case.name, "peer": peer, "round": round });
        match result {
            Ok(run) => {
                let figures: Map<String, Value> = run
                    .figures
                    .iter()
                    .map(|f| (f.name.to_owned(), json!({ "value": f.value, "unit": f.unit })))
                    .collect();
                let latencies: Map<String, Value> =
                    run.latencies.iter().map(|l| (l.of.to_owned(), percentiles(&l.nanos))).collect();
                line["ok"] = json!(true);
                line["figures"] = Value::Object(figures);
                line["latency_ns"] = Value::Object(latencies);
            }
            Err(why) => {
                line["ok"] = json!(false);
                line["error"] = json!(why);
            }
        }
        self.line(&line)
    }

    /// The medians of a case.
    pub(super) fn summary(&mut self, summary: &CaseSummary) -> Result<(), String> {
        for peer in &summary.peers {
            for figure in &peer.figures {
                let verdict = summary.verdict(&peer.peer, figure.name);
                self.line(&json!({
                    "kind": "summary", "case": summary.case, "peer": peer.peer, "figure": figure.name,
                    "unit": figure.unit, "median": figure.spread.median, "min": figure.spread.min,
                    "max": figure.spread.max, "ratio_to_relay": summary.ratio(&peer.peer, figure.name),
                    "target": verdict.map(|(target, _)| target),
                }))?;
            }
        }
        Ok(())
    }
}

fn percentiles(sorted: &[u64]) -> Value {
    let at = |share| percentile(sorted, share);
    json!({
        "count": sorted.len(), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": at(1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(number(1291.7), "1292");
        assert_eq!(number(12.44), "12.4");
        assert_eq!(number(0.973), "0.97");
        assert_eq!(number(-0.2), "-0.20");
    }
}
