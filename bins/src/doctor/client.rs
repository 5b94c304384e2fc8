//! The way of a visitor, as far as a client knows it: the public ports, the way between the two programs, the services.

use super::{CONFIGURATION, Findings, machine, public, running, service};
use crate::admin;
use crate::assemble;
use crate::flags::{Aim, ClientFlags, Doctor};
use crate::token;
use protocol_sm::codes::{HandshakeRefusal, TunnelRefusal};
use protocol_sm::driver::{Disconnect, Note};
use protocol_sm::ids::TunnelId;
use protocol_sm::settings::{ClientSettings, TunnelSpec};
use runtime_epoll::{ScopedIp, client};
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long the system may take to look a name up.
const LOOK_UP: Duration = Duration::from_secs(10);
/// What a path may take from when a tunnel is there: the server's offer, and the client's attempt, which has 4 s.
const PATH: Duration = Duration::from_secs(6);
/// Beside its own deadlines, what a client may take to be connected.
const SLACK: Duration = Duration::from_secs(2);

/// `cproxy-client doctor`.
#[must_use]
pub fn client(asked: Doctor<ClientFlags>) -> ExitCode {
    let mut findings = Findings::of(admin::CLIENT, asked.json);
    let flags = ClientFlags { aim: Aim::Examine, ..asked.flags };
    let assembled = match assemble::client(&flags, std::env::var_os(token::VARIABLE)) {
        Ok(assembled) => assembled,
        Err(error) => return findings.conclude_bad_configuration(&error),
    };
    let config = assembled.config;
    let tunnels = config.settings.tunnels.clone();
    findings.ok(CONFIGURATION, format!("{} tunnel(s), to the server {}", tunnels.len(), config.server));
    assembled.warnings.into_iter().for_each(|warning| findings.warn(CONFIGURATION, warning));
    machine::clock(&mut findings);
    machine::descriptors_of_a_client(&mut findings);
    if server_name(&mut findings, &config)
        && let Some(answers) = server(&mut findings, config)
    {
        public::all(&mut findings, &tunnels, &answers, running(admin::CLIENT).as_ref());
    }
    service::all(&mut findings, &tunnels);
    findings.conclude()
}

/// Looks up what is dialled, and says whether there is something to dial.
fn server_name(findings: &mut Findings, config: &client::Config) -> bool {
    let proxy = config.settings.outbound.as_ref();
    let (check, name) = proxy.map_or(("server name", &config.server), |proxy| ("proxy name", &proxy.at));
    let looked_up = name.clone();
    let (to, answer) = mpsc::channel();
    thread::spawn(move || to.send(look_up(&looked_up)));
    let why = match answer.recv_timeout(LOOK_UP) {
        Ok(Ok(addresses)) if !addresses.is_empty() => {
            let all: Vec<_> = addresses.iter().map(|at| at.ip().to_string()).collect();
            findings.ok(check, format!("{name} is {}", all.join(", ")));
            return true;
        }
        Ok(Ok(_)) => "it has no address".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", LOOK_UP.as_secs()),
    };
    let key = proxy.map_or("`server` (--cproxy-server)", |_| "`outbound_proxy`");
    findings.fail(check, format!("{name} does not resolve: {why}; check {key} and this machine's DNS"));
    false
}

pub(super) fn look_up(name: &str) -> io::Result<Vec<SocketAddr>> {
    match ScopedIp::with_port(name) {
        Some((ip, port)) => ip.at(port).map(|at| vec![at]).map_err(io::Error::other),
        None => name.to_socket_addrs().map(Iterator::collect),
    }
}

/// What a client tells of its way to the server.
enum News {
    /// It has a session.
    Up { at: SocketAddr, through: Option<String> },
    /// A data connection stands.
    Carries,
    /// One could not be opened: where, and why.
    CarriesNot(String),
    /// Datagrams go by UDP, so many bytes at once.
    Path(usize),
    /// They do not: why.
    NoPath(String),
    /// What became of a tunnel that was asked for.
    Answer(TunnelId, Answer),
    /// It has proved itself, but more sessions there may not be.
    Full,
    /// It has no session: a sentence.
    Failed(String),
}

/// Where a tunnel could be had, or why not.
pub(super) type Answer = Result<SocketAddr, TunnelRefusal>;

