#!/usr/bin/env bash
# A Unix socket cannot be reset: SO_LINGER of zero seconds, and a killed client, are a clean end for its service.
#
# Expected: on a TCP socket, close(2) with SO_LINGER on and 0 seconds resets the connection, and the peer reads an error,
#   so that a stream which was cut short does not look complete. setsockopt(2) takes the same option for a socket of
#   AF_UNIX without a word (socket(7) lists it for all sockets), and poll(2) and recv(2) know the error there, too.
# Seen: the option changes nothing there. The peer reads all that was sent and then an end (0), as after a close in good
#   order; so it does when the client was killed. ECONNRESET comes, behind the bytes, in one case alone: who closed had
#   left something unread. unix(7) speaks of none of this.
#                                      TCP          AF_UNIX
#     SO_LINGER 0, all was read        ECONNRESET   end
#     killed, all was read             end          end
#     closed, something was unread     ECONNRESET   ECONNRESET
# Why it matters to a tunnel: a relay from TCP to a Unix socket has no way to tell the service of a visitor's reset. Half
#   an upload that is ended by a reset is a whole one to a service that takes the end of the stream for the end of the
#   file. Nothing that the relay does helps: the protocol above must say where it ends.
# Versions: Linux 6.18; 2026-11-28.
#
# Needs Python 3. Exit 0: as described. Exit 1: changed. Exit 2: cannot run here.
set -euo pipefail

python=$(command -v python3) || { echo "no Python 3 found"; exit 2; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

"$python" - "$tmp/socket" <<'PY'
import os
import signal
import socket
import struct
import sys


def listener(family):
    """Where somebody listens, and how to get there."""
    listening = socket.socket(family)
    if family == socket.AF_UNIX:
        if os.path.exists(sys.argv[1]):
            os.unlink(sys.argv[1])
        listening.bind(sys.argv[1])
    else:
        listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening, listening.getsockname()


def seen(family, leave, answer):
    """What a service reads that answers so much, and whose client leaves in this way."""
    listening, address = listener(family)
    child = os.fork()
    if child == 0:
        client = socket.socket(family)
        client.connect(address)
        client.sendall(b"half a file")
        client.recv(1)
        leave(client)
        os._exit(0)
    service, _ = listening.accept()
    service.sendall(answer)
    os.waitpid(child, 0)
    read = b""
    try:
        while piece := service.recv(100):
            read += piece
        return read, "end"
    except ConnectionResetError:
        return read, "ECONNRESET"


def linger(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def killed(client):
    os.kill(os.getpid(), signal.SIGKILL)


ways = [
    ("SO_LINGER 0, all was read", linger, b"!", "ECONNRESET", "end"),
    ("killed, all was read", killed, b"!", "end", "end"),
    ("closed, something was unread", socket.socket.close, b"!!", "ECONNRESET", "ECONNRESET"),
]
good = True
for name, leave, answer, tcp, unix in ways:
    found = [seen(family, leave, answer)[1] for family in (socket.AF_INET, socket.AF_UNIX)]
    print(f"{name:32} {found[0]:12} {found[1]}")
    good &= found == [tcp, unix]
    good &= seen(socket.AF_UNIX, leave, answer)[0] == b"half a file"
print("as described" if good else "changed")
sys.exit(0 if good else 1)
PY
