//! The soak: both programs, far from each other in namespaces, are killed, frozen, cut off and starved of descriptors at
//! random, and their LocalServer's name moves, while visitors check every byte and there is little memory for sockets. At
//! the end it says what was lost, how long each healing took, and what the programs hold. Needs root.
//!
//! `cargo run --release -p tests --bin soak -- --minutes 10 --seed 7`; what happens when follows from the seed. Exit
//! code 0: nothing was lost but by kills, and the programs hold what they held at first.

mod ledger;
mod system;
mod traffic;

use crate::conversation::Draw;
use crate::link::Link;
use clap::Parser;
use ledger::Ledger;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use system::{Side, System};
use traffic::{Services, Visitors};

/// How long the server is frozen at first.
const LONG_FREEZE: Duration = Duration::from_secs(60);

/// Disturbs both programs at random under traffic that is checked byte by byte.
#[derive(Parser)]
#[command(name = "soak")]
struct Args {
    /// For so long.
    #[arg(long, default_value_t = 10, value_name = "N")]
    minutes: u64,
    /// Another seed disturbs otherwise.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

/// What is done to the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Disturbance {
    Kill(Side),
    Freeze(Side),
    FewDescriptors(Side),
    Cut,
    NameMoves,
}

impl Disturbance {
    const ALL: [Self; 8] = [
        Self::Kill(Side::Server),
        Self::Kill(Side::Client),
        Self::Freeze(Side::Server),
        Self::Freeze(Side::Client),
        Self::FewDescriptors(Side::Server),
        Self::FewDescriptors(Side::Client),
        Self::Cut,
        Self::NameMoves,
    ];

    /// One of them, and how long it lasts: not beyond `until`.
    fn draw(draw: &mut Draw, until: Instant) -> (Self, Duration) {
        let what = Self::ALL[draw.next(Self::ALL.len() as u64) as usize];
        // Short ones are as likely as long ones.
        let power = draw.next(1_000) as f64 / 1_000.0;
        let lasts = Duration::from_millis(((what.longest() as f64 / 1_000.0).powf(power) * 1_000.0) as u64);
        (what, lasts.min(until.saturating_duration_since(Instant::now())))
    }

    /// The longest time that it lasts, in milliseconds.
    fn longest(self) -> u64 {
        match self {
            Self::Kill(_) => 5_000,
            Self::Freeze(_) => 60_000,
            Self::FewDescriptors(_) => 20_000,
            Self::Cut => 120_000,
            Self::NameMoves => 1_000,
        }
    }

    /// Whether a transfer that stands may end by it.
    fn may_cut(self) -> bool {
        matches!(self, Self::Kill(_))
    }
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    if !crate::namespaces_allowed() {
        return ExitCode::from(2);
    }
    // The harness gives a thread that is named like a test a test's time.
    let soak = std::thread::Builder::new().name("the soak".to_owned()).spawn(move || soak(&args));
    let good = soak.expect("a thread").join().unwrap_or(false);
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn soak(args: &Args) -> bool {
    let until = Instant::now() + Duration::from_secs(args.minutes * 60);
    let mut draw = Draw::new(args.seed);
    let services = Services::default();
    let link = Link::new(Duration::from_millis(5));
    let mut system = System::start(&link, &services, &mut draw);
    let (ledger, stop) = (Ledger::new(), AtomicBool::new(false));
    let visitors = Visitors { public: system.public(), ledger: &ledger, stop: &stop };
    link.near.run(|| visitors.heal());
    let before = system.holdings();
    std::thread::scope(|scope| {
        for _ in 0..traffic::VISITORS {
            let (near, seed) = (&link.near, draw.next(u64::MAX));
            scope.spawn(move || near.run(|| visitors.come_and_go(seed)));
        }
        // The longest one first, which few seeds would draw.
        disturb(&link, &mut system, &mut draw, &visitors, (Disturbance::Freeze(Side::Server), LONG_FREEZE));
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1_000 + draw.next(5_000)));
            let drawn = Disturbance::draw(&mut draw, until);
            disturb(&link, &mut system, &mut draw, &visitors, drawn);
        }
        stop.store(true, Ordering::SeqCst);
    });
    let after = system.settle(&before);
    ledger.report(&services) & system::report(&before, &after)
}

/// Disturbs the system for so long, and waits until visitors are served again.
fn disturb(
    link: &Link,
    system: &mut System<'_>,
    draw: &mut Draw,
    visitors: &Visitors<'_>,
    (what, lasts): (Disturbance, Duration),
) {
    let began = Instant::now();
    let number = visitors.ledger.begin(what, began);
    system.begin(what);
    std::thread::sleep(lasts);
    system.end(what, draw);
    let ended = Instant::now();
    link.near.run(|| visitors.heal());
    let healing = ended.elapsed();
    visitors.ledger.end(number, healing);
    println!("{what:?} for {:.1} s, healed within {:.2} s", lasts.as_secs_f64(), healing.as_secs_f64());
}
