//! `cproxy-server upgrade`: the program on disk is started with this one's listening sockets, and takes over once it can
//! serve. Whatever goes wrong before that changes nothing: this process goes on.
//!
//! The two talk in lines. The new one says `ready`, with the version of the protocol that it speaks; this one stops
//! accepting and says `go`; the new one accepts and says `serving`.

use crate::admin::{self, Admin};
use crate::notify;
use crate::reload::{Asker, Turn};
use protocol_sm::wire::VERSION;
use runtime_epoll::inherit::{self, Successor};
use runtime_epoll::server::Upgrader;
use runtime_epoll::{Step, Stopper};
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

/// How long the new process may take until it could serve.
const READY: Duration = Duration::from_secs(10);
/// How long it may take to begin, while nobody is accepted.
const SERVING: Duration = Duration::from_secs(3);

/// Lets a server be asked from outside.
pub type Open = Box<dyn Fn() -> Admin + Send>;

/// Starts the next process when it is asked to: one at a time.
pub struct Upgrade {
    upgrader: Upgrader,
    program: PathBuf,
    turn: Turn,
    outside: Mutex<Outside>,
    /// The next process serves: this one may end at any moment.
    left: AtomicBool,
}

/// What can be asked of this process; it is closed before the next one opens its own in the same place.
struct Outside {
    open: Open,
    admin: Option<Admin>,
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade").field("program", &self.program).finish_non_exhaustive()
    }
}

impl Upgrade {
    /// `program` is what is started, with this process's arguments. `turn` is that of reloads. `open` is called now, and
    /// again after an upgrade that did not come about.
    #[must_use]
    pub fn new(upgrader: Upgrader, program: PathBuf, turn: Turn, open: Open) -> Self {
        let admin = Some(open());
        let outside = Mutex::new(Outside { open, admin });
        Self { upgrader, program, turn, outside, left: AtomicBool::new(false) }
    }

    /// Lets the program on disk take over. Returns what has happened, as a sentence, which is in the log then.
    ///
    /// # Errors
    /// Why this process goes on, which is in the log then.
    pub fn upgrade(&self) -> Result<String, String> {
        let Ok(mut outside) = self.outside.try_lock() else {
            return Err("an upgrade is under way".to_owned());
        };
        let mut serves = self.turn.take();
        let done = self.take_steps(&mut outside, &mut serves);
        match &done {
            Ok(sentence) => tracing::info!(event = "upgraded", "{sentence}"),
            Err(why) => tracing::error!(event = "not_upgraded", "not upgraded, and this process goes on: {why}"),
        }
        done
    }

    fn take_steps(&self, outside: &mut Outside, serves: &mut Option<u32>) -> Result<String, String> {
        if self.upgrader.step(Step::Lend) == 0 {
            return Err("the server is stopping, or another process serves already".to_owned());
        }
        match self.begin(outside) {
            Ok(next) => {
                self.left.store(true, Ordering::SeqCst);
                let sessions = self.upgrader.step(Step::Leave);
                let pid = next.id();
                next.let_go();
                notify::successor(pid);
                *serves = Some(pid);
                Ok(format!("process {pid} serves now; {sessions} sessions end here"))
            }
            Err(why) => {
                let _nothing = self.upgrader.step(Step::GoOn);
                Err(format!("{}: {why}", self.program.display()))
            }
        }
    }

    /// Brings the next process to where it serves.
    fn begin(&self, outside: &mut Outside) -> Result<Successor, String> {
        let arguments = std::env::args_os().skip(1);
        let started = inherit::start(&self.program, arguments, self.upgrader.take_lent());
        let (next, talk) = started.map_err(|error| format!("it cannot be started: {error}"))?;
        match self.talk(talk, outside) {
            Ok(()) => Ok(next),
            Err(why) => {
                let ended = end(next).map(|status| format!(" ({status})")).unwrap_or_default();
                Err(why + &ended)
            }
        }
    }

