//! What a running program is told anew, and what that changed: values, and the names of the settings that differ
//! (docs/configuration.md says which can be told).
//!
//! Which tunnels and credentials are the same as before is decided in [`crate::control::tunnels`] and
//! [`crate::control::credentials`].

use crate::settings::{ClientSettings, ServerSettings, Timings};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// All that a client is told. Its identity stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientReload {
    /// `HOST:PORT` of the server's ctl port.
    pub server: String,
    /// The settings, as at the start.
    pub settings: ClientSettings,
    /// The way to the server has changed in something that the settings do not say: whether it is encrypted.
    pub reconnect: bool,
}

/// What was changed: of a client's tunnels, or of the clients that a server knows by their credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What they are called.
    pub things: &'static str,
    /// Names of those that there were not before.
    pub added: Vec<String>,
    /// Names of those that there are no more.
    pub removed: Vec<String>,
    /// Names of tunnels that have another public port.
    pub moved: Vec<String>,
    /// Names of those that are otherwise not as they were.
    pub changed: Vec<String>,
    /// How many are as they were.
    pub unchanged: usize,
    /// Sessions that a server has ended: their token is not taken any more.
    pub sessions_ended: usize,
    /// Tunnels that a server has closed: their clients may not have them any more.
    pub tunnels_closed: usize,
    /// Other settings that differ, by their keys.
    pub settings: Vec<&'static str>,
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut things = Some(self.things);
        let lists = [&self.added, &self.removed, &self.moved, &self.changed];
        for (names, what) in lists.into_iter().zip(["added", "removed", "moved", "changed"]) {
            if let Some((first, others)) = names.split_first() {
                let count = names.len();
                match things.take() {
                    Some(things) => {
                        write!(f, "{count} {things}{} {what} ({first:?}", if count == 1 { "" } else { "s" })?
                    }
                    None => write!(f, ", {count} {what} ({first:?}")?,
                }
                others.iter().try_for_each(|name| write!(f, ", {name:?}"))?;
                f.write_str(")")?;
            }
        }
        match things {
            Some(things) => write!(f, "{things}s unchanged: {}", self.unchanged)?,
            None => write!(f, "; unchanged: {}", self.unchanged)?,
        }
        if self.sessions_ended > 0 {
            write!(f, "; sessions ended: {}", self.sessions_ended)?;
        }
        if self.tunnels_closed > 0 {
            write!(f, "; tunnels closed: {}", self.tunnels_closed)?;
        }
        if let Some((first, others)) = self.settings.split_first() {
            write!(f, "; settings changed: {first}")?;
            others.iter().try_for_each(|key| write!(f, ", {key}"))?;
        }
        Ok(())
    }
}

/// The keys of a client's settings that differ, but for its tunnels.
#[must_use]
pub fn client_settings(before: &ClientSettings, after: &ClientSettings) -> Vec<&'static str> {
    let ClientSettings {
        client_id: _,
        token,
        tunnels: _,
        max_proxy_conns,
        proxy,
        uplink,
        outbound,
        tls_relay,
        frugal,
        datagram_transport,
        examines: _,
        access_log: _,
        timings,
    } = after;
    let differ = [
        ("token", before.token != *token),
        ("max_proxy_conns", before.max_proxy_conns != *max_proxy_conns),
        ("proxy_addr", before.proxy != *proxy),
        ("source_addr", before.uplink.address != uplink.address),
        ("bind_interface", before.uplink.interface != uplink.interface),
        ("outbound_proxy", before.outbound != *outbound),
        ("tls_relay", before.tls_relay != *tls_relay),
        ("frugal", before.frugal != *frugal),
        ("datagram_transport", before.datagram_transport != *datagram_transport),
    ];
    differing(differ).chain(times(&before.timings, timings)).collect()
}

