//! One's own certificate while the program runs: it is read again when its files change, and its end is announced.
//!
//! Files are looked at every few seconds on a thread of their own; nothing here waits for traffic, and no traffic for it.

use crate::tls::{self, Besides};
use runtime_epoll::tls::{Identity, OwnCertificate};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, SystemTime};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Its end is announced when this many days are left, and when none is.
const ANNOUNCED: [u32; 3] = [14, 7, 1];

/// One's own certificate, and the files that it is in.
#[derive(Clone, Debug)]
pub struct Watch {
    own: OwnCertificate,
    certificate: PathBuf,
    key: PathBuf,
    /// What is in use, or was found bad.
    known: Option<Stamp>,
    /// What the last look saw: while it changes, somebody is writing.
    last: Option<Stamp>,
    /// Whether others may know its key.
    pinned: bool,
    /// The last of the announcements that was made: the number of days.
    announced: Option<u32>,
}

/// What goes on beside the program, until this is dropped.
#[derive(Debug, Default)]
pub struct Attended(Arc<()>);

/// Logs what is good to know, and starts what is to go on.
#[must_use]
pub fn attend(besides: Besides) -> Attended {
    for notice in &besides.notices {
        tracing::info!(event = "tls_notice", "{notice}");
    }
    let attended = Attended::default();
    if let Err(error) = start(besides.watches, Arc::downgrade(&attended.0)) {
        tracing::warn!(
            event = "certificates_unwatched",
            "a renewed certificate will be read at the next start only: {error}"
        );
    }
    attended
}

/// How the two files stand: device, inode, length, time of change.
type Stamp = [(u64, u64, u64, i64, i64); 2];

impl Watch {
    /// Watches the files that `own` was read from just now. `pinned`: others may know its key.
    #[must_use]
    pub fn new(own: OwnCertificate, certificate: PathBuf, key: PathBuf, pinned: bool) -> Self {
        let mut watch = Self { own, certificate, key, known: None, last: None, pinned, announced: None };
        watch.known = watch.stamp().ok();
        watch.last = watch.known;
        watch
    }

    /// What is watched.
    #[must_use]
    pub fn certificate(&self) -> (&OwnCertificate, &Path) {
        (&self.own, &self.certificate)
    }

    /// The next announcement of the certificate's end, if there is one to be made at `now`.
    pub fn announcement(&mut self, now: SystemTime) -> Option<String> {
        let stage = self.own.not_after().and_then(|end| stage(end, now));
        if stage.is_none() || self.announced.is_some_and(|made| stage >= Some(made)) {
            // A new certificate is announced anew.
            self.announced = self.announced.and(stage);
            return None;
        }
        self.announced = stage;
        let file = self.certificate.display();
        stage.map(|days| match days {
            0 => format!(
                "the certificate `{file}` has expired: {}; renew it (a renewed file is read by itself)",
                if self.pinned { "whoever does not pin its key refuses it" } else { "visitors' programs refuse it" }
            ),
            days => {
                let s = if days == 1 { "" } else { "s" };
                format!("the certificate `{file}` expires in less than {days} day{s}; renew it (a renewed file is read by itself)")
            }
        })
    }

    fn look(&mut self) {
        // A file that is gone is about to be replaced.
        let Ok(stamp) = self.stamp() else { return };
        let still = self.last.replace(stamp) == Some(stamp);
        if self.known == Some(stamp) || !still {
            return;
        }
        self.known = Some(stamp);
        let (file, before) = (self.certificate.display(), self.own.pin());
        match self.read_again() {
            Ok(()) if self.own.pin() == before || !self.pinned => {
                tracing::info!(
                    event = "certificate_renewed",
                    "the certificate `{file}` was renewed; new connections use it"
                );
            }
            Ok(()) => tracing::warn!(
                event = "certificate_renewed_with_another_key",
                "the certificate `{file}` was renewed with another key; new connections use it, and its clients need: tls_pin = \
                 \"{}\"",
                self.own.pin()
            ),
            Err(what) => {
                tracing::warn!(
                    event = "certificate_unusable",
                    "the certificate `{file}` was changed, but cannot be used; the one before stays in use: {what}"
                );
            }
        }
    }

    fn read_again(&self) -> Result<(), String> {
        let [certificate, key] = [&self.certificate, &self.key].map(|file| tls::read_bounded(file));
        let (certificate, key) = (certificate.map_err(|e| e.to_string())?, key.map_err(|e| e.to_string())?);
        self.own.renew(Identity { certificate: &certificate, key: &key }).map_err(|error| error.to_string())
    }

    fn stamp(&self) -> io::Result<Stamp> {
        let of =
            |file: &PathBuf| fs::metadata(file).map(|is| (is.dev(), is.ino(), is.len(), is.mtime(), is.mtime_nsec()));
        Ok([of(&self.certificate)?, of(&self.key)?])
    }
}

/// Goes on watching for as long as `wanted` is there.
fn start(mut watches: Vec<Watch>, wanted: Weak<()>) -> io::Result<()> {
    if watches.is_empty() {
        return Ok(());
    }
    thread::Builder::new().name("certificates".into()).spawn(move || {
        loop {
            thread::sleep(LOOK);
            if wanted.strong_count() == 0 {
                return;
            }
            for watch in &mut watches {
                watch.look();
                if let Some(sentence) = watch.announcement(SystemTime::now()) {
                    tracing::warn!(event = "certificate_expires", "{sentence}");
                }
            }
        }
    })?;
    Ok(())
}

/// Which announcement is due for a certificate that ends at `end`: the number of days; 0, it has ended.
fn stage(end: SystemTime, now: SystemTime) -> Option<u32> {
    match end.duration_since(now) {
        Err(_) => Some(0),
        Ok(left) => ANNOUNCED.into_iter().rev().find(|&days| left < DAY * days),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_announced_at_14_7_and_1_days_and_when_it_has_come() {
        let end = SystemTime::UNIX_EPOCH + DAY * 20_000;
        let second = Duration::from_secs(1);
        for (left, due) in [(20, None), (14, None), (10, Some(14)), (7, Some(14)), (1, Some(7)), (0, Some(1))] {
            assert_eq!(stage(end, end - DAY * left), due, "{left} days before");
        }
        for days in ANNOUNCED {
            assert_eq!(stage(end, end - DAY * days + second), Some(days));
        }
        assert_eq!(stage(end, end + second), Some(0));
    }
}
