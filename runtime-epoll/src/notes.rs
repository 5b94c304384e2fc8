//! Notes of the drivers as log lines. Where a peer could cause a flood of them, the lines of one kind are
//! limited, and the next one says how many were left out.

use crate::sys::ports::is_listened_on;
use crate::sys::unix::why_not;
use protocol_sm::codes::{HandshakeRefusal, TunnelRefusal};
use protocol_sm::control::server::Asked;
use protocol_sm::driver::{Dropped, Expiry, HandshakeEnd, Note};
use protocol_sm::ids::{ClientId, TunnelId};
use protocol_sm::ports::is_refused_by_browsers;
use protocol_sm::reload::Changes;
use protocol_sm::routes::Refusal;
use protocol_sm::visit::Visit;
use protocol_sm::wire::ConnKind;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// Lines about a client's tunnels that may be written at once: as many as it may have by default.
const TUNNELS: u32 = 1024;
/// Clients of whose tunnels the lines are counted.
const CLIENTS: usize = 1024;

/// What became of one of the client's tunnels.
pub(crate) type TunnelNews = (TunnelId, Result<SocketAddr, (TunnelRefusal, Duration)>);

/// One thread's notes.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    handshakes: Limiter,
    crowds: Limiter,
    sessions: Limiter,
    visitors: Limiter,
    kept_out: Limiter,
    refused: Limiter,
    conns: Limiter,
    ports: Limiter,
    sources: Limiter,
    sockets: Limiter,
    accepts: Limiter,
    foreign: Limiter<3, 60>,
    /// What is said once of each tunnel.
    tunnels: PerClient,
    violations: Limiter,
    /// Where visits are recorded, if they are.
    access_log: Option<AccessLog>,
    /// Who is shown every note, if anybody.
    observer: Option<Observer>,
    /// The client's tunnels are announced by name, which is not known here.
    tunnel_news: Vec<TunnelNews>,
    /// Whoever has told the program its configuration anew waits there for what that has changed.
    reloads: Option<Sender<Option<Changes>>>,
}

/// Where a program's visits are recorded: called at the end of each, on the thread that carried it. It must not block.
#[derive(Clone)]
pub struct AccessLog(Arc<dyn Fn(Visit) + Send + Sync>);

impl AccessLog {
    /// Records visits by calling `record`.
    pub fn new(record: impl Fn(Visit) + Send + Sync + 'static) -> Self {
        Self(Arc::new(record))
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessLog")
    }
}

/// Who is shown every note of a program, on the thread that makes it.
#[derive(Clone)]
pub(crate) struct Observer(Arc<dyn Fn(&Note) + Send + Sync>);

