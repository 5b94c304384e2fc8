//! What one run of a case shows.

use super::stats::percentile;

/// A measured number.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) value: f64,
}

/// Latencies of one kind.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    pub(super) of: &'static str,
    pub(super) nanos: Vec<u64>,
}

/// What one run has shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// The most telling first.
    pub(super) figures: Vec<Figure>,
    pub(super) latencies: Vec<Latencies>,
}

impl Run {
    /// Adds a figure.
    pub(super) fn figure(&mut self, name: &'static str, unit: &'static str, value: f64) {
        self.figures.push(Figure { name, unit, value });
    }

    /// Adds p50 and p99 under these names, and the latencies themselves.
    pub(super) fn tail(&mut self, names: [&'static str; 2], of: &'static str, unit: Unit, mut nanos: Vec<u64>) {
        nanos.sort_unstable();
        for (name, share) in names.into_iter().zip([0.5, 0.99]) {
            self.figure(name, unit.name(), percentile(&nanos, share) as f64 / unit.nanos());
        }
        self.latencies.push(Latencies { of, nanos });
    }
}

/// The unit of a latency figure.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Micros,
    Millis,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Micros => "µs",
            Self::Millis => "ms",
        }
    }

    fn nanos(self) -> f64 {
        match self {
            Self::Micros => 1e3,
            Self::Millis => 1e6,
        }
    }
}
