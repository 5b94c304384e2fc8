//! Which states of a proxy_conn's machines have met which events: a simulation that never gets somewhere proves
//! nothing about it.
//!
//! Without the feature `canary`, which only tests enable, nothing is noted and nothing can be asked; in a release build
//! neither. The sums are those of the whole process.

#[cfg(feature = "canary")]
use alloc::collections::BTreeSet;
use core::fmt;
#[cfg(feature = "canary")]
use core::sync::atomic::{AtomicU16, Ordering};

/// A state, as coarse as it may be: how far the conn is, and what is known of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    /// Whether it is the server's conn.
    pub server: bool,
    /// Idle, waiting for the answer to `Start`, started, refused: 0 to 3.
    pub stage: u8,
    /// The own outer socket's end was read.
    pub ended: bool,
    /// The peer's `Fin` has come.
    pub fin: bool,
    /// `Done` has come.
    pub done: bool,
}

/// What it met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)] // the names of the messages, and what a conn does
pub enum Event {
    Start,
    Started,
    Refused,
    Fin,
    Done,
    Abort,
    AskStart,
    StartSeen,
    /// A message about an earlier transfer.
    Stale,
    /// The conn is idle again.
    Finish,
}

/// A state and an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell(pub State, pub Event);

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(state, event) = self;
        let stage = match (state.server, state.stage) {
            (true, 0) => "server idle",
            (true, 1) => "server awaiting",
            (true, 2) => "server started",
            (true, _) => "server refused",
            (false, 0) => "client idle",
            (false, 1) => "client dialling",
            (false, 2) => "client serving",
            (false, _) => "client refused",
        };
        let flag = |set, name| if set { name } else { "" };
        let (ended, fin, done) = (flag(state.ended, ", ended"), flag(state.fin, ", Fin"), flag(state.done, ", Done"));
        write!(f, "{stage}{ended}{fin}{done}: {event:?}")
    }
}

#[cfg(feature = "canary")]
const EVENTS: [Event; 10] = [
    Event::Start,
    Event::Started,
    Event::Refused,
    Event::Fin,
    Event::Done,
    Event::Abort,
    Event::AskStart,
    Event::StartSeen,
    Event::Stale,
    Event::Finish,
];

/// One bit per event for each state.
#[cfg(feature = "canary")]
static SEEN: [AtomicU16; 64] = [const { AtomicU16::new(0) }; 64];

#[cfg(feature = "canary")]
fn state(index: u8) -> State {
    let bit = |n: u8| index >> n & 1 == 1;
    State { server: bit(5), stage: index & 3, ended: bit(2), fin: bit(3), done: bit(4) }
}

/// The conn in this state meets this event.
#[cfg(feature = "canary")]
pub(crate) fn saw(state: State, event: Event) {
    if cfg!(debug_assertions) {
        let State { server, stage, ended, fin, done } = state;
        let flags = u8::from(ended) << 2 | u8::from(fin) << 3 | u8::from(done) << 4 | u8::from(server) << 5;
        SEEN[usize::from(stage | flags)].fetch_or(1 << event as u8, Ordering::Relaxed);
    }
}

/// Without the feature nothing is noted.
#[cfg(not(feature = "canary"))]
pub(crate) const fn saw(_: State, _: Event) {}

/// What was met so far.
#[cfg(feature = "canary")]
#[must_use]
pub fn seen() -> BTreeSet<Cell> {
    let states = (0..64).flat_map(|index| EVENTS.map(|event| (index, event)));
    let met =
        |&(index, event): &(u8, Event)| SEEN[usize::from(index)].load(Ordering::Relaxed) >> (event as u8) & 1 == 1;
    states.filter(met).map(|(index, event)| Cell(state(index), event)).collect()
}
