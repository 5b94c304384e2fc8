#!/usr/bin/env bash
# Who ends his request first gets no answer through seven of eleven SOCKS5 and CONNECT proxies, and reads a clean end.
#
# Expected: shutdown(2) ends one direction of a TCP connection, and the other goes on (RFC 9293, 3.6: "CLOSE is an
#   operation meaning 'I have no more data to send'"). RFC 1928, section 6 has a SOCKS5 server "start passing data
#   through" and says nothing of ends. RFC 9110, 9.3.6 ends a CONNECT tunnel when either side "has closed its
#   connection", which one may read either way; squid's documentation has a directive for it, half_closed_clients.
# Seen: two visits through each proxy. First the client sends 1000 bytes and shuts its sending side; the service reads
#   them and the end, thinks for half a second and answers with 100000 bytes. Then the other way round: the service
#   says hello and shuts its sending side; the client reads both, waits and sends 100000 bytes.
#                                   the client reads          of the client's upload the service gets
#     direct                        100000 bytes, clean end   100000 bytes
#     dante            (SOCKS5)     100000 bytes, clean end   100000 bytes
#     armon/go-socks5  (SOCKS5)     100000 bytes, clean end   100000 bytes
#     goproxy          (CONNECT)    100000 bytes, clean end   100000 bytes
#     proxy-chain      (CONNECT)    100000 bytes, clean end   nothing
#     microsocks       (SOCKS5)     nothing, clean end        nothing
#     pproxy           (SOCKS5)     nothing, clean end        nothing
#     pproxy           (CONNECT)    nothing, clean end        nothing
#     proxy.py         (CONNECT)    nothing, clean end        nothing
#     tinyproxy        (CONNECT)    nothing, clean end        nothing
#     privoxy          (CONNECT)    nothing, clean end        nothing
#     squid            (CONNECT)    nothing, clean end        nothing, with half_closed_clients on as well
#   The service has read all of the request and its end, answers, and is the one that learns of the cut: the client
#   cannot tell it from an empty answer. Browsers never notice, as TLS clients do not end one side of a TCP connection.
# Why it matters to a tunnel: `ssh … | program`, a database's dump, git and netcat end one side first. A tunnel that goes
#   out through such a proxy must tell of ends inside its stream (and keep the connection to the proxy open both ways);
#   one that shows its own connection's half-close to a proxy works in one network and cuts answers in the next.
# Versions: dante-server 1.4.2+dfsg-7+b8, microsocks 1.0.3-2, tinyproxy 1.11.1-2.1+deb12u1, privoxy 3.0.34-1, squid
#   5.7-2+deb12u6 (Debian 12); github.com/armon/go-socks5 v0.0.0-20160902184237-e75332964ef5, github.com/elazarl/goproxy
#   v1.9.4 (Go 1.26.8); pproxy 2.7.9, proxy.py 2.4.10 (Python 3.11.7); proxy-chain 3.0.1 (Node 20.20.2); 2026-11-28.
#
# Needs apt-get with Debian 12's lists, dpkg, go, node and npm, python3 with venv. Exit 0: as described. 1: changed. 2:
#   cannot run here.
set -euo pipefail

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp"

mkdir "$tmp/go"
cat >"$tmp/go/main.go" <<'GO'
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/armon/go-socks5"
	"github.com/elazarl/goproxy"
)

func main() {
	if os.Args[1] == "goproxy" {
		log.Fatal(http.ListenAndServe(os.Args[2], goproxy.NewProxyHttpServer()))
	}
	server, err := socks5.New(&socks5.Config{})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.ListenAndServe("tcp", os.Args[2]))
}
GO

