//! Our programs with one service that is reached by a port, by the host of a request, by the name in TLS, and over TLS
//! that ends at the server; and haproxy in their place.

use super::peers::{Extra, TOKEN, address, free_address, ourselves};
use super::procs::Proc;
use crate::papers::Papers;
use rcgen::DnType;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The host of requests, over TLS, too.
pub(super) const HOST: &str = "bench.example";
/// The host of TLS that is passed on as it is.
pub(super) const PASSED: &str = "passed.example";

/// See the module.
pub(super) struct House {
    /// Where the service itself listens.
    pub(super) service: SocketAddr,
    /// Its public port.
    pub(super) port: SocketAddr,
    /// The ports of hosts.
    pub(super) http: SocketAddr,
    pub(super) https: SocketAddr,
    /// Its certificate, and who has signed that.
    pub(super) papers: Papers,
    /// The server first.
    procs: Vec<Proc>,
    dir: TempDir,
}

/// Two chained haproxy processes, of which the near one ends TLS.
pub(super) struct Haproxy {
    /// Where visitors connect.
    pub(super) at: SocketAddr,
    _procs: [Proc; 2],
}

impl House {
    /// Starts it all. Visitors can come when this returns.
    pub(super) fn start(dir: &Path, extra: &Extra) -> Result<Self, String> {
        let own = TempDir::with_prefix("cproxy-bench-").map_err(|e| format!("no directory: {e}"))?;
        let papers = Papers::new();
        papers.issue_with("site", &[HOST], |params| params.distinguished_name.push(DnType::CommonName, "site"));
        let [cert, key] = ["site.pem", "site-key.pem"].map(|name| papers.path(name));
        let serve = ourselves(&["serve", "--listen", "127.0.0.1:0"])?;
        let mut service_proc = Proc::start("service", serve, None, own.path())?;
        let service = address(&service_proc.line("Listening ")?)?;
        let server_toml = format!(
            "bind_addr = \"127.0.0.1\"\nctl_port = 0\nproxy_port = 0\nhttp_port = 0\nhttps_port = 0\nroute_timeout = 600\n\
             max_handshakes = 20000\nmax_handshakes_per_source = 20000\n\
             [[certificates]]\ncert = {cert:?}\nkey = {key:?}\n"
        );
        let mut server = started("cproxy-server", dir, &own, "server.toml", &server_toml, &extra.server)?;
        let line = server.line("Listening ctl ")?;
        let [ctl, "proxy", _, "http", http, "https", https] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err(format!("cproxy-server says \"{line}\""));
        };
        let tunnel =
            |name: &str, more: &str| format!("[[tunnels]]\nname = \"{name}\"\nlocal = \"{service}\"\n{more}\n");
        let client_toml = [
            format!("server = \"{ctl}\"\n"),
            tunnel("port", "public_port = 0"),
            tunnel("http", &format!("hosts = [\"{HOST}\"]")),
            tunnel("https", &format!("hosts = [\"{PASSED}\"]\nprotocol = \"https\"")),
        ];
        let mut client = started("cproxy-client", dir, &own, "client.toml", &client_toml.concat(), &extra.client)?;
        let (mut port, mut hosts) = (None, 0);
        while port.is_none() || hosts < 2 {
            let line = client.line("Forwarding ")?;
            match line.strip_prefix("tcp://").and_then(|rest| rest.split(' ').next()) {
                Some(at) => port = Some(address(at)?),
                None => hosts += 1,
            }
        }
        let [http, https] = [address(http)?, address(https)?];
        let port = port.ok_or("no public port")?;
        Ok(Self { service, port, http, https, papers, procs: vec![server, client, service_proc], dir: own })
    }

    pub(super) fn server(&self) -> &Proc {
        &self.procs[0]
    }

    /// haproxy in front of the same service, with the same certificate.
    pub(super) fn haproxy(&self, binary: &Path) -> Result<Haproxy, String> {
        let pem = ["site.pem", "site-key.pem"].map(|name| fs::read_to_string(self.papers.path(name)));
        let [cert, key] = pem.map(|text| text.map_err(|e| format!("no certificate: {e}")));
        let pem = self.file("haproxy.pem", &(cert? + &key?))?;
        let [outer, middle] = [free_address(Ipv4Addr::LOCALHOST.into())?, free_address(Ipv4Addr::LOCALHOST.into())?];
        let hop = |name: &str, listen: String, to: SocketAddr| {
            let text = format!(
                "global\n maxconn 2000\ndefaults\n mode tcp\n option splice-auto\n timeout connect 10s\n \
                 timeout client 1h\n timeout server 1h\nlisten bench\n bind {listen}\n server service {to}\n"
            );
            let mut command = Command::new(binary);
            command.arg("-db").arg("-f").arg(self.file(name, &text)?);
            Proc::start(name, command, None, self.dir.path())
        };
        let mut far = hop("far.cfg", middle.to_string(), self.service)?;
        far.wait_for_port(middle.port())?;
        let mut near = hop("near.cfg", format!("{outer} ssl crt {}", pem.display()), middle)?;
        near.wait_for_port(outer.port())?;
        Ok(Haproxy { at: outer, _procs: [near, far] })
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        write(&self.dir, name, text)
    }
}

fn write(dir: &TempDir, name: &str, text: &str) -> Result<PathBuf, String> {
    let path = dir.path().join(name);
    fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(path)
}

fn started(program: &str, from: &Path, dir: &TempDir, name: &str, text: &str, more: &[String]) -> Result<Proc, String> {
    let mut command = Command::new(from.join(program));
    command.arg("--config").arg(write(dir, name, text)?).args(more).env("CPROXY_TOKEN", TOKEN);
    Proc::start(program, command, None, dir.path())
}
