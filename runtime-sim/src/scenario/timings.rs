//! The deadlines of a run, drawn between bounds.

use crate::kernel::Rng;
use protocol_sm::settings::Timings;
use std::time::Duration;

/// Least and greatest of each, in milliseconds: one ring can wait longer than the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimingRanges {
    pub(crate) heartbeat_interval: (u64, u64),
    pub(crate) reconnect_min: (u64, u64),
    pub(crate) handshake_timeout: (u64, u64),
    pub(crate) session_grace: (u64, u64),
    pub(crate) wait_timeout: (u64, u64),
    pub(crate) dial_timeout: (u64, u64),
    pub(crate) idle_ping_interval: (u64, u64),
    pub(crate) idle_ping_timeout: (u64, u64),
    pub(crate) idle_conn_lifetime: (u64, u64),
    pub(crate) half_open_timeout: (u64, u64),
    pub(crate) drain_timeout: (u64, u64),
    /// The longest pause between two attempts to connect, as a multiple of the shortest.
    pub(crate) reconnect_factor: u32,
}

impl TimingRanges {
    /// Draws one of each, in the order of the fields.
    pub(crate) fn draw(&self, rng: &mut Rng) -> Timings {
        let mut ms = |(low, high)| Duration::from_millis(rng.range(low, high));
        let heartbeat_interval = ms(self.heartbeat_interval);
        let reconnect_min = ms(self.reconnect_min);
        let handshake_timeout = ms(self.handshake_timeout);
        let session_grace = ms(self.session_grace);
        Timings {
            heartbeat_interval,
            heartbeat_timeout: heartbeat_interval * 3,
            handshake_timeout,
            session_grace,
            // No draw of its own, so that old seeds keep their meaning.
            route_timeout: handshake_timeout,
            // No draw of its own, so that old seeds keep their meaning.
            transfer_grace: session_grace * (session_grace.subsec_millis() % 3),
            wait_timeout: ms(self.wait_timeout),
            dial_timeout: ms(self.dial_timeout),
            // No draw of its own, so that old seeds keep their meaning.
            start_patience: heartbeat_interval / 2,
            // Of as many kinds as there are pauses: at once, and later than most services answer.
            answer_delay: if reconnect_min.subsec_millis() % 2 == 0 { Duration::ZERO } else { reconnect_min / 4 },
            idle_ping_interval: ms(self.idle_ping_interval),
            idle_ping_timeout: ms(self.idle_ping_timeout),
            idle_conn_lifetime: ms(self.idle_conn_lifetime),
            half_open_timeout: ms(self.half_open_timeout),
            // No draw of its own, so that old seeds keep their meaning.
            reset_linger: heartbeat_interval,
            visitor_keepalive: Duration::from_secs(30),
            udp_idle_timeout: Timings::default().udp_idle_timeout,
            drain_timeout: ms(self.drain_timeout),
            reconnect_min,
            reconnect_max: reconnect_min * self.reconnect_factor,
        }
    }
}
