//! A status as Prometheus reads it: text, version 0.0.4. All series of fixed labels are there from the start; those of
//! tunnels come and go with them. No label holds a visitor's address.

use super::Status;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use protocol_sm::report::{
    Counts, CredentialReport, Histogram, Reason, SessionReport, SessionState, TunnelReport, TunnelState,
};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub(super) use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// What `/metrics` says.
pub(super) fn text(status: Arc<Status>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(status)));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a String takes it");
    text
}

#[derive(Debug)]
struct Scrape(Arc<Status>);

/// Writes series of one kind after the other.
struct Writer<'a>(DescriptorEncoder<'a>);

type Labels<'l> = Vec<(&'static str, &'l str)>;

impl Writer<'_> {
    fn gauges<'l, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counters<'l, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'l>, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, times: &Histogram) -> fmt::Result {
        let bounds = Histogram::BOUNDS_MS.iter().map(|&ms| ms as f64 / 1000.0).chain([f64::MAX]);
        let buckets: Vec<_> = bounds.zip(times.buckets).collect();
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(times.sum_us as f64 / 1e6, times.count(), &buckets, None)
    }
}

/// One series for each reason.
fn by_reason<K: Reason>(outcome: &'static str, counts: &Counts<K>) -> Vec<(Labels<'static>, u64)> {
    let labels = |reason: K| vec![("outcome", outcome), ("reason", reason.label())];
    counts.iter().map(|(reason, count)| (labels(reason), count)).collect()
}

/// Tunnels by client and name. A client may give one name to several, which are one series then: two of the same labels
/// would spoil the whole scrape.
fn tunnels(status: &Status) -> BTreeMap<(&str, &str), TunnelReport> {
    let mut tunnels = BTreeMap::<_, TunnelReport>::new();
    for session in &status.report.sessions {
        for tunnel in &session.tunnels {
            tunnels
                .entry((session.client.as_str(), tunnel.name.as_str()))
                .and_modify(|all| {
                    let open = all.state == TunnelState::Open && tunnel.state == TunnelState::Open;
                    all.state = if open { TunnelState::Open } else { TunnelState::Opening };
                    all.visitors += tunnel.visitors;
                    all.total += tunnel.total;
                    all.failed += tunnel.failed;
                    all.turned_away += tunnel.turned_away;
                    all.bytes_in += tunnel.bytes_in;
                    all.bytes_out += tunnel.bytes_out;
                })
                .or_insert_with(|| tunnel.clone());
        }
    }
    tunnels
}

