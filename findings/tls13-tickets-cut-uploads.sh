#!/usr/bin/env bash
# A TLS 1.3 client that only sends, and closes, loses the end of what it sent: the server's session tickets lie unread.
#
# Expected: a client that writes 2 MB, had every write succeed, and closes in good order (close_notify, then close)
#   has sent them, as over plain TCP and over TLS 1.2: the kernel goes on sending behind close(). RFC 8446, 4.6.1 says
#   that a server may send tickets; no API above says that a client must read them before it may close.
# Seen: the server reads 0.3 s late, as a busy one does. What it gets of 2,000,000 bytes:
#                                   server: OpenSSL (Python)   Go       rustls
#     client: Python ssl                    cut              cut      cut
#     Go, with a session cache              cut              whole    cut
#     Go, without (its default)             cut              whole    whole
#     rustls                                cut              whole    cut
#     Node                                  whole            whole    whole
#     Python ssl, TLS 1.2 at most           whole            whole    whole
#   "cut" is some 80,000 bytes here, and no close_notify. Two tickets wait in the client's receive buffer. Linux answers
#   close() on unread data with a reset, and a reset throws away what is still unsent, the close_notify with it.
#   Nothing tells the client: each write and close returned success. Go's server sends its one ticket before the
#   client's Finished, so clients that read more than one record at a time have it already; Go's and rustls' servers
#   send none to a client that could not use it. Node's client always reads, as do clients that wait for an answer.
# Why it matters to a tunnel: log shippers, backups and webhooks that send and go lose data behind a TLS relay that did
#   not lose any over TCP. A relay's own TLS leg must read until the other side's close_notify before it closes, and a
#   relay that passes TLS through sees a reset of the visitor which it has to bring to the service as one.
# Versions: CPython 3.11.7 with OpenSSL 3.0, Go 1.26.8, rustls 0.23.46, Node 20.20.2, Linux 6.18; 2026-11-27.
#
# Needs go, cargo, python3 and node. Exit 0: as described. Exit 1: changed. Exit 2: cannot run here.
set -euo pipefail

for tool in go cargo python3 node; do
    command -v "$tool" >/dev/null || { echo "no $tool found"; exit 2; }
done
tmp=$(mktemp -d)
servers=()
trap 'kill "${servers[@]}" 2>/dev/null || true; rm -rf "$tmp"' EXIT
cd "$tmp"
mkdir -p go rust/src

cat >go/main.go <<'GO'
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"os"
	"time"
)

func main() {
	switch os.Args[1] {
	case "certificate":
		certificate()
	case "server":
		server()
	case "client":
		client(os.Args[2], nil)
	case "client-with-cache":
		client(os.Args[2], tls.NewLRUClientSessionCache(1))
	}
}

func certificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	must(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	must(os.WriteFile("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(os.WriteFile("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
}

func server() {
	pair, err := tls.LoadX509KeyPair("cert.pem", "key.pem")
	must(err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	for {
		raw, err := listener.Accept()
		must(err)
		conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{pair}})
		must(conn.Handshake())
		time.Sleep(300 * time.Millisecond)
		count, _ := io.Copy(io.Discard, conn)
		fmt.Println(count)
		conn.Close()
	}
}

func client(port string, cache tls.ClientSessionCache) {
	pool := x509.NewCertPool()
	roots, err := os.ReadFile("cert.pem")
	must(err)
	pool.AppendCertsFromPEM(roots)
	conn, err := tls.Dial("tcp", "127.0.0.1:"+port,
		&tls.Config{RootCAs: pool, ServerName: "localhost", ClientSessionCache: cache})
	must(err)
	_, err = conn.Write(make([]byte, 2_000_000))
	must(err)
	must(conn.Close())
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
GO
printf 'module finding\n\ngo 1.21\n' >go/go.mod

cat >rust/Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"

[dependencies]
rustls = { version = "=0.23.46", default-features = false, features = ["ring", "std", "tls12"] }

[workspace]
TOML
cat >rust/src/main.rs <<'RUST'
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

fn main() {
    let certificate = CertificateDer::from_pem_file("cert.pem").unwrap();
    match std::env::args().nth(2) {
        None => server(certificate),
        Some(port) => client(certificate, &port),
    }
}

fn server(certificate: CertificateDer<'static>) {
    let key = PrivateKeyDer::from_pem_file("key.pem").unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    for socket in listener.incoming() {
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket.unwrap());
        stream.conn.complete_io(&mut stream.sock).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let (mut count, mut buffer) = (0, vec![0; 65536]);
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            count += n;
        }
        println!("{count}");
    }
}