    fn talk(&self, talk: UnixStream, outside: &mut Outside) -> Result<(), String> {
        let mut talk = BufReader::new(talk);
        let said = hear(&mut talk, READY).map_err(|why| format!("it does not get ready: {why}"))?;
        match said.strip_prefix("ready ").and_then(|version| version.parse::<u8>().ok()) {
            Some(VERSION) => {}
            Some(other) => return Err(format!("it speaks version {other} of the protocol, and the clients {VERSION}")),
            None => return Err(format!("it does not get ready: it says {said:?}")),
        }
        if self.upgrader.step(Step::Settle) == 0 {
            return Err("this server is stopping".to_owned());
        }
        outside.admin = None;
        let begun = talk.get_mut().write_all(b"go\n").map_err(|error| error.to_string());
        let serves = begun.and_then(|()| hear(&mut talk, SERVING)).and_then(|said| match said.as_str() {
            "serving" => Ok(()),
            _ => Err(format!("it says {said:?}")),
        });
        serves.map_err(|why| {
            outside.admin = Some((outside.open)());
            format!("it does not begin to serve: {why}")
        })
    }

    /// Nobody can ask this process from outside any more, and who has asked is answered. An upgrade that is through has
    /// said so by then.
    pub fn close(&self) {
        let outside = if self.left.load(Ordering::SeqCst) {
            Some(self.outside.lock().unwrap_or_else(PoisonError::into_inner))
        } else {
            // An upgrade that is under way has it, and closes it.
            self.outside.try_lock().ok()
        };
        if let Some(mut outside) = outside {
            outside.admin = None;
        }
        admin::await_answers();
    }

    /// Leaves the listeners to the next process that systemd starts, where it wants that, and stops this one.
    fn stop(&self, stopper: &Stopper) {
        // An upgrade that is under way has lent them already, and this process may be the one that was upgraded.
        if notify::is_awaited() && self.upgrader.step(Step::Lend) > 0 {
            self.upgrader.take_lent().iter().for_each(|(name, listener)| notify::keep(name, listener));
        }
        stopper.stop();
    }

    /// Serves requests to stop on a thread of its own: whoever asks waits for nothing.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn serve_stop(self: &Arc<Self>, stopper: Stopper) -> io::Result<Asker> {
        let upgrade = Arc::clone(self);
        Asker::serve("stop", move || upgrade.stop(&stopper))
    }

    /// Serves [`Asker::ask`] on a thread of its own, which lives as long as the process.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn serve(self: &Arc<Self>) -> io::Result<Asker> {
        let upgrade = Arc::clone(self);
        // What has come of it is in the log.
        Asker::serve("upgrade", move || drop(upgrade.upgrade()))
    }
}

/// The same for whoever asks from outside.
#[must_use]
pub fn asked(upgrade: &Weak<Upgrade>) -> admin::Upgrade {
    let upgrade = Weak::clone(upgrade);
    Arc::new(move || upgrade.upgrade().ok_or("the program is starting")?.upgrade())
}

/// The next line that the other process says.
fn hear(talk: &mut BufReader<UnixStream>, within: Duration) -> Result<String, String> {
    let mut line = String::new();
    let read = talk.get_ref().set_read_timeout(Some(within)).and_then(|()| talk.read_line(&mut line));
    match read {
        Ok(0) => Err("it has ended".to_owned()),
        Ok(_) => Ok(line.trim_end().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(format!("nothing came for {within:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Ends a process that cannot take over.
fn end(mut next: Successor) -> Option<ExitStatus> {
    // One that has ended already says itself how.
    let ended = (0..20).find_map(|_| {
        let ended = next.ended();
        if ended.is_none() {
            thread::sleep(Duration::from_millis(10));
        }
        ended
    });
    if ended.is_none() {
        next.kill();
    }
    ended
}

/// Tells the process that is being upgraded that this one is ready, and waits until it is to serve. `false`: that one has
/// ended before, perhaps because it was asked to, and so must this one.
pub fn await_turn(talk: &UnixStream) -> bool {
    let mut said = talk;
    let ready = said.write_all(format!("ready {VERSION}\n").as_bytes());
    let mut line = String::new();
    // It may take as long as its visitors wait.
    let heard = ready.and_then(|()| BufReader::new(talk).read_line(&mut line));
    if heard.is_err() || line != "go\n" {
        tracing::warn!(event = "predecessor_lost", "the process before this one has ended, and so does this one");
        return false;
    }
    if let Err(error) = said.write_all(b"serving\n") {
        tracing::warn!(event = "predecessor_lost", "the process before this one is gone, and this one serves: {error}");
    }
    true
}
