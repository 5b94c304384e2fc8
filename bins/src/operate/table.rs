//! A status as text for people.

use crate::admin::{SERVER, Status};
use protocol_sm::report::{SessionReport, TunnelReport};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What `--watch` knows besides: bytes per second of each tunnel, both ways, the oldest first.
pub(super) type Rates = BTreeMap<(String, String), Vec<f64>>;

/// `status` as lines that are no wider than `width`. With `rates` each tunnel has its own.
pub(super) fn table(status: &Status, rates: Option<&Rates>, width: Option<usize>) -> String {
    let report = &status.report;
    let (visitors, conns) = (&report.visitors, &report.conns);
    let mut text = format!(
        "{} {}, release {}, process {}{}\n",
        status.program,
        status.instance,
        status.release,
        status.pid,
        if report.stopping { ", stopping" } else { "" }
    );
    let mut say = |line: String| writeln!(text, "{line}").expect("a String takes it");
    say(format!(
        "visitors    {} served, {} waiting; {} so far: {} finished, {} cut short, {} refused, {} dropped; {} turned away",
        visitors.active,
        visitors.waiting,
        visitors.total,
        visitors.finished,
        visitors.aborted.sum(),
        visitors.refused.sum(),
        visitors.dropped.sum(),
        visitors.turned_away.sum(),
    ));
    say(format!("bytes       {} in, {} out", bytes(report.bytes_in), bytes(report.bytes_out)));
    say(format!(
        "data conns  {} idle, {} active, {} coming; {} opened, {} times reused",
        conns.idle, conns.active, conns.coming, conns.opened, conns.reused
    ));
    let by_udp = report.sessions.iter().filter(|session| session.datagram_path.is_some()).count();
    if by_udp > 0 || report.path_datagrams_in + report.path_datagrams_out > 0 {
        let (came, went) = (report.path_datagrams_in, report.path_datagrams_out);
        say(format!("by UDP      {by_udp} session(s) now; {came} datagrams in, {went} out"));
    }
    let (open, limit) = (status.descriptors.open, status.descriptors.limit);
    say(format!("open files  {open} of {limit}"));
    let is_server = status.program == SERVER;
    let mut sessions = Grid::new(if is_server {
        &["CLIENT", "CREDENTIAL", "FROM", "STATE", "AGE", "TUNNELS", "IDLE", "ACTIVE"][..]
    } else {
        &["CLIENT", "SERVER", "STATE", "AGE", "IDLE", "ACTIVE"][..]
    });
    let mut tunnels = Grid::new(if is_server {
        &["TUNNEL", "CLIENT", "PORT", "STATE", "NOW", "TOTAL", "FAILED", "IN", "OUT"][..]
    } else {
        &["TUNNEL", "LOCAL", "PORT", "STATE", "NOW", "TOTAL", "FAILED", "IN", "OUT"][..]
    });
    if rates.is_some() {
        tunnels.head("RATE");
    }
    tunnels.head("LAST ERROR");
    for session in &report.sessions {
        let peer = session.peer.map_or("-".to_owned(), |peer| peer.to_string());
        // That address is the proxy's.
        let peer = session.through.as_ref().map_or(peer, |proxy| format!("through {proxy}"));
        let (state, age) = (session.state.label().to_owned(), age(session.age_ms));
        let (idle, active) = (session.conns.idle.to_string(), session.conns.active.to_string());
        sessions.row(if is_server {
            let credential = session.credential.as_deref().map_or("-".to_owned(), plain);
            let count = session.tunnels.len().to_string();
            vec![session.client.clone(), credential, peer, state, age, count, idle, active]
        } else {
            vec![session.client.clone(), peer, state, age, idle, active]
        });
        for tunnel in &session.tunnels {
            tunnels.row(tunnel_row(session, tunnel, is_server, rates));
        }
    }
    let mut credentials = Grid::new(&["CREDENTIAL", "SESSIONS", "TUNNELS", "VISITORS", "CONNS", "FILES", "UNACKED"]);
    for it in &report.credentials {
        let counts = [it.sessions, it.tunnels, it.visitors, it.conns, it.descriptors].map(|count| count.to_string());
        credentials.row([vec![plain(&it.credential)], counts.to_vec(), vec![bytes(it.unacknowledged_bytes)]].concat());
    }
    for error in report.sessions.iter().filter_map(|session| session.error.as_deref()) {
        say(format!("not connected: {}", plain(error)));
    }
    for grid in [credentials, sessions, tunnels].iter().filter(|grid| !grid.rows.is_empty()) {
        say(String::new());
        grid.lines().into_iter().for_each(&mut say);
    }
    match width {
        Some(width) => text.lines().map(|line| cut(line, width) + "\n").collect(),
        None => text,
    }
}

