//! What happened, in simulated time: a hash of everything, and on request the events themselves.

mod chart;
mod svg;

use crate::kernel::{ProcId, SockId, mix};
use protocol_sm::time::Instant;
use std::time::Duration;

/// One line of a story.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When.
    pub at: Instant,
    /// Who did or sent it; `None` for the world itself.
    pub from: Option<ProcId>,
    /// Who received it, if it travelled.
    pub to: Option<ProcId>,
    /// On which socket of the sender.
    pub sock: Option<SockId>,
    /// What it was.
    pub what: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    /// Kept only if asked for.
    entries: Option<Vec<Entry>>,
    names: Vec<String>,
}

impl Trace {
    /// A trace that keeps its events if `keep`, and only their hash if not.
    #[must_use]
    pub fn new(keep: bool) -> Self {
        Self { entries: keep.then(Vec::new), ..Self::default() }
    }

    /// Whether events are kept.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.entries.is_some()
    }

    /// A hash over every packet, note and fault so far, with its time.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// What was kept.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        self.entries.as_deref().unwrap_or_default()
    }

    /// What a process is called in charts.
    pub fn name(&mut self, proc: ProcId, name: String) {
        self.names.resize(self.names.len().max(proc.0 + 1), String::new());
        self.names[proc.0] = name;
    }

    fn party(&self, proc: Option<ProcId>) -> &str {
        match proc {
            None => "world",
            Some(proc) => self.names.get(proc.0).map_or("?", String::as_str),
        }
    }

    fn mix(&mut self, at: Instant, words: [u64; 4]) {
        self.events += 1;
        self.hash = words.into_iter().fold(self.hash ^ at.as_nanos(), |hash, word| mix(hash ^ word));
    }

    /// A packet arrived.
    pub fn packet(
        &mut self,
        at: Instant,
        from: ProcId,
        to: Option<ProcId>,
        sock: SockId,
        name: &'static str,
        bytes: &[u8],
    ) {
        let ends = bytes.first().copied().unwrap_or(0) as u64 | (bytes.last().copied().unwrap_or(0) as u64) << 8;
        self.mix(at, [sock.0 as u64, name.len() as u64 | (name.as_bytes()[0] as u64) << 8, bytes.len() as u64, ends]);
        if let Some(entries) = &mut self.entries {
            let what = if bytes.is_empty() { name.to_owned() } else { format!("{} B", bytes.len()) };
            entries.push(Entry { at, from: Some(from), to, sock: Some(sock), what });
        }
    }

    /// Something else happened to `who`.
    pub fn remark(&mut self, at: Instant, who: Option<ProcId>, what: impl FnOnce() -> String) {
        let text = what();
        let sum = text.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        self.mix(at, [who.map_or(u64::MAX, |who| who.0 as u64), sum, text.len() as u64, 0]);
        if let Some(entries) = &mut self.entries {
            entries.push(Entry { at, from: who, to: None, sock: None, what: shorten(&text) });
        }
    }
}

/// A client's identity, sixteen times the same byte in every simulation, as one.
fn shorten(text: &str) -> String {
    match text.split_once("ClientId([") {
        Some((before, rest)) => {
            let number = rest.split(',').next().unwrap_or_default();
            let after = rest.split_once("])").map_or("", |(_, after)| after);
            format!("{before}{number}{after}")
        }
        None => text.to_owned(),
    }
}

/// `12.345678s`.
fn seconds(at: Instant) -> String {
    let since = at.since(Instant::ZERO);
    format!("{}.{:06}s", since.as_secs(), since.subsec_micros())
}

/// Whether a packet is worth a line: acknowledgements are not.
fn is_news(entry: &Entry) -> bool {
    entry.what != "ACK" && entry.what != "SYN-ACK"
}

/// Arrows of one socket that follow each other within this are drawn as one.
const MERGE: Duration = Duration::from_millis(5);
