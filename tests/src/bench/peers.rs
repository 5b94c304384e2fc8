//! The contestants: how each is started between a visitor and the service, and where its visitors knock.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::cases::{ALONE, Fleet};
use super::procs::Proc;
use super::relay::Trigger;

/// A contestant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No proxy at all.
    Direct,
    /// S: two chained [`super::relay`] processes.
    Relay(Trigger),
    /// Our programs, from this directory; the name they go by in the tables.
    Cproxy { name: String, dir: PathBuf, how: How },
    /// rathole, server and client, from this binary; where openssl is, if they encrypt.
    Rathole { binary: PathBuf, tls: Option<PathBuf> },
    /// Two chained haproxy processes in TCP mode, with `option splice-auto`.
    Haproxy(PathBuf),
    /// bore, server and client.
    Bore(PathBuf),
}

impl Kind {
    /// Whether it takes part in the cases of routes: others stand beside it there.
    pub(super) fn has_routes(&self) -> bool {
        matches!(self, Self::Cproxy { how: How::Plain, .. })
    }

    /// Whether it is like another contestant but for datagrams.
    pub(super) fn only_carries_udp(&self) -> bool {
        matches!(self, Self::Cproxy { how: How::ByUdp, .. })
    }

    /// Whether it forwards UDP.
    pub(super) fn carries_udp(&self) -> bool {
        match self {
            Self::Direct | Self::Relay(_) | Self::Cproxy { .. } | Self::Rathole { .. } => true,
            Self::Haproxy(_) | Self::Bore(_) => false,
        }
    }
}

/// How our programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Plain,
    Tls,
    /// With an access log, and metrics and the page's figures, which are fetched every second.
    Watched,
    /// Datagrams go by UDP between the two.
    ByUdp,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Relay(Trigger::Edge) => "relay",
            Self::Relay(Trigger::Level) => "relay-level",
            Self::Cproxy { name, .. } => name,
            Self::Rathole { tls: None, .. } => "rathole",
            Self::Rathole { tls: Some(_), .. } => "rathole-tls",
            Self::Haproxy(_) => "haproxy",
            Self::Bore(_) => "bore",
        })
    }
}

/// Where the processes stand: the near one, which the visitors reach, and the far one beside the service.
pub(super) struct Site<'a> {
    pub(super) near: IpAddr,
    pub(super) far: IpAddr,
    pub(super) near_namespace: Option<&'a File>,
    pub(super) far_namespace: Option<&'a File>,
}

/// Everything on loopback.
pub(super) const LOOPBACK: Site<'static> = Site {
    near: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    far: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    near_namespace: None,
    far_namespace: None,
};

/// Extra arguments for our own programs.
#[derive(Clone, Default)]
pub(super) struct Extra {
    pub(super) server: Vec<String>,
    pub(super) client: Vec<String>,
}

/// A started peer with a service of its own behind it.
pub(super) struct Running {
    /// Where visitors connect.
    pub(super) target: SocketAddr,
    /// The public ports of all tunnels; this one is the first.
    pub(super) targets: Vec<SocketAddr>,
    /// Where the service itself listens.
    pub(super) service: SocketAddr,
    /// The peer's processes, near one first. Empty for [`Kind::Direct`].
    pub(super) procs: Vec<Proc>,
    pub(super) service_proc: Proc,
    _scraper: Option<Scraper>,
    _dir: TempDir,
}

impl Running {
    /// Starts the service and the peer before it. Visitors can come when this returns; over UDP, where `udp` says so.
    pub(super) fn start(kind: &Kind, site: &Site<'_>, extra: &Extra, udp: bool) -> Result<Self, String> {
        Self::start_fleet(kind, site, extra, udp, ALONE)
    }

