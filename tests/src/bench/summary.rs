//! The rounds of a case brought together: one summary per peer.

use super::cases::{self, Target};
use super::outcome::Run;
use super::stats::{Spread, percentile};

/// All peers on one case.
pub(super) struct CaseSummary {
    pub(super) case: String,
    pub(super) peers: Vec<PeerSummary>,
}

/// One peer on one case.
pub(super) struct PeerSummary {
    pub(super) peer: String,
    /// Why it has no figures.
    pub(super) failure: Option<String>,
    pub(super) figures: Vec<FigureSummary>,
    pub(super) curves: Vec<Curve>,
}

/// One figure over the rounds.
pub(super) struct FigureSummary {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) spread: Spread,
}

/// A latency distribution over all rounds: nanoseconds at each of [`SHARES`].
pub(super) struct Curve {
    pub(super) of: &'static str,
    pub(super) nanos: Vec<u64>,
}

/// Where a [`Curve`] is sampled.
pub(super) const SHARES: [f64; 19] =
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999];

impl PeerSummary {
    /// Takes the rounds together; one failed round fails the case.
    pub(super) fn new(peer: String, runs: Vec<Run>, failure: Option<String>) -> Self {
        let mut summary = Self { peer, failure, figures: Vec::new(), curves: Vec::new() };
        let Some(first) = runs.first().filter(|_| summary.failure.is_none()) else { return summary };
        for (i, figure) in first.figures.iter().enumerate() {
            let values = runs.iter().filter_map(|run| run.figures.get(i)).map(|f| f.value).collect();
            let spread = Spread::of(values);
            summary.figures.extend(spread.map(|spread| FigureSummary { name: figure.name, unit: figure.unit, spread }));
        }
        for (i, latencies) in first.latencies.iter().enumerate() {
            let mut nanos: Vec<u64> =
                runs.iter().filter_map(|run| run.latencies.get(i)).flat_map(|l| l.nanos.iter().copied()).collect();
            nanos.sort_unstable();
            let nanos = SHARES.iter().map(|&share| percentile(&nanos, share)).collect();
            summary.curves.push(Curve { of: latencies.of, nanos });
        }
        summary
    }

    fn figure(&self, name: &str) -> Option<&FigureSummary> {
        self.figures.iter().find(|figure| figure.name == name)
    }
}

impl CaseSummary {
    /// The figures of this case with their units, in order, whichever peers have them.
    pub(super) fn columns(&self) -> Vec<(&'static str, &'static str)> {
        let mut columns: Vec<(&'static str, &'static str)> = Vec::new();
        // The peer with most figures knows the order; direct has no processes and so fewer.
        if let Some(most) = self.peers.iter().max_by_key(|peer| peer.figures.len()) {
            columns.extend(most.figures.iter().map(|figure| (figure.name, figure.unit)));
        }
        columns
    }

    /// A figure of one peer.
    pub(super) fn figure(&self, peer: &str, name: &str) -> Option<&FigureSummary> {
        self.peers.iter().find(|p| p.peer == peer)?.figure(name)
    }

    /// The peer's median over S's.
    pub(super) fn ratio(&self, peer: &str, name: &str) -> Option<f64> {
        let base = self.figure("relay", name)?.spread.median;
        let own = self.figure(peer, name)?.spread.median;
        (base > 0.0).then(|| own / base)
    }

    /// The target of a figure in words, and whether this peer meets it (`None`: it cannot be said).
    pub(super) fn verdict(&self, peer: &str, name: &str) -> Option<(String, Option<bool>)> {
        let target = cases::target(&self.case, name)?;
        let median = self.figure(peer, name).map(|figure| figure.spread.median);
        let ratio = self.ratio(peer, name);
        Some(match target {
            Target::RatioAtLeast(t) => (format!("≥ {t}×"), ratio.map(|r| r >= t)),
            Target::RatioAtMost(t) => (format!("≤ {t}×"), ratio.map(|r| r <= t)),
            Target::AtMost(t) => (format!("≤ {t}"), median.map(|m| m <= t)),
            Target::AtLeast(t) => (format!("≥ {t}"), median.map(|m| m >= t)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::outcome::Figure;

    fn peer(name: &str, values: &[f64]) -> PeerSummary {
        let run = |&value| Run { figures: vec![Figure { name: "throughput", unit: "MB/s", value }], latencies: vec![] };
        PeerSummary::new(name.to_owned(), values.iter().map(run).collect(), None)
    }

    #[test]
    fn ratios_are_of_medians_and_judged() {
        let case = "bulk-down-x1".to_owned();
        let peers = vec![peer("relay", &[100.0, 300.0, 200.0]), peer("cproxy", &[230.0]), peer("slow", &[10.0])];
        let summary = CaseSummary { case, peers };
        assert_eq!(summary.ratio("cproxy", "throughput"), Some(1.15));
        assert_eq!(summary.verdict("cproxy", "throughput"), Some(("≥ 1.1×".to_owned(), Some(true))));
        assert_eq!(summary.verdict("slow", "throughput"), Some(("≥ 1.1×".to_owned(), Some(false))));
        assert_eq!(summary.verdict("absent", "throughput"), Some(("≥ 1.1×".to_owned(), None)));
    }

    #[test]
    fn a_failed_round_leaves_no_figures() {
        let run = Run { figures: vec![Figure { name: "visits", unit: "/s", value: 1.0 }], latencies: vec![] };
        let summary = PeerSummary::new("p".to_owned(), vec![run], Some("hangs".to_owned()));
        assert!(summary.figures.is_empty());
    }
}
