//! The command line of `cproxy-bench`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::cases::{Case, FULL, QUICK, Scale};
use super::peers::{Extra, How, Kind, on_path};
use super::relay::Trigger;

/// Measures cproxy side by side with other ways through: no proxy at all (direct), a minimal two-hop splice relay (relay,
/// also called S), rathole, haproxy and bore. Peers take turns within each round; figures are medians over the rounds with
/// their range, and their ratio to S in the same run.
#[derive(Parser)]
#[command(name = "cproxy-bench", version)]
pub(super) struct Args {
    /// A little of everything, in under three minutes (the default).
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Longer runs, more rounds, more idle visitors; about half an hour.
    #[arg(long)]
    full: bool,
    /// Only cases whose names start with one of these.
    #[arg(long, value_name = "CASE,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Who competes: direct, relay (S, edge-triggered), relay-level (S, level-triggered), cproxy, rathole, haproxy (two of
    /// them), bore; cproxy-tls and rathole-tls, only if named, encrypt between their two programs; cproxy-watched, only if
    /// named, has an access log, and metrics that are fetched every second; cproxy-by-udp, only if named, takes part in the
    /// cases of UDP, and carries datagrams by UDP. `cproxy=DIR` adds the programs in DIR, to
    /// compare two builds. The default is all, in quick mode without relay-level and bore.
    #[arg(long, value_name = "PEER,…", value_delimiter = ',')]
    peers: Vec<String>,
    /// Rounds; the default is 3, in full mode 5.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Idle visitors; the default is 1000, in full mode 2000: a server lets 2500 come from one address.
    #[arg(long, value_name = "N")]
    idle_visitors: Option<usize>,
    /// Write one JSON object per line and run to this file.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Write rates.svg and latencies.svg to this directory.
    #[arg(long, value_name = "DIR")]
    pub(super) svg: Option<PathBuf>,
    /// Where cproxy-server and cproxy-client are; the default is beside this program.
    #[arg(long, value_name = "DIR")]
    cproxy_dir: Option<PathBuf>,
    /// One more argument for cproxy-server (repeatable).
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    server_arg: Vec<String>,
    /// One more argument for cproxy-client (repeatable).
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    client_arg: Vec<String>,
    /// The rathole binary; the default is the one on PATH.
    #[arg(long, value_name = "FILE")]
    rathole: Option<PathBuf>,
    /// The haproxy binary; the default is the one on PATH.
    #[arg(long, value_name = "FILE")]
    haproxy: Option<PathBuf>,
    /// The bore binary; the default is the one on PATH.
    #[arg(long, value_name = "FILE")]
    bore: Option<PathBuf>,
    /// List the cases and stop.
    #[arg(long)]
    pub(super) list: bool,
    #[command(subcommand)]
    pub(super) role: Option<Role>,
}

/// What this program does when it starts itself.
#[derive(Subcommand)]
pub(super) enum Role {
    /// The service behind a peer.
    #[command(hide = true)]
    Serve {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// One hop of S.
    #[command(hide = true)]
    Relay {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
        /// Where visits go on to.
        #[arg(long)]
        to: SocketAddr,
        /// How its epoll reports.
        #[arg(long)]
        trigger: Trigger,
    },
    /// One hop of H.
    #[command(hide = true)]
    DatagramRelay {
        /// Where to listen.
        #[arg(long)]
        listen: SocketAddr,
        /// Where datagrams go on to.
        #[arg(long)]
        to: SocketAddr,
    },
}

impl Args {
    pub(super) fn scale(&self) -> Scale {
        let mut scale = if self.full { FULL } else { QUICK };
        scale.rounds = self.rounds.unwrap_or(scale.rounds).max(1);
        scale.idle_visitors = self.idle_visitors.unwrap_or(scale.idle_visitors).max(1);
        scale
    }

    /// Whether a case takes part.
    pub(super) fn wants(&self, case: &Case) -> bool {
        if self.only.is_empty() {
            return self.full || !case.full_only;
        }
        self.only.iter().any(|start| case.name.starts_with(start.as_str()))
    }

    pub(super) fn mode(&self) -> &'static str {
        if self.full { "full" } else { "quick" }
    }

