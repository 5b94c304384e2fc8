//! What systemd is told of a service of `Type=notify`. Elsewhere nothing happens.

use nix::time::{ClockId, clock_gettime};
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The environment variable in which systemd names its socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

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

fn tell(what: &str, text: impl FnOnce() -> io::Result<String>) {
    if let Some(socket) = env::var_os(VARIABLE)
        && let Err(error) = text().and_then(|text| send(&socket, &text))
    {
        tracing::warn!(event = "systemd_not_told", "cannot tell systemd {what} ({VARIABLE}): {error}");
    }
}

fn send(socket: &OsStr, text: &str) -> io::Result<()> {
    let to = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &to).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_reaches_a_socket_of_either_kind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("@cproxy-notify-{}", std::process::id());
        let hidden = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap();
        for (socket, bound) in
            [(path.as_os_str(), UnixDatagram::bind(&path)), (OsStr::new(&name), UnixDatagram::bind_addr(&hidden))]
        {
            send(socket, "READY=1").unwrap();
            let mut got = [0; 32];
            let length = bound.unwrap().recv(&mut got).unwrap();
            assert_eq!(&got[..length], b"READY=1");
        }
        assert!(send(OsStr::new("/no/such/socket"), "READY=1").is_err());
    }
}