/// The keys of a server's settings that differ, but for its credentials and what a credential may do.
#[must_use]
pub fn server_settings(before: &ServerSettings, after: &ServerSettings) -> Vec<&'static str> {
    let ServerSettings {
        credentials: _,
        open_to_loopback: _,
        open_scope,
        idle_conns,
        max_handshakes,
        max_handshakes_per_source,
        max_sessions,
        budget: _,
        advertise_proxy_port,
        trusted_proxies,
        tls_required: _,
        datagram_transport,
        access_log: _,
        timings,
    } = after;
    let open = before.takes_without_token() && after.takes_without_token() && before.open_scope != *open_scope;
    let differ = [
        ("limits", open),
        ("idle_conns", before.idle_conns != *idle_conns),
        ("max_handshakes", before.max_handshakes != *max_handshakes),
        ("max_handshakes_per_source", before.max_handshakes_per_source != *max_handshakes_per_source),
        ("max_sessions", before.max_sessions != *max_sessions),
        ("advertise_proxy_port", before.advertise_proxy_port != *advertise_proxy_port),
        ("datagram_transport", before.datagram_transport != *datagram_transport),
        ("trusted_proxies", before.trusted_proxies != *trusted_proxies),
    ];
    differing(differ).chain(times(&before.timings, timings)).collect()
}

fn differing<const N: usize>(keys: [(&'static str, bool); N]) -> impl Iterator<Item = &'static str> {
    keys.into_iter().filter_map(|(key, differs)| differs.then_some(key))
}

fn times(before: &Timings, after: &Timings) -> impl Iterator<Item = &'static str> + use<> {
    let all = |timings: &Timings| {
        let Timings {
            heartbeat_interval,
            heartbeat_timeout,
            handshake_timeout,
            session_grace,
            route_timeout,
            transfer_grace,
            wait_timeout,
            dial_timeout,
            start_patience,
            answer_delay,
            idle_ping_interval,
            idle_ping_timeout,
            idle_conn_lifetime,
            half_open_timeout,
            reset_linger,
            visitor_keepalive,
            drain_timeout,
            udp_idle_timeout,
            reconnect_min,
            reconnect_max,
        } = *timings;
        [
            ("heartbeat_interval", heartbeat_interval),
            ("heartbeat_timeout", heartbeat_timeout),
            ("handshake_timeout", handshake_timeout),
            ("session_grace", session_grace),
            ("route_timeout", route_timeout),
            ("transfer_grace", transfer_grace),
            ("wait_timeout", wait_timeout),
            ("dial_timeout", dial_timeout),
            ("start_patience", start_patience),
            ("answer_delay", answer_delay),
            ("idle_ping_interval", idle_ping_interval),
            ("idle_ping_timeout", idle_ping_timeout),
            ("idle_conn_lifetime", idle_conn_lifetime),
            ("half_open_timeout", half_open_timeout),
            ("reset_linger", reset_linger),
            ("visitor_keepalive", visitor_keepalive),
            ("drain_timeout", drain_timeout),
            ("udp_idle_timeout", udp_idle_timeout),
            ("reconnect_min", reconnect_min),
            ("reconnect_max", reconnect_max),
        ]
    };
    all(before).into_iter().zip(all(after)).filter_map(|((key, old), (_, new))| (old != new).then_some(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use core::time::Duration;

    #[test]
    fn what_was_changed_is_one_line() {
        let mut changes = Changes { things: "tunnel", unchanged: 3, ..Changes::default() };
        assert_eq!(changes.to_string(), "tunnels unchanged: 3");
        changes.added = vec!["web".into()];
        changes.removed = vec!["ssh".into(), "a\nb".into()];
        assert_eq!(changes.to_string(), "1 tunnel added (\"web\"), 2 removed (\"ssh\", \"a\\nb\"); unchanged: 3");
        changes.added.clear();
        (changes.sessions_ended, changes.tunnels_closed) = (1, 2);
        changes.settings = vec!["token", "drain_timeout"];
        assert_eq!(
            changes.to_string(),
            "2 tunnels removed (\"ssh\", \"a\\nb\"); unchanged: 3; sessions ended: 1; tunnels closed: 2; \
             settings changed: token, drain_timeout"
        );
    }

    #[test]
    fn settings_that_differ_are_named() {
        let before = ServerSettings::default();
        assert!(server_settings(&before, &before).is_empty());
        let timings = Timings { drain_timeout: Duration::from_secs(1), ..Timings::default() };
        let after = ServerSettings { idle_conns: 5, timings, ..ServerSettings::default() };
        assert_eq!(server_settings(&before, &after), ["idle_conns", "drain_timeout"]);
    }
}
