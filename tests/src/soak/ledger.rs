//! What became of every stream, and of every disturbance.

use super::Disturbance;
use super::traffic::{Services, Trouble};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Behind a healing, what it was healed of may still show.
const ECHO: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Ledger(Mutex<Books>);

#[derive(Default)]
struct Books {
    disturbances: Vec<Entry>,
    whole: u64,
    bytes: u64,
    /// Bytes that were lost, invented or mixed up; streams that hang.
    damages: Vec<String>,
    /// Streams that ended although nothing was done to the system.
    unprovoked: Vec<String>,
    /// Streams that stood before, and ended by what must not end them.
    cut: BTreeMap<Disturbance, Vec<String>>,
    /// Streams that ended otherwise: they stood when a program was killed, or came while none could be served.
    excused: BTreeMap<Disturbance, u64>,
}

struct Entry {
    what: Disturbance,
    began: Instant,
    /// When visitors were served again, and how long that took from its end.
    healed: Option<(Instant, Duration)>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().expect("nobody panics with it")
    }

    /// Something is done to the system: its number.
    pub(super) fn begin(&self, what: Disturbance, began: Instant) -> usize {
        let mut books = self.books();
        books.disturbances.push(Entry { what, began, healed: None });
        books.disturbances.len() - 1
    }

    /// Visitors are served again, `healing` after it was undone.
    pub(super) fn end(&self, number: usize, healing: Duration) {
        self.books().disturbances[number].healed = Some((Instant::now(), healing));
    }

    /// A stream has come to its end on both sides, with so many bytes.
    pub(super) fn whole(&self, bytes: u64) {
        let mut books = self.books();
        books.whole += 1;
        books.bytes += bytes;
    }

    /// A stream that came at `came`, and was served from `served` on, has ended otherwise.
    pub(super) fn trouble(&self, came: Instant, served: Option<Instant>, trouble: Trouble) {
        let mut books = self.books();
        let what = match trouble {
            Trouble::Damage(what) => return books.damages.push(what),
            Trouble::Cut(what) => what,
        };
        let overlaps = |entry: &&Entry| entry.healed.is_none_or(|(healed, _)| came < healed + ECHO);
        let mut causes = books.disturbances.iter().filter(overlaps);
        let Some(last) = causes.next_back() else { return books.unprovoked.push(what) };
        // One that a kill may have cut is the kill's.
        let cause = causes.map(|entry| entry.what).chain([last.what]).max_by_key(|what| what.may_cut());
        let cause = cause.expect("the last one at least");
        if served.is_some_and(|served| served < last.began) && !cause.may_cut() {
            books.cut.entry(cause).or_default().push(what);
        } else {
            *books.excused.entry(cause).or_default() += 1;
        }
    }

    /// Prints all of it. `true`: nothing was lost that must not be.
    pub(super) fn report(&self, services: &Services) -> bool {
        let books = self.books();
        let misled = services.misled();
        println!("\n{} streams whole, {} bytes checked", books.whole, books.bytes);
        println!(
            "{:<26} {:>5} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "", "times", "p50 s", "p99 s", "max s", "cut", "excused"
        );
        let mut all = Vec::new();
        for what in Disturbance::ALL {
            let of = books.disturbances.iter().filter(|entry| entry.what == what);
            let mut healings: Vec<_> = of.filter_map(|entry| Some(entry.healed?.1)).collect();
            all.extend_from_slice(&healings);
            let cut = books.cut.get(&what).map_or(0, Vec::len);
            let excused = books.excused.get(&what).copied().unwrap_or(0);
            line(&format!("{what:?}"), &mut healings, cut, excused);
        }
        let cut: usize = books.cut.values().map(Vec::len).sum();
        line("all", &mut all, cut, books.excused.values().sum());
        let damages = [&books.damages[..], &services.damages()].concat();
        let lists = [("damage", &damages), ("lost without a cause", &books.unprovoked)];
        let cuts = books.cut.values().map(|cut| ("cut", cut));
        for (name, list) in lists.into_iter().chain(cuts) {
            list.iter().take(20).for_each(|what| println!("{name}: {what}"));
        }
        println!(
            "damaged {}, lost without a cause {}, cut by what must not cut {cut}, led to a stranger {misled}",
            damages.len(),
            books.unprovoked.len()
        );
        damages.is_empty() && books.unprovoked.is_empty() && cut == 0 && misled == 0
    }
}

fn line(what: &str, healings: &mut [Duration], cut: usize, excused: u64) {
    healings.sort_unstable();
    let at = |percent: usize| healings.get((healings.len() * percent / 100).min(healings.len().saturating_sub(1)));
    let [p50, p99, max] = [50, 99, 100].map(|percent| at(percent).map_or(0.0, Duration::as_secs_f64));
    println!("{what:<26} {:>5} {p50:>8.2} {p99:>8.2} {max:>8.2} {cut:>8} {excused:>8}", healings.len());
}
