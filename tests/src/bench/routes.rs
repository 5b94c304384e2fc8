//! Visits by name beside the same visits by port, TLS that ends at the server beside haproxy's and nginx's, and what a visitor costs
//! who has said nothing.
//!
//! Two ways take turns within a run, so that both meet the same machine; the figure is their ratio. Every visit begins
//! with the same words, whichever way it goes: those that lead to its host.

use super::bulk;
use super::cases::{Beside, Routed, Scale};
use super::crowd::{Limits, Measured};
use super::house::{HOST, Hops, House, Nginx, PASSED};
use super::outcome::{Run, Unit};
use super::pattern::{self, Way};
use super::peers::{Extra, on_path};
use super::service_bulk::STALL;
use super::settle::{settle, tally};
use super::wire::{Header, Op, PREAMBLE_LEN};
use super::{seeds, visits};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Turns of each way, behind one that warms up.
const TURNS: u32 = 10;
/// The most visits of a turn: each leaves a port in TIME_WAIT.
const MOST_VISITS: u64 = 300;
/// Bytes of a small message.
const SMALL: usize = 64;
/// Visits over TLS at once.
const AT_ONCE: usize = 8;

/// One case on our programs in `dir`.
pub(super) fn run(routed: Routed, dir: &Path, extra: &Extra, scale: &Scale) -> Result<Run, String> {
    let house = House::start(dir, extra)?;
    match routed {
        Routed::Host { at_once } => {
            let head = request();
            let ways = [house.http, house.port];
            let short = |at, limits| visits::run_among(&[at], &head, visits::Kind::Short, at_once, SMALL, limits);
            visits_by_turns(&house, ways, "of by port", scale, short)
        }
        Routed::Name { at_once } => {
            let hello = hello()?;
            let ways = [house.https, house.port];
            let short = |at, limits| visits::run_among(&[at], &hello, visits::Kind::Short, at_once, SMALL, limits);
            visits_by_turns(&house, ways, "of by port", scale, short)
        }
        Routed::Bulk => {
            let head = request();
            let ways = [house.http, house.port];
            bulk_by_turns(&house, ways, "of by port", scale, |at, size| {
                let mut stream = bulk::connect(at)?;
                stream.write_all(&head).map_err(|e| format!("cannot send: {e}"))?;
                bulk::visit(&stream, Op::Down, size)
            })
        }
        Routed::Tls(beside) => {
            let config = tls(&house)?;
            let other = hops(&house, beside)?;
            let short = |at, limits| tls_visits(at, &config, limits);
            visits_by_turns(&house, [house.https, other.at], of(beside), scale, short)
        }
        Routed::TlsBulk(beside) => {
            let config = tls(&house)?;
            let other = hops(&house, beside)?;
            let ways = [house.https, other.at];
            bulk_by_turns(&house, ways, of(beside), scale, |at, size| tls_down(at, &config, size))
        }
        Routed::Silent => silent(&house, scale),
    }
}

/// Why a case cannot be measured here.
pub(super) fn absent(routed: Routed) -> Option<String> {
    match routed {
        Routed::Tls(Beside::Haproxy) | Routed::TlsBulk(Beside::Haproxy) => haproxy().err(),
        Routed::Tls(Beside::Nginx) | Routed::TlsBulk(Beside::Nginx) => Nginx::find().err(),
        Routed::Host { .. } | Routed::Name { .. } | Routed::Bulk | Routed::Silent => None,
    }
}

fn haproxy() -> Result<PathBuf, String> {
    on_path("haproxy").ok_or_else(|| "haproxy is not on PATH".to_owned())
}

fn hops(house: &House, beside: Beside) -> Result<Hops, String> {
    match beside {
        Beside::Haproxy => house.haproxy(&haproxy()?),
        Beside::Nginx => house.nginx(&Nginx::find()?),
    }
}

/// What the figure beside it is called.
fn of(beside: Beside) -> &'static str {
    match beside {
        Beside::Haproxy => "of haproxy",
        Beside::Nginx => "of nginx",
    }
}

