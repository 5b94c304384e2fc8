//! Our programs with one service that is reached by a port, by the host of a request, by the name in TLS, and over TLS
//! that ends at the server; and haproxy or nginx in their place.

use super::peers::{Extra, TOKEN, address, free_address, on_path, ourselves};
use super::procs::Proc;
use crate::papers::Papers;
use rcgen::DnType;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;
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

/// Two hops of another program, of which the near one ends TLS.
pub(super) struct Hops {
    /// Where visitors connect.
    pub(super) at: SocketAddr,
    _procs: Vec<Proc>,
}

/// nginx with its module for streams.
pub(super) struct Nginx {
    binary: PathBuf,
    /// The module, where it is a file of its own.
    module: Option<PathBuf>,
}

impl Nginx {
    /// The one on PATH.
    pub(super) fn find() -> Result<Self, String> {
        /// Where Debian has it.
        const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
        let binary = on_path("nginx").ok_or("nginx is not on PATH")?;
        let module = PathBuf::from(MODULE);
        let built = Command::new(&binary).arg("-V").output().map_err(|e| format!("cannot run nginx: {e}"))?;
        let built = String::from_utf8_lossy(&built.stderr);
        let has = |option: &str| built.split_whitespace().any(|word| word == option);
        if !has("--with-stream_ssl_module") {
            return Err("this nginx has no streams with TLS".to_owned());
        }
        match (module.is_file(), has("--with-stream")) {
            (true, _) => Ok(Self { binary, module: Some(module) }),
            (false, true) => Ok(Self { binary, module: None }),
            (false, false) => Err("nginx's module for streams (libnginx-mod-stream) is not installed".to_owned()),
        }
    }
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
    pub(super) fn haproxy(&self, binary: &Path) -> Result<Hops, String> {
        let [cert, key] = self.certificate().map(fs::read_to_string).map(|text| text.map_err(|e| e.to_string()));
        let pem = self.file("haproxy.pem", &(cert? + &key?))?;
        self.hops(1, |name, listen, to, near| {
            let tls = if near { format!(" ssl crt {}", pem.display()) } else { String::new() };
            let text = format!(
                "global\n maxconn 2000\ndefaults\n mode tcp\n option splice-auto\n timeout connect 10s\n \
                 timeout client 1h\n timeout server 1h\nlisten bench\n bind {listen}{tls}\n server service {to}\n"
            );
            let mut command = Command::new(binary);
            command.arg("-db").arg("-f").arg(self.file(name, &text)?);
            Ok(command)
        })
    }

    /// nginx, as haproxy. Its workers would outlive a master that is killed: each worker is a program of its own here, and
    /// all of a hop share its port.
    pub(super) fn nginx(&self, nginx: &Nginx) -> Result<Hops, String> {
        let workers = available_parallelism().map_or(1, NonZeroUsize::get);
        let [cert, key] = self.certificate();
        let module =
            nginx.module.iter().map(|module| format!("load_module {};\n", module.display())).collect::<String>();
        self.hops(workers, |name, listen, to, near| {
            let tls = format!("ssl_certificate {};\nssl_certificate_key {};\n", cert.display(), key.display());
            let (ends, tls) = if near { (" ssl", tls.as_str()) } else { ("", "") };
            let text = format!(
                "{module}daemon off;\nmaster_process off;\npid {name}.pid;\nevents {{ worker_connections 4000; }}\n\
                 stream {{\nserver {{\nlisten {listen}{ends} reuseport;\n{tls}ssl_protocols TLSv1.3;\n\
                 proxy_timeout 1h;\nproxy_pass {to};\n}}\n}}\n"
            );
            let mut command = Command::new(&nginx.binary);
            command.arg("-p").arg(self.dir.path()).args(["-e", "stderr", "-c"]).arg(self.file(name, &text)?);
            Ok(command)
        })
    }

    /// The file of the certificate, and that of its key.
    fn certificate(&self) -> [PathBuf; 2] {
        ["site.pem", "site-key.pem"].map(|name| self.papers.path(name))
    }

    /// Two hops to the service, each of so many processes: `hop` is told a name, where to listen, where to connect, and
    /// whether it is the near one.
    fn hops(
        &self,
        processes: usize,
        hop: impl Fn(&str, SocketAddr, SocketAddr, bool) -> Result<Command, String>,
    ) -> Result<Hops, String> {
        let [outer, middle] = [free_address(Ipv4Addr::LOCALHOST.into())?, free_address(Ipv4Addr::LOCALHOST.into())?];
        let mut procs = Vec::new();
        for (side, listen, to) in [("far", middle, self.service), ("near", outer, middle)] {
            for number in 0..processes {
                let name = format!("{side}-{number}");
                let mut proc = Proc::start(&name, hop(&name, listen, to, side == "near")?, None, self.dir.path())?;
                proc.wait_for_port(listen.port())?;
                procs.push(proc);
            }
        }
        Ok(Hops { at: outer, _procs: procs })
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
