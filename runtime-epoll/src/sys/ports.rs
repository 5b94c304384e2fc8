//! What holds a port on which nobody can listen, as far as the kernel tells.

use std::fs::File;
use std::io::{BufRead, BufReader};

/// Whether somebody on this machine listens on `port`. The kernel lists listeners before connections, of which there
/// may be many: these are not read.
pub(crate) fn is_listened_on(port: u16) -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().any(|table| {
        let Ok(file) = File::open(table) else { return false };
        let lines = BufReader::new(file).lines().skip(1).map_while(Result::ok);
        let mut listeners = lines.map_while(|line| listener(&line));
        listeners.any(|listened| listened == port)
    })
}

/// The port of a line of the table; `None` if it is no listener's.
fn listener(line: &str) -> Option<u16> {
    let mut fields = line.split_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    // TCP_LISTEN.
    if state == "0A" { u16::from_str_radix(port, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn listeners_are_told_from_connections() {
        for host in ["127.0.0.1", "[::1]"] {
            let Ok(listener) = TcpListener::bind(format!("{host}:0")) else { continue };
            let at = listener.local_addr().unwrap();
            let connection = TcpStream::connect(at).unwrap();
            assert!(is_listened_on(at.port()));
            drop(listener);
            assert!(!is_listened_on(at.port()), "its connection is there still");
            assert!(!is_listened_on(connection.local_addr().unwrap().port()));
        }
    }
}
