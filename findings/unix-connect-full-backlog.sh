#!/usr/bin/env bash
# A Unix socket's service is slow to accept: its clients are told "connected", an error, nothing, or a spin, by library.
#
# Expected: connect(2) on a non-blocking socket starts, epoll tells when it is through, and SO_ERROR says how it went:
#   what every event loop does for TCP.
# Seen: where the service's backlog is full, connect(2) on a non-blocking AF_UNIX socket returns EAGAIN, and nothing has
#   been started (connect(2) says so in one line). The socket is then writable with EPOLLHUP at once and SO_ERROR is 0.
#   A service that has called listen(1) and is busy; six clients, one after the other, of which two fit:
#     asyncio (CPython 3.11.7)  "connected"; the first write fails, with EINVAL
#     trio 0.31.0               "connected"; getpeername(2) says that it is not
#     uvloop 0.22.1, tokio 1.48.0, async-io 2.6.0 (smol), Node 20.20.2, Go 1.26.8 (net.Dial)
#                               an error at once: EAGAIN, "try again", with nothing to wait for
#     anyio 4.11.0              waits by calling connect again and again: a waiting client takes what a core has left
#     gevent 25.9.1             waits
#   and a blocking connect(2) sleeps until there is room.
# Why it matters to a tunnel: "local = unix:/run/app.sock" is dialled by an event loop, and a burst of visitors is all it
#   takes to fill a backlog of 128. A dial must take EAGAIN as "not yet", try again after a pause of its own, and give
#   up at its deadline; taken as EINPROGRESS it forwards a visitor to a socket that nobody is behind.
# Versions: as above, Linux 6.18; 2026-11-27.
#
# Needs python3 with venv, cargo, go and node. Exit 0: as described. Exit 1: changed. Exit 2: cannot run here.
set -euo pipefail

for tool in python3 cargo go node; do
    command -v "$tool" >/dev/null || { echo "no $tool found"; exit 2; }
done
tmp=$(mktemp -d)
services=()
trap 'kill "${services[@]}" 2>/dev/null || true; rm -rf "$tmp"' EXIT

# One socket per client program: a service that listens with a backlog of one and never accepts.
cat >"$tmp/service.py" <<'PY'
import socket
import sys
import time

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(1)
time.sleep(300)
PY

cat >"$tmp/client.py" <<'PY'
import os
import socket
import sys
import time

LIBRARY, PATH, DIALS = sys.argv[1], sys.argv[2], 6
kept = []


def verdict(fd):
    """What getpeername(2) says of a socket that a library called connected."""
    try:
        socket.socket(fileno=os.dup(fd)).getpeername()
        return "connected"
    except OSError:
        return "connected, it said"


async def dials(dial, limit):
    said = []
    for _ in range(DIALS):
        before = time.process_time()
        try:
            said.append(await limit(dial))
        except TimeoutError:
            said.append("spins" if time.process_time() - before > 0.1 else "waits")
        except OSError:
            said.append("error")
    return said


def with_asyncio():
    import asyncio

    async def dial():
        transport, protocol = await asyncio.get_running_loop().create_unix_connection(asyncio.Protocol, PATH)
        kept.append((transport, protocol))
        try:
            fd = transport.get_extra_info("socket").fileno()
            if fd < 0:
                return "connected, it said"
            return verdict(fd)
        finally:
            await asyncio.sleep(0)

    async def limit(dial):
        try:
            return await asyncio.wait_for(dial(), 1)
        except asyncio.TimeoutError:
            raise TimeoutError from None

    return asyncio.run(dials(dial, limit))


def with_uvloop():
    import asyncio

    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    return with_asyncio()


def with_trio():
    import trio

    async def dial():
        stream = await trio.open_unix_socket(PATH)
        kept.append(stream)
        return verdict(stream.socket.fileno())

    async def limit(dial):
        with trio.move_on_after(1):
            return await dial()
        raise TimeoutError

    return trio.run(dials, dial, limit)


def with_anyio():
    import anyio

    async def dial():
        stream = await anyio.connect_unix(PATH)
        kept.append(stream)
        return verdict(stream.extra(anyio.abc.SocketAttribute.raw_socket).fileno())

    async def limit(dial):
        with anyio.move_on_after(1):
            return await dial()
        raise TimeoutError

    return anyio.run(dials, dial, limit)


def with_gevent():
    import gevent
    from gevent import socket as cooperative

    said = []
    for _ in range(DIALS):
        with gevent.Timeout(1, False):
            client = cooperative.socket(socket.AF_UNIX)
            client.connect(PATH)
            kept.append(client)
            said.append(verdict(client.fileno()))
            continue
        said.append("waits")
    return said


