//! `max_bandwidth`: a tunnel moves no faster than it may, on either side, for all its visitors together; everything
//! arrives, and nobody spins meanwhile. That it moves as much as it may is measured in the simulation, where no machine
//! is busy.

use protocol_sm::bandwidth::LEAST;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};
use tests::exchange::{Exchange, Exchanges};
use tests::limit::arm;
use tests::programs::{Client, Options, Server, options};
use tests::services::Service;
use tests::sockets::connect;
use tests::visits::ping;
use tests::wait::PATIENCE;

/// Bytes per second.
const RATE: u64 = 400_000;
/// What may come at once.
const BURST: u64 = RATE / 4;

/// `visitors` at once have `RATE` bytes between them, in each direction.
fn expect_limited(server: Options, client: impl Fn(Options) -> Options, visitors: u32) {
    arm();
    let service = Exchanges::start();
    let server = Server::start(server.threads(2));
    let client = Client::start(&server, client(options().threads(2).tunnel(service.addr())));
    let cpu = || server.process().cpu() + client.process().cpu();
    let (began, before, public) = (Instant::now(), cpu(), client.public());
    thread::scope(|scope| {
        for visitor in 0..visitors {
            let bytes = RATE / u64::from(visitors);
            scope.spawn(move || Exchange::new(visitor).up(bytes).down(bytes).run(public));
        }
    });
    let (took, used) = (began.elapsed(), cpu() - before);
    let least = Duration::from_secs_f64((RATE - BURST) as f64 / RATE as f64);
    assert!(took >= least, "{RATE} bytes in {took:?} at {RATE} bytes per second");
    assert!(used < took / 2, "{used:?} of processor time in {took:?}");
    service.expect(u64::from(visitors));
    assert_eq!((server.stop().finished, client.stop().finished), (u64::from(visitors), u64::from(visitors)));
}

#[test]
fn the_server_limits_a_tunnel_for_all_its_visitors_together() {
    expect_limited(options().key("max_bandwidth", RATE), |client| client, 4);
}

#[test]
fn the_server_limits_the_tunnels_of_one_credential() {
    let clients = format!("[[clients]]\nname = \"slow\"\ntoken = \"a slow token\"\nmax_bandwidth = {RATE}\n");
    expect_limited(options().tables(&clients), |client| client.env("CPROXY_TOKEN", "a slow token"), 1);
}

#[test]
fn a_client_limits_its_own_tunnel() {
    expect_limited(options(), |client| client.tunnel_key("max_bandwidth", RATE), 2);
}

#[test]
fn an_encrypted_tunnel_is_limited_too() {
    expect_limited(options().tls().key("max_bandwidth", RATE), |client| client, 2);
}

/// What a visitor who is there already may move follows a reload: slowed to `LEAST`, a mebibyte would take four minutes.
#[test]
fn a_reload_counts_for_who_is_there() {
    let echo = Service::echo();
    let tunnel = |keys: &str| format!("[[tunnels]]\nname = \"a\"\nlocal = \"{}\"\n{keys}", echo.addr());
    let slow = format!("max_bandwidth = {LEAST}\n");
    let server = Server::start(options().tables(&slow));
    let client = Client::start(&server, options().tables(&tunnel(&slow)));
    let mut visitor = connect(client.public_of(echo.addr()));
    ping(&mut visitor, b"served");
    for said in [server.reload("max_bandwidth = 0\n"), client.reload(&tunnel(""))] {
        assert!(!said.contains("not reloaded"), "{said}");
    }
    let mut writer = visitor.try_clone().expect("a second handle");
    let (bytes, began) = (vec![7; 1 << 20], Instant::now());
    thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&bytes).expect("sent"));
        let mut back = vec![0; bytes.len()];
        visitor.read_exact(&mut back).expect("it comes back in time");
        assert!(back == bytes);
    });
    assert!(began.elapsed() < PATIENCE, "it is still slowed");
}