impl Observer {
    pub(crate) fn new(see: impl Fn(&Note) + Send + Sync + 'static) -> Self {
        Self(Arc::new(see))
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

impl Notes {
    /// Every note is shown to it, if there is one.
    pub(crate) fn show(&mut self, observer: Option<Observer>) {
        self.observer = observer;
    }

    /// Visits are recorded there, if anywhere.
    pub(crate) fn record_visits(&mut self, access_log: Option<AccessLog>) {
        self.access_log = access_log;
    }

    /// What became of the client's tunnels since the last call.
    pub(crate) fn tunnel_news(&mut self) -> impl Iterator<Item = TunnelNews> {
        self.tunnel_news.drain(..)
    }

    /// What a new configuration has changed is told to `to` from now on.
    pub(crate) fn answer_reloads(&mut self, to: Sender<Option<Changes>>) {
        self.reloads = Some(to);
    }

    /// Logs `note`. A name that a peer has chosen is a field of its own, as a string: there it is escaped, and cannot
    /// forge a line. `peer_ip` is the first field behind the event's name, where a fail2ban filter finds it.
    pub(crate) fn take(&mut self, note: Note) {
        if let Some(Observer(see)) = &self.observer {
            see(&note);
        }
        match note {
            Note::Started { conn, epoch, tunnel, visitor, .. } => {
                let (peer_ip, peer_port) = peer(visitor);
                let (conn, epoch, tunnel_id) = (conn.0, epoch.0, tunnel.0);
                tracing::debug!(event = "transfer_started", %peer_ip, peer_port, conn, epoch, tunnel_id, "transfer started");
            }
            Note::Finished { conn, epoch, egress, ingress } => {
                let (conn, epoch) = (conn.0, epoch.0);
                tracing::debug!(event = "transfer_finished", conn, epoch, egress, ingress, "transfer finished");
            }
            Note::Aborted { conn, epoch, code, by_peer } => {
                let (conn, epoch) = (conn.0, epoch.0);
                tracing::debug!(event = "transfer_aborted", conn, epoch, by_peer, "transfer aborted: {code}");
            }
            Note::TakenBack { conn, epoch, visitor, lost: _ } => {
                let ((peer_ip, peer_port), conn, epoch) = (peer(visitor), conn.0, epoch.0);
                tracing::debug!(
                    event = "transfer_taken_back",
                    %peer_ip,
                    peer_port,
                    conn,
                    epoch,
                    "the client never saw this transfer: the visitor gets another conn"
                );
            }
            Note::PathDead { conn, silence } => self.conns.line(|suppressed| {
                tracing::warn!(
                    event = "path_dead",
                    conn = conn.0,
                    silence = seconds(silence),
                    suppressed,
                    "nothing gets through a proxy_conn, while the control connection is well: a router or firewall between \
                     server and client seems to have lost it; its transfer is aborted"
                );
            }),
            // Once per session and thread.
            Note::IdleConnsDie { conn, silence, interval } => tracing::warn!(
                event = "idle_conns_die",
                conn = conn.0,
                silence = seconds(silence),
                interval = seconds(interval),
                "an idle proxy_conn was dead after a silence: a router or firewall between server and client seems to \
                 forget quiet connections; they are now pinged more often, and visitors get another one"
            ),
            Note::Refused { conn, epoch, code, tunnel } => self.refused.line(|suppressed| {
                let (conn, epoch, tunnel_id) = (conn.0, epoch.0, tunnel.0);
                tracing::warn!(event = "local_refused", conn, epoch, tunnel_id, suppressed, "visitor refused: {code}");
            }),
            Note::NoLocalPort { to } => self.ports.line(|suppressed| {
                tracing::warn!(
                    event = "no_local_port",
                    %to,
                    suppressed,
                    "no local port left towards {to}, so visitors wait for one up to dial_timeout: each connection holds \
                     one, and for 60 s after its end if the visitor ended it first; name further addresses of this \
                     machine in the tunnel's local_sources (\"127.0.0.2\" is there for a service on 127.0.0.1), or widen \
                     net.ipv4.ip_local_port_range"
                );
            }),
            Note::UnixUnreachable { path, error } => self.sockets.line(|suppressed| {
                let path = &*path;
                tracing::warn!(event = "local_socket_failed", path, suppressed, "{}", why_not(path, error));
            }),
            Note::NoLocalSource { source } => self.sources.line(|suppressed| {
                tracing::warn!(
                    event = "no_local_source",
                    %source,
                    suppressed,
                    "this machine does not have the address {source} of a tunnel's local_sources; correct it, or give the \
                     address to an interface"
                );
            }),
            // Strangers can cause these at will: they must not hide the others.
            Note::VisitorDropped {
                visitor,
                tunnel,
                why: why @ (Dropped::SourceDenied | Dropped::TooOften | Dropped::SourceFull),
            } => {
                let ((peer_ip, peer_port), tunnel_id) = (peer(visitor), tunnel.0);
                self.kept_out.line(|suppressed| {
                    tracing::warn!(
                        event = "visitor_refused",
                        %peer_ip,
                        peer_port,
                        tunnel_id,
                        suppressed,
                        "visitor refused: {why}"
                    );
                });
            }
            Note::VisitorDropped { visitor, tunnel, why } => {
                let ((peer_ip, peer_port), tunnel_id) = (peer(visitor), tunnel.0);
                self.visitors.line(|suppressed| {
                    tracing::warn!(
                        event = "visitor_dropped",
                        %peer_ip,
                        peer_port,
                        tunnel_id,
                        suppressed,
                        "visitor dropped: {why}"
                    );
                });
            }
            // Scanners come all the time, and browsers connect before they know what for.
            Note::NotRouted { visitor, web, host: _, why: why @ (Refusal::Silent | Refusal::TooSlow) } => {
                let ((peer_ip, peer_port), port) = (peer(visitor), web.scheme());
                tracing::debug!(event = "visitor_too_slow", %peer_ip, peer_port, port, "visitor refused: {why}");
            }
            Note::NotRouted { visitor, web, host, why } => {
                let ((peer_ip, peer_port), port) = (peer(visitor), web.scheme());
                self.kept_out.line(|suppressed| {
                    tracing::warn!(
                        event = "visitor_not_routed",
                        %peer_ip,
                        peer_port,
                        port,
                        host,
                        suppressed,
                        "visitor refused: {why}"
                    );
                });
            }
            Note::Visit(visit) => {
                if let Some(log) = &self.access_log {
                    (log.0)(visit);
                }
            }
            Note::PathUp { client, peer: at, size } => {
                let (peer_ip, peer_port) = peer(at);
                let client = client.map(|client| client.to_string());
                tracing::info!(event = "path_up", %peer_ip, peer_port, client, size, "datagrams go by UDP");
            }
            Note::PathSize { client, size } => {
                let client = client.map(|client| client.to_string());
                tracing::debug!(event = "path_size", client, size, "datagrams go by UDP up to another size");
            }
            Note::PathDown { client, why, wanted } => {
                let client = client.map(|client| client.to_string());
                let text = "datagrams go by TCP for now, because their way by UDP is gone";
                if wanted {
                    tracing::warn!(event = "path_lost", client, "{text}: {why}");
                } else {
                    tracing::info!(event = "path_down", client, "{text}: {why}");
                }
            }
            Note::PathFailed { why, wanted } => {
                let text = "datagrams go by TCP, because there is no way by UDP to the server's proxy port; tried again";
                if wanted {
                    tracing::warn!(event = "path_missing", "{text}: {why}");
                } else {
                    tracing::info!(event = "path_failed", "{text}: {why}");
                }
            }
            Note::PathPort { at, error, wanted } => {
                let port = at.port();
                let text = format!(
                    "datagrams go by TCP, because UDP port {at}, the proxy port's number, cannot be opened: {error}; tried \
                     again every 30 s (`datagram_transport = \"tcp\"` wants none)"
                );
                if wanted {
                    tracing::warn!(event = "path_port_missing", port, "{text}");
                } else {
                    tracing::info!(event = "path_port_failed", port, "{text}");
                }
            }
            Note::ConnUp { conn } => tracing::debug!(event = "conn_up", conn = conn.0, "proxy_conn up"),
            Note::ConnDown { conn } => tracing::debug!(event = "conn_closed", conn = conn.0, "proxy_conn closed"),
            Note::ConnFailed { conn, to, why } => self.conns.line(|suppressed| {
                tracing::error!(
                    event = "conn_not_opened",
                    conn = conn.0,
                    %to,
                    proxy_port = to.port(),
                    suppressed,
                    "proxy_conn not opened: no data connection to {to}: {why}; TCP to the server's proxy port must be open \
                     from here, and if it is reached under another number, say `proxy_port` in this client's file or \
                     `advertise_proxy_port` in the server's"
                );
            }),
            Note::Stale { conn } => {
                tracing::debug!(event = "stale_message", conn = conn.0, "message about something gone, ignored");
            }
            Note::SessionUp { client, credential, from, through, resumed } => {
                let way = through.as_ref().map_or(String::new(), |proxy| format!(" through {proxy}"));
                let outbound_proxy = through;
                let (peer_ip, peer_port) = peer(from);
                self.sessions.line(|suppressed| {
                    if resumed {
                        tracing::info!(
                            event = "session_resumed",
                            %peer_ip,
                            peer_port,
                            %client,
                            credential,
                            outbound_proxy,
                            suppressed,
                            "session resumed{way}"
                        );
                    } else {
                        tracing::info!(
                            event = "session_began",
                            %peer_ip,
                            peer_port,
                            %client,
                            credential,
                            outbound_proxy,
                            suppressed,
                            "session began{way}"
                        );
                    }
                });
            }
            Note::SessionDetached { client, credential } => self.sessions.line(|suppressed| {
                tracing::info!(
                    event = "session_detached",
                    %client,
                    credential,
                    suppressed,
                    "session lost its ctl_conn and waits for a resume"
                );
            }),
            Note::SessionAsleep { client, credential, waited } => self.sessions.line(|suppressed| {
                let why = match waited {
                    Some(waited) => not_back(waited, "session_grace"),
                    None => "its connection was lost, and another client with its token asks for its port".to_owned(),
                };
                tracing::info!(
                    event = "session_released",
                    %client,
                    credential,
                    waited = waited.map(seconds),
                    suppressed,
                    "ports released: {why}; its transfers go on"
                );
            }),
            Note::SessionOver { client, credential, code, expiry: None } => self.sessions.line(|suppressed| {
                tracing::info!(event = "session_over", %client, credential, suppressed, "session over: {code}");
            }),
            Note::SessionOver { client, credential, expiry: Some(expiry), .. } => self.sessions.line(|suppressed| {
                let (waited, why) = match expiry {
                    Expiry::Grace(waited) => {
                        (Some(waited), format!("{}; its ports are free", not_back(waited, "session_grace")))
                    }
                    Expiry::Transfers(waited) => {
                        (Some(waited), format!("{}; its transfers are reset", not_back(waited, "transfer_grace")))
                    }
                    Expiry::Deserted => {
                        let why = "its connection was lost, the client did not come back, and its last data connection is \
                                   gone, too";
                        (None, why.to_owned())
                    }
                    Expiry::Full => {
                        let why = "its connection was lost, and another client with its token needs its place \
                                   (max_sessions)";
                        (None, why.to_owned())
                    }
                };
                tracing::info!(
                    event = "session_expired",
                    %client,
                    credential,
                    waited = waited.map(seconds),
                    suppressed,
                    "session over: {why}"
                );
            }),
            Note::SessionTakenOver { client, credential } => self.sessions.line(|suppressed| {
                tracing::info!(
                    event = "session_taken_over",
                    %client,
                    credential,
                    suppressed,
                    "session taken over: another process of this client has its tunnels; its transfers go on until they end"
                );
            }),
            // On the client, and rare by itself.
            Note::TakenOver => tracing::info!(
                event = "taken_over",
                "another process with this client's identity took over: no visitors come here any more, and this process \
                 ends when its transfers have, or after drain_timeout; if both are to run, give each its own --client-id and \
                 its own tunnels"
            ),
            Note::SessionLost { waited: Some(waited) } => {
                let waited = seconds(waited);
                tracing::warn!(
                    event = "session_lost",
                    waited,
                    "session over: the server could not be reached for {waited} s (transfer_grace); transfers are reset, and \
                     a new session begins when it can be reached"
                );
            }
            Note::ProxyPort { port } => {
                tracing::info!(event = "proxy_port", port, "the server takes data connections at port {port}");
            }
            Note::SessionLost { waited: None } => tracing::warn!(
                event = "session_lost",
                "session over: the server does not have it any more (it was started again, or has waited in vain for longer \
                 than its transfer_grace); transfers are reset, and a new session begins"
            ),
            Note::Tunnel { client, credential, tunnel, asked: Asked { name, wanted, bind_addr, udp, site }, outcome } => {
                let tunnel_id = tunnel.0;
                let host = site.as_ref().map(ToString::to_string);
                self.tunnels.of(client).line(|suppressed| match outcome {
                    Ok(public) => {
                        let remark = if udp { "" } else { browsers_refuse(public.port()) };
                        let udp = udp.then_some(true);
                        let host = site.map(|site| site.url(public.port()));
                        tracing::info!(
                            event = "tunnel_open",
                            %client,
                            credential,
                            tunnel_id,
                            tunnel = name,
                            %public,
                            public_port = public.port(),
                            udp,
                            host,
                            suppressed,
                            "tunnel open{remark}"
                        );
                    }
                    Err(code) => {
                        let in_use = code == TunnelRefusal::PortInUse;
                        let holder = if in_use && !udp { port_holder(wanted) } else { String::new() };
                        tracing::warn!(
                            event = "tunnel_refused",
                            %client,
                            credential,
                            tunnel_id,
                            tunnel = name,
                            public_port = wanted,
                            bind_addr = bind_addr.map(tracing::field::display),
                            udp = udp.then_some(true),
                            host,
                            suppressed,
                            "tunnel refused: {code}{holder}"
                        );
                    }
                });
            }
            Note::Forwarding { tunnel, public } => self.tunnel_news.push((tunnel, Ok(public))),
            Note::NotForwarding { tunnel, code, pause } => self.tunnel_news.push((tunnel, Err((code, pause)))),
            Note::HandshakeRefused { from, credential, refusal } => {
                let (peer_ip, peer_port) = peer(from);
                self.handshakes.line(|suppressed| {
                    if is_strange(refusal) {
                        tracing::warn!(
                            event = "stranger_refused", %peer_ip, peer_port, suppressed, "connection refused: {refusal}"
                        );
                    } else {
                        tracing::warn!(
                            event = "handshake_refused",
                            %peer_ip,
                            peer_port,
                            credential,
                            suppressed,
                            "connection refused: {refusal}"
                        );
                    }
                });
            }
            // Scanners come all the time.
            Note::HandshakeDropped { from, why: why @ HandshakeEnd::TooSlow } => {
                let (peer_ip, peer_port) = peer(from);
                tracing::debug!(event = "handshake_too_slow", %peer_ip, peer_port, "connection dropped: {why}");
            }
            Note::HandshakeDropped { from, why: why @ HandshakeEnd::NoHeader } => {
                let (peer_ip, peer_port) = peer(from);
                self.foreign.line(|suppressed| {
                    tracing::warn!(
                        event = "no_proxy_header", %peer_ip, peer_port, suppressed, "connection dropped: {why}"
                    );
                });
            }
            Note::HandshakeDropped { from, why } => {
                let (peer_ip, peer_port) = peer(from);
                self.crowds.line(|suppressed| {
                    tracing::warn!(
                        event = "handshake_crowded", %peer_ip, peer_port, suppressed, "connection dropped: {why}"
                    );
                });
            }
            Note::Foreign { from, port, what } => {
                let (peer_ip, peer_port) = peer(from);
                let port = match port {
                    ConnKind::Ctl => "ctl",
                    ConnKind::Proxy => "proxy",
                };
                self.foreign.line(|suppressed| {
                    tracing::warn!(
                        event = "not_cproxy", %peer_ip, peer_port, suppressed, "no cproxy-client at the {port} port: {what}"
                    );
                });
            }
            Note::CannotAccept { error } => self.accepts.line(|suppressed| {
                tracing::warn!(
                    event = "accept_rests",
                    suppressed,
                    "no connection is accepted for a moment: {error}; raise the limit of open files (LimitNOFILE)"
                );
            }),
            // The pause keeps this one rare by itself.
            Note::Reconnecting { server, through, why, pause } => {
                let (sentence, pause) = (why.sentence(&server, through.as_deref()), seconds(pause));
                if why.is_lasting() {
                    tracing::error!(event = "server_refuses", server, pause, "{sentence}; trying again after a pause");
                } else {
                    tracing::warn!(event = "server_lost", server, pause, "{sentence}; trying again after a pause");
                }
            }
            Note::Left { code } => {
                tracing::info!(
                    event = "session_left",
                    "{code}: transfers end where they began, and another session begins beside them"
                );
            }
            Note::Reloaded { changes } => {
                if let Some(to) = &self.reloads {
                    // Nobody waits for it any more: then nobody needs it.
                    let _unheard = to.send(changes.map(|changes| *changes));
                }
            }
            Note::Violation { conn, violation } => self.violations.line(|suppressed| {
                let conn = conn.map(|conn| conn.0);
                tracing::warn!(event = "violation", conn, suppressed, "the peer broke the protocol: {violation}");
            }),
        }
    }
}

/// A client was lost, and a time is over.
fn not_back(waited: Duration, key: &str) -> String {
    format!("its connection was lost and the client did not come back within {} s ({key})", seconds(waited))
}

/// Whether this is what a stranger would be told, who knows no token.
fn is_strange(refusal: HandshakeRefusal) -> bool {
    matches!(
        refusal,
        HandshakeRefusal::WrongToken
            | HandshakeRefusal::TokenRequired
            | HandshakeRefusal::LoopbackOnly
            | HandshakeRefusal::TooManyFailures
    )
}

/// An address as log lines have it, apart from its port, as a fail2ban filter wants it: an IPv4 address stays one where it
/// comes in IPv6's form.
#[must_use]
pub fn peer(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// Seconds, to the millisecond.
pub(crate) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

/// What holds a port that is in use, as far as it is known.
fn port_holder(port: u16) -> String {
    let holder = if is_listened_on(port) {
        "a program or another tunnel listens on it"
    } else {
        "a connection of this machine uses it, or one did that ended less than a minute ago (TIME_WAIT); ports outside of \
         the range of net.ipv4.ip_local_port_range are safe from that"
    };
    format!("; port {port}: {holder}")
}

/// What is to be said of a public port on which browsers open no web page; nothing of others.
pub(crate) fn browsers_refuse(port: u16) -> &'static str {
    if is_refused_by_browsers(port) {
        "; browsers refuse to open a web page on this port (ERR_UNSAFE_PORT): for one, choose another port, such as 7000"
    } else {
        ""
    }
}

/// The lines about each client's tunnels: those of one take no room from another's.
#[derive(Debug, Default)]
struct PerClient {
    limiters: BTreeMap<ClientId, Limiter<TUNNELS>>,
}

impl PerClient {
    fn of(&mut self, client: ClientId) -> &mut Limiter<TUNNELS> {
        if self.limiters.len() == CLIENTS && !self.limiters.contains_key(&client) {
            // The one that is nearest to having all its room again.
            let idlest = self.limiters.iter().min_by_key(|(_, limiter)| limiter.used).map(|(&client, _)| client);
            idlest.and_then(|idlest| self.limiters.remove(&idlest));
        }
        self.limiters.entry(client).or_default()
    }
}

/// A token bucket for lines of one kind: as many as `BURST` at once, and one more every `REFILL` seconds.
#[derive(Debug, Default)]
pub(crate) struct Limiter<const BURST: u32 = 20, const REFILL: u64 = 1> {
    /// Lines written since the bucket was full.
    used: u32,
    /// When the bucket was last refilled; `None`: never used.
    refilled: Option<Instant>,
    left_out: u64,
}

impl<const BURST: u32, const REFILL: u64> Limiter<BURST, REFILL> {
    /// Calls `line`, unless too many lines were written lately; with the number of those that were left out before it,
    /// if any were.
    pub(crate) fn line(&mut self, line: impl FnOnce(Option<u64>)) {
        if let Some(left_out) = self.admit(Instant::now()) {
            line((left_out > 0).then_some(left_out));
        }
    }

    fn admit(&mut self, now: Instant) -> Option<u64> {
        let refilled = *self.refilled.get_or_insert(now);
        let refills = u32::try_from((now - refilled).as_secs() / REFILL).unwrap_or(u32::MAX);
        if refills > 0 {
            self.used = self.used.saturating_sub(refills);
            self.refilled = Some(now);
        }
        if self.used == BURST {
            self.left_out += 1;
            return None;
        }
        self.used += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        const BURST: u32 = 20;
        const REFILL: Duration = Duration::from_secs(1);
        let mut limiter = Limiter::<BURST>::default();
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(limiter.admit(start), Some(0));
        }
        assert_eq!(limiter.admit(start), None);
        assert_eq!(limiter.admit(start + REFILL / 2), None);
        assert_eq!(limiter.admit(start + REFILL), Some(2), "one refill, and it says what is missing");
        assert_eq!(limiter.admit(start + REFILL), None);
        let quiet = start + REFILL * (BURST * 10);
        for _ in 0..BURST {
            assert!(limiter.admit(quiet).is_some(), "never more than full after a pause");
        }
        assert_eq!(limiter.admit(quiet), None);
    }

    #[test]
    fn one_clients_tunnels_take_no_room_from_anothers_and_few_clients_are_remembered() {
        let mut tunnels = PerClient::default();
        let client = |number: u128| ClientId(number.to_le_bytes());
        let now = Instant::now();
        let written =
            |limiter: &mut Limiter<TUNNELS>| (0..2 * TUNNELS).filter(|_| limiter.admit(now).is_some()).count();
        for number in [1, 2] {
            assert_eq!(written(tunnels.of(client(number))), TUNNELS as usize);
            assert_eq!(written(tunnels.of(client(number))), 0);
        }
        for number in 3..3000 {
            assert!(tunnels.of(client(number)).admit(now).is_some());
        }
        assert_eq!(tunnels.limiters.len(), CLIENTS);
        assert_eq!(written(tunnels.of(client(1))), 0, "who has used up its room is not forgotten");
    }
}
