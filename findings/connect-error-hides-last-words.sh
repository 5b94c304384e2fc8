#!/usr/bin/env bash
# A service that says why it will not serve and resets: whoever looks late at his connect never reads what it said.
#
# Expected: Linux hands out what a connection has received before it reports that it was reset (read(2) gives the bytes,
#   then ECONNRESET), so that a greeting like "530 too many users" reaches its reader whenever he reads. And connect's
#   errors are about connecting: a peer that accepted, wrote and reset was connected to.
# Seen: the end of a non-blocking connect(2) is asked for with SO_ERROR, as its manual page says, and that takes the
#   connection's one error, whatever it is. A program that was busy between its connect and that look (garbage
#   collection, a long callback, a loaded machine) finds ECONNRESET there, reports a failed connect and closes the socket
#   with the words in it. All event loops that were tried do so:
#     asyncio (CPython 3.11.7), uvloop 0.22.1, Node 20.20.2, Go 1.26.8 (net), tokio 1.48.0
#   Who looks in time reads the words in each of them. A socket that is polled for writing and read without that question
#   gives the words and then ECONNRESET; one that was asked gives the words and then, the error being spent, a clean end.
# Why it matters to a tunnel: a relay that learns of a finished dial so turns a service's last words and reset into
#   "cannot connect", and its visitor sees a reset without the words, where a direct visitor might have read them. Look at
#   the peer's name (getpeername) or just read first; if SO_ERROR says ECONNRESET, what was received is still there, but
#   the end behind it looks clean.
# Versions: as above, Linux 6.18; 2026-11-28.
#
# Needs python3 with venv, go, node and cargo. Exit 0: as described. Exit 1: changed. Exit 2: cannot run here.
set -euo pipefail

for tool in python3 go node cargo; do
    command -v "$tool" >/dev/null || { echo "no $tool found"; exit 2; }
done
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv" && "$tmp/venv/bin/pip" -q install uvloop==0.22.1 ||
    { echo "cannot install uvloop"; exit 2; }

# Each client connects to the port in its first argument, is busy for as many milliseconds as the second one says once
# connect(2) is under way, and prints what it got: the words, or what failed.
cat >"$tmp/loops.py" <<'PY'
import asyncio
import sys
import time

loop_name, port, busy = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) / 1000


async def with_asyncio():
    dial = asyncio.ensure_future(asyncio.open_connection("127.0.0.1", port))
    # Until it has begun: one turn of the loop, in which nobody looks how it ended.
    await asyncio.sleep(0)
    time.sleep(busy)
    try:
        reader, _ = await dial
    except OSError as error:
        return f"connect: {error.strerror}"
    return (await reader.readline()).decode().strip()


if loop_name == "uvloop":
    import uvloop
    print(uvloop.run(with_asyncio()))
else:
    print(asyncio.run(with_asyncio()))
PY
cat >"$tmp/client.js" <<'JS'
const [port, busy] = process.argv.slice(2).map(Number);
let connected = false;
const socket = require('net').connect(port, '127.0.0.1', () => { connected = true; });
socket.once('data', (words) => { console.log(words.toString().trim()); process.exit(0); });
socket.on('error', (error) => console.log(`${connected ? 'read' : 'connect'}: ${error.code}`));
// connect(2) is called by a tick of its own, which comes before this one.
process.nextTick(() => busy && Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, busy));
JS
mkdir "$tmp/go" && cat >"$tmp/go/main.go" <<'GO'
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
)

func main() {
	runtime.GOMAXPROCS(1)
	said := make(chan string)
	go func() {
		conn, err := net.Dial("tcp", "127.0.0.1:"+os.Args[1])
		if err != nil {
			said <- "connect: " + err.Error()
			return
		}
		words, err := bufio.NewReader(conn).ReadString('\n')
		said <- words + fmt.Sprint(err)
	}()
	// The other goroutine waits for its connect; whoever started this process lets it go on after a while.
	runtime.Gosched()
	if os.Args[2] != "0" {
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	}
	fmt.Println(<-said)
}
GO
(cd "$tmp/go" && go mod init client 2>/dev/null && go build -o ../client-go .) ||
    { echo "cannot build with go"; exit 2; }
