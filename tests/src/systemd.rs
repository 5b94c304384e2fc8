//! A machine that is booted by a real systemd, with the shipped units: its own network, processes, mounts and journal
//! over an overlay of this machine's files. Nothing is downloaded.

use crate::programs;
use crate::wait::PATIENCE;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const MANIFEST: &str = env!("CARGO_MANIFEST_DIR");
/// How long a boot may take, on a machine that is busy with other things; it takes 3 s on one that is not.
const BOOT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);

/// A machine under systemd, powered off when dropped.
#[derive(Debug)]
pub struct Machine {
    nspawn: Child,
    /// Its first process, as this machine numbers it.
    leader: u32,
    /// One such machine at a time: they share a control group.
    _alone: Flock<File>,
    _work: TempDir,
}

/// How a command inside ended.
#[derive(Debug)]
pub struct Ran {
    /// Whether it ended with 0.
    pub succeeded: bool,
    /// Its standard output and error.
    pub said: String,
}

impl Machine {
    /// Boots a machine whose `/etc/cproxy` has these files, all root's and only the `.toml` open to others. `None`, and a line past the
    /// test runner's capture, where that cannot be done here.
    ///
    /// # Panics
    /// It does not boot within two minutes.
    #[must_use]
    pub fn boot(files: &[(&str, &str)]) -> Option<Self> {
        if !allowed() {
            return None;
        }
        let lock = File::create(std::env::temp_dir().join("cproxy-test-systemd.lock")).expect("a file to lock");
        let alone = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).expect("lock");
        let work = TempDir::new().expect("a temporary directory");
        fs::create_dir(work.path().join("etc")).expect("a directory");
        for (name, content) in files {
            let path = work.path().join("etc").join(name);
            fs::write(&path, content).expect("write the file");
            let mode = if name.ends_with(".toml") { 0o644 } else { 0o600 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        }
        // It ends with this process, however that ends; the overlay goes with its mount namespace.
        let nspawn = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "bash"])
            .arg(Path::new(MANIFEST).join("systemd/boot.sh"))
            .args([work.path(), programs::directory(), &Path::new(MANIFEST).join("../bins/dist")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv");
        let mut machine = Self { nspawn, leader: 0, _alone: alone, _work: work };
        let deadline = Instant::now() + BOOT;
        while machine.leader == 0 || !machine.run("systemctl is-system-running --wait").succeeded {
            assert!(Instant::now() < deadline, "systemd has not booted: {:?}", machine.run("systemctl --failed"));
            std::thread::sleep(PAUSE);
            machine.leader = machine.first_process().unwrap_or(0);
        }
        Some(machine)
    }

    /// The process that nspawn started as the first of the new machine.
    fn first_process(&self) -> Option<u32> {
        let pid = self.nspawn.id();
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.split_whitespace().next()?.parse().ok()
    }

    /// Runs a shell's command inside.
    ///
    /// # Panics
    /// `nsenter` cannot be run.
    #[must_use]
    pub fn run(&self, command: &str) -> Ran {
        let leader = self.leader.to_string();
        let out = Command::new("nsenter")
            .args(["--all", "--target", &leader, "sh", "-c", command])
            .stdin(Stdio::null())
            .output()
            .expect("nsenter");
        let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        Ran { succeeded: out.status.success(), said }
    }

    /// Runs a shell's command inside, which must succeed; returns what it said.
    ///
    /// # Panics
    /// It failed.
    pub fn must(&self, command: &str) -> String {
        let Ran { succeeded, said } = self.run(command);
        assert!(succeeded, "{command}: {said}\n{}", self.journal());
        said
    }

    /// Waits until a shell's command inside says `text`.
    ///
    /// # Panics
    /// It does not within [`PATIENCE`].
    pub fn until_says(&self, command: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.run(command).said.contains(text) {
            assert!(Instant::now() < deadline, "`{command}` never said `{text}`:\n{}", self.journal());
            std::thread::sleep(PAUSE);
        }
    }

    /// What both units have logged.
    #[must_use]
    pub fn journal(&self) -> String {
        self.run("journalctl -o cat --no-pager -u cproxy-server -u cproxy-client").said
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _off = self.run("systemctl --force --force poweroff");
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.nspawn.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
        let _killed = self.nspawn.kill();
        let _status = self.nspawn.wait();
        if self.leader != 0
            && let Ok(pid) = i32::try_from(self.leader)
        {
            // Gone with nspawn, unless that was killed.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Whether a machine can be booted here. If not, says so past the test runner's capture.
fn allowed() -> bool {
    let there =
        |words: &[&str]| Command::new(words[0]).args(&words[1..]).output().is_ok_and(|probe| probe.status.success());
    let missing = [
        (&["unshare", "--mount", "true"][..], "root"),
        (&["systemd-nspawn", "--version"], "systemd-nspawn (Debian: systemd-container)"),
        (&["setpriv", "--version"], "setpriv"),
    ]
    .into_iter()
    .find(|(words, _)| !there(words));
    if let Some((_, what)) = missing {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: needs {what}");
    }
    missing.is_none()
}
