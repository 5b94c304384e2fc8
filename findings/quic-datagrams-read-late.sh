#!/usr/bin/env bash
# An application that is late to read its QUIC datagrams gets the oldest of them from quic-go, the newest from quinn.
#
# Expected: RFC 9221 leaves it to the implementation what becomes of datagrams that nobody reads (section 5.2); two ends
#   that speak the same protocol would be thought to lose about the same ones.
# Seen: 2,000 datagrams of 1,000 bytes, one each millisecond; the receiver reads nothing until all are there:
#     quic-go 0.57.1        128 come out: numbers 0 to 127. Its queue is counted in datagrams, and the new one is dropped
#     quinn-proto 0.11.19   1,211 come out: numbers 789 to 1999. Its queue is counted in bytes, and the old one is dropped
#   No call fails at either end, and quic-go has no option for it.
# Why it matters to a tunnel: a relay that is busy for a seventh of a second at 1,000 datagrams a second hands a game or
#   a voice call what is stale from quic-go, and loses what is new; with quinn it is the other way round, a second and
#   more too late. Where late is worse than lost, the relay needs a queue of its own, bounded in time, and must read
#   from the library at once, whatever waits behind it.
# Versions: quic-go 0.57.1 with Go 1.26.8, quinn 0.11.12, quinn-proto 0.11.19; 2026-11-27.
#
# Needs go and cargo. Exit 0: as described. Exit 1: changed. Exit 2: cannot run here.
set -euo pipefail

for tool in go cargo; do
    command -v "$tool" >/dev/null || { echo "no $tool found"; exit 2; }
done
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
mkdir -p "$tmp/rust/src" "$tmp/go"

cat >"$tmp/rust/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"

[dependencies]
quinn = { version = "=0.11.12", default-features = false, features = ["runtime-tokio", "rustls-ring"] }
quinn-proto = { version = "=0.11.19", default-features = false }
rcgen = { version = "=0.13.2", default-features = false, features = ["ring"] }
rustls = { version = "=0.23.34", default-features = false, features = ["ring", "std"] }
tokio = { version = "=1.47.1", features = ["rt", "macros", "time"] }

[profile.dev]
debug = false
TOML
cat >"$tmp/rust/src/main.rs" <<'RUST'
use std::{sync::Arc, time::Duration};

use quinn::{ClientConfig, Endpoint, ServerConfig};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

const SENT: u32 = 2000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let cert = certified.cert.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certified.key_pair.serialize_der()));
    let config = ServerConfig::with_single_cert(vec![cert.clone()], key).unwrap();
    let server = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let to = server.local_addr().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert).unwrap();
    let mut client = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    client.set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots)).unwrap());

    let accepting = tokio::spawn(async move { server.accept().await.unwrap().await.unwrap() });
    let sender = client.connect(to, "localhost").unwrap().await.unwrap();
    let receiver = accepting.await.unwrap();
    for number in 0..SENT {
        let mut datagram = vec![0; 1000];
        datagram[..4].copy_from_slice(&number.to_be_bytes());
        sender.send_datagram(datagram.into()).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut read = Vec::new();
    while let Ok(datagram) = tokio::time::timeout(Duration::from_millis(500), receiver.read_datagram()).await {
        read.push(u32::from_be_bytes(datagram.unwrap()[..4].try_into().unwrap()));
    }
    println!("{} {} {}", read.len(), read.first().unwrap(), read.last().unwrap());
}
RUST
cat >"$tmp/go/main.go" <<'GO'
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/big"
	"time"

	"github.com/quic-go/quic-go"
)

const sent = 2000

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	cert := must(x509.CreateCertificate(rand.Reader, &template, &template, public, private))
	roots := x509.NewCertPool()
	roots.AddCert(must(x509.ParseCertificate(cert)))
	server := &tls.Config{NextProtos: []string{"finding"}, Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: private}}}
	client := &tls.Config{NextProtos: []string{"finding"}, RootCAs: roots, ServerName: "localhost"}
	config := &quic.Config{EnableDatagrams: true}

	ctx := context.Background()
	listener := must(quic.ListenAddr("127.0.0.1:0", server, config))
	sender := must(quic.DialAddr(ctx, listener.Addr().String(), client, config))
	receiver := must(listener.Accept(ctx))
	for number := uint32(0); number < sent; number++ {
		datagram := make([]byte, 1000)
		binary.BigEndian.PutUint32(datagram, number)
		if err := sender.SendDatagram(datagram); err != nil {
			panic(err)
		}
		time.Sleep(time.Millisecond)
	}
	time.Sleep(500 * time.Millisecond)
	var read []uint32
	for {
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		datagram, err := receiver.ReceiveDatagram(ctx)
		cancel()
		if err != nil {
			break
		}
		read = append(read, binary.BigEndian.Uint32(datagram))
	}
	fmt.Println(len(read), read[0], read[len(read)-1])
}
GO

(
    cd "$tmp/go"
    go mod init finding && go get github.com/quic-go/quic-go@v0.57.1 && go mod tidy && go build -o finding .
    cd "$tmp/rust" && CARGO_TARGET_DIR="$tmp/target" cargo build
) >"$tmp/install.log" 2>&1 || { cat "$tmp/install.log"; exit 2; }

changed=0
# How many came out, the number of the first, and that of the last.
read -r count first last < <(timeout 60 "$tmp/go/finding")
echo "quic-go: $count datagrams, numbers $first to $last"
[ "$count $first $last" = "128 0 127" ] || changed=1
read -r count first last < <(timeout 60 "$tmp/target/debug/finding")
echo "quinn:   $count datagrams, numbers $first to $last"
[ "$last" = 1999 ] && [ "$count" -gt 1000 ] && [ "$count" -lt 1400 ] && [ "$first" = $((2000 - count)) ] || changed=1
[ "$changed" = 0 ] || { echo "CHANGED: see the head of this script"; exit 1; }
echo "as described"
