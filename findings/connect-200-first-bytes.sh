#!/usr/bin/env bash
# Five of seven HTTP CONNECT clients damage a stream whose server speaks first; two hand header lines out as payload.
#
# Expected: RFC 9110, section 9.3.6: the tunnel begins right behind the blank line that ends a 2xx answer's header
#   section. TCP keeps no message borders (RFC 9293), so the same bytes mean the same, however they are cut into
#   segments.
# Seen: a local proxy sends the very same bytes (status line, a Via line, blank line, then the service's greeting) in
#   three timings, all of them valid. What the client's user then reads up to the end of the stream:
#                              head, pause, greeting   all in one segment        status, pause, Via, pause, greeting
#     PySocks                  greeting                nothing (greeting lost)   Via line, blank line, greeting
#     python-socks             greeting                nothing (greeting lost)   Via line, blank line, greeting
#     hpagent                  greeting                nothing (greeting lost)   greeting
#     https-proxy-agent        greeting                nothing (greeting lost)   greeting
#     tunnel                   greeting                error "illegal response"  greeting
#     httpcore (control)       greeting                greeting                  greeting
#     Node's http (control)    greeting                greeting                  greeting
#   The two Python packages read once and take whatever that read brought for the whole answer. In the silent cases
#   nothing is raised: the stream just ends well without its first bytes.
# Why it matters to a tunnel: one that saves round trips puts a service's first bytes right behind its own answer,
#   which every mail, SSH or database server behind it makes common; on a fast line the join becomes the rule. Who
#   must live with such clients leaves the greeting for a segment of its own; who writes a client keeps what is behind
#   the head.
# Versions: PySocks 1.7.1, python-socks 3.2.1, httpcore 1.0.9 (Python 3.11); hpagent 1.2.0, https-proxy-agent 9.1.0,
#   tunnel 0.0.6 (Node 20.20.2); 2026-11-27.
#
# Needs python3 with venv, node and npm. Exit 0: as described. Exit 1: changed. Exit 2: cannot run here.
set -euo pipefail

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

(
    cd "$tmp"
    python3 -m venv venv
    venv/bin/pip install PySocks==1.7.1 python-socks==3.2.1 httpcore==1.0.9
    npm install --prefix "$tmp" --no-audit --no-fund --ignore-scripts --save-exact \
        hpagent@1.2.0 https-proxy-agent@9.1.0 tunnel@0.0.6
) >"$tmp/install.log" 2>&1 || { cat "$tmp/install.log"; exit 2; }

cat >"$tmp/visit.mjs" <<'JS'
// Opens a tunnel with the named package and prints, as JSON, what its user reads.
import http from 'node:http'
import { EventEmitter } from 'node:events'

const [, , name, port] = process.argv
const proxy = `http://127.0.0.1:${port}`
const target = { host: 'localhost', port: 25 }

function finish(text) {
  console.log(JSON.stringify(text))
  process.exit()
}

function readAll(socket) {
  let text = ''
  socket.on('data', (chunk) => { text += chunk })
  socket.on('end', () => finish(text))
  socket.resume()
}

setTimeout(() => finish('timed out'), 5000)

if (name === 'hpagent') {
  const { HttpProxyAgent } = await import('hpagent')
  new HttpProxyAgent({ proxy }).createConnection(target, (err, socket) => err ? finish(err.message) : readAll(socket))
} else if (name === 'https-proxy-agent') {
  const { HttpsProxyAgent } = await import('https-proxy-agent')
  const request = new EventEmitter()
  const socket = await new HttpsProxyAgent(proxy).connect(request, { ...target, secureEndpoint: false })
  readAll(socket)
  request.emit('socket', socket)
} else if (name === 'tunnel') {
  const { default: tunnel } = await import('tunnel')
  const request = new EventEmitter()
  request.on('error', (err) => finish(err.message))
  tunnel.httpOverHttp({ proxy: { host: '127.0.0.1', port } }).createSocket({ ...target, request }, readAll)
} else {
  http.request(proxy, { method: 'CONNECT', path: 'localhost:25' }).on('connect', (_, socket, head) => {
    if (head.length > 0) socket.unshift(head)
    readAll(socket)
  }).end()
}
JS

cat >"$tmp/finding.py" <<'PY'
import json
import os
import socket
import subprocess
import sys
import threading
import time

import httpcore
import socks
from python_socks.sync import Proxy

STATUS, HEADERS, GREETING = b"HTTP/1.1 200 OK\r\n", b"Via: 1.1 local\r\n\r\n", b"220 ready\r\n"
TIMINGS = {
    "head first": [STATUS + HEADERS, GREETING],
    "joined": [STATUS + HEADERS + GREETING],
    "line by line": [STATUS, HEADERS, GREETING],
}


def proxy(parts):
    """Answers each CONNECT with the parts, a pause behind each; returns the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(conn):
        with conn:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request = b""
            while b"\r\n\r\n" not in request:
                request += conn.recv(4096)
            for part in parts:
                conn.sendall(part)
                time.sleep(0.2)
            conn.shutdown(socket.SHUT_WR)
            while conn.recv(4096):
                pass

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def read_all(recv):
    data = b""
    while chunk := recv(4096):
        data += chunk
    return data.decode()


def pysocks(port):
    with socks.socksocket() as conn:
        conn.settimeout(5)
        conn.set_proxy(socks.HTTP, "127.0.0.1", port)
        conn.connect(("localhost", 25))
        return read_all(conn.recv)


def python_socks(port):
    with Proxy.from_url(f"http://127.0.0.1:{port}").connect("localhost", 25, timeout=5) as conn:
        return read_all(conn.recv)


def httpcore_tunnel(port):
    extensions = {"target": b"localhost:25", "timeout": {"read": 5.0}}
    with httpcore.ConnectionPool() as pool:
        with pool.stream("CONNECT", f"http://127.0.0.1:{port}", extensions=extensions) as answer:
            return read_all(lambda size: answer.extensions["network_stream"].read(size, timeout=5))


def node(name):
    def visit(port):
        command = ["node", os.path.join(sys.path[0], "visit.mjs"), name, str(port)]
        return json.loads(subprocess.run(command, check=True, timeout=20, capture_output=True).stdout)

    return visit


def main():
    greeting, lost, leaked = GREETING.decode(), "", (HEADERS + GREETING).decode()
    table = [
        ("PySocks", pysocks, [greeting, lost, leaked]),
        ("python-socks", python_socks, [greeting, lost, leaked]),
        ("hpagent", node("hpagent"), [greeting, lost, greeting]),
        ("https-proxy-agent", node("https-proxy-agent"), [greeting, lost, greeting]),
        ("tunnel", node("tunnel"), [greeting, "got illegal response body from proxy", greeting]),
        ("httpcore (control)", httpcore_tunnel, [greeting] * 3),
        ("Node's http (control)", node("http"), [greeting] * 3),
    ]
    ports = [proxy(parts) for parts in TIMINGS.values()]
    changed = False
    for name, visit, want in table:
        for timing, port, expected in zip(TIMINGS, ports, want):
            try:
                got = visit(port)
            except Exception as err:
                got = f"{type(err).__name__}: {err}"
            note = "" if got == expected else f"   CHANGED, was {expected!r}"
            changed |= bool(note)
            print(f"{name:22} {timing:13} {got!r}{note}", flush=True)
    sys.exit(changed)


main()
PY

"$tmp/venv/bin/python" "$tmp/finding.py"
echo "as described"
