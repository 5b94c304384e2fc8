//! Two sites and an SSH server behind one port 443, which is the ctl port and the proxy port, too, from a network that lets
//! nothing out but a proxy that allows CONNECT to 443 alone: as docs/recipes.md says it, in namespaces. Needs root.

use rcgen::DnType;
use std::fs;
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use tests::foreign::{Foreign, StreamingNginx, find};
use tests::link::Namespace;
use tests::papers::Papers;
use tests::programs::Program;
use tests::root_only;
use tests::wait::{eventually, until};

const DOCUMENT: &str = include_str!("../../docs/recipes.md");
const SERVER: &str = "198.51.100.1";
const PROXY: &str = "192.168.7.1";
const VISITOR: &str = "203.0.113.7";

/// The block of this name, with what stands in its place in this test.
fn recipe(name: &str, places: &[(&str, &str)]) -> String {
    let (_, rest) = DOCUMENT.split_once(&format!("```{name}\n")).expect("the block is there");
    let (block, _) = rest.split_once("```").expect("it ends");
    places.iter().fold(block.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{name}: {from}");
        text.replace(from, to)
    })
}

/// A cable between two namespaces, with an address at each end.
fn cable(name: &str, (one, at): (&Namespace, &str), (other, there): (&Namespace, &str)) {
    one.must(&format!("ip link add {name} type veth peer name {name} netns {}", other.path()));
    for (end, address) in [(one, at), (other, there)] {
        end.must(&format!("ip addr add {address}/24 dev {name} && ip link set {name} up"));
    }
}

fn within(namespace: &Namespace, words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.path())).arg("--").args(words).stdin(Stdio::null());
    command
}