fn news_of(note: &Note) -> Option<News> {
    if let Note::SessionUp { from, through, .. } = note {
        Some(News::Up { at: *from, through: through.clone() })
    } else if let Note::ConnUp { .. } = note {
        Some(News::Carries)
    } else if let Note::ConnFailed { to, why, .. } = note {
        Some(News::CarriesNot(format!("no data connection to {to}: {why}")))
    } else if let Note::PathUp { size, .. } | Note::PathSize { size, .. } = note {
        Some(News::Path(*size))
    } else if let Note::PathFailed { why, .. } | Note::PathDown { why, .. } = note {
        Some(News::NoPath(why.to_string()))
    } else if let Note::Forwarding { tunnel, public } = note {
        Some(News::Answer(*tunnel, Ok(*public)))
    } else if let Note::NotForwarding { tunnel, code, .. } = note {
        Some(News::Answer(*tunnel, Err(*code)))
    } else if let Note::Reconnecting { server, through, why, .. } = note {
        let full = *why == Disconnect::Refused(HandshakeRefusal::Full);
        let advice = if *why == Disconnect::Silent { format!("; {LOOK}") } else { String::new() };
        Some(if full { News::Full } else { News::Failed(why.sentence(server, through.as_deref()) + &advice) })
    } else {
        None
    }
}

/// A client connects, and asks what it could have, under an identity of its own: whoever runs with the user's keeps all that
/// it has. Returns what it is told of its tunnels, by their numbers, if it was told anything.
// PROTOCOL.md: P-EXAM-1, P-REPL-5, P-POOL-4.
fn server(findings: &mut Findings, mut config: client::Config) -> Option<BTreeMap<TunnelId, Answer>> {
    let mut identity = [0; 16];
    if let Err(error) = runtime_epoll::random_bytes(&mut identity) {
        findings.fail("server", format!("this machine has no randomness: {error}"));
        return None;
    }
    config.settings.client_id = identity;
    config.settings.examines = true;
    for tunnel in &mut config.settings.tunnels {
        // Nobody is ever led there, and whether its name resolves is asked elsewhere.
        NOBODY.clone_into(&mut tunnel.local);
    }

    config.work_threads = NonZeroUsize::MIN;
    let how = How::of(&config);
    let tunnels = config.settings.tunnels.len();
    let wants_path = {
        let ClientSettings { tunnels, .. } = &config.settings;
        tunnels.iter().any(TunnelSpec::is_udp) && config.settings.wants_path(tunnels)
    };
    let timings = &config.settings.timings;
    let patience = timings.dial_timeout + timings.handshake_timeout + SLACK;
    let mut client = match client::start(config) {
        Ok(client) => client,
        Err(error) => {
            findings.fail("server", format!("cannot connect at all: {error}"));
            return None;
        }
    };
    let (to, news) = mpsc::channel();
    let told = to.clone();
    client.observe(move |note| {
        // Nobody listens any more: then enough is known.
        let _unheard = news_of(note).map(|news| told.send(news));
    });
    let stopper = client.stopper();
    let runs = thread::spawn(move || {
        if let Err(error) = client.run(|_| {}) {
            let _unheard = to.send(News::Failed(error.to_string()));
        }
    });
    let mut path = PathSeen::default();
    let answers = listen(findings, &news, patience, &how, tunnels, &mut path);
    if answers.is_some() && wants_path {
        path.conclude(findings, &news);
    }
    stopper.stop();
    let _ended = runs.join();
    answers
}

/// What to do where nobody answers.
const LOOK: &str = "check that what listens there is cproxy-server's ctl port, and that no firewall is between";

/// Where a client that only asks leads its visitors, who do not come.
const NOBODY: &str = "127.0.0.1:1";

