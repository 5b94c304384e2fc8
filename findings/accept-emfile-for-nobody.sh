#!/usr/bin/env bash
# The visitor who takes a program's last descriptor makes its listener fail for the next one, who has not come yet.
#
# Expected: accept(2) on a non-blocking listener nobody waits at says EAGAIN, and EMFILE is about somebody who waits and
#   cannot be let in: what event loops take it for, which log it and leave the listener alone for a while.
# Seen: Linux takes a descriptor before it looks at the queue. With a full table accept(2) says EMFILE to an empty
#   queue (poll(2): nobody is there). An event loop that accepts until EAGAIN, as an edge-triggered one must, meets that
#   behind the very visitor who took the last descriptor. He is served and goes, and another one comes 50 ms later, when
#   there is a descriptor again:
#     asyncio (CPython 3.11.7)  tries as often as its backlog is long, and complains each time: 198 errors for
#                               nobody, and the listener rests for a second, for which the second visitor waits
#     Go 1.26.8 (net/http)      Accept fails for nobody, and is tried again after 5 ms, 10, 20 … up to 1 s, for which
#                               the second visitor waits
#     uvloop 0.22.1, Node 20.20.2 (libuv)
#                               served at once: libuv keeps a descriptor of its own for this
#   With two descriptors left none of them says or does anything of that.
# Why it matters to a tunnel: a server at its limit of open files serves exactly as many as it may, and calls itself
#   exhausted; a pause of its doors is then paid by whoever comes when there is room again. Ask poll(2) before the
#   accept(2) that only looks for EAGAIN (it also costs several times less), or do not accept until EAGAIN.
# Versions: as above, Linux 6.18; 2026-11-28.
#
# Needs python3 with venv, go and node. Exit 0: as described. Exit 1: changed. Exit 2: cannot run here.
set -euo pipefail

for tool in python3 go node; do
    command -v "$tool" >/dev/null || { echo "no $tool found"; exit 2; }
done
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv" && "$tmp/venv/bin/pip" -q install uvloop==0.22.1 ||
    { echo "cannot install uvloop"; exit 2; }

# Each server says its port in one line, then answers a byte with a byte, and complains on standard error.
cat >"$tmp/echo.py" <<'PY'
import asyncio
import sys


async def echo(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    complain = lambda _, context: print(context["message"], file=sys.stderr, flush=True)
    asyncio.get_running_loop().set_exception_handler(complain)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(60)


if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
PY
cat >"$tmp/echo.js" <<'JS'
const server = require('net').createServer((visitor) => { visitor.on('error', () => {}); visitor.pipe(visitor); });
server.on('error', (error) => console.error(error.code));
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
JS
mkdir "$tmp/echo" && cat >"$tmp/echo/main.go" <<'GO'
package main

import (
	"fmt"
	"net"
	"net/http"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })))
}
GO
(cd "$tmp/echo" && go mod init echo 2>/dev/null && go build -o ../echo-go .) || { echo "cannot build with go"; exit 2; }

cat >"$tmp/visit.py" <<'PY'
import errno
import os
import resource
import select
import socket
import subprocess
import sys
import time

VENV, TMP = sys.argv[1:]
SERVERS = {
    "asyncio": ["python3", f"{TMP}/echo.py", "asyncio"],
    "Go": [f"{TMP}/echo-go"],
    "uvloop": [f"{VENV}/bin/python", f"{TMP}/echo.py", "uvloop"],
    "Node": ["node", f"{TMP}/echo.js"],
}
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def leave_free(pid, free):
    """The process `pid` can open so many more descriptors."""
    used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
    limit = 0
    while free > 0 or limit in used:
        free -= limit not in used
        limit += 1
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))


def visit(port):
    begun = time.monotonic()
    visitor = socket.create_connection(("127.0.0.1", port), timeout=20)
    visitor.sendall(REQUEST)
    assert visitor.recv(100)
    return visitor, time.monotonic() - begun


def two_visits(name, free):
    """How long the second one took, and the lines of complaint."""
    server = subprocess.Popen(SERVERS[name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline())
        # One before, so that nothing is opened later that is there for good.
        visit(port)[0].close()
        time.sleep(0.2)
        leave_free(server.pid, free)
        first, _ = visit(port)
        time.sleep(0.7)
        first.close()
        time.sleep(0.05)
        second, took = visit(port)
        second.close()
    finally:
        server.kill()
    return took, len(server.communicate()[1].splitlines())


def nobody_waits():
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    leave_free(os.getpid(), 0)
    full = []
    while len(full) < 10:
        try:
            full.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            break
    waits = select.select([listener], [], [], 0)[0]
    try:
        listener.accept()
    except OSError as error:
        return not waits and error.errno == errno.EMFILE


as_described = True
for name in SERVERS:
    (tight, complaints), (roomy, none) = two_visits(name, 1), two_visits(name, 2)
    print(f"{name}: one descriptor left: second visitor after {tight:.3f} s, {complaints} complaints; "
          f"two left: {roomy:.3f} s, {none}")
    as_described &= none == 0
    if name == "asyncio":
        as_described &= complaints >= 100 and tight > 10 * roomy
    elif name == "Go":
        as_described &= 1 <= complaints <= 20 and tight > 10 * roomy
    else:
        as_described &= complaints == 0
empty = nobody_waits()
print("accept(2) on an empty queue with a full table:", "EMFILE" if empty else "something else")
sys.exit(0 if as_described and empty else 1)
PY
python3 "$tmp/visit.py" "$tmp/venv" "$tmp"