    /// The same, of ours with so many tunnels.
    pub(super) fn start_fleet(
        kind: &Kind,
        site: &Site<'_>,
        extra: &Extra,
        udp: bool,
        fleet: Fleet,
    ) -> Result<Self, String> {
        let dir = TempDir::with_prefix("cproxy-bench-").map_err(|e| format!("no directory: {e}"))?;
        let mut service_proc = Proc::start(
            "service",
            ourselves(&["serve", "--listen", &SocketAddr::new(site.far, 0).to_string()])?,
            site.far_namespace,
            dir.path(),
        )?;
        let service = address(&service_proc.line("Listening ")?)?;
        let starter = Starter { site, dir: dir.path(), service, udp, fleet };
        let mut scraper = None;
        let (targets, procs) = match kind {
            Kind::Direct => (vec![service], Vec::new()),
            Kind::Relay(trigger) => starter.relay(*trigger)?,
            Kind::Cproxy { dir, how: How::Watched, .. } => {
                let (started, watched) = starter.watched(dir, extra)?;
                scraper = Some(watched);
                started
            }
            Kind::Cproxy { dir, how: How::ByUdp, .. } => starter.by(dir, extra, "udp")?,
            Kind::Cproxy { dir, how: How::Plain, .. } if udp => starter.by(dir, extra, "tcp")?,
            Kind::Cproxy { dir, how, .. } => starter.cproxy(dir, *how == How::Tls, extra)?,
            Kind::Rathole { binary, tls } => starter.rathole(binary, tls.as_deref())?,
            Kind::Haproxy(binary) => starter.haproxy(binary)?,
            Kind::Bore(binary) => starter.bore(binary)?,
        };
        Ok(Self { target: targets[0], targets, service, procs, service_proc, _scraper: scraper, _dir: dir })
    }

    /// CPU time of the peer's processes so far.
    pub(super) fn cpu(&self) -> Result<Duration, String> {
        self.procs.iter().map(Proc::cpu).sum()
    }
}

/// What our client and server share; no secret, as everything stays on this machine.
pub(super) const TOKEN: &str = "a token of the benchmark, known to all";

/// Where its visitors connect, and its processes.
type Parts = (Vec<SocketAddr>, Vec<Proc>);
type Started = Result<Parts, String>;

struct Starter<'a> {
    site: &'a Site<'a>,
    dir: &'a Path,
    service: SocketAddr,
    udp: bool,
    fleet: Fleet,
}