fn tunnel_row(session: &SessionReport, tunnel: &TunnelReport, is_server: bool, rates: Option<&Rates>) -> Vec<String> {
    let port = match (&tunnel.url, tunnel.public) {
        (Some(url), _) => plain(url),
        (None, Some(public)) => public.port().to_string(),
        (None, None) if tunnel.wanted == 0 => "any".to_owned(),
        (None, None) => tunnel.wanted.to_string(),
    };
    let second = if is_server { session.client.clone() } else { tunnel.local.as_deref().map_or("-".to_owned(), plain) };
    let mut row = vec![
        plain(&tunnel.name),
        second,
        port,
        tunnel.state.label().to_owned(),
        tunnel.visitors.to_string(),
        tunnel.total.to_string(),
        tunnel.failed.to_string(),
        bytes(tunnel.bytes_in),
        bytes(tunnel.bytes_out),
    ];
    if let Some(rates) = rates {
        let of_it = rates.get(&(session.client.clone(), tunnel.name.clone())).map_or(&[][..], Vec::as_slice);
        let last = of_it.last().copied().unwrap_or(0.0);
        row.push(format!("{} {}/s", sparkline(of_it), bytes(last as u64)));
    }
    let last = tunnel.last_error.as_ref().map(|error| format!("{} ago: {}", age(error.ago_ms), error.text));
    row.push(tunnel.refused.clone().or(last).map_or("-".to_owned(), |text| plain(&text)));
    row
}

/// Columns under a head, each as wide as it must be.
struct Grid {
    rows: Vec<Vec<String>>,
    heads: Vec<&'static str>,
}

impl Grid {
    fn new(heads: &[&'static str]) -> Self {
        Self { rows: Vec::new(), heads: heads.to_vec() }
    }

    fn head(&mut self, head: &'static str) {
        self.heads.push(head);
    }

    fn row(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    fn lines(&self) -> Vec<String> {
        let heads: Vec<_> = self.heads.iter().map(|&head| head.to_owned()).collect();
        let all: Vec<_> = [&heads].into_iter().chain(&self.rows).collect();
        let wide = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..heads.len()).map(wide).collect();
        let line = |row: &&Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        all.iter().map(line).collect()
    }
}

/// Text from outside: it moves no cursor and colours nothing.
fn plain(text: &str) -> String {
    text.escape_debug().to_string()
}

fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// As people say it, with three digits.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut scaled = count as f64 / 1000.0;
    let mut unit = 0;
    while scaled >= 999.5 && unit < UNITS.len() - 1 {
        scaled /= 1000.0;
        unit += 1;
    }
    let digits = if scaled < 9.995 { 2 } else { usize::from(scaled < 99.95) };
    format!("{scaled:.digits$} {}", UNITS[unit])
}

/// The two largest units.
fn age(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn sparkline(rates: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = rates.iter().copied().fold(1.0, f64::max);
    rates.iter().map(|rate| BARS[((rate / most * 7.0).ceil() as usize).min(7)]).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::admin::Descriptors;
    use protocol_sm::report::{ConnReport, Report, SessionState, TunnelState};

    pub(crate) fn status(name: &str) -> Status {
        let tunnel = TunnelReport {
            name: name.to_owned(),
            state: TunnelState::Open,
            wanted: 0,
            url: None,
            public: Some(([192, 0, 2, 1], 7000).into()),
            local: None,
            refused: None,
            visitors: 3,
            total: 12,
            finished: 8,
            failed: 1,
            turned_away: 0,
            bytes_in: 1_234,
            bytes_out: 56_789_000,
            last_error: None,
        };
        let session = SessionReport {
            client: "0a1b2c3d".to_owned(),
            credential: Some("office".to_owned()),
            peer: Some(([192, 0, 2, 9], 5000).into()),
            through: None,
            state: SessionState::Up,
            error: None,
            age_ms: 3_725_000,
            datagram_path: None,
            conns: ConnReport { idle: 4, active: 3, ..ConnReport::default() },
            tunnels: vec![tunnel],
        };
        Status {
            program: "cproxy-server".to_owned(),
            instance: "8080".to_owned(),
            release: "0.1.0".to_owned(),
            pid: 7,
            descriptors: Descriptors { open: 20, limit: 1024 },
            report: Report { sessions: vec![session], ..Report::default() },
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_session_and_tunnel() {
        let text = table(&status("we\u{1b}[31mb"), None, None);
        let line = |begin: &str| text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(line("0a1b"), "0a1b2c3d  office      192.0.2.9:5000  up     1h02m  1        4     3");
        let shown = r"we\u{1b}[31mb  0a1b2c3d  7000  open   3    12     1       1.23 kB  56.8 MB  -";
        assert_eq!(line("we"), shown, "a name from outside moves no cursor");
        assert_eq!(line("open files"), "open files  20 of 1024");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let rates = Rates::from([(("0a1b2c3d".to_owned(), "web".to_owned()), vec![1.0; 20])]);
        for width in [1, 20, 40, 80] {
            let text = table(&status("web"), Some(&rates), Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let counts = [0, 999, 1000, 1_004, 9_994, 9_996, 99_960, 999_499, 999_500, 1_500_000, u64::MAX];
        let shown: Vec<_> = counts.into_iter().map(bytes).collect();
        let expected = [
            "0 B", "999 B", "1.00 kB", "1.00 kB", "9.99 kB", "10.0 kB", "100 kB", "999 kB", "1.00 MB", "1.50 MB",
            "18.4 EB",
        ];
        assert_eq!(shown, expected);
        let ages = [0, 59_999, 60_000, 3_600_000, 86_400_000 * 3 + 3_600_000].map(age);
        assert_eq!(ages, ["0s", "59s", "1m00s", "1h00m", "3d01h"]);
        assert_eq!(sparkline(&[0.0, 1.0, 50.0, 100.0]), "▁▂▅█");
        assert_eq!(sparkline(&[]), "");
    }
}
