//! Where the admin socket is, and how it is opened: never in place of anything but a dead program's socket.

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::env;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Where the admin socket is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Where `status` finds it without being told: in the service's or the user's folder for such files.
    #[default]
    Found,
    /// At this path.
    At(PathBuf),
    /// Nowhere.
    Off,
}

/// What the key says instead of a path.
const OFF: &str = "off";
/// What a socket's name ends with.
const ENDING: &str = ".sock";

impl Place {
    /// What `admin_socket` says; a relative path starts at `directory`.
    #[must_use]
    pub fn new(text: &str, directory: &Path) -> Self {
        if text == OFF { Self::Off } else { Self::At(directory.join(text)) }
    }
}

/// A socket's file. It goes when this is dropped, unless it is another's by then.
#[derive(Debug)]
pub(super) struct Open {
    path: PathBuf,
    mark: Mark,
}

/// What tells a file from one that takes its place later.
type Mark = (u64, i64, i64);

fn mark(path: &Path) -> io::Result<Mark> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.ino(), file.ctime(), file.ctime_nsec()))
}

impl Open {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if mark(&self.path).is_ok_and(|mark| mark == self.mark) {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

/// The folder for sockets that are found without being named: systemd's for the service, else the user's. With it,
/// whether it is made where it is missing.
fn own_directory() -> Option<(PathBuf, bool)> {
    let named = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    // Several are separated by colons.
    let service = named("RUNTIME_DIRECTORY").and_then(|paths| env::split_paths(&paths).next());
    service.map(|path| (path, false)).or_else(|| named("XDG_RUNTIME_DIR").map(|path| (path.join("cproxy"), true)))
}

/// Folders in which a running `program` may have its socket: this process's own, and that of the unit that comes with
/// it.
pub(super) fn directories(program: &str) -> Vec<PathBuf> {
    let unit = Path::new("/run").join(program);
    // A command of the unit itself, such as its reload, has that as its own.
    let own = own_directory().map(|(own, _)| own).filter(|own| *own != unit);
    own.into_iter().chain([unit]).collect()
}

/// The sockets of `program` in `directory`, whoever answers there.
pub(super) fn sockets_in(directory: &Path, program: &str) -> Vec<PathBuf> {
    let is_one = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let instance = name.strip_prefix(program).and_then(|rest| rest.strip_prefix('-'));
        instance.is_some_and(|rest| rest.ends_with(ENDING))
    };
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> = files.map(|file| file.path()).filter(is_one).collect();
    found.sort();
    found
}

/// Opens the socket of `program`. `None`: there is to be none, which is logged where nobody said so.
///
/// # Errors
/// Says what is in the way, and what to do.
pub(super) fn open(place: &Place, program: &str, instance: &str) -> io::Result<Option<(Open, UnixListener)>> {
    let path = match place {
        Place::Off => return Ok(None),
        Place::At(path) => path.clone(),
        Place::Found => {
            let Some((directory, make)) = own_directory() else {
                tracing::info!(
                    event = "admin_socket_unplaced",
                    "no admin socket: neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR is set; for `status`, name a path with \
                     `admin_socket`"
                );
                return Ok(None);
            };
            if make {
                let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
                made.map_err(|error| io::Error::other(format!("cannot make {}: {error}", directory.display())))?;
            }
            for dead in sockets_in(&directory, program) {
                let _kept = remove_dead(&dead);
            }
            directory.join(format!("{program}-{instance}{ENDING}"))
        }
    };
    remove_dead(&path)?;
    let fail = |error: io::Error| {
        let way = "name a path in a folder where this program's user may write (`admin_socket`)";
        io::Error::new(error.kind(), format!("cannot listen at {}: {error}; {way}", path.display()))
    };
    let listener = UnixListener::bind(&path).map_err(fail)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    let mark = mark(&path).map_err(fail)?;
    Ok(Some((Open { path, mark }, listener)))
}

/// Removes a socket on which nobody listens any more.
///
/// # Errors
/// Something else is there.
fn remove_dead(path: &Path) -> io::Result<()> {
    let shown = path.display();
    let Ok(file) = fs::symlink_metadata(path) else { return Ok(()) };
    if !file.file_type().is_socket() {
        let kind = if file.is_dir() { "a folder" } else { "a file that is no socket" };
        return Err(io::Error::other(format!("{shown} is {kind}; name another path (`admin_socket`)")));
    }
    if is_dead(path)? {
        return fs::remove_file(path);
    }
    Err(io::Error::other(format!("another program answers at {shown}; name another path (`admin_socket`)")))
}

/// Whether nobody listens at a socket. Who lets others wait, as a program that was stopped, does.
fn is_dead(path: &Path) -> io::Result<bool> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let asks = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    Ok(connect(asks.as_raw_fd(), &UnixAddr::new(path)?) == Err(Errno::ECONNREFUSED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, bind, listen};
    use std::os::unix::net::UnixStream;

    fn at(path: &Path) -> io::Result<Option<(Open, UnixListener)>> {
        open(&Place::At(path.to_owned()), "cproxy-server", "1")
    }

    /// A connect would wait for room.
    #[test]
    fn a_program_that_answers_nobody_is_not_dead() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin");
        let at = UnixAddr::new(&path).unwrap();
        let new = || socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
        let listener = new();
        bind(listener.as_raw_fd(), &at).unwrap();
        listen(&listener, Backlog::new(1).unwrap()).unwrap();
        let ask = || {
            let asks = new();
            (connect(asks.as_raw_fd(), &at).is_ok()).then_some(asks)
        };
        let waiting: Vec<_> = std::iter::from_fn(ask).collect();
        assert_eq!(waiting.len(), 2, "one is let in beyond those that may wait");
        assert!(!is_dead(&path).unwrap());
    }

