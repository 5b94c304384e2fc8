//! Notes of the drivers as log lines. Where a peer could cause a flood of them, the lines of one kind are
//! limited, and the next one says how many were left out.

use crate::sys::ports::is_listened_on;
use protocol_sm::codes::TunnelRefusal;
use protocol_sm::driver::{Dropped, Expiry, HandshakeEnd, Note};
use protocol_sm::ids::{ClientId, TunnelId};
use protocol_sm::ports::is_refused_by_browsers;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Lines of one kind that may be written at once.
const BURST: u32 = 20;
/// How long it takes until one more line of that kind may be written.
const REFILL: Duration = Duration::from_secs(1);

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
    accepts: Limiter,
    violations: Limiter,
    /// The client's tunnels are announced by name, which is not known here.
    tunnel_news: Vec<TunnelNews>,
}

impl Notes {
    /// What became of the client's tunnels since the last call.
    pub(crate) fn tunnel_news(&mut self) -> impl Iterator<Item = TunnelNews> {
        self.tunnel_news.drain(..)
    }

    /// Logs `note`.
    pub(crate) fn take(&mut self, note: Note) {
        match note {
            Note::Started { conn, epoch, tunnel, visitor } => {
                tracing::debug!(conn = conn.0, epoch = epoch.0, tunnel = tunnel.0, %visitor, "transfer started");
            }
            Note::Finished { conn, epoch, egress, ingress } => {
                tracing::debug!(conn = conn.0, epoch = epoch.0, egress, ingress, "transfer finished");
            }
            Note::Aborted { conn, epoch, code, by_peer } => {
                tracing::debug!(conn = conn.0, epoch = epoch.0, by_peer, "transfer aborted: {code}");
            }
            Note::TakenBack { conn, epoch, visitor, lost: _ } => {
                let (conn, epoch) = (conn.0, epoch.0);
                tracing::debug!(conn, epoch, %visitor, "the client never saw this transfer: the visitor gets another conn");
            }
            // Once per session and thread.
            Note::IdleConnsDie { conn, silence, interval } => tracing::warn!(
                conn = conn.0,
                "an idle proxy_conn was dead after {:.0} s of silence: a router or firewall between server and client seems \
                 to forget quiet connections; they are now pinged every {:.0} s, and visitors get another one",
                silence.as_secs_f32(),
                interval.as_secs_f32(),
            ),
            Note::Refused { conn, epoch, code, tunnel } => self.refused.line(|left_out| {
                let (conn, epoch, tunnel) = (conn.0, epoch.0, tunnel.0);
                tracing::warn!(conn, epoch, tunnel, "visitor refused: {code}{left_out}");
            }),
            Note::NoLocalPort { to } => self.ports.line(|left_out| {
                tracing::warn!(
                    "no local port left towards {to}: each connection to it holds one, and for 60 s after its end if \
                     the visitor ended it first; widen net.ipv4.ip_local_port_range, or let the service listen at \
                     further addresses or ports, with a tunnel to each{left_out}"
                );
            }),
            // Strangers can cause these at will: they must not hide the others.
            Note::VisitorDropped {
                visitor,
                tunnel,
                why: why @ (Dropped::SourceDenied | Dropped::TooOften | Dropped::SourceFull),
            } => {
                self.kept_out.line(|left_out| {
                    tracing::warn!(%visitor, tunnel = tunnel.0, "visitor refused: {why}{left_out}");
                });
            }
            Note::VisitorDropped { visitor, tunnel, why } => self.visitors.line(|left_out| {
                tracing::warn!(%visitor, tunnel = tunnel.0, "visitor dropped: {why}{left_out}");
            }),
            Note::ConnUp { conn } => tracing::debug!(conn = conn.0, "proxy_conn up"),
            Note::ConnDown { conn } => tracing::debug!(conn = conn.0, "proxy_conn closed"),
            Note::ConnFailed { conn, to, why } => self.conns.line(|left_out| {
                tracing::error!(
                    conn = conn.0,
                    "proxy_conn not opened: no data connection to {to}: {why}; TCP to the server's proxy port {} must be \
                     open from here, and if it is reached under another number, say `proxy_port` in this client's file or \
                     `advertise_proxy_port` in the server's{left_out}",
                    to.port()
                );
            }),
            Note::Stale { conn } => tracing::debug!(conn = conn.0, "message about something gone, ignored"),
            Note::SessionUp { client, credential, from, resumed } => self.sessions.line(|left_out| {
                let what = if resumed { "resumed" } else { "began" };
                tracing::info!(client = %Id(client), credential, %from, "session {what}{left_out}");
            }),
            Note::SessionDetached { client, credential } => self.sessions.line(|left_out| {
                tracing::info!(client = %Id(client), credential, "session lost its ctl_conn and waits for a resume{left_out}");
            }),
            Note::SessionAsleep { client, credential, waited } => self.sessions.line(|left_out| {
                let why = match waited {
                    Some(waited) => not_back(waited, "session_grace"),
                    None => "its connection was lost, and another client with its token asks for its port".to_owned(),
                };
                tracing::info!(client = %Id(client), credential, "ports released: {why}; its transfers go on{left_out}");
            }),
            Note::SessionOver { client, credential, code, expiry } => self.sessions.line(|left_out| {
                let why = match expiry {
                    None => code.to_string(),
                    Some(Expiry::Grace(waited)) => format!("{}; its ports are free", not_back(waited, "session_grace")),
                    Some(Expiry::Transfers(waited)) => {
                        format!("{}; its transfers are reset", not_back(waited, "transfer_grace"))
                    }
                    Some(Expiry::Deserted) => {
                        "its connection was lost, the client did not come back, and its last data connection is gone, too"
                            .to_owned()
                    }
                    Some(Expiry::Full) => {
                        "its connection was lost, and another client with its token needs its place (max_sessions)".to_owned()
                    }
                };
                tracing::info!(client = %Id(client), credential, "session over: {why}{left_out}");
            }),
            // On the client, and rare by itself.
            Note::SessionLost { waited: Some(waited) } => tracing::warn!(
                "session over: the server could not be reached for {} s (transfer_grace); transfers are reset, and a new \
                 session begins when it can be reached",
                waited.as_secs_f32()
            ),
            Note::SessionLost { waited: None } => tracing::warn!(
                "session over: the server does not have it any more (it was started again, or has waited in vain for longer \
                 than its transfer_grace); transfers are reset, and a new session begins"
            ),
            Note::Tunnel { client, credential, tunnel, name, wanted, outcome } => self.sessions.line(|left_out| match outcome {
                // The name is the client's choice: escaped, it cannot forge a line.
                Ok(public) => {
                    let remark = browsers_refuse(public.port());
                    tracing::info!(client = %Id(client), credential, tunnel = tunnel.0, name = ?name, "tunnel open at {public}{remark}{left_out}");
                }
                Err(code) => {
                    let holder = if code == TunnelRefusal::PortInUse { port_holder(wanted) } else { String::new() };
                    tracing::warn!(client = %Id(client), credential, tunnel = tunnel.0, name = ?name, "tunnel refused: {code}{holder}{left_out}");
                }
            }),
            Note::Forwarding { tunnel, public } => self.tunnel_news.push((tunnel, Ok(public))),
            Note::NotForwarding { tunnel, code, pause } => self.tunnel_news.push((tunnel, Err((code, pause)))),
            Note::HandshakeRefused { from, credential, refusal } => self.handshakes.line(|left_out| {
                tracing::warn!(%from, credential, "connection refused: {refusal}{left_out}");
            }),
            // Scanners come all the time.
            Note::HandshakeDropped { from, why: why @ HandshakeEnd::TooSlow } => {
                tracing::debug!(%from, "connection dropped: {why}");
            }
            Note::HandshakeDropped { from, why } => self.crowds.line(|left_out| {
                tracing::warn!(%from, "connection dropped: {why}{left_out}");
            }),
            Note::CannotAccept { error } => self.accepts.line(|left_out| {
                tracing::warn!("no connection is accepted for a moment: {error}; raise the limit of open files (LimitNOFILE){left_out}");
            }),
            // The pause keeps this one rare by itself.
            Note::Reconnecting { server, why, pause } => {
                let (sentence, pause) = (why.sentence(&server), pause.as_secs_f32());
                if why.is_lasting() {
                    tracing::error!("{sentence}; trying again in {pause:.1} s");
                } else {
                    tracing::warn!("{sentence}; trying again in {pause:.1} s");
                }
            }
            Note::Violation { conn, violation } => self.violations.line(|left_out| match conn {
                Some(conn) => tracing::warn!(conn = conn.0, "the peer broke the protocol: {violation}{left_out}"),
                None => tracing::warn!("the peer broke the protocol: {violation}{left_out}"),
            }),
        }
    }
}

