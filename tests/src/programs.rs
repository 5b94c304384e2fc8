//! The real programs as child processes: started on free ports, read on both outputs, ended with the test.

mod build;
mod lines;
mod options;
mod successors;

pub use build::directory;
pub use options::{Options, options};
pub use successors::Successors;

use crate::link::Namespace;
use crate::process::Process;
use crate::sockets::connect;
use crate::wait::{eventually, until};
use lines::Lines;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use options::{BRISK_CLIENT, BRISK_SERVER, Tunnel};
use serde::Deserialize;
use std::fmt::Display;
use std::io::{PipeReader, PipeWriter, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Deref;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tempfile::TempDir;

/// A running program. Dropped, it is killed; in a failed test the end of its log is printed.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    pid: u32,
    child: Mutex<Child>,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
    /// A full pipe that nobody reads.
    _unread_stdout: Option<PipeReader>,
    /// Likewise, until [`Program::read_stderr`].
    unread_stderr: Mutex<Option<PipeReader>>,
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
        let folder = options.programs.clone().unwrap_or_else(|| directory().to_owned());
        command.push(folder.join(name).to_str().expect("a path in UTF-8").to_owned());
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
        let mut program = Self::run(name, &command, options, directory);
        program._state = options.state.clone();
        program
    }

    /// Starts the program `name` with exactly these words.
    #[must_use]
    pub fn with_words(name: &'static str, words: &[&str]) -> Self {
        Self::wrapped_words(name, words, options())
    }

    /// The same in a network namespace. Needs root.
    #[must_use]
    pub fn with_words_in(namespace: &Namespace, name: &'static str, words: &[&str]) -> Self {
        Self::wrapped_words(name, words, options().network(namespace))
    }

    fn wrapped_words(name: &'static str, words: &[&str], options: Options) -> Self {
        let mut command: Vec<String> = options.wrappers.concat();
        command.push(directory().join(name).to_str().expect("a path in UTF-8").to_owned());
        command.extend(words.iter().map(|&word| word.to_owned()));
        Self::run(name, &command, &options, None)
    }

    fn run(name: &'static str, command: &[String], options: &Options, directory: Option<TempDir>) -> Self {
        crate::limit::arm();
        let (out, stdout) = pipe(options.unread_stdout);
        let (err, stderr) = pipe(options.unread_stderr);
        let child = Command::new(&command[0])
            .args(&command[1..])
            .env_remove("CPROXY_TOKEN")
            // What it makes for itself is not the user's.
            .env("XDG_STATE_HOME", build::directory().join("state"))
            // Its descriptors are counted, without root too.
            .env("CPROXY_TEST_DUMPABLE", "1")
            .envs(options.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let mut program = Self {
            name,
            pid: child.id(),
            child: Mutex::new(child),
            stdout: Arc::default(),
            stderr: Arc::default(),
            _unread_stdout: None,
            unread_stderr: Mutex::new(Some(stderr)),
            _directory: directory,
            _state: None,
        };
        if options.unread_stdout {
            program._unread_stdout = Some(stdout);
        } else {
            program.stdout.follow(stdout);
        }
        if !options.unread_stderr {
            program.read_stderr();
        }
        program
    }

    /// Reads standard error from now on, which was [`Options::unread_stderr`].
    ///
    /// # Panics
    /// If it is read already.
    pub fn read_stderr(&self) {
        let unread = self.unread_stderr.lock().expect("no panic while locked").take();
        self.stderr.follow(unread.expect("nobody reads it"));
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

    /// Its configuration file.
    ///
    /// # Panics
    /// If it was started without one.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        let directory = self._directory.as_ref().expect("it has a configuration file");
        directory.path().join(format!("{}.toml", self.name))
    }

    /// Puts `text` in the place of its configuration file, tells it by SIGHUP, and returns the line that says what came of
    /// it.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn reload(&self, text: &str) -> String {
        let new = self.config_file().with_extension("new");
        std::fs::write(&new, text).expect("write the configuration");
        std::fs::rename(&new, self.config_file()).expect("in its place");
        self.hang_up()
    }

    /// Tells it by SIGHUP to read its configuration again, and returns the line that says what came of it.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn hang_up(&self) -> String {
        let before = self.stderr.count();
        self.signal(Signal::SIGHUP);
        self.stderr.find(self.name, "a line about the reload", before, |line| {
            (line.contains("reloaded ") || line.contains("not reloaded")).then(|| line.to_owned())
        })
    }

    /// Tells it by SIGUSR2 to let the program on disk take over, and returns the line that says what came of it.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn upgrade(&self) -> String {
        self.upgrade_of(self.pid)
    }

    /// The same for a successor of this program, process `pid`, which writes into the same log.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn upgrade_of(&self, pid: u32) -> String {
        let before = self.stderr.count();
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGUSR2).expect("it runs");
        self.stderr.find(self.name, "a line about the upgrade", before, |line| {
            (line.contains("serves now") || line.contains("not upgraded")).then(|| line.to_owned())
        })
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
    /// The ports of hosts that it has, by their schemes.
    hosts: Vec<(String, SocketAddr)>,
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
        let ["Listening", "ctl", ctl, "proxy", proxy, ref hosts @ ..] = words[..] else {
            panic!("expected `Listening ctl ADDRESS proxy ADDRESS`, found `{line}`");
        };
        let address = |addr: &str| addr.parse().expect("an address and a port");
        let hosts = hosts.chunks(2).map(|pair| (pair[0].to_owned(), address(pair[1]))).collect();
        Self { program, ctl: address(ctl), proxy: address(proxy), hosts, pin: None }
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

    /// Its port of hosts for `scheme`.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn hosts(&self, scheme: &str) -> SocketAddr {
        self.hosts.iter().find(|(of, _)| of == scheme).expect("it has this port").1
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

/// One line `Forwarding tcp://HOST:PORT -> LOCAL`, or of UDP.
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
        let line = line.strip_prefix("Forwarding tcp://").or(line.strip_prefix("Forwarding udp://"))?;
        let (public, local) = line.split_once(" -> ")?;
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

/// A pipe for a program's output; if it is to stay unread, it is full.
fn pipe(unread: bool) -> (PipeWriter, PipeReader) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    if unread {
        let capacity = fcntl(&writer, FcntlArg::F_GETPIPE_SZ).expect("its capacity");
        writer.write_all(&vec![b'\n'; usize::try_from(capacity).expect("bytes")]).expect("it takes so much");
    }
    (writer, reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarding_lines_are_understood_as_the_contract_has_them() {
        let parsed = Forwarding::parse("Forwarding tcp://[::1]:6022 -> localhost:22").unwrap();
        assert_eq!((parsed.host.as_str(), parsed.port, parsed.local.as_str()), ("[::1]", 6022, "localhost:22"));
        assert_eq!(Forwarding::parse("Forwarding [::1]:6022 -> localhost:22"), None);
    }
}
