//! A whole CProxy on one machine: a tiny web page as the LocalServer, the real server, the real client.
//!
//! `cargo run --release --example quickstart` prints the page's public URL and runs until Ctrl-C.
//! `cargo run --release --example quickstart -- --once` uses the tunnels itself instead: it fetches the
//! page, sends 64 MiB each way with checksums, half-closes a connection, and exits 0, or 1 with the reason.
#![forbid(unsafe_code)]

use bins::logging::{self, LogLevel, Logs};
use protocol_sm::driver::Strategy;
use protocol_sm::settings::{ClientSettings, ServerSettings, Serving, TunnelLimits, TunnelSpec};
use runtime_epoll::Stopper;
use runtime_epoll::client::{self, Client, Forwarding, RunError};
use runtime_epoll::inherit::Inherited;
use runtime_epoll::server::{self, Server};
use sha2::{Digest, Sha256};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

type Failure = Box<dyn Error + Send + Sync>;

/// The whole of `--once` must be over within this; it usually takes about a second.
const LIMIT: Duration = Duration::from_secs(60);
/// How much the bulk service and its visitor send each other.
const BULK: u64 = 64 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let once = match &args[..] {
        [] => false,
        [flag] if flag == "--once" => true,
        _ => {
            eprintln!("usage: quickstart [--once]");
            return ExitCode::from(bins::exit::HOPELESS);
        }
    };
    let (log, _) = match logging::start(Logs { level: LogLevel::Warn, ..Logs::default() }) {
        Ok(both) => both,
        Err(error) => return bins::exit::cannot_start(&error, None),
    };
    let outcome = if once { use_it_once() } else { show_it() };
    bins::output::finish(&[&log]);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("quickstart failed: {reason}");
            ExitCode::from(bins::exit::FAILED)
        }
    }
}

/// Runs until Ctrl-C.
fn show_it() -> Result<(), Failure> {
    let mut interrupts = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let demo = Demo::start()?;
    let url = format!("http://{}/", demo.web);
    println!("A web page at {} that is to be seen from outside.", demo.private_web);
    println!("cproxy-client connects it to cproxy-server (ctl {}, proxy {}).", demo.ctl, demo.proxy);
    println!();
    println!("  Public URL:  {url}");
    println!("  Try:         curl {url}");
    println!("               or open it in a browser and reload it a few times");
    println!("  Stop:        Ctrl-C");
    interrupts.forever().next();
    let total = demo.stop()?;
    println!("\nStopped after {} visits over {} data connections.", total.visitors, total.proxy_conns);
    Ok(())
}

/// Uses every tunnel once, and tells how it went.
fn use_it_once() -> Result<(), Failure> {
    let (progress, steps) = mpsc::channel();
    let worker = thread::spawn(move || use_tunnels(&progress));
    let deadline = Instant::now() + LIMIT;
    let mut last = "starting".to_owned();
    loop {
        match steps.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(step) => {
                println!("{step}");
                last = step;
            }
            Err(RecvTimeoutError::Disconnected) => return worker.join().map_err(|_| "the visitor panicked")?,
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("not done within {} s; the last step done was: {last}", LIMIT.as_secs()).into());
            }
        }
    }
}

fn use_tunnels(progress: &mpsc::Sender<String>) -> Result<(), Failure> {
    let demo = Demo::start()?;
    progress.send(format!("started        ctl {}, proxy {}", demo.ctl, demo.proxy))?;

    let bytes = fetch_page(demo.web).map_err(|error| format!("the page: {error}"))?;
    progress.send(format!("page fetched   {bytes} bytes from http://{}/", demo.web))?;

    let begin = Instant::now();
    exchange_bulk(demo.bulk).map_err(|error| format!("64 MiB each way: {error}"))?;
    let rate = (2 * BULK) as f64 / 1e6 / begin.elapsed().as_secs_f64();
    progress.send(format!("bulk           64 MiB each way at once, both checksums right, {rate:.0} MB/s in all"))?;

    let bytes = half_close(demo.late).map_err(|error| format!("half-close: {error}"))?;
    progress.send(format!("half-close     the whole reply of {bytes} bytes came after our end was shut"))?;

    let total = demo.stop()?;
    progress.send(format!(
        "stopped        {} visitors, {} finished, {} aborted, {} data connections",
        total.visitors, total.finished, total.aborted, total.proxy_conns
    ))?;
    if total.aborted > 0 {
        return Err("some transfers were cut short".into());
    }
    Ok(())
}

