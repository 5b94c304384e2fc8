//! The command lines. Flags may be spelled with `-` or `_`.

use crate::address::{HostPort, LocalAddress, bind_addr, local_address, server_address, service};
use crate::check::{Rank, Said};
use crate::config::settings::{ByItself, Home, Kind, Of, Setting, settings_of};
use crate::config::{MAX_THREADS, Protocol, check_name};
use crate::habits::said_here;
use crate::logging::{LogFormat, LogLevel};
use crate::operate::{SocketFlag, StatusFlags};
use crate::outbound::Given;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, Parser, Subcommand};
use protocol_sm::ports::PortSet;
use protocol_sm::routes::{Host, Site, Web};
use runtime_epoll::ScopedIp;
use runtime_epoll::tls::Pin;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

const FOOTNOTES: &str = "\
Flags may be spelled with - or _. A flag beats its environment variable, which beats the configuration file.

The token is taken from the first of these that is there:
  1. the file that --token-file names
  2. the environment variable CPROXY_TOKEN
  3. the file that CPROXY_TOKEN_FILE names
  4. the configuration file's `token` or `token_file`

Every other key of the configuration file has a variable, too: CPROXY_ and its name in large letters. `check-config`
shows all of them, and what counts.

Signals: the first SIGTERM or SIGINT stops gracefully (see --drain-timeout), a second one that comes at
least 1 s later ends the program at once with exit code 1. SIGHUP reads the configuration file again.
SIGUSR2 upgrades a server (see its command `upgrade`).

Exit codes: 0 asked to stop; 2 bad flags or configuration, or refused for good by the server
before it ever worked; 1 anything else.";

/// Why a tunnel of UDP does not lead to a Unix socket.
pub(crate) const NO_UDP_AT_A_UNIX_SOCKET: &str = "a Unix socket is for streams, and a tunnel of UDP carries datagrams; give the service's UDP port, such as 127.0.0.1:53";

/// The flags of both programs.
#[derive(Args, Clone, Debug, Default)]
pub struct CommonFlags {
    /// The file with settings
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Event-loop threads
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    pub work_thread_nums: Option<NonZeroUsize>,
    /// The file that holds the token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Whether to encrypt
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub tls: Option<bool>,
    /// How long transfers may go on after a request to stop
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub drain_timeout: Option<Duration>,
    /// How log lines look
    #[arg(long, value_enum, value_name = "text|json", hide_possible_values = true)]
    pub log_format: Option<LogFormat>,
    /// The least important lines
    #[arg(long, value_enum, value_name = "LEVEL", hide_possible_values = true)]
    pub log_level: Option<LogLevel>,
}

/// What to do instead of running.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Write a configuration file to begin with, which explains all settings; one that is there stays
    Init {
        /// The file to write [default: server.toml or client.toml, in this directory]
        file: Option<PathBuf>,
    },
    /// Show what the running program does: sessions, tunnels, visitors, bytes
    Status(StatusFlags),
    /// Say whether the running program does what it is for: exit code 0, or 1 with a sentence that says why not
    Health(SocketFlag),
    /// Have the running program read its configuration file again, and show what that has changed; exit code 1, and
    /// nothing is changed, if something is wrong with it
    Reload(SocketFlag),
}

/// How a doctor speaks, and of what: `F` are the flags that the program would be started with.
#[derive(Args, Clone, Debug)]
pub struct Doctor<F: Args> {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// What the program would be started with.
    #[command(flatten)]
    pub flags: F,
}

/// What is to be checked: `F` are the flags that the program would be started with.
#[derive(Args, Clone, Debug)]
pub struct Checked<F: Args> {
    /// The file to check; by itself the one that --config names
    pub file: Option<PathBuf>,
    /// What the program would be started with.
    #[command(flatten)]
    pub flags: F,
}

impl<F: Args> Checked<F> {
    /// The flags, with the file among them, if there is one; and the file. `common` are the flags that both programs
    /// have.
    pub fn flags_and_file(mut self, common: impl Fn(&mut F) -> &mut CommonFlags) -> (F, Option<PathBuf>) {
        let config = &mut common(&mut self.flags).config;
        let file = self.file.or(config.take());
        config.clone_from(&file);
        (self.flags, file)
    }
}