    pub(super) fn extra(&self) -> Extra {
        Extra { server: self.server_arg.clone(), client: self.client_arg.clone() }
    }

    /// The peers that are here, and a sentence about each that is not.
    pub(super) fn contestants(&self) -> Result<(Vec<Kind>, Vec<String>), String> {
        let (mut here, mut absent) = (Vec::new(), Vec::new());
        let default = ["direct", "relay", "cproxy", "rathole", "haproxy", "relay-level", "bore"];
        let default = &default[..if self.full { default.len() } else { 5 }];
        let chosen: Vec<&str> = self.peers.iter().map(String::as_str).collect();
        for peer in if chosen.is_empty() { default } else { &chosen } {
            let found = match peer.split_once('=') {
                Some(("cproxy", dir)) => cproxy(peer, PathBuf::from(dir), How::Plain),
                Some(_) => return Err(format!("unknown peer {peer}: only cproxy takes a directory")),
                None => match *peer {
                    "direct" => Ok(Kind::Direct),
                    "relay" => Ok(Kind::Relay(Trigger::Edge)),
                    "relay-level" => Ok(Kind::Relay(Trigger::Level)),
                    "cproxy" => self.cproxy_dir().and_then(|dir| cproxy(peer, dir, How::Plain)),
                    "cproxy-tls" => self.cproxy_dir().and_then(|dir| cproxy(peer, dir, How::Tls)),
                    "cproxy-by-udp" => self.cproxy_dir().and_then(|dir| cproxy(peer, dir, How::ByUdp)),
                    "cproxy-watched" => self.cproxy_dir().and_then(|dir| cproxy(peer, dir, How::Watched)),
                    "rathole" => binary(peer, self.rathole.as_ref()).map(|binary| Kind::Rathole { binary, tls: None }),
                    // rathole wants its certificate made for it.
                    "rathole-tls" => binary("rathole", self.rathole.as_ref()).and_then(|binary| {
                        let openssl = on_path("openssl").ok_or("rathole-tls needs openssl on the PATH")?;
                        Ok(Kind::Rathole { binary, tls: Some(openssl) })
                    }),
                    "haproxy" => binary(peer, self.haproxy.as_ref()).map(Kind::Haproxy),
                    "bore" => binary(peer, self.bore.as_ref()).map(Kind::Bore),
                    _ => return Err(format!("unknown peer {peer}: see --help for those there are")),
                },
            };
            match found {
                Ok(kind) => here.push(kind),
                Err(why) => absent.push(why),
            }
        }
        Ok((here, absent))
    }

    fn cproxy_dir(&self) -> Result<PathBuf, String> {
        if let Some(dir) = &self.cproxy_dir {
            return Ok(dir.clone());
        }
        let here = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
        here.parent().map(PathBuf::from).ok_or_else(|| "this program is in no directory".to_owned())
    }
}

fn cproxy(name: &str, dir: PathBuf, how: How) -> Result<Kind, String> {
    for program in ["cproxy-server", "cproxy-client"] {
        if !dir.join(program).is_file() {
            return Err(format!("no {program} in {}: build it with `cargo build --release`", dir.display()));
        }
    }
    Ok(Kind::Cproxy { name: name.to_owned(), dir, how })
}

fn binary(name: &str, given: Option<&PathBuf>) -> Result<PathBuf, String> {
    match given {
        Some(path) if path.is_file() => Ok(path.clone()),
        Some(path) => Err(format!("{name} is not at {}", path.display())),
        None => on_path(name).ok_or_else(|| format!("{name} is not on PATH; install it or give --{name} FILE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn an_absent_peer_is_named_and_an_unknown_one_refused() {
        let parse = |args: &[&str]| Args::parse_from([&["cproxy-bench"], args].concat());
        let args = parse(&["--peers", "direct,rathole,cproxy=/nowhere", "--rathole", "/nowhere/rathole"]);
        let (here, absent) = args.contestants().unwrap();
        assert_eq!(here, [Kind::Direct]);
        assert_eq!(absent.len(), 2);
        assert!(parse(&["--peers", "ngrok"]).contestants().is_err());
    }
}