(
    cd "$tmp"
    apt-get download dante-server=1.4.2+dfsg-7+b8 microsocks=1.0.3-2 tinyproxy-bin=1.11.1-2.1+deb12u1 privoxy=3.0.34-1 \
        squid=5.7-2+deb12u6 libecap3=1.0.1-3.4 libltdl7=2.4.7-7~deb12u1 libnetfilter-conntrack3=1.0.9-3 \
        libnfnetlink0=1.0.2-2 libwrap0=7.6.q-32 libmbedcrypto7=2.28.3-1 libmbedtls14=2.28.3-1 libmbedx509-1=2.28.3-1 \
        libpcre3=2:8.39-15 libbrotli1=1.0.9-2+b6
    for package in ./*.deb; do dpkg -x "$package" "$tmp/root"; done
    python3 -m venv venv
    venv/bin/pip install pproxy==2.7.9 proxy.py==2.4.10
    npm install --prefix "$tmp" --no-audit --no-fund --ignore-scripts --save-exact proxy-chain@3.0.1
    cd go
    export GOPATH="$tmp/gopath" GOFLAGS="-modcacherw -buildvcs=false"
    go mod init finding
    go get github.com/armon/go-socks5@v0.0.0-20160902184237-e75332964ef5 github.com/elazarl/goproxy@v1.9.4
    go build -o "$tmp/servers" .
) >"$tmp/install.log" 2>&1 || { cat "$tmp/install.log"; exit 2; }

cat >"$tmp/finding.py" <<'PY'
import os
import socket
import struct
import subprocess
import sys
import threading
import time

tmp = os.path.dirname(os.path.abspath(__file__))
root = f"{tmp}/root"
libraries = f"{root}/usr/lib/x86_64-linux-gnu:{root}/lib/x86_64-linux-gnu"
UPLOAD = ANSWER = 100_000


def read_all(sock):
    """How many bytes come, and how it ends."""
    count = 0
    try:
        while data := sock.recv(65536):
            count += len(data)
        return count, "clean end"
    except OSError as error:
        return count, type(error).__name__


def answers_late(conn, seen):
    seen["request"] = read_all(conn)
    time.sleep(0.5)
    conn.sendall(b"a" * ANSWER)


def ends_first(conn, seen):
    conn.sendall(b"hello")
    conn.shutdown(socket.SHUT_WR)
    seen["upload"] = read_all(conn)[0]


def serve(talk):
    listener = socket.create_server(("127.0.0.1", 0))
    seen = {}

    def run():
        conn, _ = listener.accept()
        conn.settimeout(20)
        with conn, listener:
            try:
                talk(conn, seen)
            except OSError:
                pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return listener.getsockname()[1], seen, thread


def dial(kind, proxy, port):
    sock = socket.create_connection(("127.0.0.1", proxy or port), timeout=20)
    if kind == "SOCKS5":
        sock.sendall(b"\x05\x01\x00")
        assert sock.recv(2, socket.MSG_WAITALL) == b"\x05\x00"
        sock.sendall(b"\x05\x01\x00\x01" + socket.inet_aton("127.0.0.1") + struct.pack(">H", port))
        assert sock.recv(10, socket.MSG_WAITALL)[1] == 0
    elif kind == "CONNECT":
        sock.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        assert b" 200" in head.splitlines()[0], head
    return sock


def visits(kind, proxy):
    port, seen, thread = serve(answers_late)
    with dial(kind, proxy, port) as sock:
        sock.sendall(b"q" * 1000)
        sock.shutdown(socket.SHUT_WR)
        answer = read_all(sock)
    thread.join()
    assert seen["request"] == (1000, "clean end"), seen

    port, seen, thread = serve(ends_first)
    with dial(kind, proxy, port) as sock:
        assert read_all(sock) == (5, "clean end")
        time.sleep(0.5)
        try:
            for _ in range(10):
                sock.sendall(b"u" * (UPLOAD // 10))
                time.sleep(0.05)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        thread.join(20)
    return answer, seen["upload"]


def written(name, text):
    with open(f"{tmp}/{name}", "w") as file:
        file.write(text)
    return f"{tmp}/{name}"


def squid(at, more):
    text = f"http_port 127.0.0.1:{at}\nhttp_access allow all\npid_filename none\ncache deny all\naccess_log none\n"
    text += f"cache_log /dev/null\nmime_table {written('mime.conf', '')}\nicon_directory {tmp}\n"
    text += f"pinger_enable off\ncoredump_dir {tmp}\nerror_directory {tmp}\n{more}\n"
    return [f"{root}/usr/sbin/squid", "-N", "-f", written("squid.conf", text)]


def dante(at):
    text = f"logoutput: stderr\ninternal: 127.0.0.1 port = {at}\nexternal: lo\nclientmethod: none\nsocksmethod: none\n"
    text += "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n"
    return [f"{root}/usr/sbin/danted", "-f", written("dante.conf", text)]


def tinyproxy(at):
    text = f"Port {at}\nListen 127.0.0.1\nTimeout 60\nAllow 127.0.0.1\n"
    return [f"{root}/usr/bin/tinyproxy", "-d", "-c", written("tinyproxy.conf", text)]


def privoxy(at):
    return [f"{root}/usr/sbin/privoxy", "--no-daemon", written("privoxy.conf", f"listen-address 127.0.0.1:{at}\n")]


NODE = "new (require('proxy-chain').Server)({ port: Number(process.argv[1]), host: '127.0.0.1' }).listen()"
WHOLE, NOTHING = (ANSWER, "clean end"), (0, "clean end")
PROXIES = [
    ("dante", "SOCKS5", dante, WHOLE, UPLOAD),
    ("armon/go-socks5", "SOCKS5", lambda at: [f"{tmp}/servers", "socks5", f"127.0.0.1:{at}"], WHOLE, UPLOAD),
    ("goproxy", "CONNECT", lambda at: [f"{tmp}/servers", "goproxy", f"127.0.0.1:{at}"], WHOLE, UPLOAD),
    ("proxy-chain", "CONNECT", lambda at: ["node", "-e", NODE, str(at)], WHOLE, 0),
    ("microsocks", "SOCKS5", lambda at: [f"{root}/usr/bin/microsocks", "-i", "127.0.0.1", "-p", str(at)], NOTHING, 0),
    ("pproxy", "SOCKS5", lambda at: [f"{tmp}/venv/bin/pproxy", "-l", f"socks5://127.0.0.1:{at}"], NOTHING, 0),
    ("pproxy", "CONNECT", lambda at: [f"{tmp}/venv/bin/pproxy", "-l", f"http://127.0.0.1:{at}"], NOTHING, 0),
    ("proxy.py", "CONNECT", lambda at: [f"{tmp}/venv/bin/proxy", "--port", str(at), "--num-workers", "1"], NOTHING, 0),
    ("tinyproxy", "CONNECT", tinyproxy, NOTHING, 0),
    ("privoxy", "CONNECT", privoxy, NOTHING, 0),
    ("squid", "CONNECT", lambda at: squid(at, ""), NOTHING, 0),
    ("squid, half-closed on", "CONNECT", lambda at: squid(at, "half_closed_clients on"), NOTHING, 0),
]


def main():
    changed = False
    direct = visits("direct", None)
    print(f"direct: {direct}", flush=True)
    if direct != (WHOLE, UPLOAD):
        sys.exit(2)
    for name, kind, command, answer, upload in PROXIES:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            at = probe.getsockname()[1]
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries}
        with open(f"{tmp}/proxy.log", "w") as log:
            child = subprocess.Popen(command(at), stdout=log, stderr=log, cwd=tmp, env=environment)
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", at), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            else:
                print(f"{name} does not start:\n{open(f'{tmp}/proxy.log').read()}")
                sys.exit(2)
            seen = visits(kind, at)
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        as_said = seen == (answer, upload)
        changed |= not as_said
        print(f"{name} ({kind}): {seen}{'' if as_said else f', not {(answer, upload)} as described'}", flush=True)
    sys.exit(1 if changed else 0)


main()
PY

python3 "$tmp/finding.py"
