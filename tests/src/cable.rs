//! Network namespaces with real network interfaces: pairs of veth, as many and with such addresses as a test wants, made
//! with ip(8). Needs root.

use crate::link::Namespace;
use std::io::Write;
use std::process::Command;

/// Two namespaces, joined by cables whose ends are called `eth0`, `eth1` and so on in both.
#[derive(Debug)]
pub struct Cables {
    /// Where the server and its visitors are.
    pub near: Namespace,
    /// Where the client and the LocalServers are.
    pub far: Namespace,
}

impl Cables {
    /// Joins two new namespaces with `count` cables. `None`, said loudly, where the right or the program for it is
    /// missing.
    ///
    /// # Panics
    /// It cannot be made although both are there.
    #[must_use]
    pub fn new(count: usize) -> Option<Self> {
        if !crate::namespaces_allowed() {
            return None;
        }
        if Command::new("ip").arg("-V").output().is_err() {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            let _ = writeln!(std::io::stderr(), "SKIPPED {test}: needs ip(8)");
            return None;
        }
        let cables = Self { near: Namespace::alone(), far: Namespace::alone() };
        for cable in 0..count {
            let far = cables.far.path();
            cables.near.must(&format!("ip link add eth{cable} type veth peer name eth{cable} netns {far}"));
            for end in [&cables.near, &cables.far] {
                end.must(&format!("ip link set eth{cable} addrgenmode none && ip link set eth{cable} up"));
            }
        }
        Some(cables)
    }
}

impl Namespace {
    /// Runs a shell's command inside; returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn must(&self, command: &str) -> String {
        let run = self.run(|| Command::new("sh").args(["-c", command]).output().expect("run sh"));
        assert!(run.status.success(), "{command}: {}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).expect("text")
    }
}
