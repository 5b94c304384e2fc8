//! Runs the real programs and waits for what they print, never for time to pass.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// Every wait fails after this.
const PATIENCE: Duration = Duration::from_secs(30);

/// `cproxy-server` with these arguments, separated by spaces, and no token from outside.
pub(crate) fn server(args: &str) -> Command {
    program(env!("CARGO_BIN_EXE_cproxy-server"), args)
}

/// `cproxy-client` with these arguments, separated by spaces, and no token from outside.
pub(crate) fn client(args: &str) -> Command {
    program(env!("CARGO_BIN_EXE_cproxy-client"), args)
}

/// A server on free loopback ports.
pub(crate) fn local_server(args: &str) -> Command {
    server(&format!("--bind-addr 127.0.0.1 --ctl-port 0 --proxy-port 0 {args}"))
}

fn program(path: &str, args: &str) -> Command {
    let mut command = Command::new(path);
    command.args(args.split_whitespace()).env_remove("CPROXY_TOKEN").stdin(Stdio::null());
    command.env("XDG_STATE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// A directory with files that nobody else may read.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        }
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

/// A running program; killed when dropped.
pub(crate) struct Program {
    child: Child,
    out: Lines,
    err: Lines,
}

/// How a program ended, and all it said.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Program {
    pub(crate) fn start(command: Command) -> Self {
        Self::start_heard(command, true, true)
    }

    /// Starts it with nobody reading its standard output or error: each write there fails.
    pub(crate) fn start_heard(mut command: Command, hear_out: bool, hear_err: bool) -> Self {
        let (out_to, out) = stream(hear_out);
        let (err_to, err) = stream(hear_err);
        // Our copies of the writing ends go with the command.
        let child = command.stdout(out_to).stderr(err_to).spawn().unwrap();
        Self { child, out, err }
    }

    /// Waits for a line on standard output that contains `part`.
    pub(crate) fn says(&mut self, part: &str) -> String {
        self.out.find(part)
    }

    /// Waits for a line on standard error that contains `part`.
    pub(crate) fn logs(&mut self, part: &str) -> String {
        self.err.find(part)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Sends `signal` again and again until it has ended.
    pub(crate) fn signal_until_it_ends(&mut self, signal: Signal) {
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the program should have ended by now");
            self.signal(signal);
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until it ends by itself.
    pub(crate) fn end(mut self) -> Ended {
        let code = self.wait().code();
        Ended { code, out: self.out.rest(), err: self.err.rest() }
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the program should have ended by now");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

fn stream(heard: bool) -> (PipeWriter, Lines) {
    let (reader, writer) = std::io::pipe().unwrap();
    let lines = if heard { Lines::of(reader) } else { Lines { fresh: mpsc::channel().1, seen: Vec::new() } };
    (writer, lines)
}

/// Runs a program that is expected to end by itself.
pub(crate) fn run(command: Command) -> Ended {
    Program::start(command).end()
}

/// The lines of a stream, read on a thread of their own so that the program never waits for us.
struct Lines {
    fresh: Receiver<String>,
    seen: Vec<String>,
}

impl Lines {
    fn of(stream: PipeReader) -> Self {
        let (line_to, fresh) = mpsc::channel();
        thread::spawn(move || {
            // Ends with the stream, or when nobody wants its lines any more.
            BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| line_to.send(line))
        });
        Self { fresh, seen: Vec::new() }
    }

    fn find(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Ok(line) = self.fresh.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
                panic!("no line with `{part}` came; those that came: {:#?}", self.seen);
            };
            self.seen.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
    }

    /// All lines of a stream that has ended.
    fn rest(&mut self) -> String {
        self.seen.extend(self.fresh.iter());
        self.seen.join("\n")
    }
}
