#!/usr/bin/env bash
# Six TCP relays show a service's reset as a clean end, and a pair of stunnels loses the answer in front of it as well.
#
# Expected: over a direct connection, RFC 9293 (section 3.10.7.4: a reset gives the user an error) and the kernel let
#   the visitor read what came before the reset, and then ECONNRESET, so that it can tell a cut answer from a whole
#   one. A TCP relay in its plain layer-4 mode should leave that as it is; none of the manuals of those below says
#   that it does not.
# Seen: a service answers with 60000 bytes and then resets (SO_LINGER 0), at once or 0.4 s later. The visitor waits
#   0.8 s, then reads up to the end or an error. Three visits each, more for stunnel:
#                                reset at once                     reset 0.4 s later
#     direct                     60000 bytes, ECONNRESET           60000 bytes, ECONNRESET
#     haproxy (mode tcp)         60000 bytes, clean end            60000 bytes, clean end
#     haproxy (splice-auto)      60000 bytes, clean end            60000 bytes, clean end
#     nginx (stream)             60000 bytes, clean end            60000 bytes, clean end
#     socat                      60000 bytes, clean end            60000 bytes, clean end
#     tcpproxy (Go)              60000 bytes, clean end            60000 bytes, clean end
#     net and pipe (Node)        60000 bytes, clean end            60000 bytes, clean end
#     two stunnels               0 to 60000 bytes, clean end       60000 bytes, clean end
#   A stunnel drops what it holds for one side when the other side fails, and then closes that side in good order; how
#   much that is depends on timing (0, 18432, 34816 and all 60000 bytes arrived in these runs).
# Why it matters to a tunnel: with a protocol that ends its answers by closing (HTTP/1.0, FTP data, a plain dump) the
#   visitor takes half a file for a whole one. What stands before or behind the tunnel can do that too: a test that
#   wants to see a reset come through must not run over one of these.
# Versions: haproxy 2.6.12-1+deb12u4, nginx 1.22.1-9+deb12u11, socat 1.7.4.4-2, stunnel4 5.68-2+deb12u1 (Debian 12),
#   github.com/inetaf/tcpproxy v0.0.0-20260515195445-c159a6051109 (Go 1.26.8), Node 20.20.2; Linux 6.18; 2026-11-27.
#
# Needs apt-get with Debian 12's lists, dpkg, go, node, openssl, python3. Exit 0: as described. 1: changed. 2: cannot
#   run here.
set -euo pipefail

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp"

mkdir "$tmp/go"
cat >"$tmp/go/main.go" <<'GO'
package main

import (
	"log"
	"os"

	"github.com/inetaf/tcpproxy"
)

func main() {
	var proxy tcpproxy.Proxy
	proxy.AddRoute(os.Args[1], tcpproxy.To(os.Args[2]))
	log.Fatal(proxy.Run())
}
GO