/// What each credential has.
type OfCredential = (&'static str, &'static str, fn(&CredentialReport) -> u64);
const CREDENTIALS: [OfCredential; 6] = [
    ("cproxy_credential_sessions", "Sessions of a credential", |it| it.sessions),
    ("cproxy_credential_tunnels", "Tunnels of a credential", |it| it.tunnels),
    ("cproxy_credential_conns", "Data connections of a credential", |it| it.conns),
    ("cproxy_credential_visitors", "Visitors of a credential's tunnels now", |it| it.visitors),
    ("cproxy_credential_fds", "Descriptors that a credential takes", |it| it.descriptors),
    ("cproxy_credential_unacknowledged_bytes", "Memory of what a credential's clients have not acknowledged", |it| {
        it.unacknowledged_bytes
    }),
];

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Status { program, release, descriptors, report, .. } = &*self.0;
        let mut out = Writer(encoder);
        let build = vec![("program", program.as_str()), ("version", release.as_str())];
        out.gauges("cproxy_build_info", "The program that runs", [(build, 1)])?;
        out.gauges("process_open_fds", "Open descriptors", [(vec![], descriptors.open)])?;
        out.gauges("process_max_fds", "Descriptors that it may have", [(vec![], descriptors.limit)])?;

        let sessions = |state: SessionState| {
            let count = report.sessions.iter().filter(|session| session.state == state).count();
            (vec![("state", state.label())], count as u64)
        };
        let states = [SessionState::Up, SessionState::Detached, SessionState::Connecting, SessionState::Leaving];
        out.gauges("cproxy_sessions", "Sessions of clients; on a client its own", states.map(sessions))?;
        let all = || report.sessions.iter().flat_map(|session| &session.tunnels);
        let of_state = |state: TunnelState| {
            (vec![("state", state.label())], all().filter(|tunnel| tunnel.state == state).count() as u64)
        };
        let states = [TunnelState::Open, TunnelState::Opening, TunnelState::Refused];
        out.gauges("cproxy_tunnels", "Tunnels", states.map(of_state))?;

        for (name, help, value) in CREDENTIALS {
            let series = report.credentials.iter().map(|it| (vec![("credential", it.credential.as_str())], value(it)));
            out.gauges(name, help, series)?;
        }

        let visitors = &report.visitors;
        let now = [("waiting", visitors.waiting), ("active", visitors.active)];
        let now = now.map(|(state, count)| (vec![("state", state)], count));
        out.gauges("cproxy_visitors", "Visitors that wait for a data connection, and that are served", now)?;
        out.counters("cproxy_visitors_accepted", "Visitors that came", [(vec![], visitors.total)])?;
        let mut ended = vec![(vec![("outcome", "finished"), ("reason", "")], visitors.finished)];
        ended.extend(by_reason("aborted", &visitors.aborted));
        ended.extend(by_reason("refused", &visitors.refused));
        ended.extend(by_reason("dropped", &visitors.dropped));
        ended.extend(by_reason("turned_away", &visitors.turned_away));
        out.counters("cproxy_visitors_ended", "What became of visitors, and why", ended)?;
        let help = "Visitors at the ports of hosts that have named none yet";
        out.gauges("cproxy_visitors_unrouted", help, [(vec![], report.unrouted)])?;
        let lost = report.datagrams_lost.iter().map(|(reason, count)| (vec![("reason", reason.label())], count));
        let help = "Datagrams of UDP tunnels that went no further";
        out.counters("cproxy_datagrams_lost", help, lost)?;
        let by_path = [("in", report.path_datagrams_in), ("out", report.path_datagrams_out)];
        let by_path = by_path.map(|(direction, count)| (vec![("direction", direction)], count));
        let help = "Datagrams from visitors (in) and to them (out) that went by UDP between client and server";
        out.counters("cproxy_path_datagrams", help, by_path)?;
        let up = report.sessions.iter().filter(|session| session.datagram_path.is_some()).count();
        out.gauges("cproxy_paths", "Sessions whose datagrams go by UDP", [(vec![], up as u64)])?;
        // A client may have two sessions for a moment: the newer one counts.
        let of_it = |session: &'_ SessionReport| Some((session.client.clone(), session.datagram_path?.size));
        let sizes: BTreeMap<_, _> = report.sessions.iter().filter_map(of_it).collect();
        let sizes = sizes.iter().map(|(client, &size)| (vec![("client", client.as_str())], size));
        let help = "Bytes that a datagram by UDP may have now, the two numbers in front included";
        out.gauges("cproxy_path_size_bytes", help, sizes)?;
        let not_routed = report.not_routed.iter().map(|(reason, count)| (vec![("reason", reason.label())], count));
        let help = "Visitors at the ports of hosts that were refused before they were any tunnel's";
        out.counters("cproxy_visitors_not_routed", help, not_routed)?;
        let bytes = [("in", report.bytes_in), ("out", report.bytes_out)];
        let bytes = bytes.map(|(direction, count)| (vec![("direction", direction)], count));
        out.counters("cproxy_payload_bytes", "Payload from visitors (in) and to them (out)", bytes)?;

        let conns = &report.conns;
        let now = [("idle", conns.idle), ("active", conns.active), ("coming", conns.coming)];
        let now = now.map(|(state, count)| (vec![("state", state)], count));
        out.gauges("cproxy_conns", "Data connections between client and server", now)?;
        out.counters("cproxy_conns_opened", "Data connections that were opened", [(vec![], conns.opened)])?;
        let reused = "Visitors that were given a data connection that had served another";
        out.counters("cproxy_conns_reused", reused, [(vec![], conns.reused)])?;

        out.histogram("cproxy_wait_seconds", "How long visitors waited for a data connection", &report.waits)?;
        out.histogram("cproxy_dial_seconds", "How long it took to reach the local service", &report.dials)?;
        out.histogram("cproxy_transfer_seconds", "How long transfers lasted", &report.lifetimes)?;
        let healing = "How long sessions were without a control connection, until they went on";
        out.histogram("cproxy_healing_seconds", healing, &report.healing)?;

        let mut handshakes = by_reason("refused", &report.handshakes_refused);
        handshakes.extend(by_reason("dropped", &report.handshakes_dropped));
        let help = "Connections on the server's own ports that got no further than their handshake";
        out.counters("cproxy_handshakes_failed", help, handshakes)?;

        let indices: Vec<_> = (0..report.loops.len()).map(|index| index.to_string()).collect();
        let loops = || indices.iter().zip(&report.loops).map(|(index, it)| (vec![("loop", index.as_str())], it));
        let of_each = |value: fn(&protocol_sm::report::LoopReport) -> u64| {
            loops().map(move |(labels, it)| (labels, value(it))).collect::<Vec<_>>()
        };
        out.gauges("cproxy_loop_sockets", "Sockets of each event loop", of_each(|it| it.sockets))?;
        out.gauges("cproxy_loop_queued", "Data connections that wait for a turn", of_each(|it| it.queued))?;
        let lag: Vec<_> = loops().map(|(labels, it)| (labels, it.lag_us as f64 / 1e6)).collect();
        out.gauges("cproxy_loop_lag_seconds", "How long this scrape's question waited for the loop", lag)?;
        out.counters("cproxy_loop_stale_messages", "Messages about what was gone", of_each(|it| it.stale))?;

        let tunnels = tunnels(&self.0);
        let of_tunnels = |value: fn(&TunnelReport) -> u64| {
            let labels = |&(client, name): &(&'_ str, &'_ str)| (client.to_owned(), name.to_owned());
            tunnels.iter().map(|(key, tunnel)| (labels(key), value(tunnel))).collect::<Vec<_>>()
        };
        let up = of_tunnels(|tunnel| u64::from(tunnel.state == TunnelState::Open));
        out.gauges(
            "cproxy_tunnel_up",
            "Whether a tunnel's public port is open, or its host leads to it",
            labelled(&up),
        )?;
        let now = of_tunnels(|tunnel| tunnel.visitors);
        out.gauges("cproxy_tunnel_visitors", "Visitors of a tunnel now", labelled(&now))?;
        let total = of_tunnels(|tunnel| tunnel.total);
        out.counters("cproxy_tunnel_visitors_accepted", "Visitors that came to a tunnel", labelled(&total))?;
        let failed = of_tunnels(|tunnel| tunnel.failed);
        out.counters("cproxy_tunnel_visitors_failed", "Those that were not served to the end", labelled(&failed))?;
        let kept_out = of_tunnels(|tunnel| tunnel.turned_away);
        out.counters("cproxy_tunnel_visitors_turned_away", "Those turned away at the port", labelled(&kept_out))?;
        let (bytes_in, bytes_out) = (of_tunnels(|tunnel| tunnel.bytes_in), of_tunnels(|tunnel| tunnel.bytes_out));
        let directed = |series, direction| {
            labelled(series).map(move |(mut labels, value)| {
                labels.push(("direction", direction));
                (labels, value)
            })
        };
        let bytes = directed(&bytes_in, "in").chain(directed(&bytes_out, "out"));
        out.counters("cproxy_tunnel_payload_bytes", "Payload of a tunnel", bytes)
    }
}

