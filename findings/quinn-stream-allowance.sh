#!/usr/bin/env bash
# quinn pays at each connection's start for every stream that a peer *may* open: 1,000,000 allowed cost 88 MB, unopened.
#
# Expected: RFC 9000 (section 4.6) makes the stream limit a number that a peer is told. quinn's documentation of
#   TransportConfig::max_concurrent_bidi_streams speaks of memory in the worst case, in proportion to the stream
#   receive windows. Both sound as though a high limit ("no limit, please") costs nothing until a peer uses it.
# Seen: a table entry is made for each allowed stream when a connection is created, on the side that allows them and
#   before the handshake is done; the thread that creates it does nothing else meanwhile. Client and server in one
#   process, 8 connections in which no stream is ever opened, a release build, each figure per connection:
#     limit of the server       resident memory     time up to both sides being connected
#     100 (the default)         0.1 MB              2 to 9 ms
#     10,000                    0.8 MB              2 ms
#     1,000,000                 88 MB               300 ms
# Why it matters to a tunnel: a tunnel that gives each visitor a stream wants a limit above the visitors that it
#   expects, and a server has many clients. The limit has to be small and grow
#   (Connection::set_max_concurrent_bi_streams), or every client that connects costs what the largest would.
# Versions: quinn 0.11.12 with quinn-proto 0.11.19, rustls 0.23.34 (ring), tokio 1.47.1, Rust 1.95; 2026-11-27. The
#   script uses a debug build and 200,000 allowed streams, for time and memory's sake, and checks memory only.
#
# Needs cargo and a C compiler (for ring). Exit 0: as described. Exit 1: changed. Exit 2: cannot run here.
set -euo pipefail

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

mkdir -p "$tmp/src"
cat >"$tmp/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"

[dependencies]
quinn = { version = "=0.11.12", default-features = false, features = ["runtime-tokio", "rustls-ring"] }
quinn-proto = { version = "=0.11.19", default-features = false }
rcgen = { version = "=0.13.2", default-features = false, features = ["ring"] }
rustls = { version = "=0.23.34", default-features = false, features = ["ring", "std"] }
tokio = { version = "=1.47.1", features = ["rt", "macros"] }

[profile.dev]
debug = false
TOML
cat >"$tmp/src/main.rs" <<'RUST'
use std::{sync::Arc, time::Instant};

use quinn::{ClientConfig, Endpoint, ServerConfig, TransportConfig};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

const CONNECTIONS: usize = 8;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let allowed: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let cert = certified.cert.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certified.key_pair.serialize_der()));

    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(allowed.into());
    let mut config = ServerConfig::with_single_cert(vec![cert.clone()], key).unwrap();
    config.transport_config(Arc::new(transport));
    let server = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let to = server.local_addr().unwrap();

    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert).unwrap();
    let mut client = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    client.set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots)).unwrap());

    let memory = resident_kib();
    let start = Instant::now();
    let accepting = tokio::spawn(async move {
        let mut accepted = Vec::new();
        for _ in 0..CONNECTIONS {
            accepted.push(server.accept().await.unwrap().await.unwrap());
        }
        accepted
    });
    let mut connected = Vec::new();
    for _ in 0..CONNECTIONS {
        connected.push(client.connect(to, "localhost").unwrap().await.unwrap());
    }
    let _accepted = accepting.await.unwrap();
    let millis = start.elapsed().as_millis() / CONNECTIONS as u128;
    println!("{allowed} {} {millis}", (resident_kib() - memory) / CONNECTIONS);
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
RUST

(cd "$tmp" && CARGO_TARGET_DIR="$tmp/target" cargo build) >"$tmp/install.log" 2>&1 ||
    { cat "$tmp/install.log"; exit 2; }

measure() {
    timeout 30 "$tmp/target/debug/finding" "$1" >"$tmp/out" ||
        { echo "CHANGED: the program failed with a limit of $1"; exit 1; }
    read -r _ kib millis <"$tmp/out"
    echo "limit $1: $kib KiB and $millis ms per connection"
}

measure 100
few=$kib
measure 200000
[ "$kib" -ge $((few * 20)) ] || { echo "CHANGED: allowed streams cost little until they are opened"; exit 1; }
echo "as described"