(
    cd "$tmp"
    apt-get download haproxy=2.6.12-1+deb12u4 nginx=1.22.1-9+deb12u11 libnginx-mod-stream=1.22.1-9+deb12u11 \
        socat=1.7.4.4-2 stunnel4=3:5.68-2+deb12u1 \
        liblua5.3-0=5.3.6-2 libopentracing-c-wrapper0=1.1.3-3+b1 libopentracing1=1.6.0-4 libwrap0=7.6.q-32
    for package in ./*.deb; do dpkg -x "$package" "$tmp/root"; done
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout "$tmp/key.pem" -out "$tmp/cert.pem"
    cd go
    export GOPATH="$tmp/gopath" GOFLAGS="-modcacherw -buildvcs=false"
    go mod init finding
    go get github.com/inetaf/tcpproxy@v0.0.0-20260515195445-c159a6051109
    go build -o "$tmp/tcpproxy" .
) >"$tmp/install.log" 2>&1 || { cat "$tmp/install.log"; exit 2; }

cat >"$tmp/finding.py" <<'PY'
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

TMP = sys.path[0]
ROOT = f"{TMP}/root"
SIZE, VISITS, STUNNEL_VISITS = 60000, 3, 30
NODE = """
const net = require('net')
const [port, to] = process.argv.slice(1).map(Number)
net.createServer({ allowHalfOpen: true }, (visitor) => {
  const service = net.connect({ port: to, host: '127.0.0.1', allowHalfOpen: true })
  visitor.pipe(service)
  service.pipe(visitor)
  visitor.on('error', () => service.destroy())
  service.on('error', () => visitor.destroy())
}).listen(port, '127.0.0.1')
"""
processes = []


def service(delay):
    """Answers each visitor's request, then resets; returns the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(conn):
        with conn:
            if conn.recv(16):
                conn.sendall(bytes(SIZE))
                time.sleep(delay)
                conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def visit(port):
    """The number of bytes read, and whether a clean end came behind them."""
    with socket.create_connection(("127.0.0.1", port), timeout=8) as conn:
        conn.sendall(b"GET")
        time.sleep(0.8)
        count = 0
        try:
            while chunk := conn.recv(65536):
                count += len(chunk)
        except ConnectionResetError:
            return count, "ECONNRESET"
        return count, "clean end"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def config(port, text):
    path = f"{TMP}/{port}.conf"
    with open(path, "w") as file:
        file.write(text)
    return path


def start(port, *command):
    libraries = f"{ROOT}/usr/lib/x86_64-linux-gnu:{ROOT}/lib/x86_64-linux-gnu"
    env = dict(os.environ, LD_LIBRARY_PATH=libraries)
    processes.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return port
        except ConnectionRefusedError:
            time.sleep(0.1)
    sys.exit(f"{command[0]} does not listen")


def haproxy(to, option=""):
    port = free_port()
    text = f"""
defaults
    mode tcp
    timeout connect 5s
    timeout client 10s
    timeout server 10s
    {option}
listen relay
    bind 127.0.0.1:{port}
    server service 127.0.0.1:{to}
"""
    return start(port, f"{ROOT}/usr/sbin/haproxy", "-db", "-f", config(port, text))


def nginx(to):
    port = free_port()
    text = f"""
load_module {ROOT}/usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
master_process off;
pid {TMP}/{port}.pid;
error_log {TMP}/nginx.log;
events {{ }}
stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{to}; }} }}
"""
    return start(port, f"{ROOT}/usr/sbin/nginx", "-e", f"{TMP}/nginx.log", "-c", config(port, text))


def socat(to):
    port = free_port()
    return start(port, f"{ROOT}/usr/bin/socat", f"TCP-LISTEN:{port},bind=127.0.0.1,fork", f"TCP:127.0.0.1:{to}")


def tcpproxy(to):
    port = free_port()
    return start(port, f"{TMP}/tcpproxy", f"127.0.0.1:{port}", f"127.0.0.1:{to}")


def node(to):
    port = free_port()
    return start(port, "node", "-e", NODE, str(port), str(to))


def stunnel(to):
    port, tls_port = free_port(), free_port()
    common = "foreground = yes\npid =\n[relay]\n"
    server = f"accept = 127.0.0.1:{tls_port}\nconnect = 127.0.0.1:{to}\ncert = {TMP}/cert.pem\nkey = {TMP}/key.pem\n"
    client = f"client = yes\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{tls_port}\n"
    start(tls_port, f"{ROOT}/usr/bin/stunnel4", config(tls_port, common + server))
    return start(port, f"{ROOT}/usr/bin/stunnel4", config(port, common + client))


def lossy(name, delay):
    return name == "two stunnels" and delay == 0


def main():
    relays = {
        "direct": lambda to: to,
        "haproxy (mode tcp)": haproxy,
        "haproxy (splice-auto)": lambda to: haproxy(to, "option splice-auto"),
        "nginx (stream)": nginx,
        "socat": socat,
        "tcpproxy (Go)": tcpproxy,
        "net and pipe (Node)": node,
        "two stunnels": stunnel,
    }
    changed = False
    for delay in (0, 0.4):
        to = service(delay)
        for name, relay in relays.items():
            port = relay(to)
            seen = [visit(port) for _ in range(VISITS)]
            while lossy(name, delay) and min(seen)[0] == SIZE and len(seen) < STUNNEL_VISITS:
                seen.append(visit(port))
            if name == "direct":
                good = set(seen) == {(SIZE, "ECONNRESET")}
            elif lossy(name, delay):
                good = {end for _, end in seen} == {"clean end"} and min(seen)[0] < SIZE
            else:
                good = set(seen) == {(SIZE, "clean end")}
            changed |= not good
            counts = ", ".join(f"{count} bytes, {end}" for count, end in sorted(set(seen)))
            print(f"reset after {delay} s, {name:22} {counts}{'' if good else '   CHANGED'}", flush=True)
    return changed


signal.signal(signal.SIGTERM, lambda *_: sys.exit("timed out"))
try:
    sys.exit(main())
finally:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()
PY

timeout 150 python3 "$tmp/finding.py"
echo "as described"