type OfTunnel = ((String, String), u64);

fn labelled(series: &[OfTunnel]) -> impl Iterator<Item = (Labels<'_>, u64)> {
    series
        .iter()
        .map(|((client, tunnel), value)| (vec![("client", client.as_str()), ("tunnel", tunnel.as_str())], *value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::tests::status;
    use std::collections::BTreeSet;

    #[test]
    fn each_series_is_there_once_and_from_the_start() {
        let mut status = status("web");
        let again = status.report.sessions[0].tunnels[0].clone();
        status.report.sessions[0].tunnels.push(again);
        let text = text(Arc::new(status));
        let mut seen = BTreeSet::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(seen.insert(series), "twice: {series}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
        for series in [
            "cproxy_visitors_ended_total{outcome=\"aborted\",reason=\"deadline\"}",
            "cproxy_visitors_ended_total{outcome=\"turned_away\",reason=\"too_often\"}",
            "cproxy_handshakes_failed_total{outcome=\"refused\",reason=\"wrong_token\"}",
            "cproxy_wait_seconds_bucket{le=\"0.001\"}",
            "cproxy_wait_seconds_bucket{le=\"+Inf\"}",
            "cproxy_wait_seconds_sum",
            "cproxy_sessions{state=\"detached\"}",
        ] {
            assert!(text.contains(&format!("\n{series} 0")), "{series} is not 0 in {text}");
        }
        assert!(text.contains("\ncproxy_tunnel_visitors{client=\"0a1b2c3d\",tunnel=\"web\"} 6\n"), "{text}");
    }

    #[test]
    fn a_name_from_outside_stays_in_its_label() {
        let text = text(Arc::new(status("a\"} 1\nforged{x=\"\\")));
        assert!(text.contains(r#"tunnel="a\"} 1\nforged{x=\"\\"} 3"#), "{text}");
        assert!(!text.contains("\nforged"), "{text}");
    }
}