/// What a client can do instead of running.
#[derive(Subcommand, Clone, Debug)]
pub enum ClientCommand {
    /// What both programs can.
    #[command(flatten)]
    Common(Command),
    /// Check a configuration file and the files it names, with the environment and these flags, and show what counts and
    /// who says so
    #[command(alias = "check_config")]
    CheckConfig(Box<Checked<ClientFlags>>),
    /// Say whether a visitor's way to the services is open, step by step, and what to do if not
    ///
    /// Goes the way that a client with these flags would go: name, server, TLS, token, data connections, public ports,
    /// services. Exit code 0 if all of it is open, 1 if not, 2 for bad flags or a bad file. The server is only asked: a
    /// client that runs keeps what it has.
    Doctor(Box<Doctor<ClientFlags>>),
}

/// What a server can do instead of running.
#[derive(Subcommand, Clone, Debug)]
pub enum ServerCommand {
    /// What both programs can.
    #[command(flatten)]
    Common(Command),
    /// Check a configuration file and the files it names, with the environment and these flags, and show what counts and
    /// who says so
    #[command(alias = "check_config")]
    CheckConfig(Box<Checked<ServerFlags>>),
    /// Say whether all that the server needs is there, and what to do if not
    ///
    /// Looks with the server's own flags: ports, addresses, tokens, certificates, limits of this machine. Exit code 0 if
    /// nothing is missing, 1 if something is, 2 for bad flags or a bad file. Nothing is made or kept.
    Doctor(Box<Doctor<ServerFlags>>),
    /// End the sessions of a client, which comes back after a while
    Kick {
        /// The client as `status` names it, or the name of its section in the server's file
        client: String,
        /// Which program is asked.
        #[command(flatten)]
        socket: SocketFlag,
    },
    /// Start the program on disk, and let it take over: no visitor is refused, and transfers end where they began.
    /// Exit code 1, and the running program goes on, if the new one does not get ready
    Upgrade(SocketFlag),
    /// Close a public port until its client's next session
    Close {
        /// The port
        port: u16,
        /// Which program is asked.
        #[command(flatten)]
        socket: SocketFlag,
    },
}

/// Takes visitors on public ports and hands them to the clients that asked for those ports.
#[derive(Parser, Clone, Debug)]
#[command(name = "cproxy-server", version, disable_help_subcommand = true, args_conflicts_with_subcommands = true, after_help = FOOTNOTES)]
pub struct ServerLine {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<ServerCommand>,
    /// What to run with.
    #[command(flatten)]
    pub flags: ServerFlags,
}

/// Makes services of this network reachable on public ports of a cproxy-server.
#[derive(Parser, Clone, Debug)]
#[command(name = "cproxy-client", version, disable_help_subcommand = true, args_conflicts_with_subcommands = true, after_help = FOOTNOTES)]
pub struct ClientLine {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<ClientCommand>,
    /// What to run with.
    #[command(flatten)]
    pub flags: ClientFlags,
}

/// What settings are put together for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aim {
    /// To run with them.
    #[default]
    Run,
    /// To look whether a program could run with them: nothing is made.
    Examine,
}

/// The flags of a server.
#[derive(Args, Clone, Debug, Default)]
pub struct ServerFlags {
    /// The address of all ports
    #[arg(long, value_name = "ADDRESS", value_parser = bind_addr)]
    pub bind_addr: Option<ScopedIp>,
    /// The ctl port
    #[arg(long, value_name = "PORT", allow_negative_numbers = true)]
    pub ctl_port: Option<u16>,
    /// The proxy port
    #[arg(long, value_name = "PORT", allow_negative_numbers = true)]
    pub proxy_port: Option<u16>,
    /// Public ports that clients may open
    #[arg(long, value_name = "PORTS")]
    pub allow_ports: Option<PortSet>,
    /// No flag: the file of the token that this server made, or will make, because nobody gave it one.
    #[arg(skip)]
    pub own_token: Option<PathBuf>,
    /// No flag.
    #[arg(skip)]
    pub aim: Aim,
    /// The flags that both programs have.
    #[command(flatten)]
    pub common: CommonFlags,
}