/// A client was lost, and a time is over.
fn not_back(waited: Duration, key: &str) -> String {
    let seconds = waited.as_secs_f32();
    format!("its connection was lost and the client did not come back within {seconds} s ({key})")
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

/// A client's identity: enough of it to tell clients apart.
struct Id(ClientId);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A token bucket for lines of one kind.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    /// Lines written since the bucket was full.
    used: u32,
    /// When the bucket was last refilled; `None`: never used.
    refilled: Option<Instant>,
    left_out: u64,
}

impl Limiter {
    /// Calls `line`, unless too many lines were written lately.
    pub(crate) fn line(&mut self, line: impl FnOnce(LeftOut)) {
        if let Some(left_out) = self.admit(Instant::now()) {
            line(left_out);
        }
    }

    fn admit(&mut self, now: Instant) -> Option<LeftOut> {
        let refilled = *self.refilled.get_or_insert(now);
        let refills = u32::try_from((now - refilled).as_nanos() / REFILL.as_nanos()).unwrap_or(u32::MAX);
        if refills > 0 {
            self.used = self.used.saturating_sub(refills);
            self.refilled = Some(now);
        }
        if self.used == BURST {
            self.left_out += 1;
            return None;
        }
        self.used += 1;
        Some(LeftOut(std::mem::take(&mut self.left_out)))
    }
}

/// Lines that were left out; prints as the end of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeftOut(u64);

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            n => write!(f, " ({n} more suppressed)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut limiter = Limiter::default();
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(limiter.admit(start), Some(LeftOut(0)));
        }
        assert_eq!(limiter.admit(start), None);
        assert_eq!(limiter.admit(start + REFILL / 2), None);
        assert_eq!(limiter.admit(start + REFILL), Some(LeftOut(2)), "one refill, and it says what is missing");
        assert_eq!(limiter.admit(start + REFILL), None);
        let quiet = start + REFILL * (BURST * 10);
        for _ in 0..BURST {
            assert!(limiter.admit(quiet).is_some(), "never more than full after a pause");
        }
        assert_eq!(limiter.admit(quiet), None);
        assert_eq!(LeftOut(3).to_string(), " (3 more suppressed)");
    }
}