/// The server, the client, and where to reach what.
struct Demo {
    server: JoinHandle<Result<server::Summary, Failure>>,
    client: JoinHandle<Result<(), Failure>>,
    server_stopper: Stopper,
    client_stopper: Stopper,
    ctl: SocketAddr,
    proxy: SocketAddr,
    /// Where the page really is.
    private_web: SocketAddr,
    /// The public addresses of the three services.
    web: SocketAddr,
    bulk: SocketAddr,
    late: SocketAddr,
}

impl Demo {
    fn start() -> Result<Self, Failure> {
        let threads = NonZeroUsize::MIN.saturating_add(1);
        let services = [("web", serve(answer_page)?), ("bulk", serve(answer_bulk)?), ("late", serve(answer_late)?)];

        let config = server::Config {
            bind_addr: Some(IpAddr::V4(Ipv4Addr::LOCALHOST).into()),
            public_bind_addr: None,
            ctl_port: 0,
            proxy_port: 0,
            host_ports: [None; 2],
            work_threads: threads,
            relay: Strategy::default(),
            tls: None,
            visitor_tls: None,
            acme_webroot: None,
            access_log: None,
            settings: ServerSettings::default(),
        };
        let server: Server = server::start(config, &mut Inherited::default())?;
        let (ctl, proxy, server_stopper) = (server.ctl_addr(), server.proxy_addr(), server.stopper());
        let server = thread::spawn(move || server.run().map_err(Failure::from));

        let tunnel = |(name, local): &(&str, SocketAddr)| TunnelSpec {
            name: (*name).to_owned(),
            public_port: 0,
            bind_addr: None,
            site: None,
            local: local.to_string(),
            local_sources: Vec::new(),
            limits: TunnelLimits::default(),
            serving: Serving::default(),
        };
        let client: Client = client::start(client::Config {
            server: ctl.to_string(),
            work_threads: threads,
            relay: Strategy::default(),
            tls: None,
            access_log: None,
            settings: ClientSettings {
                max_proxy_conns: 64,
                ..ClientSettings::new(*b"quickstart------", services.iter().map(tunnel).collect())
            },
        })?;
        let client_stopper = client.stopper();
        let (announce, forwardings) = mpsc::channel::<Forwarding>();
        let client = thread::spawn(move || {
            let outcome = client.run(|tunnel| {
                // Nobody listens any more once every tunnel was announced.
                let _unread = announce.send(tunnel.clone());
            });
            outcome.map(drop).map_err(|error| match error {
                RunError::Refused(sentence) => sentence.into(),
                RunError::Io(error) => error.into(),
            })
        });

        let mut public = Vec::new();
        for _ in &services {
            match forwardings.recv_timeout(LIMIT) {
                Ok(tunnel) => public.push((tunnel.tunnel, tunnel.public.port())),
                Err(RecvTimeoutError::Timeout) => return Err("the tunnels did not open".into()),
                Err(RecvTimeoutError::Disconnected) => {
                    join(client)?;
                    return Err("the client ended before its tunnels were open".into());
                }
            }
        }
        let public = |name: &str| match public.iter().find(|(tunnel, _)| tunnel == name) {
            Some((_, port)) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))),
            None => Err(Failure::from(format!("the tunnel `{name}` did not open"))),
        };
        let (web, bulk, late) = (public("web")?, public("bulk")?, public("late")?);
        let private_web = services[0].1;
        Ok(Self { server, client, server_stopper, client_stopper, ctl, proxy, private_web, web, bulk, late })
    }

    fn stop(self) -> Result<server::Summary, Failure> {
        self.client_stopper.stop();
        join(self.client)?;
        self.server_stopper.stop();
        join(self.server)
    }
}

fn join<T>(thread: JoinHandle<Result<T, Failure>>) -> Result<T, Failure> {
    thread.join().map_err(|_| Failure::from("a thread panicked"))?
}

/// Starts a LocalServer whose connections are answered by `answer`, each on a thread of its own.
fn serve(answer: fn(TcpStream) -> io::Result<()>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A visitor that goes away early is no concern of the others; the visitor here would notice.
            thread::spawn(move || answer(stream));
        }
    });
    Ok(addr)
}

// The page.

static VISITS: AtomicU64 = AtomicU64::new(0);

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>It works: CProxy</title>
<style>
  :root { color-scheme: light dark; font: 18px/1.6 system-ui, sans-serif; }
  body { max-width: 36rem; margin: 12vh auto; padding: 0 1.5rem; }
  h1 { font-size: 2rem; line-height: 1.2; }
  ol { padding-left: 1.2rem; }
  strong { font-variant-numeric: tabular-nums; }
  small { opacity: .7; }