fn client(certificate: CertificateDer<'static>, port: &str) {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let conn = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(conn, TcpStream::connect(format!("127.0.0.1:{port}")).unwrap());
    stream.write_all(&vec![0; 2_000_000]).unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
}
RUST

cat >tls.py <<'PY'
import socket, ssl, sys, time


def server():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("cert.pem", "key.pem")
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        raw, _ = listener.accept()
        with context.wrap_socket(raw, server_side=True) as conn:
            time.sleep(0.3)
            count = 0
            try:
                while data := conn.recv(65536):
                    count += len(data)
            except OSError:
                pass
            print(count, flush=True)


def client(port, newest):
    context = ssl.create_default_context(cafile="cert.pem")
    context.maximum_version = newest
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost") as conn:
        conn.sendall(bytes(2_000_000))


match sys.argv[1:]:
    case ["server"]:
        server()
    case ["client", port]:
        client(int(port), ssl.TLSVersion.TLSv1_3)
    case ["client-1.2", port]:
        client(int(port), ssl.TLSVersion.TLSv1_2)
PY
cat >client.js <<'JS'
const socket = require('tls').connect(
  { host: '127.0.0.1', port: Number(process.argv[2]), ca: require('fs').readFileSync('cert.pem'), servername: 'localhost' },
  () => socket.end(Buffer.alloc(2000000)),
);
socket.resume();
JS

(cd go && go build -o ../finding-go .) >install.log 2>&1 || { cat install.log; exit 2; }
cargo build --quiet --manifest-path rust/Cargo.toml --target-dir target >install.log 2>&1 || { cat install.log; exit 2; }
./finding-go certificate

declare -A serve=([openssl]="python3 tls.py server" [go]="./finding-go server" [rustls]="target/debug/finding server")
for server in openssl go rustls; do
    ${serve[$server]} >"$server.out" &
    servers+=($!)
done

# seen SERVER CLIENT…: what the server has read of this client.
seen() {
    local out=$1.out before
    shift
    for _ in $(seq 100); do [ -s "$out" ] && break; sleep 0.1; done
    before=$(wc -l <"$out")
    timeout 20 "$@" "$(head -1 "$out")" || { echo "the client failed: $*" >&2; exit 1; }
    for _ in $(seq 200); do [ "$(wc -l <"$out")" -gt "$before" ] && break; sleep 0.1; done
    tail -1 "$out"
}

failed=0
check() {
    local expected=$1 server=$2 got
    shift 2
    got=$(seen "$server" "$@")
    printf '%-8s %-40s %s\n' "$server" "$*" "$got"
    case $expected in
    whole) [ "$got" = 2000000 ] ;;
    cut) [ "$got" -lt 2000000 ] ;;
    esac || { echo "CHANGED: expected it $expected"; failed=1; }
}

for server in openssl go rustls; do
    buffered=cut
    [ "$server" = go ] && buffered=whole
    check cut "$server" python3 tls.py client
    check "$buffered" "$server" ./finding-go client-with-cache
    check "$buffered" "$server" target/debug/finding client
    check whole "$server" node client.js
    check whole "$server" python3 tls.py client-1.2
done
check cut openssl ./finding-go client
check whole go ./finding-go client
check whole rustls ./finding-go client
[ "$failed" = 0 ] || exit 1
echo "as described"