/// Short visits, in turn to our way and to the other.
fn visits_by_turns(
    house: &House,
    ways: [SocketAddr; 2],
    ratio: &'static str,
    scale: &Scale,
    short: impl Fn(SocketAddr, Limits) -> Result<Measured, String>,
) -> Result<Run, String> {
    let mut both = [(Vec::new(), Duration::ZERO), (Vec::new(), Duration::ZERO)];
    for turn in 0..=TURNS {
        for (at, (latencies, elapsed)) in ways.into_iter().zip(&mut both) {
            let before = tally(house.service)?;
            let measured = short(at, Limits { count: MOST_VISITS, time: scale.slice / 2 })?;
            settle(house.service, before, measured.latencies.len() as u64)?;
            if turn > 0 {
                *elapsed += measured.elapsed;
                latencies.extend(measured.latencies);
            }
        }
    }
    let [ours, other] = both.each_ref().map(|(latencies, elapsed)| latencies.len() as f64 / elapsed.as_secs_f64());
    let [(latencies, _), _] = both;
    let mut run = Run::default();
    run.figure("visits", "/s", ours);
    run.figure("other visits", "/s", other);
    run.figure(ratio, "×", ours / other);
    run.tail(["p50", "p99"], "visit", Unit::Micros, latencies);
    Ok(run)
}

/// One stream down at a time, in turn by our way and by the other.
fn bulk_by_turns(
    house: &House,
    ways: [SocketAddr; 2],
    ratio: &'static str,
    scale: &Scale,
    down: impl Fn(SocketAddr, u64) -> Result<(), String>,
) -> Result<Run, String> {
    let size = scale.bulk / u64::from(TURNS);
    let mut both = [Duration::ZERO; 2];
    for turn in 0..=TURNS {
        for (at, elapsed) in ways.into_iter().zip(&mut both) {
            let before = tally(house.service)?;
            let begun = Instant::now();
            down(at, size)?;
            let took = begun.elapsed();
            settle(house.service, before, 1)?;
            if turn > 0 {
                *elapsed += took;
            }
        }
    }
    let [ours, other] = both.map(|elapsed| (size * u64::from(TURNS)) as f64 / 1e6 / elapsed.as_secs_f64());
    let mut run = Run::default();
    run.figure("throughput", "MB/s", ours);
    run.figure("other throughput", "MB/s", other);
    run.figure(ratio, "×", ours / other);
    Ok(run)
}

/// Visitors of hosts who have said nothing yet.
fn silent(house: &House, scale: &Scale) -> Result<Run, String> {
    let gather = |count| (0..count).map(|_| bulk::connect(house.http)).collect::<Result<Vec<_>, _>>();
    let memory = || {
        // Who has just connected is accepted a moment later.
        std::thread::sleep(scale.idle_watch);
        house.server().memory()
    };
    // What a process allocates once is not theirs.
    drop(gather(100)?);
    let empty = memory()?;
    let _sitting = gather(scale.idle_visitors)?;
    let full = memory()?;
    let mut run = Run::default();
    run.figure("memory", "kB each", (full as f64 - empty as f64) / 1e3 / scale.idle_visitors as f64);
    Ok(run)
}

/// A request that leads to the host.
fn request() -> Vec<u8> {
    let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Filler: ");
    let mut head = head.into_bytes();
    head.resize(PREAMBLE_LEN - 4, b'x');
    head.extend_from_slice(b"\r\n\r\n");
    head
}

