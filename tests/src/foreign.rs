//! Other people's programs, which some tests run beside ours where they are installed.

use crate::sockets::{LOOPBACK, free_port};
use crate::wait::until;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fmt::Display;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Processes of other programs, and a directory for their files. Dropped, they end, with those that they have started; in a
/// test that fails what they have said is shown.
#[derive(Debug)]
pub struct Foreign {
    processes: Vec<Child>,
    dir: TempDir,
}

impl Default for Foreign {
    fn default() -> Self {
        Self { processes: Vec::new(), dir: TempDir::with_prefix("cproxy-foreign-").expect("a directory") }
    }
}

impl Foreign {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// haproxy behind a PROXY header: it answers each request with `words`, in its own format, at the port returned.
    #[must_use]
    pub fn haproxy_that_says(program: &str, words: &str) -> (Self, u16) {
        let (port, mut haproxy) = (free_port(), Self::new());
        let answer = format!("http-request return status 200 content-type text/plain lf-string {words}");
        let config = haproxy.file(
            "haproxy.cfg",
            format!(
                "defaults\n mode http\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
                 frontend f\n bind {LOOPBACK}:{port} accept-proxy\n {answer}\n"
            ),
        );
        haproxy.start(program, &["-db", "-f", &config]);
        until("haproxy listens", || TcpStream::connect((LOOPBACK, port)).is_ok());
        (haproxy, port)
    }

    /// Their directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file into it, which nobody else may read, and returns its path.
    ///
    /// # Panics
    /// If that cannot be done.
    #[must_use]
    pub fn file(&self, name: &str, text: impl Display) -> String {
        let path = self.dir().join(name);
        fs::write(&path, text.to_string()).expect("write");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
        path.display().to_string()
    }

    /// Starts a program.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn start(&mut self, program: &str, args: &[&str]) {
        let said = File::create(self.said(self.processes.len())).expect("a file");
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(said.try_clone().expect("a second handle")).stderr(said);
        command.process_group(0);
        self.processes.push(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")));
    }

    /// Where a process's output goes.
    fn said(&self, number: usize) -> PathBuf {
        self.dir().join(format!("said-{number}"))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        for number in 0..self.processes.len() {
            let said = self.said(number);
            let process = &mut self.processes[number];
            let ended = process.try_wait();
            let _ = killpg(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM);
            let _ = process.wait();
            if std::thread::panicking() {
                let said = fs::read(said).unwrap_or_default();
                eprintln!("--- another program (ended before: {ended:?}): {}", String::from_utf8_lossy(&said));
            }
        }
    }
}

/// Where a program is, if it is installed, or else in one of the folders of `PATH`. If not, says so past the test runner's
/// capture.
#[must_use]
pub fn find(program: &str) -> Option<String> {
    let places = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = places.into_iter().chain(std::env::split_paths(&path));
    let found =
        places.map(|place| place.join(program)).find(|path| path.exists()).map(|path| path.display().to_string());
    if found.is_none() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs {program}");
    }
    found
}

/// An nginx that passes streams on.
#[derive(Debug)]
pub struct StreamingNginx {
    /// Where it is.
    pub program: String,
    /// What its configuration begins with: empty where `stream` is built in.
    pub load: String,
}

impl StreamingNginx {
    /// The one of this machine, if it has one. If not, says so past the test runner's capture: `nginx` alone need not be enough.
    #[must_use]
    pub fn find() -> Option<Self> {
        let program = find("nginx")?;
        let said = Command::new(&program).arg("-V").output().ok()?.stderr;
        let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
        let load = if String::from_utf8_lossy(&said).split_whitespace().any(|word| word == "--with-stream") {
            String::new()
        } else if Path::new(module).exists() {
            format!("load_module {module};")
        } else {
            let _ = writeln!(std::io::stderr(), "SKIPPED: needs nginx's module `stream` (Debian: libnginx-mod-stream)");
            return None;
        };
        Some(Self { program, load })
    }
}
