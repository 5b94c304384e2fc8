#!/usr/bin/env bash
# Since Python 3.12 asyncio's write() adds up its whole queue each time: n small writes to a slow peer cost n squared.
#
# Expected: asyncio's documentation (Transports and Protocols, WriteTransport.write) says that write() buffers the
#   data and sends it later; get_write_buffer_size() returns the size of that buffer. Both look like constant work per
#   call, and were up to 3.11, where the buffer was one bytearray.
# Seen: since 3.12 the buffer of a socket transport is a deque of the written pieces, and each write() that leaves
#   data queued asks for the buffer's size, which is the sum over all pieces. Time per write of 16 bytes to a peer
#   that reads nothing for now, whole runs of n writes:
#                       n = 2000        n = 16000        16000 against 2000, per write
#     asyncio 3.12.1    29 us           150 us           5 to 8 times
#     asyncio 3.13.0    20 us           150 us           7 to 8 times
#     uvloop 0.22.1     0.2 us          0.1 us           0.9 to 1 times
#   All of it is spent inside write(), with the loop blocked: 16000 datagrams of 16 bytes, a quarter of a megabyte,
#   hold up every other connection of the process for more than two seconds.
# Why it matters to a tunnel: a relay that frames small messages (UDP datagrams over TCP, control messages for a
#   stalled client) writes many small pieces just when the line is slow. Counting queued bytes as they come and go
#   costs nothing; and a limit in bytes alone does not bound a queue of tiny pieces.
# Versions: CPython 3.12.1 and 3.13.0, uvloop 0.22.1; 2026-11-27.
#
# Needs a Python of 3.12 or later with venv (PYTHON names one). Exit 0: as described. Exit 1: changed. Exit 2: cannot
#   run here.
set -euo pipefail

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; }
python=
for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[2-9]*/bin/python3; do
    if [ -z "$python" ] && recent "$candidate"; then python=$candidate; fi
done
[ -n "$python" ] || { echo "no Python of 3.12 or later found"; exit 2; }

("$python" -m venv "$tmp/venv" && "$tmp/venv/bin/pip" install uvloop==0.22.1) >"$tmp/install.log" 2>&1 ||
    { cat "$tmp/install.log"; exit 2; }

cat >"$tmp/finding.py" <<'PY'
import asyncio
import sys
import time

import uvloop

FEW, MANY, ROUNDS = 2000, 16000, 3


async def seconds_per_write(count):
    """The CPU time of one of count small writes, behind a bulk that the peer does not read."""
    accepted = asyncio.Event()
    done = asyncio.Event()

    async def peer(_reader, writer):
        accepted.set()
        await done.wait()
        writer.transport.abort()

    server = await asyncio.start_server(peer, "127.0.0.1", 0, limit=1024)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await accepted.wait()
    writer.write(bytes(16 << 20))
    await asyncio.sleep(0.1)
    start = time.process_time()
    for _ in range(count):
        writer.write(bytes(16))
    spent = time.process_time() - start
    assert writer.transport.get_write_buffer_size() >= 16 * count
    writer.transport.abort()
    done.set()
    server.close()
    await asyncio.sleep(0.1)
    return spent / count


def measure(name, run):
    few = min(run(seconds_per_write(FEW)) for _ in range(ROUNDS))
    many = min(run(seconds_per_write(MANY)) for _ in range(ROUNDS))
    print(f"{name:14} {few * 1e6:8.2f} us at {FEW}, {many * 1e6:8.2f} us at {MANY}: {many / few:.1f} times", flush=True)
    return many / few


def main():
    jump = measure(f"asyncio {sys.version.split()[0]}", asyncio.run)
    flat = measure(f"uvloop {uvloop.__version__}", uvloop.run)
    if jump < 3:
        sys.exit("CHANGED: asyncio's write no longer costs more behind a longer queue")
    if flat > 3:
        sys.exit("CHANGED: uvloop's write costs more behind a longer queue, too")


main()
PY

timeout 60 "$tmp/venv/bin/python" "$tmp/finding.py"
echo "as described"
