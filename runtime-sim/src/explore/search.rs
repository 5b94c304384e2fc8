//! Breadth-first search over every interleaving of a model.
//!
//! States are known by their fingerprints; the way to each is kept as one parent and one choice, and a failing
//! path is told by walking it again. Only states not yet expanded are held whole.

use super::fingerprint::{Parts, Table, fingerprint};
use super::guard::guarded;
use super::net::Visit;
use super::story::Story;
use crate::oracle::Kind;
use std::collections::VecDeque;
use std::fmt;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// What is searched.
pub(super) trait Model {
    /// A global state.
    type State: Clone + Hash;
    /// A step that one of the parties, the network or time can make.
    type Action: Copy + fmt::Debug;
    /// Where it begins.
    fn initial(&self, story: &mut Story) -> Self::State;
    /// The steps that are possible in `state`.
    fn actions(&self, state: &Self::State, into: &mut Vec<Self::Action>);
    /// Makes a step. Panics where an invariant does not hold.
    fn step(&self, state: &mut Self::State, action: Self::Action, story: &mut Story);
    /// Whether the step happens sooner or later if nothing prevents it; otherwise it is a fault or a whim.
    fn is_due(&self, action: Self::Action) -> bool;
    /// Nothing is due any more. Panics if that is not a quiet end.
    fn assert_quiet(&self, state: &Self::State);
    /// Shares what the state has with those that have the same.
    fn share(&self, state: &mut Self::State, parts: &mut Parts);
    /// The outer peers and what they have seen.
    fn visits<'a>(&self, state: &'a Self::State) -> &'a [Visit];
}

/// What a complete search has seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Steps between them.
    pub transitions: usize,
    /// Steps to the state that is farthest from the start.
    pub depth: usize,
    /// States in which everything has come to its end.
    pub quiet: usize,
    /// Most states held whole at once.
    pub frontier: usize,
    /// How long it took.
    pub took: Duration,
    /// The path to one of the farthest quiet ends as a sequence chart.
    pub chart: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, transitions, depth, quiet, frontier, took, chart: _ } = self;
        write!(
            f,
            "{states} states, {transitions} transitions, depth {depth}, {quiet} quiet ends, frontier {frontier}, {:.1} s",
            took.as_secs_f64()
        )
    }
}

/// A path to something that must not be.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// What kind of promise was broken.
    pub kind: Kind,
    /// What is wrong.
    pub what: String,
    /// States seen before it was found.
    pub states: usize,
    /// Steps from the start: no path is shorter.
    pub steps: usize,
    /// The path as a sequence chart.
    pub chart: String,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind: _, what, states, steps, chart } = self;
        write!(f, "{what}\nafter {states} states, in {steps} steps:\n{chart}\n=> {what}")
    }
}

/// Searches everything that can be reached, up to `limit` states.
///
/// # Errors
/// The shortest path to a state or a step that breaks an invariant; or to a state from which no quiet end can be
/// reached.
pub(super) fn explore<M: Model>(model: &M, limit: usize) -> Result<Report, Box<Counterexample>> {
    let began = Instant::now();
    let mut search = Search { parents: Vec::new(), known: Table::default(), due: Vec::new(), quiet: Vec::new() };
    let (mut queue, mut parts) = (VecDeque::new(), Parts::default());
    let (mut transitions, mut depth, mut frontier) = (0, 0, 0);
    let initial = guarded(|| model.initial(&mut Story::default())).map_err(|what| {
        let mut story = Story::told();
        let _ = guarded(|| model.initial(&mut story));
        Box::new(Counterexample { kind: kind_of(&what), what, states: 0, steps: 0, chart: story.text() })
    })?;
    search.add(fingerprint(&initial), 0, 0);
    queue.push_back((0, 0, initial));
    let mut actions = Vec::new();
    while let Some((index, steps, state)) = queue.pop_front() {
        depth = steps;
        frontier = frontier.max(queue.len() + 1);
        actions.clear();
        model.actions(&state, &mut actions);
        if !actions.iter().any(|&action| model.is_due(action)) {
            guarded(|| model.assert_quiet(&state))
                .map_err(|what| search.fail(Kind::Liveness, model, index, None, what))?;
            search.quiet.push(index);
        }
        for (choice, &action) in actions.iter().enumerate() {
            let mut next = state.clone();
            let stepped = guarded(|| model.step(&mut next, action, &mut Story::default()));
            stepped.map_err(|what| search.fail(kind_of(&what), model, index, Some(choice), what))?;
            transitions += 1;
            let (to, new) = search.add(fingerprint(&next), index, choice);
            if model.is_due(action) {
                search.due.push((index, to));
            }
            if new {
                model.share(&mut next, &mut parts);
                queue.push_back((to, steps + 1, next));
            }
        }
        if search.parents.len() > limit {
            let what = format!("more than {limit} states");
            return Err(search.fail(Kind::Crash, model, index, None, what));
        }
    }
    if let Some(stuck) = search.first_stuck() {
        let what = "no quiet end can be reached from here".to_owned();
        return Err(search.fail(Kind::Liveness, model, stuck, None, what));
    }
    let (states, quiet) = (search.parents.len(), search.quiet.len());
    let (_, chart) = search.tell(model, search.quiet.last().copied().unwrap_or(0), None);
    Ok(Report { states, transitions, depth, quiet, frontier, took: began.elapsed(), chart })
}