mkdir -p "$tmp/tokio/src" && cat >"$tmp/tokio/Cargo.toml" <<'TOML'
[package]
name = "client"
version = "0.0.0"
edition = "2021"

[dependencies]
tokio = { version = "=1.48.0", features = ["rt", "net", "io-util", "macros"] }

[workspace]
TOML
cat >"$tmp/tokio/src/main.rs" <<'RS'
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let [port, busy]: [u64; 2] = [1, 2].map(|n| std::env::args().nth(n).unwrap().parse().unwrap());
    let dial = tokio::spawn(TcpStream::connect(("127.0.0.1", port as u16)));
    tokio::task::yield_now().await;
    std::thread::sleep(std::time::Duration::from_millis(busy));
    match dial.await.unwrap() {
        Err(error) => println!("connect: {error}"),
        Ok(mut stream) => {
            let mut words = [0; 100];
            let length = stream.read(&mut words).await.unwrap();
            println!("{}", String::from_utf8_lossy(&words[..length]).trim());
        }
    }
}
RS
CARGO_TARGET_DIR="$tmp/target" cargo build -q --manifest-path "$tmp/tokio/Cargo.toml" ||
    { echo "cannot build with tokio"; exit 2; }

cat >"$tmp/service.py" <<'PY'
import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

TMP = sys.argv[1]
WORDS = b"530 too many users\n"
VENV = [f"{TMP}/venv/bin/python", f"{TMP}/loops.py"]
CLIENTS = {
    "asyncio": [*VENV, "asyncio"],
    "uvloop": [*VENV, "uvloop"],
    "Node": ["node", f"{TMP}/client.js"],
    "Go": [f"{TMP}/client-go"],
    "tokio": [f"{TMP}/target/debug/client"],
}


def refuse(listener, after=0.0):
    """Says why, and resets."""
    visitor, _ = listener.accept()
    time.sleep(after)
    visitor.sendall(WORDS)
    # In time, the words have been read when the reset comes.
    time.sleep(after)
    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    visitor.close()


def what_a_client_reads(command, busy):
    """A busy client looks at its connect long after the reset; one that is not, long before the words."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = subprocess.Popen([*command, str(listener.getsockname()[1]), "500" if busy else "0"], stdout=subprocess.PIPE)
    refuse(listener, 0 if busy else 0.5)
    if busy:
        time.sleep(0.5)
        os.kill(client.pid, signal.SIGCONT)
    return client.communicate(timeout=20)[0].decode().split("\n")[0]


def read_all(sock):
    got = b""
    while True:
        try:
            more = sock.recv(100)
        except OSError as error:
            return got, errno.errorcode[error.errno]
        if not more:
            return got, "a clean end"
        got += more


def without_a_library(asks):
    listener = socket.create_server(("127.0.0.1", 0))
    sock = socket.socket()
    sock.setblocking(False)
    assert sock.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    refuse(listener)
    assert select.select([], [sock], [], 5)[1]
    if asks:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    return read_all(sock)


as_described = True
for name, command in CLIENTS.items():
    in_time, busy = what_a_client_reads(command, False), what_a_client_reads(command, True)
    print(f"{name}: in time: {in_time!r}; busy while it connects: {busy!r}")
    as_described &= in_time == WORDS.decode().strip() and busy.startswith("connect: ")
for asks, end in [(False, "ECONNRESET"), (True, "a clean end")]:
    seen = without_a_library(asks)
    print(f"a bare socket, SO_ERROR {'asked for' if asks else 'not asked for'}: {seen[0]!r}, then {seen[1]}")
    as_described &= seen == (WORDS, end)
sys.exit(0 if as_described else 1)
PY
python3 "$tmp/service.py" "$tmp"