/// The flags of a client.
#[derive(Args, Clone, Debug, Default)]
pub struct ClientFlags {
    /// The service to expose: short for --local-server
    #[arg(value_name = "SERVICE", value_parser = service, group = "exposed")]
    pub service: Option<LocalAddress>,
    /// The server
    #[arg(long, value_name = "HOST[:PORT]", value_parser = server_address)]
    pub cproxy_server: Option<HostPort>,
    /// The service to expose
    #[arg(long, value_name = "HOST:PORT", value_parser = local_address, group = "exposed")]
    pub local_server: Option<LocalAddress>,
    /// The public port wanted for it
    #[arg(long, value_name = "PORT", allow_negative_numbers = true, requires = "exposed")]
    pub public_port: Option<u16>,
    /// The host whose visitors it has instead
    #[arg(long, value_name = "NAME", requires = "exposed", conflicts_with = "public_port")]
    pub host: Option<Host>,
    /// What its visitors speak
    #[arg(long, value_name = "tcp|udp|http|https", requires = "exposed", value_parser = protocol)]
    pub protocol: Option<Protocol>,
    /// Its name
    #[arg(long, value_name = "NAME", requires = "exposed", value_parser = tunnel_name)]
    pub tunnel_name: Option<String>,
    /// Who this client is
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub client_id: Option<String>,
    /// Whether to send little
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub frugal: Option<bool>,
    /// The server's key
    #[arg(long, value_name = "sha256:…", value_delimiter = ',')]
    pub tls_pin: Vec<Pin>,
    /// The proxy on the way to the server
    #[arg(long, value_name = "URL|environment")]
    pub outbound_proxy: Option<Given>,
    /// No flag.
    #[arg(skip)]
    pub aim: Aim,
    /// The flags that both programs have.
    #[command(flatten)]
    pub common: CommonFlags,
}

impl ClientFlags {
    /// The service that the flags name.
    #[must_use]
    pub fn local(&self) -> Option<&LocalAddress> {
        self.service.as_ref().or(self.local_server.as_ref())
    }

    /// The hosts that the flags name.
    #[must_use]
    pub fn sites(&self) -> Vec<Site> {
        let web = match self.protocol {
            Some(Protocol::Web(web)) => web,
            Some(Protocol::Tcp | Protocol::Udp) | None => Web::Http,
        };
        self.host.iter().map(|host| Site { web, host: host.clone() }).collect()
    }
}

impl ClientFlags {
    /// Whether the tunnel that the flags describe is one of UDP.
    #[must_use]
    pub fn is_udp(&self) -> bool {
        self.protocol == Some(Protocol::Udp)
    }

    /// What is wrong with `--protocol` beside `--host` or a Unix socket.
    #[must_use]
    pub fn protocol_problem(&self) -> Option<&'static str> {
        if self.is_udp() && self.local().is_some_and(LocalAddress::is_unix) {
            return Some(NO_UDP_AT_A_UNIX_SOCKET);
        }
        match (self.protocol?, &self.host) {
            (Protocol::Web(_), None) => {
                Some("--protocol http and https need --host NAME: the name that leads to the service")
            }
            (Protocol::Tcp | Protocol::Udp, Some(_)) => {
                Some("--host is for --protocol http and https; drop one of the two")
            }
            (Protocol::Web(_), Some(_)) | (Protocol::Tcp | Protocol::Udp, None) => None,
        }
    }
}

