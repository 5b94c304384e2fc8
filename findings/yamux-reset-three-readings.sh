#!/usr/bin/env bash
# Three yamux libraries read one and the same reset stream as three different things, one of them "ended well".
#
# Expected: yamux's specification (spec.md of hashicorp/yamux) has FIN for a half-close and RST for a hard close, so
#   the reader of a stream that was reset should get an error, and of what came before it as much as everywhere else.
#   A session whose TCP connection ends under an open stream should give that stream's reader an error too.
# Seen: a peer written out by hand opens one stream and sends 4000 bytes, then one of the endings below. The reader is
#   half a second late, so that all of it has arrived before its first read. It reads to the end of the stream:
#                                 FIN                RST                 RST, reader waits   the TCP connection ends
#     hashicorp/yamux (Go)        4000 bytes, end    0 bytes, error      4000 bytes, error   4000 bytes, end
#     yamux (Rust, of libp2p)     4000 bytes, end    4000 bytes, end     4000 bytes, end     4000 bytes, end
#     tokio-yamux (Rust)          4000 bytes, end    4000 bytes, error   4000 bytes, error   4000 bytes, end
#   "end" is the clean end of the stream: io.EOF, or a read of 0 bytes. So the Go library throws away what had
#   arrived, libp2p's cannot tell a reset from an end at all, and none tells that the session broke under the stream.
# Why it matters to a tunnel: a relay over such a multiplexer shows its visitor a cut answer as a whole one, or loses
#   the answer that a service gave just before it closed on an upload; no care in the relay's own code can mend that.
#   The length or the manner of a stream's end has to go over the wire by another way.
# Versions: hashicorp/yamux v0.1.2 (Go 1.26.8), yamux 0.14.1, tokio-yamux 0.3.20 (Rust 1.95); 2026-11-27.
#
# Needs go, cargo and python3. Exit 0: as described. Exit 1: changed. Exit 2: cannot run here.
set -euo pipefail

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

mkdir -p "$tmp/go" "$tmp/rust/src"
cat >"$tmp/go/main.go" <<'GO'
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"time"

	"github.com/hashicorp/yamux"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	conn, err := listener.Accept()
	must(err)
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	session, err := yamux.Server(conn, config)
	must(err)
	stream, err := session.Accept()
	must(err)
	time.Sleep(500 * time.Millisecond)
	data, err := io.ReadAll(stream) // for which io.EOF is no error
	end := "end"
	if err != nil {
		end = "error"
	}
	fmt.Printf("%d bytes, %s\n", len(data), end)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
GO

cat >"$tmp/rust/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"

[dependencies]
futures = "=0.3.31"
tokio = { version = "=1.47.1", features = ["rt", "macros", "net", "time", "io-util"] }
tokio-util = { version = "=0.7.16", features = ["compat"] }
tokio-yamux = "=0.3.20"
yamux = "=0.14.1"

[profile.dev]
debug = false
TOML
cat >"$tmp/rust/src/main.rs" <<'RUST'
use std::time::Duration;

use futures::{future::poll_fn, AsyncReadExt as _, StreamExt as _};
use tokio::{io::AsyncReadExt as _, net::TcpListener, time::sleep};
use tokio_util::compat::TokioAsyncReadCompatExt as _;

const LATE: Duration = Duration::from_millis(500);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    let (socket, _) = listener.accept().await.unwrap();
    let mut data = Vec::new();
    let end = if std::env::args().nth(1).as_deref() == Some("yamux") {
        let mut session = yamux::Connection::new(socket.compat(), yamux::Config::default(), yamux::Mode::Server);
        let mut stream = poll_fn(|cx| session.poll_next_inbound(cx)).await.unwrap().unwrap();
        tokio::spawn(async move { while poll_fn(|cx| session.poll_next_inbound(cx)).await.is_some() {} });
        sleep(LATE).await;
        stream.read_to_end(&mut data).await
    } else {
        let mut session = tokio_yamux::Session::new_server(socket, tokio_yamux::Config::default());
        let mut stream = session.next().await.unwrap().unwrap();
        tokio::spawn(async move { while session.next().await.is_some() {} });
        sleep(LATE).await;
        stream.read_to_end(&mut data).await
    };
    println!("{} bytes, {}", data.len(), if end.is_ok() { "end" } else { "error" });
}
RUST

cat >"$tmp/finding.py" <<'PY'
import socket
import struct
import subprocess
import sys
import time

DATA, WINDOW_UPDATE = 0, 1
SYN, FIN, RST = 1, 4, 8


def frame(kind, flags, length, body=b""):
    return struct.pack(">BBHII", 0, kind, flags, 1, length) + body


def outcome(command, ending):
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = int(reader.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(frame(WINDOW_UPDATE, SYN, 0))
            for _ in range(4):
                peer.sendall(frame(DATA, 0, 1000, b"x" * 1000))
            if ending == "FIN":
                peer.sendall(frame(WINDOW_UPDATE, FIN, 0))
            elif ending == "RST":
                peer.sendall(frame(WINDOW_UPDATE, RST, 0))
            elif ending == "RST, reader waits":
                time.sleep(1.5)
                peer.sendall(frame(WINDOW_UPDATE, RST, 0))
            else:
                peer.shutdown(socket.SHUT_WR)
            return reader.stdout.readline().strip()
    finally:
        reader.kill()
        reader.wait()


def main():
    go, rust = sys.argv[1:]
    endings = ["FIN", "RST", "RST, reader waits", "TCP ends"]
    whole, cut, lost = "4000 bytes, end", "4000 bytes, error", "0 bytes, error"
    table = {
        "hashicorp/yamux": ([go], [whole, lost, cut, whole]),
        "yamux": ([rust, "yamux"], [whole, whole, whole, whole]),
        "tokio-yamux": ([rust, "tokio-yamux"], [whole, cut, cut, whole]),
    }
    changed = False
    for name, (command, want) in table.items():
        for ending, expected in zip(endings, want):
            got = outcome(command, ending)
            note = "" if got == expected else f"   CHANGED, was {expected}"
            changed |= bool(note)
            print(f"{name:16} {ending:18} {got}{note}", flush=True)
    sys.exit(changed)


main()
PY

(
    cd "$tmp/go"
    export GOPATH="$tmp/gopath" GOFLAGS="-modcacherw -buildvcs=false"
    go mod init finding
    go get github.com/hashicorp/yamux@v0.1.2
    go build -o finding .
    cd "$tmp/rust"
    CARGO_TARGET_DIR="$tmp/target" cargo build
) >"$tmp/install.log" 2>&1 || { cat "$tmp/install.log"; exit 2; }

timeout 60 python3 "$tmp/finding.py" "$tmp/go/finding" "$tmp/target/debug/finding"
echo "as described"
