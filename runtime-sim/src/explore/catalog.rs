//! The configurations that are explored, by what they are about.

use super::loops::Config;
use super::net::{Side, Window};
use super::peers::Grain::{Coarse, Fine, Medium};
use super::programs::Programs;
use super::search::{self, Counterexample, Report};
use super::{explore_programs, loops};
use protocol_sm::driver::Strategy;

/// More states than any configuration here has.
const LIMIT: usize = 30_000_000;

/// What is searched.
#[derive(Clone, Copy, Debug)]
pub enum Search {
    /// Two event loops.
    Loops(Config),
    /// Whole programs.
    Programs(Programs),
}

impl Search {
    /// Explores every interleaving.
    ///
    /// # Errors
    /// The shortest path to what must not be.
    pub fn run(self) -> Result<Report, Box<Counterexample>> {
        match self {
            Self::Loops(config) => search::explore(&loops::Loops::new(config), LIMIT),
            Self::Programs(config) => explore_programs(config, LIMIT),
        }
    }
}

/// What a configuration is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // their names say it
pub enum Topic {
    Reuse,
    Cuts,
    Aborts,
    Loss,
    Pool,
    Pressure,
    Resume,
    Grace,
    Replacement,
    Stopping,
    Closing,
    Reloading,
    Orders,
    Hosts,
}

/// One configuration.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What it is about.
    pub topic: Topic,
    /// What it is called.
    pub name: &'static str,
    /// What is searched.
    pub search: Search,
    /// Too large for every test run.
    pub large: bool,
}

const fn small(topic: Topic, name: &'static str, search: Search) -> Entry {
    Entry { topic, name, search, large: false }
}

const fn large(topic: Topic, name: &'static str, search: Search) -> Entry {
    Entry { topic, name, search, large: true }
}

const fn loops(config: Config) -> Search {
    Search::Loops(config)
}

const fn programs(config: Programs) -> Search {
    Search::Programs(config)
}

const NARROW: Window = Window { segments: 1, ..Window::WIDE };
const BYTES: Window = Window { bytes: 1, ..Window::WIDE };
const SPLICE: Config = Config { strategy: Strategy::Splice, pipe: 1, ..Config::new(2, 1, Fine) };
const LATE: Config = Config { resets: 1, looks: 2, ..Config::new(2, 1, Medium) };
const GRACE: Programs = Programs { ctl_losses: 1, server_grace: true, ..Programs::new(1, Medium) };
const NEWCOMER: Programs = Programs { newcomer: true, ..Programs::new(0, Coarse) };
const CLIENT_STOPS: Programs = Programs { client_stops: true, server_grace: true, ..Programs::new(1, Medium) };
const HASTY: Programs = Programs { server_stops: true, impatient: true, ..Programs::new(1, Medium) };
const CLOSES: Programs = Programs { client_closes: true, ..Programs::new(1, Coarse) };
const RELOADS: Programs = Programs { client_reloads: true, ..Programs::new(1, Coarse) };
const SHRINKS: Programs = Programs { server_shrinks: true, ..Programs::new(1, Coarse) };
const KICK: Programs = Programs { kicks: true, ..Programs::new(1, Coarse) };
const CLOSE: Programs = Programs { closes_port: true, ..Programs::new(1, Coarse) };
const HOST: Programs = Programs { host: true, ..Programs::new(1, Coarse) };
const SLOW_MAIL: Programs = Programs { lazy: true, ..Programs::new(1, Coarse) };

