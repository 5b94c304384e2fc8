//! Ring 2: one choice tape decides what is set up and, step by step, which of the possible steps is made.
//!
//! The same checks as in the exhaustive search hold at every step; the reference is in the outer peers, which know
//! what was sent and what has come. When the tape is used up, faults stop and what is due is done: then everything
//! must come to rest.

use super::guard::guarded;
use super::loops::{Config, Loops};
use super::net::{Visit, Window};
use super::peers::Grain;
use super::programs::Programs;
use super::search::Model;
use super::story::Story;
use protocol_sm::driver::Strategy;
use std::fmt;

/// What one tape has brought about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Steps made.
    pub steps: usize,
    /// Visitors that came.
    pub visits: usize,
    /// Visitors that were served well to their end.
    pub complete: usize,
    /// Bytes that arrived at outer peers.
    pub bytes: usize,
}

/// A tape that breaks something.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What is wrong.
    pub what: String,
    /// Steps until it showed.
    pub steps: usize,
    /// The way there as a sequence chart.
    pub chart: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, steps, chart } = self;
        write!(f, "{what}\nafter {steps} steps:\n{chart}\n=> {what}")
    }
}

/// Steps after the tape that surely suffice to come to rest.
const PATIENCE: usize = 200_000;

/// Plays a tape.
///
/// # Errors
/// An invariant that does not hold, or no quiet end.
pub fn run_tape(tape: &[u16]) -> Result<Stats, Failure> {
    let mut quick = Run::default();
    guarded(|| quick.play(tape, &mut Story::default())).map_err(|what| {
        let mut story = Story::told();
        let mut again = Run::default();
        let _ = guarded(|| again.play(tape, &mut story));
        Failure { what, steps: quick.stats.steps, chart: story.text() }
    })?;
    Ok(quick.stats)
}

#[derive(Default)]
struct Run {
    stats: Stats,
}

impl Run {
    fn play(&mut self, tape: &[u16], story: &mut Story) {
        let mut words = tape.iter().copied();
        if words.next().unwrap_or(0) % 4 == 1 {
            let config = programs(&mut words);
            story.remark(|| format!("{config:?}"));
            self.walk(&config, tape.len(), words, story);
        } else {
            let config = loops(&mut words);
            story.remark(|| format!("{config:?}"));
            self.walk(&Loops::new(config), tape.len(), words, story);
        }
    }

    fn walk<M: Model>(&mut self, model: &M, length: usize, mut words: impl Iterator<Item = u16>, story: &mut Story) {
        let mut state = model.initial(story);
        let mut actions = Vec::new();
        loop {
            actions.clear();
            model.actions(&state, &mut actions);
            let action = match words.next() {
                Some(_) if actions.is_empty() => None,
                Some(word) => Some(actions[usize::from(word) % actions.len()]),
                None => {
                    assert!(self.stats.steps < length + PATIENCE, "it does not come to rest");
                    actions.iter().copied().find(|&action| model.is_due(action))
                }
            };
            let Some(action) = action else { break };
            self.stats.steps += 1;
            story.remark(|| format!("{action:?}"));
            model.step(&mut state, action, story);
        }
        model.assert_quiet(&state);
        let visits = || model.visits(&state).iter().filter(|visit| visit.came);
        self.stats.visits = visits().count();
        self.stats.complete = visits().filter(|visit| visit.is_complete()).count();
        self.stats.bytes = visits().map(Visit::bytes).sum();
    }
}

/// Whole programs that are set up, by the first words of a tape.
fn programs(words: &mut impl Iterator<Item = u16>) -> Programs {
    let mut pick = |choices: u16| words.next().unwrap_or(0) % choices;
    let visits = usize::from(pick(5));
    let newcomer = pick(3) == 1;
    let freeze = newcomer && pick(3) == 1;
    let at_client = pick(4);
    let client_stops = at_client == 1;
    let client_grace = pick(3) == 1;
    let grain = [Grain::Fine, Grain::Medium, Grain::Coarse][usize::from(pick(3))];
    let keep = u32::from(pick(3));
    let (proxy_losses, ctl_losses) = (usize::from(pick(3)), usize::from(pick(4)));
    // What a client leaves behind when its last word is lost ends with the grace.
    let server_grace = pick(3) == 1 || newcomer || client_stops || client_grace;
    let at_server = pick(4);
    Programs {
        grain,
        keep,
        proxy_losses,
        ctl_losses,
        server_grace,
        // No draw of its own, so that old tapes keep their meaning.
        asleep: visits % 2 == 1,
        client_grace,
        newcomer,
        // Nothing but a newcomer shows that a client is frozen, here where time stands still.
        freeze,
        server_stops: at_server == 1,
        client_stops,
        // Likewise. Of a client's two processes each has its own port, and its own end.
        closes_port: at_client == 2 && !newcomer,
        kicks: at_server == 2 && !newcomer,
        // A port that is closed is none of several tunnels'.
        host: at_server == 3 && at_client != 2,
        nobodys: visits % 2 == 1,
        slow: keep == 1,
        impatient: pick(2) == 1 || freeze,
        lazy: pick(2) == 1,
        ..Programs::new(visits, Grain::Fine)
    }
}

/// Two event loops that are set up, by the first words of a tape. Without words: the smallest of everything.
fn loops(words: &mut impl Iterator<Item = u16>) -> Config {
    let mut pick = |choices: usize| usize::from(words.next().unwrap_or(0)) % choices;
    let sizes = [1, 0, 2, 5, 8, 300, 1500];
    let (visits, conns) = (1 + pick(6), 1 + pick(4));
    let window = Window { bytes: [usize::MAX, 1, 7, 64, 600][pick(5)], segments: [usize::MAX, 1, 2][pick(3)] };
    let config = Config {
        up: sizes[pick(sizes.len())],
        down: sizes[pick(sizes.len())],
        chunk: [1, 3, 512][pick(3)],
        ready: pick(2) == 0,
        keep: [0, 1, 2][pick(3)],
        max_waiting: [8, 1, 2][pick(3)],
        refusals: pick(3),
        resets: pick(3),
        losses: pick(3),
        timeouts: pick(3) == 1,
        window,
        strategy: [Strategy::Hybrid, Strategy::Copy, Strategy::Splice][pick(3)],
        pipe: [64, 1, 700, 0][pick(4)],
        ..Config::new(visits, conns, Grain::Fine)
    };
    // Several times the lean turns after which splicing gives way to copying: more would only be more of the same.
    let turn = match config.strategy {
        Strategy::Splice if config.pipe > 0 => window.bytes.min(config.pipe),
        Strategy::Splice | Strategy::Copy | Strategy::Hybrid => window.bytes,
    };
    let most = turn.saturating_mul(20);
    Config { up: config.up.min(most), down: config.down.min(most), ..config }
}
