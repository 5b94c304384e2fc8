//! Who may visit a tunnel, and how often: decided for each visitor right after the accept, before anything is
//! allocated for it.

use crate::ledger::Holder;
use crate::notes::Dropped;
use crate::rate::Rates;
use crate::routes::Service;
use crate::settings::{Scope, TunnelLimits};
use crate::sources::{Source, SourceLists};
use crate::time::Instant;
use crate::visit::Label;
use alloc::sync::Arc;
use core::net::IpAddr;

/// A tunnel's limits: what the server allows the client, narrowed by what the client asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gate {
    allowed: SourceLists,
    asked: SourceLists,
    rate: Option<Rates>,
    /// Visitors served at once; `u32::MAX`: no limit of its own.
    pub max_connections: u32,
    /// Flows at once, where it is a UDP tunnel.
    pub max_flows: u32,
    /// Visitors of one source address at once, over all tunnels of the holder.
    pub per_source: u32,
    /// Whose tunnel it is.
    pub holder: Holder,
    /// What the access log calls it; none where that is off.
    pub label: Option<Arc<Label>>,
    /// What its client says of the service, where it has a host.
    pub service: Service,
}

impl Gate {
    /// The gate of a tunnel that asked for `limits`, of a client of `holder` with this scope.
    #[must_use]
    pub fn new(holder: Holder, scope: &Scope, limits: TunnelLimits) -> Self {
        // 0 is no limit.
        let rates = [scope.max_connection_rate, limits.max_connection_rate];
        Self {
            allowed: scope.sources.clone(),
            asked: limits.sources,
            rate: rates.into_iter().filter(|&rate| rate > 0).min().map(Rates::per_minute),
            max_connections: if limits.max_connections == 0 { u32::MAX } else { limits.max_connections },
            max_flows: scope.max_flows,
            per_source: scope.per_source(),
            holder,
            label: None,
            service: Service::default(),
        }
    }

    /// Takes the place of `before`, whose visitors are remembered if their rate is the same.
    pub fn follow(&mut self, before: &mut Self) {
        if let (Some(rate), Some(old)) = (&mut self.rate, &mut before.rate)
            && rate.is_like(old)
        {
            core::mem::swap(rate, old);
        }
    }

    /// Lets a visitor from `ip` in.
    ///
    /// # Errors
    /// Why not.
    // PROTOCOL.md: P-TUN-8, P-TUN-9.
    pub fn admit(&mut self, now: Instant, ip: IpAddr) -> Result<(), Dropped> {
        if !self.allowed.permit(ip) || !self.asked.permit(ip) {
            return Err(Dropped::SourceDenied);
        }
        let in_time = self.rate.as_mut().is_none_or(|rate| rate.take(now, Source::of(ip)));
        if in_time { Ok(()) } else { Err(Dropped::TooOften) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(allow: &str, deny: &str) -> SourceLists {
        let list = |text: &str| text.split_whitespace().map(|network| network.parse().unwrap()).collect();
        SourceLists { allow: list(allow), deny: list(deny) }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_can_narrow_what_the_server_allows_and_not_widen_it() {
        let scope = Scope { sources: lists("10.0.0.0/8", "10.9.0.0/16"), ..Scope::default() };
        let limits =
            TunnelLimits { sources: lists("10.0.0.0/9 192.0.2.0/24", "10.1.0.0/16"), ..TunnelLimits::default() };
        let mut gate = Gate::new(None, &scope, limits);
        assert_eq!(gate.admit(Instant::ZERO, ip("10.2.0.1")), Ok(()));
        assert_eq!(gate.admit(Instant::ZERO, ip("::ffff:10.2.0.1")), Ok(()));
        for denied in ["10.9.0.1", "10.1.0.1", "10.200.0.1", "192.0.2.1", "2001:db8::1"] {
            assert_eq!(gate.admit(Instant::ZERO, ip(denied)), Err(Dropped::SourceDenied), "{denied}");
        }
    }

    #[test]
    fn who_has_visited_is_remembered_where_the_rate_stays() {
        let gate = |rate| {
            let limits = TunnelLimits { max_connection_rate: rate, ..TunnelLimits::default() };
            Gate::new(None, &Scope::default(), limits)
        };
        let mut before = gate(1);
        assert_eq!(before.admit(Instant::ZERO, ip("10.0.0.1")), Ok(()));
        for (rate, admitted) in [(1, Err(Dropped::TooOften)), (2, Ok(())), (0, Ok(()))] {
            let mut after = gate(rate);
            after.follow(&mut before.clone());
            assert_eq!(after.admit(Instant::ZERO, ip("10.0.0.1")), admitted, "{rate}");
        }
    }

    #[test]
    fn the_smaller_rate_counts_and_whoever_is_denied_uses_none_up() {
        for (server, client, rate) in [(0, 2, 2), (3, 0, 3), (5, 4, 4), (4, 5, 4)] {
            let scope = Scope { max_connection_rate: server, sources: lists("", "10.0.0.0/8"), ..Scope::default() };
            let limits = TunnelLimits { max_connection_rate: client, ..TunnelLimits::default() };
            let mut gate = Gate::new(None, &scope, limits);
            assert_eq!(gate.admit(Instant::ZERO, ip("10.0.0.1")), Err(Dropped::SourceDenied));
            for _ in 0..rate {
                assert_eq!(gate.admit(Instant::ZERO, ip("192.0.2.1")), Ok(()));
            }
            assert_eq!(gate.admit(Instant::ZERO, ip("192.0.2.1")), Err(Dropped::TooOften));
            assert_eq!(gate.admit(Instant::ZERO, ip("192.0.2.2")), Ok(()), "another source");
        }
        let mut open = Gate::new(None, &Scope::default(), TunnelLimits::default());
        assert!((0..100_000).all(|_| open.admit(Instant::ZERO, ip("192.0.2.1")).is_ok()));
    }
}