fn start(programs: &mut Foreign, namespace: &Namespace, words: &[&str]) {
    let net = format!("--net={}", namespace.path());
    programs.start("nsenter", &[&[&net, "--"], words].concat());
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn listens(namespace: &Namespace, at: &str) {
    until(&format!("{at} listens"), || namespace.run(|| TcpStream::connect(at).is_ok()));
}

/// Tries until it says `what`.
fn eventually_says(what: &str, mut run: impl FnMut() -> Command) {
    eventually(what, || {
        let said = said(&run().output().expect("it runs"));
        if said.contains(what) { Ok(()) } else { Err(said) }
    });
}

#[test]
fn two_sites_and_ssh_behind_one_443_through_a_proxy_that_allows_443_alone() {
    root_only!();
    let Some(StreamingNginx { program: nginx, load }) = StreamingNginx::find() else { return };
    let programs = ["ip", "nsenter", "squid", "sshd", "ssh", "ssh-keygen", "openssl", "curl"].map(find);
    let [Some(_), Some(_), Some(squid), Some(sshd), Some(ssh), Some(keygen), Some(_), Some(curl)] = programs else {
        return;
    };
    let [internet, gateway, office, away] = [(); 4].map(|()| Namespace::alone());
    cable("wan", (&internet, SERVER), (&gateway, "198.51.100.2"));
    cable("lan", (&gateway, PROXY), (&office, "192.168.7.2"));
    cable("far", (&internet, "203.0.113.1"), (&away, VISITOR));
    office.must(&format!("ip route add default via {PROXY}"));
    away.must("ip route add default via 203.0.113.1");
    let papers = Papers::new();
    papers.issue_with("site", &["app.example.com", "wiki.example.com", "ssh.example.com"], |params| {
        // A name of its own: one like the authority's looks as if it had signed itself.
        params.distinguished_name.push(DnType::CommonName, "site");
    });
    let mut others = Foreign::new();
    let dir = others.dir().display().to_string();
    let pem = ["site.pem", "site-key.pem"].map(|name| fs::read_to_string(papers.path(name)).expect("a file"));
    let pem = others.file("pem", pem.concat());
    let token = others.file("token", "the token of the office, made for this test");

    // The proxy, as Debian has it: CONNECT to 443 alone.
    let files = "pid_filename none\naccess_log none\ncache_log /dev/null\ncoredump_dir none\nnetdb_filename none\n";
    let rules = "acl tls port 443\nhttp_access deny CONNECT !tls\nhttp_access allow all\n";
    let more = "shutdown_lifetime 0 seconds\npinger_enable off\n";
    let config = others.file("squid.conf", format!("http_port {PROXY}:3128\n{rules}{files}{more}"));
    start(&mut others, &gateway, &[&squid, "-n", &format!("strict{}", std::process::id()), "-N", "-f", &config]);
    listens(&gateway, &format!("{PROXY}:3128"));

    // The services.
    let key = format!("{dir}/key");
    let made = Command::new(keygen).args(["-q", "-t", "ed25519", "-N", "", "-f", &key]).status();
    assert!(made.expect("ssh-keygen").success());
    // Where it runs as root it wants this directory.
    let _ = fs::create_dir("/run/sshd");
    let config = others.file(
        "sshd_config",
        format!(
            "ListenAddress 127.0.0.1\nPort 22\nHostKey {key}\nAuthorizedKeysFile {key}.pub\nStrictModes no\n\
             PidFile none\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n"
        ),
    );
    start(&mut others, &office, &[&sshd, "-D", "-f", &config]);
    listens(&office, "127.0.0.1:22");
    let [sites_log, ssh_log] = ["sites", "ssh"].map(|name| format!("{dir}/{name}.log"));
    let logs = [("/var/log/nginx/sites.log", &*sites_log), ("/var/log/nginx/ssh.log", &ssh_log)];
    let places = [&logs[..], &[("/etc/ssl/site.pem", &pem)]].concat();
    let config = others.file(
        "nginx.conf",
        format!(
            "{load}\ndaemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/log;\nevents {{}}\n{}",
            recipe("one-port-nginx", &places)
        ),
    );
    start(&mut others, &office, &[&nginx, "-p", &dir, "-e", &format!("{dir}/log"), "-c", &config]);
    listens(&office, "127.0.0.1:8443");

    // The tunnel.
    let config = others.file("server.toml", recipe("one-port-server", &[("\"token\"", &format!("{token:?}"))]));
    let server = Program::with_words_in(
        &internet,
        "cproxy-server",
        &["--config", &config, "--bind-addr=0.0.0.0", "--log-format=json"],
    );
    let direct = within(&office, &[&curl, "-sS", "--max-time", "2", &format!("http://{SERVER}:443/")]).output();
    assert!(!direct.expect("curl").status.success(), "nobody gets out but through the proxy");
    let places = [("\"token\"", &*format!("{token:?}")), ("tunnel.example.com", SERVER), ("proxy.example", PROXY)];
    let config = others.file("client.toml", recipe("one-port-client", &places));
    let client = Program::with_words_in(&office, "cproxy-client", &["--config", &config]);
    for host in ["app.example.com", "wiki.example.com", "ssh.example.com"] {
        client.output_line(&format!("Forwarding https://{host}"));
    }

    // The visitors.
    let ca = papers.path("ca.pem").display().to_string();
    for (host, page) in [("app.example.com", "the app"), ("wiki.example.com", "the wiki")] {
        let (at, url) = (format!("{host}:443:{SERVER}"), format!("https://{host}/"));
        eventually_says(page, || within(&away, &[&curl, "-sS", "--cacert", &ca, "--resolve", &at, &url]));
    }
    // As the name says it, but that there is no DNS here.
    let places = [("-connect %h:443", &*format!("-connect {SERVER}:443 -CAfile {ca}"))];
    let config = others.file("ssh_config", recipe("one-port-ssh", &places));
    let known = ["-oUserKnownHostsFile=/dev/null", "-oStrictHostKeyChecking=no", "-oBatchMode=yes"];
    let words = [&[&*ssh, "-F", &config, "-i", &key], &known[..], &["root@ssh.example.com", "echo inside of it"]];
    eventually_says("inside of it", || within(&away, &words.concat()));

    // Who it was, wherever it is written.
    for (log, lines) in [(&sites_log, 2), (&ssh_log, 1)] {
        eventually("the services have written it", || {
            let text = fs::read_to_string(log).unwrap_or_default();
            if text.lines().filter(|line| line.starts_with(VISITOR)).count() >= lines { Ok(()) } else { Err(text) }
        });
    }
    eventually("the server has written it", || {
        let log = server.log();
        let visits = log.lines().filter(|line| line.contains("\"visit\"") && line.contains(VISITOR)).count();
        if visits >= 3 { Ok(()) } else { Err(log) }
    });
}
