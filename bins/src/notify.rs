//! What systemd is told of a service of `Type=notify`. Elsewhere nothing happens.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The environment variable in which systemd names its socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Tells systemd that the start is through, and `status` as the line that `systemctl status` shows.
pub fn ready(status: &str) {
    if let Some(socket) = env::var_os(VARIABLE)
        && let Err(error) = send(&socket, &format!("READY=1\nSTATUS={status}"))
    {
        tracing::warn!(
            event = "systemd_not_told",
            "cannot tell systemd that the start is through ({VARIABLE}): {error}"
        );
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
