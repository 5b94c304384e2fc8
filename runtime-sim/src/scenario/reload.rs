//! What a client or the server may be told anew while it runs.

use crate::kernel::Rng;
use protocol_sm::reload::ClientReload;
use protocol_sm::settings::{Scope, ServerSettings, Token, TunnelSpec};

/// The tunnel of the scenario that a program calls by this name, whatever it has been renamed to.
pub(crate) fn tunnel_called(name: &str) -> Option<usize> {
    let digits: String =
        name.strip_prefix("tunnel")?.trim_start_matches('-').chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The client whose tunnel of UDP a program calls by this name, whatever it has been renamed to.
pub(crate) fn flow_called(name: &str) -> Option<usize> {
    let digits: String = name.strip_prefix("flow")?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// How far a reload may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Nobody may notice.
    Calm,
    /// Ports stay where they are, and nobody is cut off.
    InPlace,
    Far,
}

/// Draws something else than what a client was told at its start. `elsewhere` is another address of a tunnel's
/// LocalServer.
pub(crate) fn draw_client(
    rng: &mut Rng,
    reach: Reach,
    mut new: ClientReload,
    elsewhere: impl Fn(&TunnelSpec) -> String,
) -> ClientReload {
    let tunnels = &mut new.settings.tunnels;
    let which = rng.size(0, tunnels.len() - 1);
    let kind = match reach {
        Reach::Calm => rng.below(5),
        Reach::InPlace => rng.below(7),
        Reach::Far => rng.below(9),
    };
    match kind {
        0 => {}
        1 => tunnels[which].limits.max_connections = 5_000,
        2 => tunnels[which].local = elsewhere(&tunnels[which]),
        3 => (new.reconnect, new.settings.frugal) = (true, false),
        4 => {
            new.settings.max_proxy_conns += 1;
            new.settings.timings.reconnect_max *= 2;
        }
        5 => {
            tunnels.remove(which);
        }
        6 => tunnels[which].name.push_str(" as it is called now"),
        // A port that no other tunnel ever has: visitors are known by where they went.
        _ if tunnels[which].site.is_none() => {
            let name = &tunnels[which].name;
            let place = tunnel_called(name).map(|index| 6500 + index).or_else(|| Some(6700 + flow_called(name)?));
            let port = place.expect("a tunnel of the scenario");
            tunnels[which].public_port = u16::try_from(port).expect("few tunnels");
        }
        _ => {}
    }
    new
}

/// Draws something else than what the server was told at its start, of its first `clients` credentials.
pub(crate) fn draw_server(rng: &mut Rng, reach: Reach, clients: usize, mut new: ServerSettings) -> ServerSettings {
    let which = rng.size(0, clients - 1);
    let scope = |new: &mut ServerSettings, change: &dyn Fn(&mut Scope)| match new.credentials.get_mut(which) {
        Some(credential) => change(&mut credential.scope),
        None => change(&mut new.open_scope),
    };
    let kind = match reach {
        Reach::Calm => rng.below(3),
        Reach::InPlace => rng.below(4),
        Reach::Far => rng.below(7),
    };
    match kind {
        0 => {}
        1 => {
            new.idle_conns += 1;
            new.timings.wait_timeout *= 2;
            new.timings.idle_ping_interval *= 2;
        }
        2 => scope(&mut new, &|scope| scope.max_connections *= 2),
        3 => scope(&mut new, &|scope| (scope.max_connections, scope.max_waiting) = (2, 1)),
        4 => {
            let port = 6000 + rng.below(3);
            let others = format!("1024-{},{}-65535", port - 1, port + 1).parse().expect("ranges");
            scope(&mut new, &|scope| scope.allow_ports.clone_from(&others));
        }
        5 => scope(&mut new, &|scope| scope.max_tunnels = 1),
        _ => {
            if let Some(credential) = new.credentials.get_mut(which) {
                credential.tokens = vec![Token::new(b"a token that no client has".to_vec())];
            }
        }
    }
    new
}