/// All of them.
pub const CATALOG: &[Entry] = &{
    use Topic::{
        Aborts, Closing, Cuts, Grace, Hosts, Loss, Orders, Pool, Pressure, Reloading, Replacement, Resume, Reuse,
        Stopping,
    };
    [
        small(Reuse, "3 transfers, 2 conns, 1 byte each way", loops(Config::new(3, 2, Medium))),
        small(Cuts, "3 transfers, 1 conn", loops(Config::new(3, 1, Medium))),
        small(Cuts, "2 transfers, 1 conn, fine", loops(Config::new(2, 1, Fine))),
        small(Cuts, "1 transfer, 2 bytes", loops(Config { up: 2, down: 2, ..Config::new(1, 1, Fine) })),
        small(Cuts, "2 transfers, empty halves", loops(Config { up: 0, down: 0, ..Config::new(2, 2, Fine) })),
        large(Cuts, "3 transfers, 1 conn, fine", loops(Config::new(3, 1, Fine))),
        large(Cuts, "2 transfers, 2 conns, fine", loops(Config::new(2, 2, Fine))),
        large(Cuts, "4 transfers, 2 conns", loops(Config::new(4, 2, Coarse))),
        large(Cuts, "2 transfers, 2 bytes", loops(Config { up: 2, down: 2, ..Config::new(2, 1, Fine) })),
        small(Aborts, "refusal", loops(Config { refusals: 1, ..Config::new(2, 1, Fine) })),
        small(Aborts, "refusals", loops(Config { refusals: 2, ..Config::new(2, 2, Medium) })),
        small(Aborts, "reset", loops(Config { resets: 1, ..Config::new(2, 2, Medium) })),
        small(Aborts, "two resets", loops(Config { resets: 2, ..Config::new(2, 1, Medium) })),
        small(Aborts, "a visitor who takes late", loops(Config { late: Some(Side::Visitor), ..LATE })),
        small(Aborts, "a LocalServer that takes late", loops(Config { late: Some(Side::Local), visits: 1, ..LATE })),
        large(Aborts, "two LocalServers that take late", loops(Config { late: Some(Side::Local), ..LATE })),
        large(Aborts, "resets and refusals", loops(Config { resets: 2, refusals: 1, ..Config::new(2, 2, Coarse) })),
        large(Aborts, "reset, fine", loops(Config { resets: 1, ..Config::new(2, 1, Fine) })),
        small(Loss, "loss", loops(Config { losses: 1, ..Config::new(2, 1, Medium) })),
        small(Loss, "loss on two conns, coarse", loops(Config { losses: 1, ..Config::new(2, 2, Coarse) })),
        small(Loss, "loss, cold", loops(Config { losses: 1, ready: false, ..Config::new(2, 1, Medium) })),
        large(Loss, "loss on two conns", loops(Config { losses: 1, ..Config::new(2, 2, Medium) })),
        large(Loss, "loss, cold, two conns", loops(Config { losses: 1, ready: false, ..Config::new(2, 2, Medium) })),
        large(Loss, "loss and reset", loops(Config { losses: 1, resets: 1, ..Config::new(2, 2, Medium) })),
        large(Loss, "loss and refusal", loops(Config { losses: 1, refusals: 1, ..Config::new(2, 2, Coarse) })),
        small(Pool, "conns are opened on demand", loops(Config { ready: false, ..Config::new(2, 2, Medium) })),
        small(Pool, "one is kept", loops(Config { ready: false, keep: 1, ..Config::new(2, 2, Coarse) })),
        small(Pool, "one may wait", loops(Config { max_waiting: 1, ..Config::new(3, 1, Medium) })),
        small(Pool, "waits end", loops(Config { timeouts: true, ready: false, ..Config::new(2, 1, Medium) })),
        large(Pool, "three on demand", loops(Config { ready: false, ..Config::new(3, 2, Coarse) })),
        large(Pool, "waits end, with a loss", loops(Config { timeouts: true, losses: 1, ..Config::new(2, 1, Medium) })),
        small(Pressure, "narrow", loops(Config { window: NARROW, ..Config::new(2, 1, Fine) })),
        small(Pressure, "byte by byte", loops(Config { window: BYTES, ..Config::new(1, 1, Fine) })),
        small(Pressure, "splice", loops(SPLICE)),
        small(Pressure, "splice, narrow, reset", loops(Config { window: NARROW, resets: 1, grain: Medium, ..SPLICE })),
        small(Pressure, "splice, 2 bytes", loops(Config { window: NARROW, up: 2, down: 2, visits: 1, ..SPLICE })),
        large(
            Pressure,
            "splice, narrow, two conns",
            loops(Config { window: NARROW, conns: 2, grain: Medium, ..SPLICE }),
        ),
        large(Pressure, "splice, narrow, loss", loops(Config { window: NARROW, losses: 1, grain: Medium, ..SPLICE })),
        small(Resume, "one ctl_conn lost", programs(Programs { ctl_losses: 1, ..Programs::new(1, Medium) })),
        small(
            Resume,
            "a ctl_conn and a proxy_conn lost",
            programs(Programs { ctl_losses: 1, proxy_losses: 1, ..Programs::new(1, Medium) }),
        ),
        small(Resume, "two ctl_conns lost", programs(Programs { ctl_losses: 2, keep: 1, ..Programs::new(1, Coarse) })),
        large(Resume, "2 transfers, a ctl_conn lost", programs(Programs { ctl_losses: 1, ..Programs::new(2, Coarse) })),
        large(Resume, "with slow mail", programs(Programs { ctl_losses: 1, lazy: true, ..Programs::new(1, Medium) })),
        large(Resume, "fine", programs(Programs { ctl_losses: 2, proxy_losses: 1, ..Programs::new(1, Fine) })),
        small(Grace, "the server's grace", programs(GRACE)),
        small(Grace, "transfers outlive the server's grace", programs(Programs { asleep: true, ..GRACE })),
        large(
            Grace,
            "transfers outlive the server's grace, slow mail",
            programs(Programs { asleep: true, lazy: true, grain: Coarse, ..GRACE }),
        ),
        small(Grace, "the client's grace", programs(Programs { client_grace: true, server_grace: false, ..GRACE })),
        small(Grace, "both", programs(Programs { client_grace: true, proxy_losses: 1, ..GRACE })),
        large(Grace, "both, slow mail", programs(Programs { client_grace: true, lazy: true, grain: Coarse, ..GRACE })),
        small(Replacement, "a newcomer, nobody visits", programs(NEWCOMER)),
        small(Replacement, "a newcomer and a visitor", programs(Programs { visits: 1, ..NEWCOMER })),
        small(Replacement, "the first freezes, nobody visits", programs(Programs { freeze: true, ..NEWCOMER })),
        large(Replacement, "the first freezes", programs(Programs { visits: 1, freeze: true, ..NEWCOMER })),
        large(Replacement, "a newcomer, and a ctl_conn is lost", programs(Programs { ctl_losses: 1, ..NEWCOMER })),
        small(Stopping, "the server stops", programs(Programs { server_stops: true, ..Programs::new(2, Coarse) })),
        small(Stopping, "the client stops", programs(CLIENT_STOPS)),
        small(Stopping, "the server does not wait", programs(HASTY)),
        small(Stopping, "the client does not wait", programs(Programs { impatient: true, ..CLIENT_STOPS })),
        small(Stopping, "the server stops, a ctl_conn is lost", programs(Programs { ctl_losses: 1, ..HASTY })),
        small(Stopping, "both stop", programs(Programs { server_stops: true, impatient: true, ..CLIENT_STOPS })),
        small(Stopping, "slow mail", programs(Programs { visits: 2, ..SLOW_MAIL })),
        small(Stopping, "slow mail, the server stops", programs(Programs { server_stops: true, ..SLOW_MAIL })),
        small(Stopping, "a newcomer, and the server stops", programs(Programs { newcomer: true, visits: 0, ..HASTY })),
        small(Closing, "a tunnel is closed", programs(Programs { visits: 2, ..CLOSES })),
        small(Closing, "a tunnel is closed, a ctl_conn is lost", programs(Programs { ctl_losses: 1, ..CLOSES })),
        small(Closing, "a tunnel is closed, the server's grace", programs(Programs { client_closes: true, ..GRACE })),
        small(Closing, "a tunnel is closed, slow mail", programs(Programs { client_closes: true, ..SLOW_MAIL })),
        small(Reloading, "the client connects anew", programs(RELOADS)),
        large(Reloading, "the client connects anew, 2 visitors", programs(Programs { visits: 2, ..RELOADS })),
        large(
            Reloading,
            "the client connects anew, a ctl_conn is lost",
            programs(Programs { ctl_losses: 1, ..RELOADS }),
        ),
        large(Reloading, "the client connects anew, and stops", programs(Programs { client_stops: true, ..RELOADS })),
        small(Reloading, "a scope shrinks", programs(SHRINKS)),
        large(Reloading, "a scope shrinks, a ctl_conn is lost", programs(Programs { ctl_losses: 1, ..SHRINKS })),
        large(Reloading, "both", programs(Programs { client_reloads: true, ..SHRINKS })),
        small(Reloading, "a scope shrinks, a tunnel is closed", programs(Programs { client_closes: true, ..SHRINKS })),
        small(Orders, "the operator ends the session", programs(KICK)),
        small(Orders, "the same, slow mail, nobody visits", programs(Programs { lazy: true, visits: 0, ..KICK })),
        small(Orders, "the operator closes the port", programs(CLOSE)),
        small(Orders, "the same, slow mail", programs(Programs { lazy: true, ..CLOSE })),
        small(Orders, "both", programs(Programs { kicks: true, visits: 0, ..CLOSE })),
        large(Orders, "both, a visitor", programs(Programs { kicks: true, ..CLOSE })),
        small(
            Hosts,
            "a visitor of the tunnel's, and nobody's",
            programs(Programs { visits: 2, nobodys: true, ..HOST }),
        ),
        small(Hosts, "a visitor is slow, or leaves", programs(Programs { slow: true, ..HOST })),
        small(Hosts, "the tunnel is closed", programs(Programs { client_closes: true, ..HOST })),
        small(
            Hosts,
            "the client is away, and comes back",
            programs(Programs { ctl_losses: 1, server_grace: true, ..HOST }),
        ),
        large(Hosts, "a newcomer has the host", programs(Programs { newcomer: true, ..HOST })),
        small(Hosts, "the server stops", programs(Programs { server_stops: true, impatient: true, ..HOST })),
    ]
};
