//! The folders of `examples/`, as they stand there but for ports and for where PostgreSQL's socket is; each with the real
//! program that it is for, if that is installed.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use tests::foreign::{Foreign, StreamingNginx, find};
use tests::programs::{Program, Server};
use tests::services::{Service, read_head};
use tests::sockets::{connect, free_port};
use tests::wait::{PATIENCE, eventually, until};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");

/// A folder, copied to where other programs' files are, with other numbers for its ports.
struct Example {
    place: Foreign,
    ports: Vec<(u16, u16)>,
}

impl Example {
    /// `services`: the ports of services that are there already, by the numbers that they have in the files.
    fn new(name: &str, services: &[(u16, u16)], change: impl Fn(String) -> String) -> Self {
        let mut example = Self { place: Foreign::new(), ports: services.to_vec() };
        for entry in fs::read_dir(Path::new(FOLDER).join(name)).expect("a folder") {
            let path = entry.expect("a file").path();
            let text = change(fs::read_to_string(&path).expect("a text"));
            let text = example.renumbered(&text);
            let _path = example.place.file(path.file_name().and_then(|name| name.to_str()).expect("a name"), text);
        }
        example
    }

    /// Each number that is a port becomes a free one.
    fn renumbered(&mut self, text: &str) -> String {
        let mut out = String::new();
        for run in text.split_inclusive(|c: char| !c.is_ascii_digit()) {
            let digits = run.trim_end_matches(|c: char| !c.is_ascii_digit());
            match digits.parse::<u16>() {
                Ok(port) if port > 1024 && port != 2048 || port == 22 => {
                    out += &self.port(port).to_string();
                    out += &run[digits.len()..];
                }
                Ok(_) | Err(_) => out += run,
            }
        }
        out
    }

    /// The number that stands for this one.
    fn port(&mut self, number: u16) -> u16 {
        if let Some(&(_, port)) = self.ports.iter().find(|(of, _)| *of == number) {
            return port;
        }
        let port = free_port();
        self.ports.push((number, port));
        port
    }

    fn path(&self, name: &str) -> String {
        self.place.dir().join(name).display().to_string()
    }

    fn server(&self) -> Server {
        Server::listening(Program::with_words("cproxy-server", &["--config", &self.path("server.toml")]))
    }

    /// A client whose tunnel is there.
    fn client(&self) -> Program {
        let client = Program::with_words("cproxy-client", &["--config", &self.path("client.toml")]);
        client.output_line("Forwarding");
        client
    }

    /// Runs the command in the comments of server.toml that makes a certificate. `None`: it is not installed.
    fn certificate(&self) -> Option<()> {
        find("openssl")?;
        let text = fs::read_to_string(self.path("server.toml")).expect("a text");
        let lines = text.lines().filter_map(|line| line.strip_prefix("#   "));
        let command = lines.collect::<Vec<_>>().join("\n");
        let made = Command::new("sh").args(["-c", &command]).current_dir(self.place.dir()).output().expect("a shell");
        assert!(made.status.success(), "{command}: {}", String::from_utf8_lossy(&made.stderr));
        Some(())
    }
}

/// A web server that says where it is asked from, by the header in front if there is one.
fn web() -> Service {
    Service::start(|mut stream| {
        let mut lines = BufReader::new(stream.try_clone().expect("a second handle"));
        let Some(_head) = read_head(&mut lines) else { return };
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").expect("sent");
    })
}

fn curl(program: &str, args: &[&str]) -> String {
    let said = Command::new(program).args(["-sS", "--noproxy", "*"]).args(args).output().expect("curl runs");
    format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr))
}

