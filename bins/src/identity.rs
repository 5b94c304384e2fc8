//! Who a client is. Across a restart the same identity takes over the ports that the dead session still
//! holds; two clients that run side by side must not share one.

use crate::config::{Ports, TunnelEntry};
use nix::sys::utsname::uname;
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

/// What tells this machine from others.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    machine_id: Vec<u8>,
    hostname: Vec<u8>,
}

impl Machine {
    /// This machine. What cannot be read counts as empty: in a container the other part differs.
    #[must_use]
    pub fn here() -> Self {
        // Not from /proc, which a sandbox may hide. The line end is that of /proc: identities stay as they were.
        let hostname = uname().map(|system| [system.nodename().as_bytes(), b"\n"].concat());
        Self { machine_id: fs::read("/etc/machine-id").unwrap_or_default(), hostname: hostname.unwrap_or_default() }
    }
}

/// The identity to show to the server: made of `chosen` if the user chose a text; else, if a tunnel asks
/// for a port or a host of its own, of the machine and the tunnels, so that a restarted client gets its ports back
/// at once; else random.
///
/// # Errors
/// There is no randomness to read.
// PROTOCOL.md: P-ID-4.
pub fn client_id(chosen: Option<&str>, machine: &Machine, tunnels: &[TunnelEntry]) -> io::Result<[u8; 16]> {
    if let Some(text) = chosen {
        return Ok(hash(&[b"chosen", text.as_bytes()]));
    }
    if tunnels.iter().all(|tunnel| tunnel.public_ports == Ports::one(0) && tunnel.sites.is_empty()) {
        let mut id = [0; 16];
        runtime_epoll::random_bytes(&mut id)?;
        return Ok(id);
    }
    let line = |t: &TunnelEntry| {
        let sites: String = t.sites.iter().map(|site| format!("\n{site}")).collect();
        let at = t.bind_addr.map(|address| format!("{address} ")).unwrap_or_default();
        format!("{}\n{at}{}\n{}{sites}", t.name, t.public_ports, t.local)
    };
    let mut lines: Vec<String> = tunnels.iter().map(line).collect();
    // The order in the file means nothing.
    lines.sort_unstable();
    let mut parts = vec![&b"machine"[..], &machine.machine_id, &machine.hostname];
    parts.extend(lines.iter().map(String::as_bytes));
    Ok(hash(&parts))
}

/// The first half of the SHA-256 of `parts`, each behind its length so that no two lists run together.
fn hash(parts: &[&[u8]]) -> [u8; 16] {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_be_bytes());
        sha.update(part);
    }
    let digest: [u8; 32] = sha.finalize().into();
    std::array::from_fn(|i| digest[i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::local_address;
    use protocol_sm::settings::{Serving, TunnelLimits};

    fn tunnel(name: &str, public_port: u16) -> TunnelEntry {
        TunnelEntry {
            name: name.into(),
            local: local_address("127.0.0.1:22").unwrap(),
            local_sources: Vec::new(),
            public_ports: Ports::one(public_port),
            bind_addr: None,
            sites: Vec::new(),
            limits: TunnelLimits::default(),
            serving: Serving::default(),
        }
    }

    fn id(tunnels: &[TunnelEntry]) -> [u8; 16] {
        client_id(None, &Machine::here(), tunnels).unwrap()
    }

    #[test]
    fn a_client_with_ports_of_its_own_keeps_its_identity() {
        let (a, b) = (tunnel("a", 6000), tunnel("b", 0));
        assert_eq!(id(&[a.clone(), b.clone()]), id(&[b.clone(), a.clone()]));
        assert_ne!(id(&[a.clone(), b]), id(std::slice::from_ref(&a)));
        let elsewhere = Machine { hostname: b"elsewhere\n".to_vec(), ..Machine::here() };
        assert_ne!(client_id(None, &elsewhere, std::slice::from_ref(&a)).unwrap(), id(&[a]));
    }

    #[test]
    fn a_client_that_takes_any_port_is_new_each_time() {
        assert_ne!(id(&[tunnel("a", 0)]), id(&[tunnel("a", 0)]));
    }

    #[test]
    fn a_chosen_identity_depends_on_nothing_else() {
        let chosen = |text| client_id(Some(text), &Machine::here(), &[tunnel("a", 1)]).unwrap();
        assert_eq!(chosen("x"), client_id(Some("x"), &Machine::default(), &[]).unwrap());
        assert_ne!(chosen("x"), chosen("y"));
    }
}
