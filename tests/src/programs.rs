//! The real programs as child processes: started on free ports, read on both outputs, ended with the test.
//!
//! They are looked for beside the test executable and built if they are missing or older than their
//! sources. `CPROXY_BIN_DIR` names another directory to take them from, as they are.

use crate::link::Namespace;
use crate::process::Process;
use crate::sockets::connect;
use crate::wait::{PATIENCE, eventually, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use std::collections::VecDeque;
use std::fmt::{Display, Write as _};
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Deref;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

/// What a program is started with, besides what every test needs.
#[derive(Clone, Debug, Default)]
pub struct Options {
    flags: Vec<String>,
    keys: Vec<(String, String)>,
    tables: String,
    tunnels: Vec<Tunnel>,
    env: Vec<(String, String)>,
    brisk: bool,
    server: Option<String>,
    wrappers: Vec<Vec<String>>,
    state: Option<Arc<TempDir>>,
}

/// One of a client's tunnels.
#[derive(Clone, Debug)]
struct Tunnel {
    name: String,
    local: String,
    public_port: u16,
    /// Lines of the configuration file; without any, the only tunnel goes on the command line.
    keys: String,
}

/// Options to add to; the programs' own defaults until then.
#[must_use]
pub fn options() -> Options {
    Options::default()
}

impl Options {
    /// Adds `--name=value`.
    #[must_use]
    pub fn flag(mut self, name: &str, value: impl Display) -> Self {
        self.flags.push(format!("--{name}={value}"));
        self
    }

    /// Adds a top-level line `name = value` to the configuration file; `value` is TOML as it stands.
    #[must_use]
    pub fn key(mut self, name: &str, value: impl Display) -> Self {
        self.keys.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds tables to the configuration file, as they stand.
    #[must_use]
    pub fn tables(mut self, toml: &str) -> Self {
        self.tables.push_str(toml);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Event-loop threads.
    #[must_use]
    pub fn threads(self, count: usize) -> Self {
        self.flag("work-thread-nums", count)
    }

    /// Server: encrypts, with a certificate that it makes itself. Clients that are started with it pin its key.
    ///
    /// # Panics
    /// If there is no room for a directory.
    #[must_use]
    pub fn tls(mut self) -> Self {
        let state = TempDir::new().expect("a temporary directory");
        self = self.flag("tls", true).env("STATE_DIRECTORY", state.path().to_str().expect("a path in UTF-8"));
        self.state = Some(Arc::new(state));
        self
    }

    /// Does not encrypt, whatever the other side wants.
    #[must_use]
    pub fn in_the_clear(self) -> Self {
        self.flag("tls", false)
    }

    fn says_tls(&self) -> bool {
        self.flags.iter().any(|flag| flag.starts_with("--tls"))
            || self.keys.iter().any(|(key, _)| key.starts_with("tls"))
    }

    /// Short timings, so that a loss is noticed and mended within a test's time.
    #[must_use]
    pub fn brisk(mut self) -> Self {
        self.brisk = true;
        self
    }

    /// Client: exposes `local` on a port of the server's choice.
    #[must_use]
    pub fn tunnel(self, local: impl Display) -> Self {
        self.tunnel_at(local, 0)
    }

    /// Client: exposes `local` on `public_port`.
    #[must_use]
    pub fn tunnel_at(mut self, local: impl Display, public_port: u16) -> Self {
        let name = format!("tunnel-{}", self.tunnels.len());
        self.tunnels.push(Tunnel { name, local: local.to_string(), public_port, keys: String::new() });
        self
    }

    /// Client: adds a line `name = value` to the tunnel that was added last; `value` is TOML as it stands.
    ///
    /// # Panics
    /// If there is no tunnel yet.
    #[must_use]
    pub fn tunnel_key(mut self, name: &str, value: impl Display) -> Self {
        let tunnel = self.tunnels.last_mut().expect("a tunnel to add it to");
        let _ = writeln!(tunnel.keys, "{name} = {value}");
        self
    }

    /// Client: reaches the server at this `HOST:PORT` instead of directly.
    #[must_use]
    pub fn via(mut self, server: impl Display) -> Self {
        self.server = Some(server.to_string());
        self
    }

    /// Allows at most `count` open descriptors.
    #[must_use]
    pub fn descriptor_limit(self, count: usize) -> Self {
        let limit = r#"ulimit -n "$0" && exec "$@""#;
        self.wrapped(&["sh", "-c", limit, &count.to_string()])
    }

    /// Puts the file `hosts` in the place of `/etc/hosts`, for this program only. Needs root.
    #[must_use]
    pub fn hosts(self, hosts: &Path) -> Self {
        let hosts = hosts.to_str().expect("a path in UTF-8");
        let mount = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
        self.wrapped(&["unshare", "--mount", "sh", "-c", mount, hosts])
    }

    /// Puts the file `resolver` in the place of `/etc/resolv.conf`, for this program only. Needs root.
    #[must_use]
    pub fn resolver(self, resolver: &Path) -> Self {
        let resolver = resolver.to_str().expect("a path in UTF-8");
        let mount = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
        self.wrapped(&["unshare", "--mount", "sh", "-c", mount, resolver])
    }

    /// Runs it in a network namespace. Needs root.
    #[must_use]
    pub fn network(self, namespace: &Namespace) -> Self {
        self.wrapped(&["nsenter", &format!("--net={}", namespace.path()), "--"])
    }

    /// Puts words before the command; what they run keeps the process id.
    fn wrapped(mut self, words: &[&str]) -> Self {
        self.wrappers.push(words.iter().map(|&word| word.to_owned()).collect());
        self
    }

    /// The tunnel that goes on the command line.
    fn only_tunnel(&self) -> Option<&Tunnel> {
        match &self.tunnels[..] {
            [only] if only.keys.is_empty() => Some(only),
            _ => None,
        }
    }

    /// Runs it without any privilege, even those of root.
    #[must_use]
    pub fn without_privileges(self) -> Self {
        self.wrapped(&["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
    }

    /// The configuration file, if one is needed.
    fn config(&self, brisk_keys: &[(&str, &str)]) -> Option<String> {
        let mut text = String::new();
        if self.brisk {
            let set = |name: &str| self.keys.iter().any(|(key, _)| key == name);
            for (name, value) in brisk_keys.iter().filter(|(name, _)| !set(name)) {
                let _ = writeln!(text, "{name} = {value}");
            }
        }
        for (name, value) in &self.keys {
            let _ = writeln!(text, "{name} = {value}");
        }
        text.push_str(&self.tables);
        if self.only_tunnel().is_none() {
            for Tunnel { name, local, public_port, keys } in &self.tunnels {
                let _ =
                    writeln!(text, "[[tunnels]]\nname = \"{name}\"\nlocal = \"{local}\"\npublic_port = {public_port}");
                text.push_str(keys);
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

const BRISK_SERVER: &[(&str, &str)] = &[
    ("heartbeat_interval", "0.3"),
    ("heartbeat_timeout", "2"),
    ("handshake_timeout", "2"),
    ("session_grace", "5"),
    ("wait_timeout", "2"),
    ("dial_timeout", "2"),
    ("idle_ping_interval", "0.3"),
    ("idle_ping_timeout", "1"),
    ("idle_conn_lifetime", "1"),
];

const BRISK_CLIENT: &[(&str, &str)] = &[
    ("heartbeat_interval", "0.3"),
    ("heartbeat_timeout", "2"),
    ("handshake_timeout", "2"),
    ("session_grace", "5"),
    ("dial_timeout", "2"),
    ("reconnect_min", "0.02"),
    ("reconnect_max", "0.2"),
];

/// A running program. Dropped, it is killed; in a failed test the end of its log is printed.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    pid: u32,
    child: Mutex<Child>,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
    _directory: Option<TempDir>,
    /// Where it keeps what outlives it.
    _state: Option<Arc<TempDir>>,
}

/// The fields of the log line `stopped`; those of the other program are 0.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Stopped {
    /// Server: visitors accepted.
    pub visitors: u64,
    /// Transfers that ended well.
    pub finished: u64,
    /// Transfers that were cut short or refused.
    pub aborted: u64,
    /// proxy_conns opened (client) or taken (server).
    pub proxy_conns: u64,
    /// Server: visitors turned away by source lists.
    pub refused_by_source: u64,
    /// Server: visitors turned away by connection rates.
    pub refused_by_rate: u64,
    /// Server: connections refused in their handshake.
    pub handshakes_refused: u64,
    /// Server: connections dropped before their handshake was through.
    pub handshakes_dropped: u64,
}

impl Program {
    fn start(name: &'static str, words: &[String], options: &Options, brisk: &[(&str, &str)]) -> Self {
        let mut command: Vec<String> = options.wrappers.concat();
        command.push(directory().join(name).to_str().expect("a path in UTF-8").to_owned());
        let defaults = words.iter().cloned();
        let defaults = defaults.chain(["--log-format=json", "--log-level=info"].map(str::to_owned));
        // What a test asks for takes the default's place.
        command.extend(defaults.filter(|default| {
            let (flag, _) = default.split_once('=').expect("--flag=value");
            !options.flags.iter().any(|given| given.starts_with(&format!("{flag}=")))
        }));
        let directory = options.config(brisk).map(|text| {
            let directory = TempDir::new().expect("a temporary directory");
            let file = directory.path().join(format!("{name}.toml"));
            std::fs::write(&file, text).expect("write the configuration");
            command.push(format!("--config={}", file.display()));
            directory
        });
        command.extend(options.flags.iter().cloned());
        let mut program = Self::run(name, &command, &options.env, directory);
        program._state = options.state.clone();
        program
    }

    /// Starts the program `name` with exactly these words.
    #[must_use]
    pub fn with_words(name: &'static str, words: &[&str]) -> Self {
        Self::wrapped_words(name, words, &options())
    }

    /// The same in a network namespace. Needs root.
    #[must_use]
    pub fn with_words_in(namespace: &Namespace, name: &'static str, words: &[&str]) -> Self {
        Self::wrapped_words(name, words, &options().network(namespace))
    }

    fn wrapped_words(name: &'static str, words: &[&str], options: &Options) -> Self {
        let mut command: Vec<String> = options.wrappers.concat();
        command.push(directory().join(name).to_str().expect("a path in UTF-8").to_owned());
        command.extend(words.iter().map(|&word| word.to_owned()));
        Self::run(name, &command, &[], None)
    }

    fn run(name: &'static str, command: &[String], env: &[(String, String)], directory: Option<TempDir>) -> Self {
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .env_remove("CPROXY_TOKEN")
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let stdout = Lines::read(child.stdout.take().expect("piped"));
        let stderr = Lines::read(child.stderr.take().expect("piped"));
        Self { name, pid: child.id(), child: Mutex::new(child), stdout, stderr, _directory: directory, _state: None }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What the kernel says about it.
    #[must_use]
    pub fn process(&self) -> Process {
        Process::new(self.pid)
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If the program has been waited for already.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid.cast_signed()), signal)
            .unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.name));
    }

    /// Kills it as `kill -9` does, and waits until the kernel has closed everything it had.
    #[track_caller]
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    /// If the kernel does not know it.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child().try_wait().expect("a child of this process").is_none()
    }

    /// Waits until it ends by itself, and returns its exit code.
    ///
    /// # Panics
    /// If it does not, or a signal ends it.
    #[track_caller]
    pub fn exit_code(&self) -> i32 {
        let status = self.wait();
        status.code().unwrap_or_else(|| panic!("{} died of signal {:?}", self.name, status.signal()))
    }

    /// Asks it to stop, expects exit code 0, and returns the figures of its last line.
    ///
    /// # Panics
    /// If it ends otherwise.
    #[track_caller]
    pub fn stop(&self) -> Stopped {
        self.signal(Signal::SIGTERM);
        self.stopped()
    }

    /// Waits until it has stopped after a request: exit code 0, and the figures of its last line.
    ///
    /// # Panics
    /// If it ends otherwise.
    #[track_caller]
    pub fn stopped(&self) -> Stopped {
        assert_eq!(self.exit_code(), 0, "{}: exit code after a request to stop", self.name);
        self.stderr.find(self.name, "a log line with message `stopped`", 0, |line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            (line["message"] == "stopped").then(|| serde_json::from_value(line).expect("its figures"))
        })
    }

    /// Asks it to stop, and expects exit code 0.
    #[track_caller]
    pub fn stop_by_signal(&self) {
        self.signal(Signal::SIGTERM);
        assert_eq!(self.exit_code(), 0, "{}: exit code after a request to stop", self.name);
    }

    /// Waits for a line on standard output that begins with `start`.
    #[track_caller]
    pub fn output_line(&self, start: &str) -> String {
        self.stdout
            .find(self.name, &format!("`{start} …`"), 0, |line| line.starts_with(start).then(|| line.to_owned()))
    }

    /// Waits until its log holds `text` (whatever the case of letters), and returns that line.
    #[track_caller]
    pub fn log_line(&self, text: &str) -> String {
        let wanted = text.to_lowercase();
        self.stderr.find(self.name, &format!("`{text}` in the log"), 0, |line| {
            line.to_lowercase().contains(&wanted).then(|| line.to_owned())
        })
    }

    /// All that it has logged, or complained, until now; all of it once it has ended.
    #[must_use]
    pub fn log(&self) -> String {
        if !self.is_running() {
            until("its log is read to the end", || self.stderr.state().ended);
        }
        self.stderr.state().lines.iter().fold(String::new(), |log, line| log + line + "\n")
    }

    /// All that it has printed on standard output until now.
    #[must_use]
    pub fn output(&self) -> Vec<String> {
        self.stdout.state().lines.iter().cloned().collect()
    }

    fn wait(&self) -> ExitStatus {
        eventually(&format!("{} ends", self.name), || {
            let status = self.child().try_wait().expect("a child of this process");
            status.ok_or_else(|| "it still runs".to_owned())
        })
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().expect("no panic while locked")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        {
            let child = self.child.get_mut().expect("no panic while locked");
            // Fails only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let state = self.stderr.state();
            let skipped = state.lines.len().saturating_sub(60);
            eprintln!("--- {} (pid {}), end of its log:", self.name, self.pid);
            state.lines.iter().skip(skipped).for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Watches programs that have nothing to do: a loop that spins takes a whole processor, or its share of a busy
/// one; the bound is a tenth.
///
/// # Panics
/// If one of them uses more.
#[track_caller]
pub fn expect_calm(programs: [&Program; 2]) {
    const WINDOW: Duration = Duration::from_secs(1);
    let before = programs.map(|program| program.process().cpu());
    std::thread::sleep(WINDOW);
    for (program, before) in programs.into_iter().zip(before) {
        let used = program.process().cpu() - before;
        assert!(used < WINDOW / 10, "{}: {used:?} of processor time in {WINDOW:?} with nothing to do", program.name);
    }
}

/// A running `cproxy-server` on free ports of 127.0.0.1.
#[derive(Debug)]
pub struct Server {
    program: Program,
    ctl: SocketAddr,
    proxy: SocketAddr,
    pin: Option<String>,
}

impl Server {
    /// Starts it and waits until its ports are bound.
    ///
    /// # Panics
    /// If it ends, or does not say `Listening …`.
    #[track_caller]
    pub fn start(options: Options) -> Self {
        // Any test of the programs can be run over TLS.
        let options =
            if std::env::var_os("CPROXY_TEST_TLS").is_some() && !options.says_tls() { options.tls() } else { options };
        let encrypts = options.says_tls() && !options.flags.iter().any(|flag| flag == "--tls=false");
        let mut server = Self::listening(Self::spawn(options));
        if encrypts {
            let line = server.output_line("tls_pin = ");
            server.pin = Some(line["tls_pin = ".len()..].trim_matches('"').to_owned());
        }
        server
    }

    /// Waits until a server that was started otherwise has its ports bound.
    ///
    /// # Panics
    /// If it ends, or does not say `Listening …`.
    #[must_use]
    #[track_caller]
    pub fn listening(program: Program) -> Self {
        let line = program.output_line("");
        let words: Vec<&str> = line.split(' ').collect();
        let ["Listening", "ctl", ctl, "proxy", proxy] = words[..] else {
            panic!("expected `Listening ctl ADDRESS proxy ADDRESS`, found `{line}`");
        };
        let [ctl, proxy] = [ctl, proxy].map(|addr| addr.parse().expect("an address and a port"));
        Self { program, ctl, proxy, pin: None }
    }

    /// Starts it and does not wait for anything.
    #[must_use]
    pub fn spawn(options: Options) -> Program {
        let words = ["--bind-addr=127.0.0.1", "--ctl-port=0", "--proxy-port=0"].map(str::to_owned);
        Program::start("cproxy-server", &words, &options, BRISK_SERVER)
    }

    /// Its ctl port.
    #[must_use]
    pub fn ctl(&self) -> SocketAddr {
        self.ctl
    }

    /// The pin of its key.
    ///
    /// # Panics
    /// If it does not encrypt.
    #[must_use]
    pub fn pin(&self) -> &str {
        self.pin.as_ref().expect("it encrypts")
    }

    /// Its proxy port.
    #[must_use]
    pub fn proxy(&self) -> SocketAddr {
        self.proxy
    }
}

impl Deref for Server {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

/// One line `Forwarding tcp://HOST:PORT -> LOCAL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The host part, as printed.
    pub host: String,
    /// The public port.
    pub port: u16,
    /// The LocalServer, as printed.
    pub local: String,
}

impl Forwarding {
    fn parse(line: &str) -> Option<Self> {
        let (public, local) = line.strip_prefix("Forwarding tcp://")?.split_once(" -> ")?;
        let (host, port) = public.rsplit_once(':')?;
        Some(Self { host: host.to_owned(), port: port.parse().ok()?, local: local.to_owned() })
    }
}

/// A running `cproxy-client`.
#[derive(Debug)]
pub struct Client {
    program: Program,
    /// Where the server binds public ports.
    public_ip: IpAddr,
    locals: Vec<String>,
}

impl Client {
    /// Starts it with the tunnels of `options`, and waits until each is reachable.
    ///
    /// # Panics
    /// If it ends, or does not say `Forwarding …` for each tunnel.
    #[track_caller]
    pub fn start(server: &Server, options: Options) -> Self {
        let client = Self::spawn(server, options);
        for local in &client.locals {
            client.forwarding_after(0, local);
        }
        client
    }

    /// Starts it and does not wait for anything.
    #[must_use]
    pub fn spawn(server: &Server, options: Options) -> Self {
        let options = if options.server.is_none() { options.via(server.ctl) } else { options };
        let options = match &server.pin {
            Some(pin) if !options.says_tls() => options.flag("tls-pin", pin),
            Some(_) | None => options,
        };
        Self::spawn_alone(server.ctl.ip(), options)
    }

    /// Starts it without a server that this harness started; `options` must say [`Options::via`].
    ///
    /// # Panics
    /// If `options` name no server.
    #[must_use]
    pub fn spawn_alone(public_ip: IpAddr, options: Options) -> Self {
        let server = options.server.as_ref().expect("where the server is");
        let mut words = vec![format!("--cproxy-server={server}")];
        if let Some(Tunnel { name, local, public_port, .. }) = options.only_tunnel() {
            words.push(format!("--tunnel-name={name}"));
            words.push(format!("--local-server={local}"));
            words.push(format!("--public-port={public_port}"));
        }
        let locals = options.tunnels.iter().map(|tunnel| tunnel.local.clone()).collect();
        let program = Program::start("cproxy-client", &words, &options, BRISK_CLIENT);
        Self { program, public_ip, locals }
    }

    /// The public address of its first tunnel, by the last line that it printed about it.
    #[must_use]
    #[track_caller]
    pub fn public(&self) -> SocketAddr {
        self.public_of(&self.locals[0])
    }

    /// The public address of the tunnel to `local`, by the last line that it printed about it.
    ///
    /// # Panics
    /// If it prints none.
    #[must_use]
    #[track_caller]
    pub fn public_of(&self, local: impl Display) -> SocketAddr {
        let local = local.to_string();
        self.forwarding_after(0, &local);
        let last = self.forwardings().into_iter().rfind(|line| line.local == local);
        SocketAddr::new(self.public_ip, last.expect("found above").port)
    }

    /// All its `Forwarding …` lines until now.
    #[must_use]
    pub fn forwardings(&self) -> Vec<Forwarding> {
        self.output().iter().filter_map(|line| Forwarding::parse(line)).collect()
    }

    /// Waits for a `Forwarding …` line about `local` after the first `skip` lines of its output.
    #[track_caller]
    pub fn forwarding_after(&self, skip: usize, local: &str) -> Forwarding {
        let what = format!("`Forwarding … -> {local}` after {skip} lines");
        self.stdout.find(self.name, &what, skip, |line| Forwarding::parse(line).filter(|found| found.local == local))
    }

    /// Visits its first tunnel.
    #[must_use]
    #[track_caller]
    pub fn visit(&self) -> TcpStream {
        connect(self.public())
    }

    /// How many proxy_conns to `server` are up.
    #[must_use]
    pub fn proxy_conns(&self, server: &Server) -> usize {
        self.process().connections_to(server.proxy.port())
    }
}

impl Deref for Client {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

/// The lines that a child writes to a pipe, read as they come.
#[derive(Debug, Default)]
struct Lines {
    state: Mutex<LinesState>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct LinesState {
    /// The last [`Lines::KEPT`] lines.
    lines: VecDeque<String>,
    /// Lines that were here before those.
    dropped: usize,
    ended: bool,
}

impl Lines {
    const KEPT: usize = 20_000;

    fn read(pipe: impl Read + Send + 'static) -> Arc<Self> {
        let this = Arc::new(Self::default());
        let shared = Arc::clone(&this);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let mut state = shared.state();
                if state.lines.len() == Self::KEPT {
                    state.lines.pop_front();
                    state.dropped += 1;
                }
                state.lines.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
                shared.more.notify_all();
            }
            shared.state().ended = true;
            shared.more.notify_all();
        });
        this
    }

    /// Waits for a line, after the first `skip`, in which `wanted` finds something.
    #[track_caller]
    fn find<T>(&self, name: &str, what: &str, skip: usize, wanted: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut next = skip;
        let mut state = self.state();
        loop {
            while next < state.dropped + state.lines.len() {
                let line = &state.lines[next.saturating_sub(state.dropped)];
                if let Some(found) = wanted(line) {
                    return found;
                }
                next += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = if state.ended { "it ended" } else { "nothing came" };
                drop(state);
                panic!("expected {what} from {name}; {why}");
            }
            state = self.more.wait_timeout(state, left).expect("no panic while locked").0;
        }
    }

    fn state(&self) -> MutexGuard<'_, LinesState> {
        self.state.lock().expect("no panic while locked")
    }
}

/// Where the programs are, built if need be.
#[must_use]
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        if let Some(given) = std::env::var_os("CPROXY_BIN_DIR") {
            // Cargo runs tests in their package's directory: a relative path is meant from the workspace.
            return workspace().join(given);
        }
        let test = std::env::current_exe().expect("this executable's path");
        let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST").to_owned();
        if !["cproxy-server", "cproxy-client"].iter().all(|name| is_fresh(&profile.join(name))) {
            build(&profile);
        }
        profile
    })
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace above this package")
}