/// An invariant that the model checks, or one that the code under test asserts.
fn kind_of(what: &str) -> Kind {
    if what.contains("protocol-sm/src/") { Kind::Crash } else { Kind::Safety }
}

struct Search {
    /// For each state, from which state and by which of its actions it was first reached.
    parents: Vec<(u32, u16)>,
    known: Table<u32>,
    /// Steps that are due, from state to state.
    due: Vec<(u32, u32)>,
    quiet: Vec<u32>,
}

impl Search {
    fn add(&mut self, print: u64, from: u32, choice: usize) -> (u32, bool) {
        let next = u32::try_from(self.parents.len()).expect("fewer than 2^32 states");
        let index = *self.known.entry(print).or_insert(next);
        if index == next {
            self.parents.push((from, u16::try_from(choice).expect("few actions")));
        }
        (index, index == next)
    }

    /// The first state from which due steps alone lead to no quiet end.
    fn first_stuck(&self) -> Option<u32> {
        let states = self.parents.len();
        // Predecessors of each state, all in one list.
        let mut starts = vec![0_u32; states + 1];
        for &(_, to) in &self.due {
            starts[to as usize + 1] += 1;
        }
        for i in 0..states {
            starts[i + 1] += starts[i];
        }
        let mut fill = starts.clone();
        let mut before = vec![0_u32; self.due.len()];
        for &(from, to) in &self.due {
            before[fill[to as usize] as usize] = from;
            fill[to as usize] += 1;
        }
        let mut good = vec![false; states];
        let mut todo = self.quiet.clone();
        while let Some(state) = todo.pop() {
            if !std::mem::replace(&mut good[state as usize], true) {
                let range = starts[state as usize] as usize..starts[state as usize + 1] as usize;
                todo.extend_from_slice(&before[range]);
            }
        }
        good.iter().position(|&good| !good).map(|state| u32::try_from(state).expect("fewer than 2^32 states"))
    }

    fn fail<M: Model>(
        &self,
        kind: Kind,
        model: &M,
        state: u32,
        last: Option<usize>,
        what: String,
    ) -> Box<Counterexample> {
        let (steps, chart) = self.tell(model, state, last);
        Box::new(Counterexample { kind, what, states: self.parents.len(), steps, chart })
    }

    /// Walks to a state again, and one step further, and draws the way.
    fn tell<M: Model>(&self, model: &M, state: u32, last: Option<usize>) -> (usize, String) {
        let mut choices: Vec<usize> = last.into_iter().collect();
        let mut at = state;
        while at != 0 {
            let (parent, choice) = self.parents[at as usize];
            choices.push(usize::from(choice));
            at = parent;
        }
        choices.reverse();
        let mut story = Story::told();
        let steps = choices.len();
        let mut actions = Vec::new();
        // The last step may break off: what was told until then is the chart.
        let _ = guarded(|| {
            let mut state = model.initial(&mut Story::default());
            for choice in choices {
                actions.clear();
                model.actions(&state, &mut actions);
                story.remark(|| format!("{:?}", actions[choice]));
                model.step(&mut state, actions[choice], &mut story);
            }
        });
        (steps, story.text())
    }
}