print("; ".join(globals()["with_" + LIBRARY]()), flush=True)
os._exit(0)
PY

mkdir -p "$tmp/rust/src" "$tmp/go"
cat >"$tmp/rust/Cargo.toml" <<'TOML'
[package]
name = "client"
version = "0.0.0"
edition = "2021"

[dependencies]
async-io = "=2.6.0"
tokio = { version = "=1.48.0", features = ["net", "rt", "time"] }
TOML
cat >"$tmp/rust/src/main.rs" <<'RS'
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn verdict(stream: &UnixStream) -> &'static str {
    // peer_addr is getpeername(2).
    if stream.peer_addr().is_ok() { "connected" } else { "connected, it said" }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (library, path) = (arguments.next().unwrap(), arguments.next().unwrap());
    let mut said = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for _ in 0..6 {
        said.push(if library == "tokio" {
            let dial = tokio::net::UnixStream::connect(&path);
            match runtime.block_on(async { tokio::time::timeout(Duration::from_secs(1), dial).await }) {
                Err(_) => "waits",
                Ok(Err(_)) => "error",
                Ok(Ok(stream)) => {
                    let stream = stream.into_std().unwrap();
                    let what = verdict(&stream);
                    std::mem::forget(stream);
                    what
                }
            }
        } else {
            match async_io::block_on(async_io::Async::<UnixStream>::connect(&path)) {
                Err(_) => "error",
                Ok(stream) => {
                    let what = verdict(stream.get_ref());
                    std::mem::forget(stream);
                    what
                }
            }
        });
    }
    println!("{}", said.join("; "));
}
RS
cat >"$tmp/go/main.go" <<'GO'
package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

func main() {
	var said []string
	var kept []net.Conn
	for range 6 {
		conn, err := net.DialTimeout("unix", os.Args[2], time.Second)
		kept = append(kept, conn)
		switch {
		case err == nil:
			said = append(said, "connected")
		case err.(net.Error).Timeout() && !strings.Contains(err.Error(), "temporarily unavailable"):
			said = append(said, "waits")
		default:
			said = append(said, "error")
		}
	}
	fmt.Println(strings.Join(said, "; "))
}
GO
cat >"$tmp/client.js" <<'JS'
const net = require('net');
const said = [];
function dial(left) {
  if (left === 0) { console.log(said.join('; ')); process.exit(0); }
  const socket = net.connect(process.argv[3]);
  const timer = setTimeout(() => then('waits'), 1000);
  function then(what) { clearTimeout(timer); said.push(what); dial(left - 1); }
  socket.once('connect', () => then('connected'));
  socket.once('error', () => then('error'));
}
dial(6);
JS

(
    python3 -m venv "$tmp/venv"
    "$tmp/venv/bin/pip" install trio==0.31.0 anyio==4.11.0 uvloop==0.22.1 gevent==25.9.1
    cd "$tmp/rust" && cargo build --quiet
    cd "$tmp/go" && go mod init client && go build -o client .
) >"$tmp/install.log" 2>&1 || { cat "$tmp/install.log"; exit 2; }

changed=0
# expect LIBRARY WHAT COMMAND...: what the third to the sixth client are told; two fit.
expect() {
    local library=$1 what=$2 socket="$tmp/$1.sock"
    shift 2
    python3 "$tmp/service.py" "$socket" &
    services+=($!)
    until [ -S "$socket" ]; do sleep 0.1; done
    sleep 0.2
    local said
    said=$(timeout 60 "$@" "$library" "$socket" 2>>"$tmp/noise.log") || true
    printf '%-10s %s\n' "$library" "$said"
    [ "$said" = "connected; connected; $what; $what; $what; $what" ] || changed=1
}
python=("$tmp/venv/bin/python" "$tmp/client.py")
expect asyncio "connected, it said" "${python[@]}"
expect trio "connected, it said" "${python[@]}"
expect async-io error "$tmp/rust/target/debug/client"
expect uvloop error "${python[@]}"
expect tokio error "$tmp/rust/target/debug/client"
expect node error node "$tmp/client.js"
expect go error "$tmp/go/client"
expect anyio spins "${python[@]}"
expect gevent waits "${python[@]}"

if [ "$changed" = 1 ]; then
    echo "changed: see the head of this script"
    cat "$tmp/noise.log"
    exit 1
fi
echo "as described"
