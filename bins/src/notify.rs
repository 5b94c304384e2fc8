//! What systemd is told of a service of `Type=notify`. Elsewhere nothing happens.

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use nix::time::{ClockId, clock_gettime};
use std::env;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// The environment variable in which systemd names its socket.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// How long systemd may take to make room for a message.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether systemd, or who speaks as it does, wants to be told.
#[must_use]
pub fn is_awaited() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// Tells systemd that the start or a reload is through, and `status`, if it is another one, as the line that
/// `systemctl status` shows.
pub fn ready(status: Option<&str>) {
    let status = status.map(|status| format!("\nSTATUS={status}")).unwrap_or_default();
    tell("that the start is through", || Ok(format!("READY=1{status}")));
}

/// Tells systemd that process `pid` is the service from now on.
// It comes after this process's other words, and before any of that one's: systemd hears the main process only.
pub fn successor(pid: u32) {
    tell("that another process serves", || Ok(format!("READY=1\nMAINPID={pid}\nSTATUS=upgraded")));
}

/// Tells systemd that a reload begins. It ends with [`ready`].
pub fn reloading() {
    tell("that a reload begins", || {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let microseconds = i128::from(now.tv_sec()) * 1_000_000 + i128::from(now.tv_nsec()) / 1_000;
        Ok(format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"))
    });
}

/// Gives a listening socket to systemd, which gives it to the next process of this service under the same name, where the
/// unit has a `FileDescriptorStoreMax=`; a service that is stopped for good loses it.
pub fn keep(name: &str, socket: impl AsFd) {
    let text = || Ok(format!("FDSTORE=1\nFDNAME={name}"));
    tell_with("to keep a socket", text, &[socket.as_fd().as_raw_fd()]);
}

/// What systemd has kept under this name it keeps no longer.
pub fn forget(name: &str) {
    tell("to forget a socket", || Ok(format!("FDSTOREREMOVE=1\nFDNAME={name}")));
}

fn tell(what: &str, text: impl FnOnce() -> io::Result<String>) {
    tell_with(what, text, &[]);
}

fn tell_with(what: &str, text: impl FnOnce() -> io::Result<String>, fds: &[RawFd]) {
    if let Some(socket) = env::var_os(VARIABLE)
        && let Err(error) = text().and_then(|text| send(&socket, &text, fds))
    {
        tracing::warn!(event = "systemd_not_told", "cannot tell systemd {what} ({VARIABLE}): {error}");
    }
}

fn send(socket: &OsStr, text: &str, fds: &[RawFd]) -> io::Result<()> {
    let to = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(socket)?,
    };
    let from = UnixDatagram::unbound()?;
    from.set_write_timeout(Some(PATIENCE))?;
    let passed = [ControlMessage::ScmRights(fds)];
    let passed = if fds.is_empty() { &[][..] } else { &passed };
    let text = [IoSlice::new(text.as_bytes())];
    loop {
        match sendmsg(from.as_raw_fd(), &text, passed, MsgFlags::empty(), Some(&to)) {
            Err(Errno::EINTR) => {}
            sent => return sent.map(drop).map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::cmsg_space;
    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use std::io::IoSliceMut;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    #[test]
    fn the_text_reaches_a_socket_of_either_kind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("@cproxy-notify-{}", std::process::id());
        let hidden = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap();
        for (socket, bound) in
            [(path.as_os_str(), UnixDatagram::bind(&path)), (OsStr::new(&name), UnixDatagram::bind_addr(&hidden))]
        {
            send(socket, "READY=1", &[]).unwrap();
            let (mut got, bound) = ([0; 32], bound.unwrap());
            let length = bound.recv(&mut got).unwrap();
            assert_eq!(&got[..length], b"READY=1");
            send(socket, "FDSTORE=1", &[bound.as_raw_fd()]).unwrap();
            let (mut room, mut parts) = (cmsg_space!(RawFd), [IoSliceMut::new(&mut got)]);
            let message =
                recvmsg::<()>(bound.as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
            let passed = message.cmsgs().unwrap().next();
            assert!(matches!(passed, Some(ControlMessageOwned::ScmRights(fds)) if fds.len() == 1), "one descriptor");
        }
        assert!(send(OsStr::new("/no/such/socket"), "READY=1", &[]).is_err());
    }
}