impl Starter<'_> {
    fn near(&self, name: &str, command: Command) -> Result<Proc, String> {
        Proc::start(name, command, self.site.near_namespace, self.dir)
    }

    fn far(&self, name: &str, command: Command) -> Result<Proc, String> {
        Proc::start(name, command, self.site.far_namespace, self.dir)
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.dir.join(name);
        fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        Ok(path)
    }

    fn relay(&self, trigger: Trigger) -> Started {
        let trigger = match trigger {
            Trigger::Edge => "edge",
            Trigger::Level => "level",
        };
        let hop = |ip: IpAddr, to: SocketAddr| {
            let (listen, to) = (SocketAddr::new(ip, 0).to_string(), to.to_string());
            if self.udp {
                return ourselves(&["datagram-relay", "--listen", &listen, "--to", &to]);
            }
            ourselves(&["relay", "--listen", &listen, "--to", &to, "--trigger", trigger])
        };
        let mut far = self.far("relay-far", hop(self.site.far, self.service)?)?;
        let middle = address(&far.line("Listening ")?)?;
        let mut near = self.near("relay-near", hop(self.site.near, middle)?)?;
        let target = address(&near.line("Listening ")?)?;
        Ok((vec![target], vec![near, far]))
    }

    fn cproxy(&self, dir: &Path, tls: bool, extra: &Extra) -> Started {
        let near_ip = self.site.near.to_string();
        let mut command = Command::new(dir.join("cproxy-server"));
        command.args(["--bind-addr", &near_ip, "--ctl-port", "0", "--proxy-port", "0"]).args(&extra.server);
        // Without a token the server takes clients from loopback only.
        command.env("CPROXY_TOKEN", TOKEN);
        if tls {
            command.arg("--tls").env("STATE_DIRECTORY", self.dir);
        }
        let mut server = self.near("cproxy-server", command)?;
        let line = server.line("Listening ctl ")?;
        let ctl = line.split_whitespace().next().unwrap_or_default().to_owned();
        let pin = if tls { Some(server.line("tls_pin = ")?) } else { None };
        let protocol = if self.udp { "udp" } else { "tcp" };
        let (mut targets, mut procs) = (Vec::new(), vec![server]);
        for _ in 0..self.fleet.clients {
            let mut command = Command::new(dir.join("cproxy-client"));
            command.args(["--cproxy-server", &ctl]).args(self.tunnels(protocol)?);
            if let Some(pin) = &pin {
                command.args(["--tls-pin", pin.trim_matches('"')]);
            }
            command.args(&extra.client).env("CPROXY_TOKEN", TOKEN);
            let mut client = self.far("cproxy-client", command)?;
            for _ in 0..self.fleet.tunnels {
                let line = client.line(&format!("Forwarding {protocol}://"))?;
                targets.push(address(line.split_whitespace().next().unwrap_or_default())?);
            }
            procs.push(client);
        }
        Ok((targets, procs))
    }

    /// The arguments that name a client's tunnels.
    fn tunnels(&self, protocol: &str) -> Result<Vec<String>, String> {
        let local = self.service.to_string();
        if self.fleet.tunnels == 1 {
            return Ok(["--local-server", &local, "--public-port", "0", "--protocol", protocol]
                .map(str::to_owned)
                .into());
        }
        let tunnel = |nth| {
            format!("[[tunnels]]\nname = \"{nth}\"\nlocal = \"{local}\"\npublic_port = 0\nprotocol = \"{protocol}\"\n")
        };
        let text: String = (0..self.fleet.tunnels).map(tunnel).collect();
        Ok(vec!["--config".to_owned(), self.file("tunnels.toml", &text)?.display().to_string()])
    }

    /// Our programs with all that can be watched, and somebody who does.
    fn watched(&self, dir: &Path, extra: &Extra) -> Result<(Parts, Scraper), String> {
        let mut extra = extra.clone();
        let at = [free_address(self.site.near)?, free_address(self.site.far)?];
        for (arguments, name, at) in [(&mut extra.server, "server", at[0]), (&mut extra.client, "client", at[1])] {
            let text = format!("metrics_addr = \"{at}\"\naccess_log = \"{name}.visits\"\n");
            arguments.push(format!("--config={}", self.file(&format!("{name}.toml"), &text)?.display()));
        }
        Ok((self.cproxy(dir, false, &extra)?, Scraper::of(at)?))
    }

    /// Our programs whose datagrams go this way; by UDP those of the first moment, before the path stands, go by conns.
    fn by(&self, dir: &Path, extra: &Extra, way: &str) -> Started {
        let mut extra = extra.clone();
        let text = format!("datagram_transport = \"{way}\"\n");
        let config = format!("--config={}", self.file(&format!("by-{way}.toml"), &text)?.display());
        extra.server.push(config.clone());
        extra.client.push(config);
        self.cproxy(dir, false, &extra)
    }

    fn rathole(&self, binary: &Path, openssl: Option<&Path>) -> Started {
        let (server_tls, client_tls) =
            openssl.map(|openssl| self.rathole_tls(openssl)).transpose()?.unwrap_or_default();
        let [control, public] = [free_address(self.site.near)?, free_address(self.site.near)?];
        let (service, kind) = (self.service, if self.udp { "udp" } else { "tcp" });
        let server_toml = self.file(
            "rathole-server.toml",
            &format!(
                "[server]\nbind_addr = \"{control}\"\ndefault_token = \"benchmark\"\n{server_tls}\
                 [server.services.bench]\ntype = \"{kind}\"\nbind_addr = \"{public}\"\nnodelay = true\n"
            ),
        )?;
        let client_toml = self.file(
            "rathole-client.toml",
            &format!(
                "[client]\nremote_addr = \"{control}\"\ndefault_token = \"benchmark\"\n{client_tls}\
                 [client.services.bench]\ntype = \"{kind}\"\nlocal_addr = \"{service}\"\nnodelay = true\n"
            ),
        )?;
        let mut command = Command::new(binary);
        command.arg("--server").arg(server_toml).env("RUST_LOG", "warn");
        let mut server = self.near("rathole-server", command)?;
        server.wait_for_port(control.port())?;
        let mut command = Command::new(binary);
        command.arg("--client").arg(client_toml).env("RUST_LOG", "warn");
        let client = self.far("rathole-client", command)?;
        // Whoever comes over UDP too early asks again.
        if !self.udp {
            server.wait_for_port(public.port())?;
        }
        Ok((vec![public], vec![server, client]))
    }

    /// What rathole's server's and client's files say of a certificate that openssl makes.
    fn rathole_tls(&self, openssl: &Path) -> Result<(String, String), String> {
        for words in [
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
             -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem",
            "pkcs12 -export -inkey key.pem -in cert.pem -out both.pfx -passout pass:benchmark",
        ] {
            let run = Command::new(openssl).args(words.split_whitespace()).current_dir(self.dir).output();
            let run = run.map_err(|e| format!("cannot run openssl: {e}"))?;
            if !run.status.success() {
                return Err(format!("openssl {words}: {}", String::from_utf8_lossy(&run.stderr)));
            }
        }
        let [pfx, cert] = ["both.pfx", "cert.pem"].map(|name| self.dir.join(name).display().to_string());
        Ok((
            format!(
                "[server.transport]\ntype = \"tls\"\n[server.transport.tls]\npkcs12 = \"{pfx}\"\n\
                 pkcs12_password = \"benchmark\"\n"
            ),
            format!(
                "[client.transport]\ntype = \"tls\"\n[client.transport.tls]\ntrusted_root = \"{cert}\"\n\
                 hostname = \"localhost\"\n"
            ),
        ))
    }

    fn haproxy(&self, binary: &Path) -> Started {
        let hop = |name: &str, listen: SocketAddr, to: SocketAddr| -> Result<Command, String> {
            let text = format!(
                "global\n maxconn 9300\n maxpipes 200\ndefaults\n mode tcp\n option splice-auto\n timeout connect 10s\n \
                 timeout client 1h\n timeout server 1h\nlisten bench\n bind {listen}\n server service {to}\n"
            );
            let mut command = Command::new(binary);
            command.arg("-db").arg("-f").arg(self.file(name, &text)?);
            Ok(command)
        };
        let [outer, middle] = [free_address(self.site.near)?, free_address(self.site.far)?];
        let mut far = self.far("haproxy-far", hop("far.cfg", middle, self.service)?)?;
        far.wait_for_port(middle.port())?;
        let mut near = self.near("haproxy-near", hop("near.cfg", outer, middle)?)?;
        near.wait_for_port(outer.port())?;
        Ok((vec![outer], vec![near, far]))
    }

    fn bore(&self, binary: &Path) -> Started {
        /// bore's control port cannot be chosen.
        const CONTROL: u16 = 7835;
        let near_ip = self.site.near.to_string();
        let public = free_address(self.site.near)?;
        let mut command = Command::new(binary);
        command.args(["server", "--bind-addr", &near_ip, "--min-port", "1024"]);
        let mut server = self.near("bore-server", command)?;
        server.wait_for_port(CONTROL)?;
        let mut command = Command::new(binary);
        command.args(["local", &self.service.port().to_string(), "--to", &near_ip]);
        command.args(["--local-host", &self.service.ip().to_string(), "--port", &public.port().to_string()]);
        let client = self.far("bore-client", command)?;
        server.wait_for_port(public.port())?;
        Ok((vec![public], vec![server, client]))
    }
}

