//! What a program is started with: flags, keys of its configuration file, its environment, what wraps it.

use crate::group::Group;
use crate::link::Namespace;
use crate::sockets::free_port;
use std::fmt::{Display, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// What a program is started with, besides what every test needs.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub(super) flags: Vec<String>,
    keys: Vec<(String, String)>,
    tables: String,
    pub(super) tunnels: Vec<Tunnel>,
    pub(super) env: Vec<(String, String)>,
    brisk: bool,
    pub(super) server: Option<String>,
    pub(super) wrappers: Vec<Vec<String>>,
    /// Where the programs are, if not where they were built.
    pub(super) programs: Option<PathBuf>,
    /// Where the program keeps what outlives it.
    pub(super) state: Option<Arc<TempDir>>,
    pub(super) unread_stdout: bool,
    pub(super) unread_stderr: bool,
}

/// One of a client's tunnels.
#[derive(Clone, Debug)]
pub(super) struct Tunnel {
    pub(super) name: String,
    pub(super) local: String,
    pub(super) public_port: u16,
    /// Lines of the configuration file; without any, the only tunnel goes on the command line.
    keys: String,
}

/// Options to add to; the programs' own defaults until then.
#[must_use]
pub fn options() -> Options {
    Options::default()
}

impl Options {
    /// Adds `--name=value`.
    #[must_use]
    pub fn flag(mut self, name: &str, value: impl Display) -> Self {
        self.flags.push(format!("--{name}={value}"));
        self
    }

    /// Adds a top-level line `name = value` to the configuration file; `value` is TOML as it stands.
    #[must_use]
    pub fn key(mut self, name: &str, value: impl Display) -> Self {
        self.keys.push((name.to_owned(), value.to_string()));
        self
    }

    /// Server: has one port for clients, and for visitors of hosts.
    #[must_use]
    pub fn one_port(self) -> Self {
        let port = free_port();
        let own = self.flag("ctl-port", port).flag("proxy-port", port);
        own.key("http_port", port).key("https_port", port)
    }

