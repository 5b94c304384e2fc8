#!/usr/bin/env bash
# Once half of the local ports towards one address are in use, each connect(2) to it costs many times
# as much, long before any fails; a socket option that is about something else avoids that.
#
# Expected: ip(7) says that ip_local_port_range is what connect(2) chooses from, and that it fails (EADDRNOTAVAIL) when
#   the range is used up. Nothing says that its cost jumps at the middle of the range.
# Seen: a connect without a port looks at every second port of the range first, from a random place on, and at the
#   others only when it has tried all of those. So its cost jumps as soon as those are in use, TIME_WAIT included, and
#   in proportion to the range. With IP_LOCAL_PORT_RANGE (Linux 6.3) set to anything, even to all ports, all are alike
#   and the cost stays. Output of the last run, with a range of 8000 ports (processor time of connect, accept, close):
#     2000 connections: 42 us each; 4100, 100 of them from the other half: 280 us; the same with the option: 42 us
# Why it matters to a tunnel: all visitors of a service come to it from one address. At 235 visits/s whose visitors close
#   first, TIME_WAIT holds half of the default range after a minute, and the tunnel's thread, which serves the others,
#   too, spends all its time in connect(2).
# Versions: Linux 6.18, CPython 3; 2026-11-27.
#
# Needs python3, and unshare (util-linux) with the right to make a network namespace. Exit 0: as described. 1: changed.
# 2: cannot run here.
set -euo pipefail

[ -n "$(command -v python3)" ] || { echo "no python3"; exit 2; }
if [ "${1:-}" != inside ]; then
    unshare --net true 2>/dev/null || { echo "no right to make a network namespace"; exit 2; }
    ulimit -n "$(ulimit -Hn)"
    exec unshare --net "$0" inside
fi

python3 - <<'PY'
import fcntl, os, resource, socket, struct, sys, time

IP_LOCAL_PORT_RANGE = 51
FIRST, LAST = 20000, 27999
HALF = (LAST - FIRST + 1) // 2
ROUNDS = 300

def up(device):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", device, 1))  # SIOCSIFFLAGS, IFF_UP

def connect(option):
    client = socket.socket()
    # Freed at once when it is closed.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if option:
        client.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", 1 | 65535 << 16))
    client.connect(listener.getsockname())
    return client

def cost(option):
    """Microseconds of processor time per connect, accept and close."""
    began = time.process_time()
    for _ in range(ROUNDS):
        client = connect(option)
        listener.accept()[0].close()
        client.close()
    return (time.process_time() - began) * 1e6 / ROUNDS

up(b"lo")
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
    file.write(f"{FIRST} {LAST}")
if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2 * HALF + 1000:
    print(f"{2 * HALF + 1000} descriptors are needed")
    sys.exit(2)
listener = socket.create_server(("127.0.0.1", 7000), backlog=4096)
held = []

def hold(count):
    while len(held) < 2 * count:
        client = connect(False)
        held.extend([client, listener.accept()[0]])

hold(HALF // 2)
quarter = cost(False)
hold(HALF + 100)
odd = sum(client.getsockname()[1] % 2 != FIRST % 2 for client in held[::2])
half = cost(False)
try:
    with_option = cost(True)
except OSError as error:
    print(f"IP_LOCAL_PORT_RANGE: {error}")
    sys.exit(2)
print(f"{HALF // 2} connections: {quarter:.0f} us each; {HALF + 100}, {odd} of them from the other half: {half:.0f} us; "
      f"the same with the option: {with_option:.0f} us")
sys.exit(0 if half > 3 * quarter and with_option < half / 3 and odd == 100 else 1)
PY