fn listen(
    findings: &mut Findings,
    news: &Receiver<News>,
    patience: Duration,
    how: &How,
    tunnels: usize,
    path: &mut PathSeen,
) -> Option<BTreeMap<TunnelId, Answer>> {
    const PROXY_PORT: &str = "proxy port";
    let mut until = Instant::now() + patience;
    let mut answers = BTreeMap::new();
    let (mut up, mut tried) = (false, false);
    while !(tried && answers.len() == tunnels) {
        match news.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(News::Up { at, through }) => {
                if !std::mem::replace(&mut up, true) {
                    let by_proxy =
                        through.map(|proxy| format!(" through the outbound proxy {proxy}")).unwrap_or_default();
                    findings.ok("server", format!("a cproxy-server answers at {at}{by_proxy}"));
                    how.say(findings);
                    machine::mtu(findings, at);
                }
                until = Instant::now() + patience;
            }
            Ok(News::Carries) => {
                if !std::mem::replace(&mut tried, true) {
                    findings.ok(PROXY_PORT, "data connections come through");
                }
            }
            Ok(News::CarriesNot(why)) => {
                if !std::mem::replace(&mut tried, true) {
                    findings.fail(
                        PROXY_PORT,
                        format!(
                            "{why}; TCP to the server's proxy port must be open from here, and if it is reached under \
                             another number, say `proxy_port` in this client's file or `advertise_proxy_port` in the \
                             server's"
                        ),
                    );
                }
            }
            Ok(News::Answer(tunnel, answer)) => {
                // Asked for again, it is no news.
                answers.entry(tunnel).or_insert(answer);
            }
            Ok(News::Path(size)) => path.size = Some(size),
            Ok(News::NoPath(why)) => path.why = Some(why),
            Ok(News::Full) if !up => {
                findings.warn(
                    "server",
                    "a cproxy-server answers, and takes this client's token; as many sessions as this token may have \
                     (max_sessions) are there already, so neither a data connection nor a public port was tried",
                );
                how.say(findings);
                return None;
            }
            Ok(News::Failed(sentence)) => {
                findings.fail("server", sentence);
                return None;
            }
            Ok(News::Full) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) if up => {
                if !tried {
                    findings.note(
                        PROXY_PORT,
                        "the server has asked for no data connection, so none was tried: it may keep none ready \
                         (idle_conns = 0)",
                    );
                }
                break;
            }
            Ok(News::Full) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                findings.fail("server", format!("no answer; {LOOK}"));
                return None;
            }
        }
    }
    Some(answers)
}

/// Whether datagrams go by UDP to the server, as far as it is known.
#[derive(Debug, Default)]
struct PathSeen {
    /// They did: how long they may be.
    size: Option<usize>,
    /// They do not, or not any more.
    why: Option<String>,
}

impl PathSeen {
    /// Waits until it is known, and says it.
    fn conclude(mut self, findings: &mut Findings, news: &Receiver<News>) {
        const CHECK: &str = "UDP path";
        let mut until = Instant::now() + if self.size.is_some() { SLACK } else { PATH };
        while self.why.is_none() {
            match news.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(News::Path(size)) => {
                    // What the line carries is found out now.
                    if self.size.replace(size).is_none() {
                        until = Instant::now() + SLACK;
                    }
                }
                Ok(News::NoPath(why)) => self.why = Some(why),
                Ok(
                    News::Up { .. }
                    | News::Carries
                    | News::CarriesNot(_)
                    | News::Answer(..)
                    | News::Full
                    | News::Failed(_),
                ) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        match (self.size, self.why) {
            (Some(size), None) => {
                findings.ok(CHECK, format!("datagrams go by UDP, up to {size} bytes each; longer ones go by TCP"));
            }
            (Some(_) | None, Some(why)) => findings.warn(
                CHECK,
                format!(
                    "datagrams go by TCP, because the server offers a way by UDP, but {why}; let UDP through to the \
                     number of the server's proxy port, or say `datagram_transport = \"tcp\"`"
                ),
            ),
            (None, None) => findings.note(
                CHECK,
                "datagrams go by TCP, because the server offers no way by UDP: `datagram_transport` is \"tcp\" there, the \
                 UDP port is somebody else's, or this client's bandwidth is limited",
            ),
        }
    }
}

/// How the two know each other.
struct How {
    encrypted: bool,
    token: bool,
}

impl How {
    fn of(config: &client::Config) -> Self {
        Self { encrypted: config.tls.is_some(), token: config.settings.token.is_some() }
    }

    fn say(&self, findings: &mut Findings) {
        if self.encrypted {
            findings.ok("tls", "encrypted, and the server is the one that was expected");
        } else {
            findings.note("tls", "everything travels in the clear; --tls on both sides encrypts it");
        }
        if self.token {
            findings.ok("token", "the server knows this client's token, and has proved it");
        } else {
            findings.note("token", "this client has none; the server takes it as one of its own machine");
        }
    }
}