#[test]
fn ssh() {
    let (Some(sshd), Some(keygen)) = (find("sshd"), find("ssh-keygen")) else { return };
    let port = free_port();
    let mut example = Example::new("ssh", &[(22, port)], |text| text);
    let key = example.path("key");
    let made = Command::new(keygen).args(["-q", "-t", "ed25519", "-N", "", "-f", &key]).status();
    assert!(made.expect("ssh-keygen").success());
    // Where it runs as root it wants this directory.
    let _ = fs::create_dir("/run/sshd");
    let text = format!("ListenAddress 127.0.0.1\nPort {port}\nHostKey {key}\nPidFile none\nUsePAM no\n");
    let config = example.place.file("sshd_config", text);
    example.place.start(&sshd, &["-D", "-f", &config]);
    until("sshd listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    let (_server, _client) = (example.server(), example.client());
    let mut visitor = connect(SocketAddr::from(([127, 0, 0, 1], example.port(7022))));
    let mut banner = [0; 4];
    visitor.read_exact(&mut banner).expect("sshd speaks first");
    assert_eq!(&banner, b"SSH-");
}

#[test]
fn website() {
    is_served_over_tls("website", 8000, "app.localhost");
}

#[test]
fn home() {
    is_served_over_tls("home", 8123, "home.localhost");
}

/// A web server at this port of the example is reached by its name.
fn is_served_over_tls(folder: &str, service_port: u16, host: &str) {
    let Some(program) = find("curl") else { return };
    let service = web();
    let mut example = Example::new(folder, &[(service_port, service.addr().port())], |text| text);
    if example.certificate().is_none() {
        return;
    }
    let (_server, _client) = (example.server(), example.client());
    let port = example.port(8443);
    let (url, resolve) = (format!("https://{host}:{port}/"), format!("{host}:{port}:127.0.0.1"));
    assert_eq!(curl(&program, &["--cacert", &example.path("cert.pem"), "--resolve", &resolve, &url]), "hello");
}

#[test]
fn game() {
    let game = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut example = Example::new("game", &[(27960, game.local_addr().expect("bound").port())], |text| text);
    let (_server, _client) = (example.server(), example.client());
    std::thread::spawn(move || {
        let mut datagram = [0; 100];
        while let Ok((length, from)) = game.recv_from(&mut datagram) {
            let _ = game.send_to(&datagram[..length], from);
        }
    });
    let player = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    player.connect((Ipv4Addr::LOCALHOST, example.port(7960))).expect("an address");
    player.set_read_timeout(Some(PATIENCE / 10)).expect("a time limit");
    // A datagram may be lost.
    eventually("the game answers", || {
        player.send(b"getstatus").map_err(|error| error.to_string())?;
        let mut answer = [0; 100];
        let length = player.recv(&mut answer).map_err(|error| error.to_string())?;
        if &answer[..length] == b"getstatus" { Ok(()) } else { Err("something else".to_owned()) }
    });
}

/// PostgreSQL runs as nobody, where that can be arranged.
#[test]
fn database() {
    let (Some(postgres), Some(psql), Some(setpriv)) = (find("postgres"), find("psql"), find("setpriv")) else { return };
    if !nix::unistd::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs root, for PostgreSQL as another user");
        return;
    }
    let postgres = fs::canonicalize(postgres).expect("a program");
    let mut home = Foreign::new();
    let [data, run] = ["data", "run"].map(|name| home.dir().join(name));
    for directory in [home.dir(), &data, &run] {
        fs::create_dir_all(directory).expect("a directory");
        chown(directory, Some(65_534), Some(65_534)).expect("root may");
    }
    let (data, run) = (data.display().to_string(), run.display().to_string());
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let initdb = postgres.with_file_name("initdb").display().to_string();
    let made = Command::new(&setpriv)
        .args(nobody)
        .args([&initdb, "-D", &data, "-A", "trust", "-U", "me", "--no-sync"])
        .output();
    let made = made.expect("setpriv runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let program = postgres.display().to_string();
    home.start(
        &setpriv,
        &[&nobody[..], &[&program, "-D", &data, "-k", &run, "-c", "listen_addresses=", "-F"]].concat(),
    );
    let socket = |text: String| text.replace("/run/postgresql/.s.PGSQL.5432", &format!("{run}/pg"));
    let mut example = Example::new("database", &[], socket);
    // Its name has a number that is no port here.
    until("PostgreSQL listens", || Path::new(&run).join(".s.PGSQL.5432").exists());
    std::os::unix::fs::symlink(format!("{run}/.s.PGSQL.5432"), format!("{run}/pg")).expect("a link");
    let (_server, _client) = (example.server(), example.client());
    let port = example.port(7432).to_string();
    eventually("PostgreSQL answers", || {
        let args = ["-h", "127.0.0.1", "-p", &port, "-U", "me", "-d", "postgres", "-tAc", "select 6 * 7"];
        let said = Command::new(&psql).args(args).output().expect("psql runs");
        let answer = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        if answer == "42" { Ok(()) } else { Err(String::from_utf8_lossy(&said.stderr).into_owned()) }
    });
}

#[test]
fn behind_nginx() {
    let (Some(StreamingNginx { program: nginx, load }), Some(program)) = (StreamingNginx::find(), find("curl")) else {
        return;
    };
    let is_conf = |text: &String| text.contains("stream {");
    let change = |text| if is_conf(&text) { format!("{load}\ndaemon off;\n{text}") } else { text };
    let service = web();
    let mut example = Example::new("behind-nginx", &[(8000, service.addr().port())], change);
    let (dir, config) = (example.place.dir().display().to_string(), example.path("nginx.conf"));
    example.place.start(&nginx, &["-p", &dir, "-e", "stderr", "-c", &config]);
    serves_behind_a_relay(&mut example, &program);
}

#[test]
fn behind_haproxy() {
    let (Some(haproxy), Some(program)) = (find("haproxy"), find("curl")) else { return };
    let service = web();
    let mut example = Example::new("behind-haproxy", &[(8000, service.addr().port())], |text| text);
    let config = example.path("haproxy.cfg");
    example.place.start(&haproxy, &["-db", "-f", &config]);
    serves_behind_a_relay(&mut example, &program);
}

fn serves_behind_a_relay(example: &mut Example, curl_program: &str) {
    let (_server, _client) = (example.server(), example.client());
    let url = format!("http://127.0.0.1:{}/", example.port(9000));
    eventually("the page comes", || {
        let page = curl(curl_program, &[&url]);
        if page == "hello" { Ok(()) } else { Err(page) }
    });
}
