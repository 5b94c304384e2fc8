//! A running program reads its configuration again: flag over environment over file over default, as at the start.
//!
//! Whatever is wrong with it changes nothing. Files are read on the thread that asks, which is none that carries traffic;
//! the main thread gets the whole.

use crate::admin;
use crate::assemble::Assembled;
use crate::certificates::{self, Attended};
use crate::config::ConfigError;
use crate::logging::Level;
use crate::notify;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol_sm::reload::Changes;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Some keys of a program, always the same, and what each says.
pub type Said = Vec<(&'static str, String)>;

/// What a reload needs of its program. `C` is what the runtime runs with.
pub struct Parts<C> {
    /// The configuration file, if there is one.
    pub path: Option<PathBuf>,
    /// Puts the whole together, as at the start.
    pub assemble: Box<dyn FnMut() -> Result<Assembled<C>, ConfigError> + Send>,
    /// Hands it to the program. `None`: the program stops.
    pub tell: Box<dyn FnMut(C) -> Option<Changes> + Send>,
    /// What was fixed at the start.
    pub fixed: Said,
    /// What was said last of what the runtime cannot compare.
    pub told: Said,
    /// How much is logged.
    pub level: Level,
    /// What goes on beside the program since the start.
    pub attended: Attended,
    /// Who may read it now.
    pub turn: Turn,
}

/// Reloads and upgrades come one after the other: whoever waits for an upgrade to be through knows which process serves
/// since then, if that is another one.
#[derive(Clone, Debug, Default)]
pub struct Turn(Arc<Mutex<Option<u32>>>);

impl Turn {
    /// Waits until it is the caller's turn, for as long as it holds what is returned.
    pub fn take(&self) -> MutexGuard<'_, Option<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why nothing was changed: each is a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReloaded(Vec<String>);

impl fmt::Display for NotReloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Reads the configuration again whenever it is asked to: one at a time, whoever asks.
pub struct Reload<C>(Mutex<Parts<C>>);

impl<C> fmt::Debug for Reload<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reload")
    }
}

impl<C: Send + 'static> Reload<C> {
    /// Of the program with these parts.
    #[must_use]
    pub fn new(parts: Parts<C>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(parts)))
    }

    /// Reads the configuration again. Returns what that has changed, as a sentence, which is in the log then.
    ///
    /// # Errors
    /// Why nothing was changed, which is in the log then.
    pub fn reload(&self) -> Result<String, NotReloaded> {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = parts.turn.clone();
        let serves = turn.take();
        if let Some(pid) = *serves {
            return pass_on(pid);
        }
        notify::reloading();
        let done = parts.reload();
        match &done {
            Ok(sentence) => tracing::info!(event = "reloaded", "{sentence}"),
            Err(NotReloaded(problems)) => {
                for problem in problems {
                    tracing::error!(event = "not_reloaded", "not reloaded, and nothing is changed: {problem}");
                }
            }
        }
        notify::ready(None);
        done
    }

    /// The same for whoever asks from outside.
    #[must_use]
    pub fn asked(self: &Arc<Self>) -> admin::Reload {
        let reload = Arc::clone(self);
        Arc::new(move || reload.reload().map_err(|why| why.to_string()))
    }

    /// Serves [`Asker::ask`] on a thread of its own, which lives as long as the process.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn serve(self: &Arc<Self>) -> io::Result<Asker> {
        let reload = Arc::clone(self);
        // What has come of it is in the log.
        Asker::serve("reload", move || drop(reload.reload()))
    }
}

/// Tells the process that serves since an upgrade. What it read when it began may have changed since.
fn pass_on(pid: u32) -> Result<String, NotReloaded> {
    let sentence = format!("process {pid} serves now, and was told to reload: its log says what that has changed");
    match kill(Pid::from_raw(pid.cast_signed()), Signal::SIGHUP) {
        Ok(()) => tracing::info!(event = "reload_passed_on", process = pid, "{sentence}"),
        Err(error) => return Err(NotReloaded(vec![format!("process {pid} should serve now: {error}")])),
    }
    Ok(sentence)
}