/// What flags say, and the environment in the place of those that are no keys of the file, by what clap calls the flag.
pub type Spoken = Vec<(&'static str, Said)>;

/// Reads the process's command line, as one of `program`, and what is said on it to the program or to `check-config`. Bad
/// flags end the process with code 2, `--help` and `--version` with 0.
#[must_use]
pub fn parse<F: Parser>(program: Of) -> (F, Spoken) {
    let mut command = command::<F>(program);
    let words = normalise(std::env::args_os());
    let matches = command.try_get_matches_from_mut(&words);
    let mut matches = matches
        .unwrap_or_else(|error| in_our_words(program, &mut command, words.get(1..).unwrap_or_default(), error).exit());
    let said = said(program, matches.subcommand_matches("check-config").unwrap_or(&matches));
    (F::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.format(&mut command).exit()), said)
}

/// What a command line is told that cannot be read.
fn in_our_words(program: Of, command: &mut clap::Command, words: &[OsString], error: clap::Error) -> clap::Error {
    let here = said_here(program, words).filter(|_| error.use_stderr());
    here.map_or(error, |here| {
        command.error(ErrorKind::InvalidValue, format!("that is another program's; write `{here}`"))
    })
}

fn said(program: Of, matches: &ArgMatches) -> Spoken {
    let raw = |id: &str| {
        let values = matches.get_raw(id).into_iter().flatten().map(OsStr::to_string_lossy);
        values.collect::<Vec<_>>().join(",")
    };
    let mut said = Vec::new();
    for (id, setting) in flags_of(program) {
        let (rank, by) = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => (Rank::Flag, format!("--{}", id.replace('_', "-"))),
            Some(ValueSource::EnvVariable) => (Rank::Variable, setting.variable().unwrap_or_default()),
            _ => continue,
        };
        said.push((id, Said { rank, by, value: raw(id) }));
    }
    if program == Of::Client && matches.contains_id("service") {
        said.push(("local_server", Said { rank: Rank::Flag, by: "SERVICE".to_owned(), value: raw("service") }));
    }
    said
}

/// The command line of `program`, with the words of the table of settings.
#[must_use]
pub fn command<F: CommandFactory>(program: Of) -> clap::Command {
    let described = |command: clap::Command, (id, setting): (&'static str, &'static Setting)| {
        command.mut_arg(id, |arg| {
            let arg = arg.help(help(setting));
            // What is a key of the file is read with the file. An empty variable says nothing.
            match setting.variable().filter(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())) {
                Some(name) if setting.home == Home::Flag => arg.env(OsString::from(name)).hide_env(true),
                _ => arg,
            }
        })
    };
    let described = |command| flags_of(program).fold(command, described);
    let with_flags = ["check-config", "doctor"];
    with_flags.into_iter().fold(described(F::command()), |command, name| command.mut_subcommand(name, described))
}

/// The settings of `program` that have a flag, by what clap calls it.
fn flags_of(program: Of) -> impl Iterator<Item = (&'static str, &'static Setting)> {
    let all = settings_of(program, Home::Top).chain(settings_of(program, Home::Flag));
    all.filter_map(|setting| Some((setting.flag?, setting)))
}

fn help(setting: &Setting) -> String {
    let what = setting.plainly();
    let (first, rest) = what.split_at(1);
    let choices =
        if let Kind::Choice(words) = setting.kind { format!(" ({})", words.join(", ")) } else { String::new() };
    let default = match setting.default_plainly().replace('`', "") {
        nothing if nothing == "none" || setting.default == ByItself::Required => String::new(),
        default => format!(" [default: {default}]"),
    };
    let variable = setting.variable().unwrap_or_default();
    format!("{}{rest}{choices}{default} [env: {variable}]", first.to_uppercase())
}

/// Spells the names of flags with `-`, whatever the user wrote; values stay as they are, as does
/// everything behind a bare `--`.
fn normalise(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut flags_may_follow = true;
    args.into_iter()
        .map(|arg| {
            flags_may_follow &= arg != OsStr::new("--");
            if !flags_may_follow || !arg.as_bytes().starts_with(b"--") {
                return arg;
            }
            let mut bytes = arg.into_vec();
            for byte in bytes.iter_mut().take_while(|byte| **byte != b'=') {
                if *byte == b'_' {
                    *byte = b'-';
                }
            }
            OsString::from_vec(bytes)
        })
        .collect()
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let expected = || format!("write a whole number from 1 to {MAX_THREADS}");
    text.parse::<NonZeroUsize>().ok().filter(|n| n.get() <= MAX_THREADS).ok_or_else(expected)
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    /// A year.
    const MAX: f64 = 31_536_000.0;
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=MAX).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or("write seconds from 0 to 31536000, such as 2.5")
}

