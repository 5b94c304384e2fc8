#!/usr/bin/env python3
"""Draws the pictures of README and docs, beside itself:

    docs/pictures/make.py                the life of a visit, and the house
    docs/pictures/make.py FOLDER         the first tunnel, too, as the programs in FOLDER do it, recorded from a terminal

Nothing but Python's own library is needed. In the recording the server's address, its ports and the token are replaced.
"""

import html
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

HERE = Path(__file__).parent
INK, SOFT, LINE = "#1f2328", "#59636e", "#818b98"
SERVER, CLIENT, OUTSIDE, CTL = "#0969da", "#1a7f37", "#59636e", "#8250df"
SANS = "font-family=\"ui-sans-serif, 'Helvetica Neue', Arial, sans-serif\""
MONO = "font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\""


class Picture:
    """An SVG on a ground of its own, so that it can be read on a dark page, too."""

    def __init__(self, width, height, title):
        self.size, self.title, self.parts, self.colours = (width, height), title, [], set()

    def add(self, part):
        self.parts.append(part)

    def text(self, x, y, words, size=13, colour=INK, anchor="middle", bold=False, mono=False):
        weight = ' font-weight="600"' if bold else ""
        family = MONO + ' xml:space="preserve"' if mono else SANS
        self.add(f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" {family}{weight}>'
                 f"{html.escape(words)}</text>")

    def box(self, x, y, width, height, colour, fill="#ffffff", dashed=False):
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.add(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{colour}" '
                 f'stroke-width="1.5"{dash}/>')

    def line(self, x1, y1, x2, y2, colour=LINE, width=1.5, dashed=False, arrow=False):
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        head = ""
        if arrow:
            self.colours.add(colour)
            head = f' marker-end="url(#to-{colour[1:]})"'
        self.add(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="{width}"{dash}{head}/>')

    def write(self, name):
        width, height = self.size
        heads = "".join(
            f'<marker id="to-{colour[1:]}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{colour}"/></marker>'
            for colour in sorted(self.colours))
        lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
                 f'height="{height}" role="img">', f"<title>{html.escape(self.title)}</title>", f"<defs>{heads}</defs>",
                 f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>', *self.parts, "</svg>"]
        (HERE / name).write_text("\n".join(lines) + "\n")


def visit():
    """The sequence chart of one visit, from its connection to the reuse of the conn that carried it."""
    picture = Picture(860, 668, "The life of a visit: what travels between visitor, server, client and service")
    columns = {"visitor": 90, "server": 320, "client": 560, "service": 780}
    words = {"visitor": ("PublicClient", OUTSIDE), "server": ("cproxy-server", SERVER), "client": ("cproxy-client", CLIENT),
             "service": ("LocalServer", OUTSIDE)}
    for who, x in columns.items():
        picture.line(x, 62, x, 604, "#d1d9e0", 2)
        name, colour = words[who]
        picture.box(x - 66, 24, 132, 34, colour)
        picture.text(x, 46, name, 14, colour, bold=True)

    def arrow(y, a, b, what, colour=INK, dashed=False, under=None):
        x1, x2 = columns[a], columns[b]
        step = 4 if x2 > x1 else -4
        picture.line(x1 + step, y, x2 - step, y, colour, 1.7, dashed, arrow=True)
        picture.text((x1 + x2) / 2, y - 6, what, 13, colour)
        if under:
            picture.text((x1 + x2) / 2, y + 14, under, 11, SOFT)

    def says(y, who, what):
        picture.text(columns[who] + 8, y, what, 11, SOFT, "start")

    picture.line(324, 92, 556, 92, SERVER, 5)
    picture.text(440, 84, "a conn, idle: it was there before", 12, SERVER)
    arrow(124, "visitor", "server", "connects, sends")
    arrow(156, "server", "client", "Start, first bytes right behind it", SERVER)
    arrow(188, "client", "service", "connects, sends on")
    arrow(220, "service", "client", "answers")
    arrow(252, "client", "server", "Started, and the answer", SERVER, under="from here on the conn is raw bytes")
    arrow(284, "server", "visitor", "answer")
    picture.add('<rect x="90" y="304" width="690" height="34" rx="6" fill="#ddf4ff"/>')
    picture.text(435, 326, "bytes, both ways, moved by splice(2): as many as there are, no frames", 13, SERVER)
    arrow(370, "service", "client", "end of stream")
    arrow(402, "client", "server", "Fin { total, Shut }", CTL, dashed=True)
    says(418, "server", "forwards exactly total bytes, then")
    arrow(444, "server", "visitor", "end of stream", under="the other direction still flows")
    arrow(484, "visitor", "server", "end of stream")
    arrow(516, "server", "client", "Fin { total, Shut }", CTL, dashed=True)
    arrow(548, "client", "service", "end of stream")
    arrow(580, "client", "server", "Done", CTL, dashed=True)
    picture.line(324, 604, 556, 604, SERVER, 5)
    picture.text(440, 624, "the conn, idle again: the next visitor's", 12, SERVER)
    picture.line(24, 650, 64, 650, SERVER, 1.7, arrow=True)
    picture.text(72, 654, "on the conn (proxy_conn)", 12, SOFT, "start")
    picture.line(250, 650, 290, 650, CTL, 1.7, True, arrow=True)
    picture.text(298, 654, "on the ctl_conn: it may be faster or slower than the conn", 12, SOFT, "start")
    picture.write("visit.svg")


def house():
    """The crates, what each is for, and who may use whom."""
    picture = Picture(860, 430, "The house: the crates of CProxy and their arrows")

    def crate(x, y, width, name, *lines, colour=SERVER, fill="#ffffff"):
        picture.box(x, y, width, 34 + 17 * len(lines), colour, fill)
        picture.text(x + width / 2, y + 22, name, 14, colour, bold=True, mono=True)
        for nth, line in enumerate(lines):
            picture.text(x + width / 2, y + 41 + 17 * nth, line, 12, SOFT)

    picture.text(24, 30, "what runs in production", 12, SOFT, "start")
    picture.text(836, 30, "what proves it", 12, SOFT, "end")
    crate(24, 46, 250, "bins", "cproxy-server, cproxy-client:", "flags, files, logs, signals")
    crate(24, 186, 250, "runtime-epoll", "system calls and threads:", "epoll, splice, sockets, TLS")
    crate(310, 46, 240, "tests", "the real programs over", "real sockets; the benchmark", colour=CLIENT)
    crate(586, 46, 250, "fuzz", "targets and their corpora;", "uses bins and protocol-sm, too", colour=CLIENT)
    crate(586, 186, 250, "runtime-sim", "the same event loops over a simulated", "kernel and network, with faults", colour=CLIENT)
    crate(24, 332, 812, "protocol-sm",
          "the wire, pure state machines, and the event loops without their system calls: no I/O, no clock, no threads",
          "no_std, no unsafe; whatever can be decided without a system call is decided here", fill="#f6f8fa")
    picture.line(149, 114, 149, 182, INK, arrow=True)
    picture.line(149, 254, 149, 328, INK, arrow=True)
    picture.line(711, 254, 711, 328, INK, arrow=True)
    picture.line(310, 80, 278, 80, INK, arrow=True)
    picture.line(711, 114, 711, 182, INK, arrow=True)
    picture.text(157, 296, "answers its traits with system calls", 12, SOFT, "start")
    picture.text(703, 296, "answers them with a simulated kernel", 12, SOFT, "end")
    picture.write("house.svg")


class Terminal:
    """A command on a terminal of its own, and what it writes there."""

    def __init__(self, words, environment):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(words[0], words, environment)
        self.seen = ""

    def until(self, pattern):
        deadline = time.monotonic() + 30
        while not (found := re.search(pattern, self.seen)):
            if time.monotonic() > deadline:
                sys.exit(f"{pattern} never came: {self.seen}")
            if select.select([self.fd], [], [], 0.1)[0]:
                self.seen += os.read(self.fd, 4096).decode()
        return found

    def end(self):
        os.kill(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello from behind the NAT\n")

    def log_message(self, *_):
        pass


def first_tunnel(programs):
    """Records what README's first tunnel looks like, on both machines and for a visitor."""
    service = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    local = service.server_port
    with tempfile.TemporaryDirectory() as state:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CPROXY_")}
        environment |= {"XDG_STATE_HOME": state, "NO_COLOR": "1"}
        words = ["--bind-addr", "127.0.0.1", "--ctl-port", "0", "--proxy-port", "0", "--log-level", "error"]
        server = Terminal([f"{programs}/cproxy-server", *words], environment)
        server.until(r"cproxy-client 8000 .*\n")
        token = server.until(r"CPROXY_TOKEN=(\w+)").group(1)
        ctl = server.until(r"ctl ([\d.:]+)").group(1)
        proxy = server.until(r"proxy ([\d.:]+)").group(1)
        words = [f"{local}", "--cproxy-server", ctl, "--log-level", "error"]
        client = Terminal([f"{programs}/cproxy-client", *words], environment | {"CPROXY_TOKEN": token})
        public = client.until(r"Forwarding tcp://([\d.:]+) .*\n").group(1)
        answer = subprocess.run(["curl", "-s", f"http://{public}/"], capture_output=True, text=True, check=True).stdout
        client.end()
        server.end()
    shown = [(ctl, "tunnel.example.com:8080"), (proxy, "tunnel.example.com:8090"), (public, "tunnel.example.com:7000"),
             (f"127.0.0.1:{local}", "127.0.0.1:8000"), (f"{state}/cproxy", "~/.local/state/cproxy"),
             (token, "4f1c…e09b"), ("tunnel.example.com:8080\r", "tunnel.example.com\r")]

    def replaced(text):
        for real, name in shown:
            text = text.replace(real, name)
        return [line for line in text.replace("\r", "").split("\n") if line]

    command = "CPROXY_TOKEN=4f1c…e09b cproxy-client 8000 --cproxy-server tunnel.example.com --public-port 7000"
    draw("first-tunnel.svg", [
        ("on the public machine", "cproxy-server", replaced(server.seen)),
        ("beside the service", command, replaced(client.seen)),
        ("anywhere", "curl http://tunnel.example.com:7000/", replaced(answer)),
    ])


def draw(name, screens):
    """Terminals below each other; their lines come one after the other, and then all stay."""
    width, line_height = 860, 19
    wrapped = []
    for title, command, lines in screens:
        rows = [("$ " + command, True)] + [(line, False) for line in lines]
        rows = [(row[start:start + 98], typed) for row, typed in rows for start in range(0, len(row), 98)]
        wrapped.append((title, rows))
    height = sum(58 + line_height * len(rows) for _, rows in wrapped) + 12
    picture = Picture(width, height, "The first tunnel: a command on each of two machines, and a visitor")
    picture.add("<style>.row{opacity:0;animation:come .2s linear forwards}@keyframes come{to{opacity:1}}"
                "@media (prefers-reduced-motion:reduce){.row{animation:none;opacity:1}}</style>")
    y, at = 12, 0.3
    for title, rows in wrapped:
        tall = 46 + line_height * len(rows)
        picture.box(12, y, width - 24, tall, "#30363d", "#0d1117")
        for nth, colour in enumerate(["#ff7b72", "#e3b341", "#3fb950"]):
            picture.add(f'<circle cx="{28 + 16 * nth}" cy="{y + 16}" r="5" fill="{colour}"/>')
        picture.text(width / 2, y + 21, title, 12, "#9198a1")
        for nth, (row, typed) in enumerate(rows):
            picture.add(f'<g class="row" style="animation-delay:{at:.1f}s">')
            picture.text(26, y + 50 + line_height * nth, row, 13, "#7ee787" if typed else "#f0f6fc", "start", mono=True)
            picture.add("</g>")
            at += 0.9 if typed else 0.4
        y += tall + 12
        at += 0.6
    picture.write(name)


if __name__ == "__main__":
    visit()
    house()
    if len(sys.argv) > 1:
        first_tunnel(sys.argv[1])