/// Asks for a reload, an upgrade or a stop and does not wait for it.
#[derive(Clone, Debug)]
pub struct Asker(SyncSender<()>);

impl Asker {
    fn new() -> (Self, Receiver<()>) {
        let (asker, asked) = sync_channel(1);
        (Self(asker), asked)
    }

    /// Does `work` whenever it is asked for, on a thread of that name, which lives as long as the process.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn serve(name: &str, work: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (asker, asked) = Self::new();
        std::thread::Builder::new().name(name.into()).spawn(move || asked.into_iter().for_each(|()| work()))?;
        Ok(asker)
    }

    /// Asks. One that has not begun yet will see what is in the file now: another one would find nothing new.
    pub fn ask(&self) {
        let _one_is_due = self.0.try_send(());
    }
}

impl<C> Parts<C> {
    fn reload(&mut self) -> Result<String, NotReloaded> {
        let Some(path) = &self.path else {
            let why = "there is no configuration file (--config FILE) to read again; restart to change flags";
            return Err(NotReloaded(vec![why.to_owned()]));
        };
        if let Some(why) = unfit(path) {
            return Err(NotReloaded(vec![format!("{}: {why}", path.display())]));
        }
        let wrong = |error: ConfigError| NotReloaded(error.problems().iter().map(ToString::to_string).collect());
        let Assembled { config, logs, warnings, besides, fixed, told, .. } = (self.assemble)().map_err(wrong)?;
        for warning in &warnings {
            tracing::warn!(event = "configuration_warning", "{warning}");
        }
        for key in differing(&self.fixed, &fixed) {
            tracing::warn!(
                event = "key_not_reloaded",
                key,
                "`{key}` counts from the next start on: what it says now is not what this program runs with"
            );
        }
        let Some(mut changes) = (self.tell)(config) else {
            return Err(NotReloaded(vec!["the program is stopping".to_owned()]));
        };
        changes.settings.extend(differing(&self.told, &told));
        self.told = told;
        self.level.set(logs.level);
        self.attended = certificates::attend(besides);
        Ok(format!("reloaded {}: {changes}", path.display()))
    }
}

/// The keys that say something else now.
fn differing(before: &Said, now: &Said) -> impl Iterator<Item = &'static str> {
    before.iter().zip(now).filter(|(was, is)| was != is).map(|((key, _), _)| *key)
}

/// Why the file at `path` is none to be read again. What is wrong with one that cannot be looked at is said by whoever
/// reads it.
fn unfit(path: &Path) -> Option<&'static str> {
    let metadata = fs::metadata(path).ok()?;
    if metadata.is_dir() {
        Some("this is a directory; put the file back")
    } else if !metadata.is_file() {
        Some("this is no regular file, and what came out of it at the start does not come again; restart")
    } else if metadata.len() == 0 {
        // As an editor leaves it for a moment. To a server it would mean: no tokens, and nobody's session goes on.
        Some("this file is empty; if it is meant to be, restart")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_with_something_in_it_is_not_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        assert_eq!(unfit(&file), None, "whoever reads it says that it is gone");
        fs::write(&file, "").unwrap();
        assert!(unfit(&file).unwrap().contains("empty"));
        fs::write(&file, "# defaults").unwrap();
        assert_eq!(unfit(&file), None);
        assert!(unfit(directory.path()).unwrap().contains("directory"));
        assert!(unfit(Path::new("/dev/null")).unwrap().contains("no regular file"));
    }

    #[test]
    fn who_asks_while_one_is_due_waits_for_nothing() {
        let (asker, asked) = Asker::new();
        for _ in 0..100 {
            asker.ask();
        }
        assert_eq!(asked.try_iter().count(), 1);
        asker.ask();
        assert_eq!(asked.try_iter().count(), 1, "it has begun: the file may have changed since");
        drop(asked);
        asker.ask();
    }
}