fn protocol(text: &str) -> Result<Protocol, &'static str> {
    Protocol::of(text).ok_or("write tcp, udp, http or https")
}

fn tunnel_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned()).map_err(|what| format!("it {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(args: &[&str]) -> Vec<OsString> {
        normalise(args.iter().map(OsString::from))
    }

    #[test]
    fn the_flag_tables_are_consistent() {
        ServerLine::command().debug_assert();
        ClientLine::command().debug_assert();
    }

    #[test]
    fn underscores_in_flag_names_become_dashes_and_nothing_else_changes() {
        assert_eq!(
            normalised(&["--proxy_port=1_0", "--tunnel_name", "a_b", "-x_y", "check_config", "--", "--a_b"]),
            normalised(&["--proxy-port=1_0", "--tunnel-name", "a_b", "-x_y", "check_config", "--", "--a_b"])
        );
        assert_eq!(normalised(&["--proxy_port=1_0"]), [OsString::from("--proxy-port=1_0")]);
        let not_utf8 = OsString::from_vec(b"--a_b=\xff_".to_vec());
        assert_eq!(normalise([not_utf8]), [OsString::from_vec(b"--a-b=\xff_".to_vec())]);
    }

    #[test]
    fn the_original_commands_still_work() {
        let server =
            ServerLine::try_parse_from(normalised(&["s", "--proxy_port=8090", "--work_thread_nums=4"])).unwrap().flags;
        assert_eq!(server.proxy_port, Some(8090));
        assert_eq!(server.common.work_thread_nums, NonZeroUsize::new(4));
        let client = ClientLine::try_parse_from(normalised(&[
            "c",
            "--local_server=127.0.0.1:7777",
            "--cproxy_server=127.0.0.1:8080",
        ]))
        .unwrap()
        .flags;
        assert_eq!(client.local_server.unwrap().to_string(), "127.0.0.1:7777");
        assert_eq!(client.cproxy_server.unwrap().to_string(), "127.0.0.1:8080");
    }

    #[test]
    fn bad_values_name_the_flag_and_the_way_out() {
        let error = |args: &[&str]| ClientLine::try_parse_from(args).unwrap_err().to_string();
        let no_port = error(&["c", "--local-server", "localhost"]);
        assert!(
            no_port.contains(
                "invalid value 'localhost' for '--local-server <HOST:PORT>': it has no port; write `localhost:8080`"
            ),
            "{no_port}"
        );
        assert!(error(&["c", "statsu"]).contains("nor a command"), "{}", error(&["c", "statsu"]));
        assert!(error(&["c", "8000", "--local-server", "8001"]).contains("cannot be used with"));
        assert!(error(&["c", "--work-thread-nums", "0"]).contains("write a whole number from 1 to 1024"));
        assert!(error(&["c", "--drain-timeout", "-1"]).contains("write seconds from 0"));
        assert!(error(&["c", "--drain-timeout", "nan"]).contains("write seconds from 0"));
        assert!(error(&["c", "--public-port", "80"]).contains("--local-server <HOST:PORT>"));
        let short =
            ClientLine::try_parse_from(["c", "8000", "--public-port", "80", "--cproxy-server", "a.b"]).unwrap().flags;
        assert_eq!(short.local().unwrap().to_string(), "127.0.0.1:8000");
        assert_eq!(short.cproxy_server.unwrap().to_string(), "a.b:8080");
        assert!(error(&["c", "--tunnel-name", "", "--local-server", "a:1"]).contains("it is empty; write a name"));
        assert!(error(&["c", "--locl-server", "a:1"]).contains("'--local-server'"));
    }
}
