//! Deadlines that never come, but for those that a configuration is about.

use protocol_sm::settings::Timings;
use std::time::Duration;

/// Deadlines from here on never come.
pub(super) const NEVER: Duration = Duration::from_secs(1_000_000_000);

/// None comes.
pub(super) fn endless() -> Timings {
    Timings {
        heartbeat_interval: NEVER,
        // So that looks at what is acknowledged come no sooner.
        heartbeat_timeout: 2 * NEVER,
        handshake_timeout: NEVER,
        route_timeout: NEVER,
        session_grace: NEVER,
        transfer_grace: NEVER,
        wait_timeout: NEVER,
        dial_timeout: NEVER,
        start_patience: NEVER,
        answer_delay: Duration::ZERO,
        idle_ping_interval: NEVER,
        idle_ping_timeout: NEVER,
        idle_conn_lifetime: NEVER,
        half_open_timeout: NEVER,
        reset_linger: NEVER,
        visitor_keepalive: NEVER,
        udp_idle_timeout: NEVER,
        drain_timeout: NEVER,
        reconnect_min: NEVER,
        reconnect_max: NEVER,
    }
}
