//! Unix sockets of a LocalServer: connecting to one, and why that fails.
//!
//! What differs from TCP there, as between any two programs: a socket that is dropped is read as an end by a peer that has
//! sent nothing unread, because the kernel resets for unread bytes alone; and what was written stays readable for the peer
//! whatever becomes of the writer.

use super::errno::sys_error;
use super::options;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::geteuid;
use protocol_sm::driver::SysError;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Connects to the socket at `path`, in the abstract namespace if it begins with `@`: at once, or not at all.
pub(super) fn connect_to(path: &str) -> Result<OwnedFd, SysError> {
    let address = match path.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes()),
        None => UnixAddr::new(path),
    };
    let address = address.map_err(sys_error)?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(sys_error)?;
    options::on_unix(&fd);
    loop {
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => return Ok(fd),
            Err(Errno::EINTR) => {}
            Err(Errno::ENOENT) => return Err(SysError::Refused),
            Err(errno) => return Err(sys_error(errno)),
        }
    }
}

/// What keeps this process from connecting to the Unix socket at `path` (in the abstract namespace if it begins with `@`):
/// a sentence that says what to do. `None` if nothing does.
#[must_use]
pub fn unix_trouble(path: &str) -> Option<String> {
    connect_to(path).err().map(|error| why_not(path, error))
}

/// What is wrong with the socket at `path`, to which a connect failed with `error`: a sentence that says what to do.
pub(crate) fn why_not(path: &str, error: SysError) -> String {
    let nobody = "nobody listens there; start the service, or correct the tunnel's `local`";
    if error == SysError::WouldBlock {
        return format!(
            "the service at `{path}` accepts nobody, and as many wait there as it lets: visitors wait for it up to \
             dial_timeout"
        );
    }
    if path.starts_with('@') {
        return format!("the service at the abstract socket `{path}` cannot be reached ({error}): {nobody}");
    }
    let file = match fs::metadata(path) {
        Ok(file) => file,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            return format!("there is no socket `{path}`: {nobody}");
        }
        Err(error) => {
            let user = geteuid();
            return format!(
                "the socket `{path}` cannot be looked at as user {user} ({error}); give this user the right to search the \
                 directories on the way there"
            );
        }
    };
    match (file.file_type(), error) {
        (kind, _) if kind.is_dir() => format!("`{path}` is a directory; name the socket in it in the tunnel's `local`"),
        (kind, _) if !kind.is_socket() => format!("`{path}` is no socket; correct the tunnel's `local`"),
        (_, SysError::Denied) => {
            let (owner, user) = (file.uid(), geteuid());
            format!(
                "user {user} may not connect to the socket `{path}`, which belongs to user {owner}; whoever connects needs \
                 the right to write to it: let the service give it, or run this client as a user who has it"
            )
        }
        (_, SysError::Refused) => format!("the socket `{path}` was left behind: {nobody}"),
        _ => format!(
            "the service at the socket `{path}` cannot be reached: {error}; the socket must be one for streams, not for \
             datagrams"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

    fn said(path: &str) -> (SysError, String) {
        let error = connect_to(path).unwrap_err();
        (error, why_not(path, error))
    }

    #[test]
    fn whatever_stands_in_the_way_is_said_and_what_to_do() {
        let directory = std::env::temp_dir().join(format!("cproxy-unix-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let at = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        fs::write(at("file"), "").unwrap();
        let _datagrams = UnixDatagram::bind(at("datagrams")).unwrap();
        drop(UnixListener::bind(at("left")).unwrap());
        for (path, error, sentence) in [
            (at("missing"), SysError::Refused, "there is no socket"),
            (at("."), SysError::Refused, "is a directory"),
            (at("file"), SysError::Refused, "is no socket"),
            (at("file/x"), SysError::Other(libc::ENOTDIR), "cannot be looked at"),
            (at("left"), SysError::Refused, "was left behind"),
            (at("datagrams"), SysError::Other(libc::EPROTOTYPE), "one for streams"),
            ("@cproxy-nobody".to_owned(), SysError::Refused, "abstract socket `@cproxy-nobody`"),
        ] {
            let (was, said) = said(&path);
            assert!(was == error && said.contains(sentence) && said.contains(&path), "{was:?} {said}");
        }
        let denied = why_not(&at("left"), SysError::Denied);
        assert!(denied.contains("belongs to user") && denied.contains("the right to write"), "{denied}");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_full_backlog_is_no_failure_of_the_service() {
        let path = format!("@cproxy-full-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&path[1..]).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        // std's backlog is that of the system.
        let mut waiting = Vec::new();
        let error = loop {
            match connect_to(&path) {
                Ok(fd) => waiting.push(fd),
                Err(error) => break error,
            }
            assert!(waiting.len() < 100_000, "it has no end");
        };
        assert_eq!(error, SysError::WouldBlock);
        assert!(why_not(&path, error).contains("accepts nobody"));
    }
}
