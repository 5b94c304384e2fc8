//! End-to-end tests of `cproxy-server` and `cproxy-client`: the real programs, real sockets, loopback only.
pub mod exchange;
pub mod gate;
pub mod leaks;
pub mod payload;
pub mod process;
pub mod programs;
pub mod services;
pub mod sockets;
pub mod visits;
pub mod wait;
pub mod bench;

/// Ends the test early, loudly, where it is not run by root: what needs namespaces needs root.
#[macro_export]
macro_rules! root_only {
    () => {
        if !$crate::namespaces_allowed() {
            eprintln!("{}: SKIPPED: needs root (mount and network namespaces)", module_path!());
            return;
        }
    };
}

/// Whether this process may make mount and network namespaces.
#[must_use]
pub fn namespaces_allowed() -> bool {
    let probe = std::process::Command::new("unshare").args(["--mount", "--net", "true"]).output();
    probe.is_ok_and(|probe| probe.status.success())
}