    /// Adds tables to the configuration file, as they stand.
    #[must_use]
    pub fn tables(mut self, toml: &str) -> Self {
        self.tables.push_str(toml);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs a program of this folder.
    #[must_use]
    pub fn programs_in(mut self, folder: &Path) -> Self {
        self.programs = Some(folder.to_owned());
        self
    }

    /// Event-loop threads.
    #[must_use]
    pub fn threads(self, count: usize) -> Self {
        self.flag("work-thread-nums", count)
    }

    /// Server: encrypts, with a certificate that it makes itself. Clients that are started with it pin its key.
    ///
    /// # Panics
    /// If there is no room for a directory.
    #[must_use]
    pub fn tls(mut self) -> Self {
        let state = TempDir::new().expect("a temporary directory");
        self = self.flag("tls", true).env("STATE_DIRECTORY", state.path().to_str().expect("a path in UTF-8"));
        self.state = Some(Arc::new(state));
        self
    }

    /// Does not encrypt, whatever the other side wants.
    #[must_use]
    pub fn in_the_clear(self) -> Self {
        self.flag("tls", false)
    }

    pub(super) fn says_tls(&self) -> bool {
        self.flags.iter().any(|flag| flag.starts_with("--tls"))
            || self.keys.iter().any(|(key, _)| key.starts_with("tls"))
    }

    /// Short timings, so that a loss is noticed and mended within a test's time.
    #[must_use]
    pub fn brisk(mut self) -> Self {
        self.brisk = true;
        self
    }

    /// Client: exposes `local` on a port of the server's choice.
    #[must_use]
    pub fn tunnel(self, local: impl Display) -> Self {
        self.tunnel_at(local, 0)
    }

    /// Client: exposes `local` on `public_port`.
    #[must_use]
    pub fn tunnel_at(mut self, local: impl Display, public_port: u16) -> Self {
        let name = format!("tunnel-{}", self.tunnels.len());
        self.tunnels.push(Tunnel { name, local: local.to_string(), public_port, keys: String::new() });
        self
    }

    /// Client: adds a line `name = value` to the tunnel that was added last; `value` is TOML as it stands.
    ///
    /// # Panics
    /// If there is no tunnel yet.
    #[must_use]
    pub fn tunnel_key(mut self, name: &str, value: impl Display) -> Self {
        let tunnel = self.tunnels.last_mut().expect("a tunnel to add it to");
        let _ = writeln!(tunnel.keys, "{name} = {value}");
        self
    }

    /// Client: reaches the server at this `HOST:PORT` instead of directly.
    #[must_use]
    pub fn via(mut self, server: impl Display) -> Self {
        self.server = Some(server.to_string());
        self
    }

    /// Allows at most `count` open descriptors.
    #[must_use]
    pub fn descriptor_limit(self, count: usize) -> Self {
        let limit = r#"ulimit -n "$0" && exec "$@""#;
        self.wrapped(&["sh", "-c", limit, &count.to_string()])
    }

    /// Puts the file `hosts` in the place of `/etc/hosts`, for this program only. Needs root.
    #[must_use]
    pub fn hosts(self, hosts: &Path) -> Self {
        let hosts = hosts.to_str().expect("a path in UTF-8");
        let mount = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
        self.wrapped(&["unshare", "--mount", "sh", "-c", mount, hosts])
    }

    /// Puts the file `resolver` in the place of `/etc/resolv.conf`, for this program only. Needs root.
    #[must_use]
    pub fn resolver(self, resolver: &Path) -> Self {
        let resolver = resolver.to_str().expect("a path in UTF-8");
        let mount = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
        self.wrapped(&["unshare", "--mount", "sh", "-c", mount, resolver])
    }

    /// Runs it in a network namespace. Needs root.
    #[must_use]
    pub fn network(self, namespace: &Namespace) -> Self {
        self.wrapped(&["nsenter", &format!("--net={}", namespace.path()), "--"])
    }

    /// Runs it in a control group of processes. Needs root.
    #[must_use]
    pub fn group(self, group: &Group) -> Self {
        let procs = group.path().join("cgroup.procs");
        let procs = procs.to_str().expect("a path in UTF-8");
        self.wrapped(&["sh", "-c", r#"echo $$ > "$0" && exec "$@""#, procs])
    }

    /// The system refuses some calls of it, as strace(1) is told by `inject`: `splice:error=EPERM`. For root, or where
    /// everybody may trace their own programs.
    #[must_use]
    pub fn refused(self, inject: &str) -> Self {
        let (call, inject) = (inject.split(':').next().expect("a call"), format!("inject={inject}"));
        let trace = format!("trace={call}");
        // -D: the program is our child, and strace its own.
        self.wrapped(&["strace", "-D", "-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null", "-e", &trace, "-e", &inject])
    }

    /// Puts words before the command; what they run keeps the process id.
    fn wrapped(mut self, words: &[&str]) -> Self {
        self.wrappers.push(words.iter().map(|&word| word.to_owned()).collect());
        self
    }

    /// The tunnel that goes on the command line.
    pub(super) fn only_tunnel(&self) -> Option<&Tunnel> {
        match &self.tunnels[..] {
            [only] if only.keys.is_empty() => Some(only),
            _ => None,
        }
    }

    /// Its standard error is a full pipe that nobody reads, until [`Program::read_stderr`](super::Program::read_stderr).
    #[must_use]
    pub fn unread_stderr(mut self) -> Self {
        self.unread_stderr = true;
        self
    }

    /// Its standard output is a full pipe that nobody reads.
    #[must_use]
    pub fn unread_stdout(mut self) -> Self {
        self.unread_stdout = true;
        self
    }

    /// Runs it without any privilege, even those of root.
    #[must_use]
    pub fn without_privileges(self) -> Self {
        self.wrapped(&["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
    }

    /// The configuration file, if one is needed.
    pub(super) fn config(&self, brisk_keys: &[(&str, &str)]) -> Option<String> {
        let mut text = String::new();
        if self.brisk {
            let set = |name: &str| self.keys.iter().any(|(key, _)| key == name);
            for (name, value) in brisk_keys.iter().filter(|(name, _)| !set(name)) {
                let _ = writeln!(text, "{name} = {value}");
            }
        }
        for (name, value) in &self.keys {
            let _ = writeln!(text, "{name} = {value}");
        }
        text.push_str(&self.tables);
        if self.only_tunnel().is_none() {
            for Tunnel { name, local, public_port, keys } in &self.tunnels {
                let _ =
                    writeln!(text, "[[tunnels]]\nname = \"{name}\"\nlocal = \"{local}\"\npublic_port = {public_port}");
                text.push_str(keys);
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

pub(super) const BRISK_SERVER: &[(&str, &str)] = &[
    ("heartbeat_interval", "0.3"),
    ("heartbeat_timeout", "2"),
    ("handshake_timeout", "2"),
    ("session_grace", "5"),
    ("transfer_grace", "5"),
    ("wait_timeout", "2"),
    ("dial_timeout", "2"),
    ("idle_ping_interval", "0.3"),
    ("idle_ping_timeout", "1"),
    ("idle_conn_lifetime", "1"),
];

pub(super) const BRISK_CLIENT: &[(&str, &str)] = &[
    ("heartbeat_interval", "0.3"),
    ("heartbeat_timeout", "2"),
    ("handshake_timeout", "2"),
    ("session_grace", "5"),
    ("transfer_grace", "5"),
    ("dial_timeout", "2"),
    ("reconnect_min", "0.02"),
    ("reconnect_max", "0.2"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_holds_keys_before_tables() {
        let options = options().key("a", 1).tunnel("x:1").tunnel_at("y:2", 7).brisk().key("b", "\"t\"");
        let text = options.config(&[("a", "9"), ("c", "3")]).unwrap();
        assert!(text.starts_with("c = 3\na = 1\nb = \"t\"\n[[tunnels]]\nname = \"tunnel-0\"\nlocal = \"x:1\""));
        assert!(text.ends_with("local = \"y:2\"\npublic_port = 7\n"));
        assert_eq!(super::options().tunnel("x:1").config(&[("a", "9")]), None);
    }
}