</style>
<h1>You are looking into a private network.</h1>
<p>This page listens on a loopback port that you did not connect to. Your visit went
<ol>
  <li>to a public port of <b>cproxy-server</b>,
  <li>over a data connection that <b>cproxy-client</b> had opened beforehand,
  <li>and from there to this page's own port.
</ol>
<p>Visit number <strong>{visits}</strong>. Reload: the data connections are used again.
<p><small>CProxy quickstart</small>
</html>
"#;

fn answer_page(mut stream: TcpStream) -> io::Result<()> {
    let mut request = BufReader::new((&stream).take(16 << 10));
    let mut first = String::new();
    request.read_line(&mut first)?;
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let (status, body) = if first.split(' ').nth(1) == Some("/") {
        let visits = VISITS.fetch_add(1, Ordering::Relaxed) + 1;
        ("200 OK", PAGE.replace("{visits}", &visits.to_string()))
    } else {
        ("404 Not Found", "There is only /\n".to_owned())
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
    )
}

fn fetch_page(addr: SocketAddr) -> Result<usize, Failure> {
    let mut stream = TcpStream::connect(addr)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {addr}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let expected = PAGE.replace("{visits}", "1");
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 OK\r\n") && body == expected => Ok(body.len()),
        _ => Err(format!("got {} bytes that are not the page", answer.len()).into()),
    }
}

// 64 MiB each way. The service sends its stream and then the checksum of what it received.

const UP: u64 = 0x9e37_79b9_7f4a_7c15;
const DOWN: u64 = 0xd1b5_4a32_d192_ed03;

fn answer_bulk(mut stream: TcpStream) -> io::Result<()> {
    let (_, received) = both_ways(&stream, DOWN)?;
    stream.write_all(&received)
}

fn exchange_bulk(addr: SocketAddr) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(addr)?;
    let (sent, received) = both_ways(&stream, UP)?;
    let mut arrived = Vec::new();
    stream.read_to_end(&mut arrived)?;
    if received != send_bulk(io::sink(), DOWN)? {
        return Err("what came down differs from what was sent".into());
    }
    if arrived != sent {
        return Err("what went up arrived changed".into());
    }
    Ok(())
}

/// Sends the stream of `seed` while receiving the other side's; gives the SHA-256 of both.
fn both_ways(stream: &TcpStream, seed: u64) -> io::Result<([u8; 32], [u8; 32])> {
    thread::scope(|scope| {
        let sender = scope.spawn(|| send_bulk(stream, seed));
        let received = receive_bulk(stream);
        if received.is_err() {
            // Wakes the sender, should it wait for room. If the connection is gone already, it is awake.
            let _gone = stream.shutdown(Shutdown::Both);
        }
        let sent = sender.join().map_err(|_| io::Error::other("the sender panicked"))?;
        Ok((sent?, received?))
    })
}

/// Writes [`BULK`] pseudo-random bytes and gives their SHA-256.
fn send_bulk(mut out: impl Write, seed: u64) -> io::Result<[u8; 32]> {
    let mut state = seed;
    let mut sha = Sha256::new();
    let mut block = vec![0; 64 << 10];
    for _ in 0..BULK / block.len() as u64 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        sha.update(&block);
        out.write_all(&block)?;
    }
    Ok(sha.finalize().into())
}

/// Reads [`BULK`] bytes and gives their SHA-256.
fn receive_bulk(mut from: impl Read) -> io::Result<[u8; 32]> {
    let mut sha = Sha256::new();
    let mut block = vec![0; 64 << 10];
    for _ in 0..BULK / block.len() as u64 {
        from.read_exact(&mut block)?;
        sha.update(&block);
    }
    Ok(sha.finalize().into())
}

// Half-close. The service says nothing before its visitor's end of stream; then it sends everything back.

fn answer_late(mut stream: TcpStream) -> io::Result<()> {
    let mut question = Vec::new();
    stream.read_to_end(&mut question)?;
    question.reverse();
    stream.write_all(&question)
}

fn half_close(addr: SocketAddr) -> Result<usize, Failure> {
    let mut stream = TcpStream::connect(addr)?;
    let question: Vec<u8> = (0..=u8::MAX).cycle().take(200_000).collect();
    stream.write_all(&question)?;
    stream.shutdown(Shutdown::Write)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    if reply.iter().rev().ne(&question) {
        return Err(format!("got {} bytes that are not the reply", reply.len()).into());
    }
    Ok(reply.len())
}