/// Whether a program is newer than all its sources, which Cargo lists in a file beside it.
fn is_fresh(program: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let (Some(built), Ok(list)) = (modified(program), std::fs::read_to_string(program.with_extension("d"))) else {
        return false;
    };
    let sources = list.split_once(": ").map_or("", |(_, sources)| sources).replace("\\ ", "\0");
    let newest = sources
        .split_whitespace()
        .map(|source| modified(Path::new(&source.replace('\0', " "))).unwrap_or_else(SystemTime::now))
        .max();
    newest.is_some_and(|newest| newest <= built)
}

fn build(profile_dir: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let profile = profile_dir.file_name().and_then(|name| name.to_str()).expect("a profile's directory");
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package=bins", "--bins"])
        .arg(format!("--profile={}", if profile == "debug" { "dev" } else { profile }))
        .arg("--target-dir")
        .arg(profile_dir.parent().expect("the target directory"))
        .current_dir(workspace())
        .status();
    assert!(status.expect("run cargo").success(), "cargo could not build the programs");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Arc<Lines> {
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let lines = Lines::read(child.stdout.take().unwrap());
        child.wait().unwrap();
        lines
    }

    #[test]
    fn lines_are_found_also_when_they_came_before() {
        let lines = shell("printf 'one\\ntwo\\none again\\n'");
        let find = |skip| lines.find("sh", "one", skip, |line| line.contains("one").then(|| line.to_owned()));
        assert_eq!((find(0), find(1)), ("one".to_owned(), "one again".to_owned()));
    }

    #[test]
    #[should_panic(expected = "expected three from sh; it ended")]
    fn a_program_that_ends_is_not_waited_for() {
        shell("echo one").find("sh", "three", 0, |line| (line == "three").then_some(()));
    }

    #[test]
    fn forwarding_lines_are_understood_as_the_contract_has_them() {
        let parsed = Forwarding::parse("Forwarding tcp://[::1]:6022 -> localhost:22").unwrap();
        assert_eq!((parsed.host.as_str(), parsed.port, parsed.local.as_str()), ("[::1]", 6022, "localhost:22"));
        assert_eq!(Forwarding::parse("Forwarding [::1]:6022 -> localhost:22"), None);
    }

    #[test]
    fn the_configuration_holds_keys_before_tables() {
        let options = options().key("a", 1).tunnel("x:1").tunnel_at("y:2", 7).brisk().key("b", "\"t\"");
        let text = options.config(&[("a", "9"), ("c", "3")]).unwrap();
        assert!(text.starts_with("c = 3\na = 1\nb = \"t\"\n[[tunnels]]\nname = \"tunnel-0\"\nlocal = \"x:1\""));
        assert!(text.ends_with("local = \"y:2\"\npublic_port = 7\n"));
        assert_eq!(super::options().tunnel("x:1").config(&[("a", "9")]), None);
    }

    #[test]
    fn a_program_older_than_a_source_is_built_anew() {
        let directory = TempDir::new().unwrap();
        let (program, source) = (directory.path().join("p"), directory.path().join("a b.rs"));
        let at = |path: &Path, seconds| {
            let file = std::fs::File::create(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        };
        at(&source, 10);
        at(&program, 10);
        assert!(!is_fresh(&program), "without a list of sources nothing is known");
        let list = format!("{}: {}\n", program.display(), source.to_str().unwrap().replace(' ', "\\ "));
        std::fs::write(program.with_extension("d"), list).unwrap();
        assert!(is_fresh(&program));
        at(&source, 11);
        assert!(!is_fresh(&program));
        std::fs::remove_file(&source).unwrap();
        assert!(!is_fresh(&program), "a source that is gone is no longer the program's");
    }
}
