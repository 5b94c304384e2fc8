//! A child process under measurement: started, watched, and killed when dropped.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::time::ClockId;
use nix::unistd::Pid;

/// How long a program may take to come up.
const START: Duration = Duration::from_secs(20);

/// A running child.
pub(super) struct Proc {
    name: String,
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Proc {
    /// Starts a program in a network namespace (`None`: this one). Its standard error goes to `DIR/NAME.log`.
    pub(super) fn start(
        name: &str,
        mut command: Command,
        namespace: Option<&File>,
        dir: &Path,
    ) -> Result<Self, String> {
        let fail = |what: &str, e: &dyn std::fmt::Display| format!("cannot start {name}: {what}: {e}");
        let log = dir.join(format!("{name}.log"));
        let stderr = File::create(&log).map_err(|e| fail("log file", &e))?;
        let namespace = namespace.map(File::try_clone).transpose().map_err(|e| fail("namespace", &e))?;
        let before_exec = move || {
            // Killed with us, whatever way we end.
            set_pdeathsig(Signal::SIGKILL)?;
            if let Some(namespace) = &namespace {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes two system calls and touches neither memory nor locks.
        unsafe { command.pre_exec(before_exec) };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().map_err(|e| fail(&format!("{:?}", command.get_program()), &e))?;
        let (tx, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            // Reads to the end, so that no child ever blocks on a full pipe.
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _ = tx.send(line);
                }
            });
        }
        Ok(Self { name: name.to_owned(), child, lines, log })
    }

    /// The rest of the first line of standard output that starts with `prefix`.
    pub(super) fn line(&mut self, prefix: &str) -> Result<String, String> {
        let deadline = Instant::now() + START;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(prefix) {
                        return Ok(rest.trim().to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.told(&format!("did not print \"{prefix}…\" within {START:?}")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.told(&format!("ended without printing \"{prefix}…\"")));
                }
            }
        }
    }

    /// Waits until something listens on `port` in this process's network namespace, without touching the port: a
    /// connection to it would already be a visit.
    pub(super) fn wait_for_port(&mut self, port: u16) -> Result<(), String> {
        let deadline = Instant::now() + START;
        while !self.listens(port) {
            if Instant::now() > deadline {
                return Err(self.told(&format!("nothing listens on port {port} after {START:?}")));
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.told(&format!("ended early ({status})")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn listens(&self, port: u16) -> bool {
        let port = format!(":{port:04X}");
        ["tcp", "tcp6"].iter().any(|table| {
            let table = fs::read_to_string(format!("/proc/{}/net/{table}", self.child.id())).unwrap_or_default();
            table.lines().any(|line| {
                let mut fields = line.split_whitespace().skip(1);
                fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some("0A")
            })
        })
    }

    /// CPU time of all its threads so far, user and system (what `utime` and `stime` of `/proc/PID/stat` say, in
    /// nanoseconds instead of ticks).
    pub(super) fn cpu(&self) -> Result<Duration, String> {
        ClockId::pid_cpu_clock_id(self.pid())
            .and_then(ClockId::now)
            .map(Duration::from)
            .map_err(|e| self.told(&format!("no CPU clock: {e}")))
    }

    /// Bytes of memory that are this process's own share (PSS).
    pub(super) fn memory(&self) -> Result<u64, String> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(&path).map_err(|e| self.told(&format!("{path}: {e}")))?;
        let pss = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = pss.and_then(|rest| rest.trim().strip_suffix("kB")).and_then(|n| n.trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| self.told("no Pss in smaps_rollup"))
    }

    /// Open file descriptors.
    pub(super) fn fds(&self) -> Result<u64, String> {
        let path = format!("/proc/{}/fd", self.child.id());
        let entries = fs::read_dir(&path).map_err(|e| self.told(&format!("{path}: {e}")))?;
        Ok(entries.count() as u64)
    }

    /// Moves all its threads to these cores.
    pub(super) fn pin(&self, cores: &CpuSet) -> Result<(), String> {
        let path = format!("/proc/{}/task", self.child.id());
        let threads = fs::read_dir(&path).map_err(|e| self.told(&format!("{path}: {e}")))?;
        for thread in threads.flatten() {
            if let Some(tid) = thread.file_name().to_str().and_then(|name| name.parse().ok()) {
                // A thread that has just ended needs no core.
                let _ = sched_setaffinity(Pid::from_raw(tid), cores);
            }
        }
        Ok(())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// A message about this process, with the last words from its log.
    fn told(&self, what: &str) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(3)..].join(" / ");
        let said = if last.is_empty() { String::new() } else { format!(" (it said: {last})") };
        format!("{} {what}{said}", self.name)
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The cores this thread may run on, and the first of them alone.
pub(super) fn cores() -> Result<(CpuSet, CpuSet), String> {
    let all = sched_getaffinity(Pid::from_raw(0)).map_err(|e| format!("cannot read the affinity: {e}"))?;
    let mut one = CpuSet::new();
    for core in 0..CpuSet::count() {
        if all.is_set(core).unwrap_or(false) {
            one.set(core).map_err(|e| format!("core {core}: {e}"))?;
            break;
        }
    }
    Ok((all, one))
}

/// Moves the calling thread to these cores.
pub(super) fn pin_self(cores: &CpuSet) -> Result<(), String> {
    sched_setaffinity(Pid::from_raw(0), cores).map_err(|e| format!("cannot change the affinity: {e}"))
}
