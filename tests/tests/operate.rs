//! A day in a tunnel's life, as docs/operating.md tells it: it is changed, watched, scraped, and both of its programs are
//! replaced, all during one download.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tempfile::TempDir;
use tests::exchange::send_part;
use tests::payload::{Arrival, Flow};
use tests::programs::{Client, Options, Server, Successors, directory, options};
use tests::scrape::{get, try_get};
use tests::services::Service;
use tests::sockets::{End, LOOPBACK, connect, free_port, read_each};
use tests::visits::greeting;
use tests::wait::until;

/// What a download brings at a time.
const PART: u64 = 64 << 10;

/// A download that goes on for as long as it is wanted.
struct Download {
    service: Service,
    wanted: Arc<AtomicBool>,
    /// How long it was.
    length: mpsc::Receiver<u64>,
}

impl Download {
    fn offered() -> Self {
        let (wanted, (said, length)) = (Arc::new(AtomicBool::new(true)), mpsc::channel());
        let goes_on = Arc::clone(&wanted);
        let service = Service::start(move |mut stream| {
            let mut sent = 0;
            while goes_on.load(Ordering::SeqCst) && send_part(&mut stream, Flow::down(1), sent, sent + PART).is_ok() {
                sent += PART;
                std::thread::sleep(Duration::from_millis(10));
            }
            let _nobody_counts = said.send(sent);
        });
        Self { service, wanted, length }
    }
}

/// The folder in which programs of one user find each other, as a login session has it.
struct Session(TempDir);

impl Session {
    fn of(&self, options: Options) -> Options {
        options.env("XDG_RUNTIME_DIR", self.0.path().to_str().expect("a path in UTF-8"))
    }

    fn command(&self, words: &str) -> Command {
        let (program, words) = words.split_once(' ').expect("a command");
        let mut command = Command::new(directory().join(program));
        command.args(words.split(' ')).env("XDG_RUNTIME_DIR", self.0.path()).stdin(Stdio::null());
        command
    }

    /// What it says, if it succeeds.
    #[track_caller]
    fn must(&self, words: &str) -> String {
        let Output { status, stdout, stderr } = self.command(words).output().expect("it runs");
        let said = String::from_utf8([stdout, stderr].concat()).expect("text");
        assert!(status.success(), "{words}: {said}");
        said
    }
}

#[test]
fn a_tunnel_is_changed_watched_scraped_and_upgraded_on_both_sides_during_a_download() {
    let session = Session(TempDir::new().expect("a directory"));
    let (download, other) = (Download::offered(), Service::greeter("the other one"));
    let [web, added, metrics] = [(); 3].map(|()| free_port());
    let waits = || session.of(options().flag("drain-timeout", 120));
    let server = Server::start(waits().key("metrics_addr", metrics));
    let local = download.service.addr();
    let tunnel = |name: &str, local: SocketAddr, port: u16| {
        format!("[[tunnels]]\nname = \"{name}\"\nlocal = \"{local}\"\npublic_port = {port}\n")
    };
    let [first, second] = [tunnel("web", local, web), tunnel("other", other.addr(), added)];
    let home = |tunnels: &str| Client::spawn(&server, waits().key("client_id", "\"home\"").tables(tunnels));
    let client = home(&first);
    client.output_line("Forwarding");
    let visitor = std::thread::spawn(move || {
        let (mut arrival, mut visitor) = (Arrival::of(Flow::down(1)), connect((LOOPBACK, web).into()));
        let end = read_each(&mut visitor, |bytes| arrival.take(bytes).expect("byte for byte"));
        (arrival, end)
    });
    let active = "cproxy_visitors{state=\"active\"} 1\n";
    until("the download is there", || get((LOOPBACK, metrics).into(), "/metrics").1.contains(active));

    // A tunnel more.
    let file = client.config_file();
    fs::write(&file, fs::read_to_string(&file).expect("its file") + &second).expect("write it");
    let said = session.must("cproxy-client reload");
    assert!(said.contains("1 tunnel added (\"other\")"), "{said}");
    until("it is served", || client.output().iter().filter(|line| line.starts_with("Forwarding")).count() == 2);
    assert_eq!(greeting((LOOPBACK, added).into()), "the other one");

    // Watched: it moves.
    let mut watch = session.command("cproxy-server status --watch").stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let moves = |line: &String| line.starts_with("web ") && (line.contains(" kB/s") || line.contains(" MB/s"));
    assert!(lines.any(|line| moves(&line.expect("text"))), "a rate of the download");
    drop(lines);
    assert!(watch.wait().expect("it ends").success());

    // The server's next process.
    let mut successors = Successors::default();
    let said = session.must("cproxy-server upgrade");
    successors.take(&said);
    assert_eq!(greeting((LOOPBACK, added).into()), "the other one");
    let ready = || try_get((LOOPBACK, metrics).into(), "/readyz").is_ok_and(|(code, _)| code == 200);
    until("the next process can be scraped", ready);

    // The client's, with the same tunnels.
    let next = home(&(first + &second));
    next.output_line("Forwarding");
    client.log_line("took over");
    assert_eq!(greeting((LOOPBACK, added).into()), "the other one");
    let is_counted = |line: &str| line.contains("accepted_total{") && line.ends_with("tunnel=\"other\"} 1");
    let scraped = || get((LOOPBACK, metrics).into(), "/metrics").1;
    until("the last visitor is counted", || scraped().lines().any(is_counted));

    // The download is what it would have been.
    assert!(client.is_running() && server.is_running(), "they wait for it");
    download.wanted.store(false, Ordering::SeqCst);
    let (arrival, end) = visitor.join().expect("the visitor");
    let length = download.length.recv().expect("it was counted");
    assert_eq!((arrival.end(length), end), (Ok(()), End::Clean));
    assert_eq!((client.exit_code(), server.exit_code()), (0, 0));
    assert_eq!(greeting((LOOPBACK, added).into()), "the other one");
}
