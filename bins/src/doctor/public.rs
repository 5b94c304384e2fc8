//! Where visitors come in: what the server has said of each tunnel that it was asked about.

use super::client::Answer;
use super::{Findings, State};
use crate::admin::Status;
use protocol_sm::codes::TunnelRefusal;
use protocol_sm::ids::TunnelId;
use protocol_sm::report::TunnelState;
use protocol_sm::settings::TunnelSpec;
use std::collections::BTreeMap;

const CHECK: &str = "public port";

/// A line for each tunnel. `running` is the client that runs here, if one does.
pub(super) fn all(
    findings: &mut Findings,
    tunnels: &[TunnelSpec],
    answers: &BTreeMap<TunnelId, Answer>,
    running: Option<&Status>,
) {
    for (id, tunnel) in (0..).map(TunnelId).zip(tunnels) {
        let (state, says) = judge(tunnel, answers.get(&id), running);
        findings.add(CHECK, state, format!("{}: {}: {says}", tunnel.name, place(tunnel)));
    }
}

/// What a tunnel asks for.
fn place(tunnel: &TunnelSpec) -> String {
    if let Some(site) = &tunnel.site {
        return site.to_string();
    }
    let kind = if tunnel.is_udp() { "UDP port" } else { "port" };
    let at = tunnel.bind_addr.map(|address| format!(" at {address}")).unwrap_or_default();
    match tunnel.public_port {
        0 => format!("a {kind} of the server's choice{at}"),
        port => format!("{kind} {port}{at}"),
    }
}

fn judge(tunnel: &TunnelSpec, answer: Option<&Answer>, running: Option<&Status>) -> (State, String) {
    match answer {
        Some(Ok(_)) if tunnel.is_udp() => {
            let reach = "whether datagrams from outside get through to it is up to the server's firewall: between the two \
                         programs they travel in the proxy port's connections";
            (State::Ok, format!("it can be had; {reach}"))
        }
        Some(Ok(_)) => (State::Ok, "it can be had".to_owned()),
        Some(Err(TunnelRefusal::HeldByHolder)) => match running {
            Some(status) if has_open(status, tunnel) => {
                (State::Ok, format!("the cproxy-client that runs here (process {}) has it", status.pid))
            }
            Some(_) | None => (
                State::Warning,
                "a client with the same token has it; if that is this one, which runs already, all is well, and otherwise \
                 choose another one, or stop that client"
                    .to_owned(),
            ),
        },
        Some(Err(TunnelRefusal::NoExamine)) => (
            State::Note,
            format!("not tried: {}; the client says `Forwarding` where it has one", TunnelRefusal::NoExamine),
        ),
        Some(Err(code)) => (State::Failed, code.to_string()),
        None => (State::Failed, "the server has not said whether it can be had; look at its log".to_owned()),
    }
}

fn has_open(status: &Status, tunnel: &TunnelSpec) -> bool {
    let of_all = status.report.sessions.iter().flat_map(|session| &session.tunnels);
    of_all.into_iter().any(|report| report.name == tunnel.name && report.state == TunnelState::Open)
}