/// The first message of TLS that names the host.
fn hello() -> Result<Vec<u8>, String> {
    let mut config = tls13(RootCertStore::empty())?;
    let hello = |config: &ClientConfig| {
        let name = ServerName::try_from(PASSED).map_err(|e| e.to_string())?;
        let mut tls = ClientConnection::new(config.clone().into(), name).map_err(|e| e.to_string())?;
        let mut hello = Vec::new();
        tls.write_tls(&mut hello).map_err(|e| e.to_string())?;
        Ok::<_, String>(hello)
    };
    // An offered protocol of so many bytes makes it as long as each preamble is.
    let missing = PREAMBLE_LEN.checked_sub(hello(&config)?.len() + 7).ok_or("the hello is too long")?;
    config.alpn_protocols = vec![vec![b'x'; missing]];
    let hello = hello(&config)?;
    if hello.len() == PREAMBLE_LEN { Ok(hello) } else { Err(format!("the hello has {} bytes", hello.len())) }
}

/// A visitor's TLS 1.3.
fn tls13(roots: RootCertStore) -> Result<ClientConfig, String> {
    let config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

type Visitor = StreamOwned<ClientConnection, TcpStream>;

fn tls(house: &House) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(house.papers.path("ca.pem")).map_err(|e| e.to_string())?;
    roots.add(authority).map_err(|e| e.to_string())?;
    let mut config = tls13(roots)?;
    // Each connection is a new one.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Says the words that lead to the host, and the header of a visit.
fn begin(at: SocketAddr, config: &Arc<ClientConfig>, header: Header) -> Result<Visitor, String> {
    let name = ServerName::try_from(HOST).map_err(|e| e.to_string())?;
    let tls = ClientConnection::new(Arc::clone(config), name).map_err(|e| e.to_string())?;
    let mut visitor = StreamOwned::new(tls, bulk::connect(at)?);
    let words = [&request()[..], &header.encode()].concat();
    visitor.write_all(&words).map_err(|e| format!("no TLS: {e}"))?;
    Ok(visitor)
}

fn end(mut visitor: Visitor) -> Result<(), String> {
    visitor.conn.send_close_notify();
    visitor.flush().map_err(|e| format!("cannot say the end: {e}"))
}

fn tls_visits(at: SocketAddr, config: &Arc<ClientConfig>, limits: Limits) -> Result<Measured, String> {
    let begun = Instant::now();
    let each = |_| {
        let mut latencies = Vec::new();
        while begun.elapsed() < limits.time && (latencies.len() as u64) < limits.count / AT_ONCE as u64 {
            let came = Instant::now();
            let seed = seeds::next();
            let mut visitor = begin(at, config, Header { op: Op::Echo, seed, size: SMALL as u64 })?;
            visitor.write_all(pattern::bytes(seed, Way::Up, 0, SMALL)).map_err(|e| format!("cannot send: {e}"))?;
            let mut answer = [0; SMALL];
            visitor.read_exact(&mut answer).map_err(|e| format!("no answer: {e}"))?;
            if !pattern::matches(seed, Way::Down, 0, &answer) {
                return Err("wrong bytes".to_owned());
            }
            end(visitor)?;
            latencies.push(came.elapsed().as_nanos() as u64);
        }
        Ok(latencies)
    };
    let all = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|number| scope.spawn(move || each(number))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().map_err(|_| "a visitor panicked".to_owned()).and_then(|done| done)
        };
        threads.into_iter().map(join).collect::<Result<Vec<Vec<u64>>, String>>()
    })?;
    Ok(Measured { elapsed: begun.elapsed(), latencies: all.concat(), first_bytes: Vec::new() })
}

fn tls_down(at: SocketAddr, config: &Arc<ClientConfig>, size: u64) -> Result<(), String> {
    let seed = seeds::next();
    let mut visitor = begin(at, config, Header { op: Op::Down, seed, size })?;
    let (mut buffer, mut received) = (vec![0; 64 << 10], 0);
    while received < size {
        let length = visitor.read(&mut buffer).map_err(|e| format!("broken: {e}"))?;
        if length == 0 || !pattern::matches(seed, Way::Down, received, &buffer[..length]) {
            return Err(format!("wrong bytes, or an end, after {received} of {size}"));
        }
        received += length as u64;
    }
    visitor.sock.set_read_timeout(Some(STALL)).map_err(|e| e.to_string())?;
    end(visitor)
}