    #[test]
    fn only_a_dead_programs_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin");
        // A program that was killed leaves its socket behind.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (living, listener) = at(&path).unwrap().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = at(&path).unwrap_err().to_string();
        assert!(error.contains("another program answers at"), "{error}");
        drop(listener);
        drop(living);
        assert!(!path.exists(), "a program that ends leaves nothing behind");
        fs::write(&path, "mine").unwrap();
        let error = at(&path).unwrap_err().to_string();
        assert!(error.contains("is a file that is no socket; name another path"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        let error = at(directory.path()).unwrap_err().to_string();
        assert!(error.contains("is a folder; name another path"), "{error}");
        let error = at(&directory.path().join("no/such")).unwrap_err().to_string();
        assert!(error.contains("cannot listen at") && error.contains("name a path in a folder"), "{error}");
    }

    #[test]
    fn a_file_that_is_anothers_by_now_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin");
        let (first, listener) = at(&path).unwrap().unwrap();
        drop(listener);
        let (_second, _listener) = at(&path).unwrap().unwrap();
        drop(first);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn sockets_are_found_by_the_programs_name() {
        let directory = tempfile::tempdir().unwrap();
        let others = ["cproxy-client-7.sock", "cproxy-server", "cproxy-server-9", "cproxy-servers-1.sock"];
        for name in ["cproxy-server-8080.sock"].into_iter().chain(others) {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let found = sockets_in(directory.path(), "cproxy-server");
        assert_eq!(found, [directory.path().join("cproxy-server-8080.sock")]);
        assert!(sockets_in(Path::new("/no/such"), "cproxy-server").is_empty());
    }

    #[test]
    fn the_key_names_a_path_or_says_off() {
        let directory = Path::new("/etc/cproxy");
        assert_eq!(Place::new("off", directory), Place::Off);
        assert_eq!(Place::new("admin.sock", directory), Place::At("/etc/cproxy/admin.sock".into()));
        assert_eq!(Place::new("/run/a", directory), Place::At("/run/a".into()));
    }
}
