//! Plots, written by hand: bars with whiskers for rates, and latency distributions.

use std::fmt::Write;
use std::path::Path;

use super::report::number;
use super::summary::{CaseSummary, Curve, SHARES};

const COLOURS: [&str; 8] = ["#9a9a9a", "#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#17becf"];

/// Writes `rates.svg` and `latencies.svg` into `dir`.
pub(super) fn write(dir: &Path, summaries: &[CaseSummary], peers: &[String]) -> Result<(), String> {
    let save = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
    };
    std::fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    save("rates.svg", rates(summaries, peers))?;
    save("latencies.svg", latencies(summaries, peers))
}

fn document(width: f64, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(out, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>");
}

fn colour(peers: &[String], peer: &str) -> &'static str {
    let index = peers.iter().position(|p| p == peer).unwrap_or(0);
    COLOURS[index % COLOURS.len()]
}

fn legend(out: &mut String, peers: &[String]) {
    for (i, peer) in peers.iter().enumerate() {
        let x = 20.0 + 110.0 * i as f64;
        let fill = colour(peers, peer);
        let _ = writeln!(out, "<rect x=\"{x}\" y=\"10\" width=\"12\" height=\"12\" fill=\"{fill}\"/>");
        text(out, x + 17.0, 20.0, "start", peer);
    }
}

/// A block of horizontal bars per case whose first figure is a rate: medians, with whiskers from min to max. Each block
/// has its own scale, so that peers compare within it.
fn rates(summaries: &[CaseSummary], peers: &[String]) -> String {
    const LEFT: f64 = 190.0;
    const BAR: f64 = 14.0;
    const LENGTH: f64 = 480.0;
    let mut out = String::new();
    legend(&mut out, peers);
    let mut y = 40.0;
    for summary in summaries {
        let Some((name, unit)) = summary.columns().first().copied().filter(|(_, unit)| unit.ends_with("/s")) else {
            continue;
        };
        let found = |peer: &String| summary.figure(peer, name).map(|f| (peer.clone(), f.spread));
        let bars: Vec<_> = peers.iter().filter_map(found).collect();
        let most = bars.iter().map(|(_, spread)| spread.max).fold(f64::MIN_POSITIVE, f64::max);
        text(&mut out, LEFT - 10.0, y + BAR, "end", &summary.case);
        text(&mut out, LEFT - 10.0, y + 2.0 * BAR, "end", unit);
        for (peer, spread) in bars {
            let x = |value: f64| LEFT + value / most * LENGTH;
            let fill = colour(peers, &peer);
            let width = x(spread.median) - LEFT;
            let height = BAR - 3.0;
            let _ = writeln!(
                out,
                "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{fill}\"/>"
            );
            let middle = y + height / 2.0;
            line(&mut out, (x(spread.min), middle), (x(spread.max), middle), "black");
            text(&mut out, x(spread.max) + 6.0, y + height - 1.0, "start", &number(spread.median));
            y += BAR;
        }
        y += BAR;
    }
    document(LEFT + LENGTH + 80.0, y, &out)
}

/// A panel per latency distribution: the share of requests to the right, with more room for the slow ones (each further
/// nine is as wide as the last), the time they took upwards, logarithmic.
fn latencies(summaries: &[CaseSummary], peers: &[String]) -> String {
    const ACROSS: usize = 3;
    const WIDTH: f64 = 330.0;
    const HEIGHT: f64 = 230.0;
    const LEFT: f64 = 60.0;
    const TOP: f64 = 55.0;
    let mut out = String::new();
    legend(&mut out, peers);
    let mut panels = 0;
    for summary in summaries {
        let names = summary.peers.iter().max_by_key(|p| p.curves.len()).map_or(&[][..], |p| &p.curves);
        for name in names.iter().map(|curve| curve.of) {
            let curves: Vec<(&str, &Curve)> = summary
                .peers
                .iter()
                .flat_map(|peer| peer.curves.iter().map(|curve| (peer.peer.as_str(), curve)))
                .filter(|(_, curve)| curve.of == name)
                .collect();
            let x = LEFT + WIDTH * (panels % ACROSS) as f64;
            let y = TOP + HEIGHT * (panels / ACROSS) as f64;
            let title = format!("{}: {name}", summary.case);
            panel(&mut out, (x, y), (WIDTH - LEFT - 20.0, HEIGHT - 60.0), &title, &curves, peers);
            panels += 1;
        }
    }
    let rows = panels.div_ceil(ACROSS) as f64;
    document(WIDTH * ACROSS as f64, TOP + HEIGHT * rows, &out)
}

fn panel(
    out: &mut String,
    (left, top): (f64, f64),
    (width, height): (f64, f64),
    title: &str,
    curves: &[(&str, &Curve)],
    peers: &[String],
) {
    let nines = |share: f64| -(1.0 - share).log10();
    let x = |share: f64| left + nines(share) / nines(0.999) * width;
    let values = || curves.iter().flat_map(|(_, curve)| curve.nanos.iter().copied()).filter(|&n| n > 0);
    let low = values().min().unwrap_or(1000) as f64;
    let high = values().max().unwrap_or(1000) as f64;
    let (low, high) = (low.log10().floor(), high.log10().ceil().max(low.log10().floor() + 1.0));
    let y = |nanos: f64| top + height - (nanos.max(1.0).log10() - low) / (high - low) * height;
    text(out, left, top - 8.0, "start", title);
    for (share, label) in [(0.0, "0"), (0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9 %")] {
        line(out, (x(share), top), (x(share), top + height), "#ddd");
        text(out, x(share), top + height + 14.0, "middle", label);
    }
    for decade in low as i32..=high as i32 {
        let nanos = 10f64.powi(decade);
        line(out, (left, y(nanos)), (left + width, y(nanos)), "#ddd");
        let label = if decade < 6 { format!("{} µs", nanos / 1e3) } else { format!("{} ms", nanos / 1e6) };
        text(out, left - 5.0, y(nanos) + 4.0, "end", &label);
    }
    for (peer, curve) in curves {
        let points = SHARES.iter().zip(&curve.nanos);
        let points: Vec<String> =
            points.map(|(&share, &nanos)| format!("{:.1},{:.1}", x(share), y(nanos as f64))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"/>",
            points.join(" "),
            colour(peers, peer)
        );
    }
}
