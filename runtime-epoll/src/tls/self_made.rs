//! The certificate that a server makes for itself. Clients know it by its key ([`super::Pin`]); nothing else in it
//! means anything.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{AccessFlags, access};
use rcgen::{CertificateParams, KeyPair};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A certificate and its key, as PEM.
pub struct SelfMade {
    /// The certificate.
    pub certificate: Vec<u8>,
    /// Where it is.
    pub certificate_file: PathBuf,
    /// The key.
    pub key: Vec<u8>,
    /// Where it is.
    pub key_file: PathBuf,
}

impl std::fmt::Debug for SelfMade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SelfMade").field(&self.certificate_file).finish()
    }
}

/// The certificate in `directory`; made and stored there the first time, directory included, if `make` says so. Where only the certificate
/// is lost, it is made anew for the key that is there, and clients notice nothing.
///
/// # Errors
/// The file, and what went wrong with it. `NotFound`: there is none, and none was to be made, but it could be.
pub fn self_made(directory: &Path, make: bool) -> Result<SelfMade, (PathBuf, io::Error)> {
    let certificate_file = directory.join("cproxy-cert.pem");
    let key_file = directory.join("cproxy-key.pem");
    let read = |file: &Path| fs::read(file).map_err(|error| (file.to_owned(), error));
    let there = |file: &Path| fs::exists(file).map_err(|error| (file.to_owned(), error));
    let complete = || Ok(there(&certificate_file)? && there(&key_file)?);
    if !make && !complete()? {
        could_be_made_in(directory).map_err(|error| (directory.to_owned(), error))?;
    }
    if make && !complete()? {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| (directory.to_owned(), error))?;
        // Another server may start here at the same moment: it waits for the lock, and uses what this one made.
        let lock = File::open(directory).and_then(|opened| {
            Flock::lock(opened, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))
        });
        let _lock = lock.map_err(|error| (directory.to_owned(), error))?;
        if !complete()? {
            let kept = if there(&key_file)? { Some(read(&key_file)?) } else { None };
            let key = key(kept.as_deref()).map_err(|error| (key_file.clone(), error))?;
            let certificate = certificate(&key).map_err(|error| (certificate_file.clone(), error))?;
            put(&certificate_file, 0o644, certificate.as_bytes()).map_err(|error| (certificate_file.clone(), error))?;
            if kept.is_none() {
                put(&key_file, 0o600, key.serialize_pem().as_bytes()).map_err(|error| (key_file.clone(), error))?;
            }
        }
    }
    Ok(SelfMade { certificate: read(&certificate_file)?, key: read(&key_file)?, certificate_file, key_file })
}

/// Whether files could be made in `directory`, or the directory itself where it is not there yet. Nothing is made.
fn could_be_made_in(directory: &Path) -> io::Result<()> {
    let mut nearest = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    while let (false, Some(parent)) = (nearest.try_exists()?, nearest.parent()) {
        nearest = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    }
    if !fs::metadata(nearest)?.is_dir() {
        return Err(Errno::ENOTDIR.into());
    }
    Ok(access(nearest, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// The key that was kept, or a new one.
fn key(kept: Option<&[u8]>) -> io::Result<KeyPair> {
    let key = match kept {
        Some(pem) => KeyPair::from_pem(&String::from_utf8_lossy(pem)),
        None => KeyPair::generate(),
    };
    key.map_err(io::Error::other)
}

fn certificate(key: &KeyPair) -> io::Result<String> {
    let made = CertificateParams::new(["cproxy".to_owned()]).and_then(|params| params.self_signed(key));
    Ok(made.map_err(io::Error::other)?.pem())
}

/// Writes a whole file or none.
fn put(file: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let unfinished = file.with_extension("pem.new");
    // A file of this name was left behind, or put there by somebody who wants to read the key: it has a mode and an
    // owner that we did not choose.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut open = OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
    open.write_all(content)?;
    open.sync_all()?;
    fs::rename(&unfinished, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Identity, ServerTls};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_certificate_is_made_once_and_its_key_is_private() {
        let directory = directory("once");
        let (file, error) = self_made(&directory, false).unwrap_err();
        assert_eq!((file, error.kind()), (directory.join("cproxy-cert.pem"), io::ErrorKind::NotFound));
        let pin = |made: &SelfMade| {
            ServerTls::new(Identity { certificate: &made.certificate, key: &made.key }, None, "").unwrap().own().pin()
        };
        let first = self_made(&directory, true).unwrap();
        assert_eq!(fs::metadata(&first.key_file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(pin(&self_made(&directory, true).unwrap()), pin(&first));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "nothing unfinished is left");
        fs::remove_file(&first.certificate_file).unwrap();
        assert_eq!(
            pin(&self_made(&directory, true).unwrap()),
            pin(&first),
            "a lost certificate is made for the same key"
        );
        fs::remove_file(&first.key_file).unwrap();
        assert_ne!(pin(&self_made(&directory, true).unwrap()), pin(&first), "a lost key makes both anew");
        fs::remove_dir_all(&directory).unwrap();
    }

    /// An empty directory, for one test.
    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("cproxy-self-made-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn servers_first_started_at_the_same_moment_have_one_certificate() {
        for round in 0..20 {
            let directory = directory(&format!("many-{round}"));
            let start = std::sync::Barrier::new(4);
            let made: Vec<_> = std::thread::scope(|scope| {
                let make = || {
                    start.wait();
                    self_made(&directory, true)
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
            });
            for one in &made {
                assert_eq!(one.key, made[0].key);
                assert_eq!(one.certificate, made[0].certificate);
                ServerTls::new(Identity { certificate: &one.certificate, key: &one.key }, None, "").unwrap();
            }
            fs::remove_dir_all(&directory).unwrap();
        }
    }

    #[test]
    fn the_key_goes_into_no_file_that_was_there_before() {
        let directory = directory("planted");
        let trap = directory.join("trap");
        fs::write(&trap, "").unwrap();
        std::os::unix::fs::symlink(&trap, directory.join("cproxy-key.pem.new")).unwrap();
        let made = self_made(&directory, true).unwrap();
        assert_eq!(fs::read(&trap).unwrap(), b"");
        assert_eq!(fs::symlink_metadata(&made.key_file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(&directory).unwrap();
    }
}