/// Fetches metrics and status every second, until it is dropped.
struct Scraper(#[expect(dead_code, reason = "the thread looks whether it is there")] Arc<()>);

impl Scraper {
    fn of(at: [SocketAddr; 2]) -> Result<Self, String> {
        let scrape = move || -> std::io::Result<()> {
            for (at, path) in at.into_iter().flat_map(|at| [(at, "metrics"), (at, "status.json")]) {
                let mut stream = TcpStream::connect(at)?;
                write!(stream, "GET /{path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                if !answer.starts_with("HTTP/1.1 200") {
                    return Err(std::io::Error::other(answer));
                }
            }
            Ok(())
        };
        scrape().map_err(|error| format!("no metrics: {error}"))?;
        let there = Arc::new(());
        let watched = Arc::downgrade(&there);
        thread::spawn(move || {
            while watched.strong_count() > 0 && scrape().is_ok() {
                thread::sleep(Duration::from_secs(1));
            }
        });
        Ok(Self(there))
    }
}

/// This very program, with the arguments of one of its hidden subcommands.
pub(super) fn ourselves(args: &[&str]) -> Result<Command, String> {
    let path = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
    let mut command = Command::new(path);
    command.args(args);
    Ok(command)
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no address"))
}

/// An address for a program that cannot pick a free port itself.
pub(super) fn free_address(ip: IpAddr) -> Result<SocketAddr, String> {
    // Found on loopback: the address itself may be one of another network namespace, which is as good as empty.
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("no free port: {e}"))?;
    let port = listener.local_addr().map_err(|e| format!("no free port: {e}"))?.port();
    Ok(SocketAddr::new(ip, port))
}

/// The first file called `name` in the directories of `PATH`.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
