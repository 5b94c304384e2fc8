#!/usr/bin/env python3
"""A holder of a token who keeps to the protocol and means harm, for SECONDS, by the seed.

    python3 hostile_holder.py --server 127.0.0.1:8080 --token-file token --ports 20000-20007 --seed 1 --seconds 60

It registers and closes tunnels faster than they open, opens conns that nobody asked for and visits its own ports,
sends floods, acknowledges nothing, leaves sessions and comes back to them. It never breaks a rule (P-...): a session
that is closed for a violation, but for what it left unacknowledged, is the server's fault. At its end it prints what it
has done as one line, `Stopped {...}`; exit code 1: it was sent away for nothing.
"""
import argparse
import asyncio
import contextlib
import json
import random
import secrets
import sys
import time

import cproxy_client as cproxy
from cproxy_client import CTL_TO_CLIENT, CTL_TO_SERVER, PROXY_TO_SERVER


def registration(tunnel, port, rng):
    networks = [f"10.{n}.0.0/16" for n in range(16)] if rng.random() < 0.1 else []
    return {"RegisterTunnel": {
        "tunnel": tunnel, "public_port": port, "bind_addr": None, "name": "n" * rng.choice([0, 1, 64]),
        "limits": {"sources": {"allow": [], "deny": networks}, "max_connections": 0, "max_connection_rate": 0}}}


class Holder:
    """One of them, in one session after the other."""

    TUNNELS = 6

    def __init__(self, options, rng, did):
        self.options, self.rng, self.did = options, rng, did
        self.client = cproxy.Client(argparse.Namespace(
            server=options.server, token=options.token, client_id=secrets.token_bytes(16), public_port=0, udp=False,
            name="holder", handshake_timeout=10))
        self.sockets = []

    async def live(self, until):
        while time.monotonic() < until:
            try:
                await asyncio.wait_for(self.client.connect(), 10)
            except (cproxy.Lost, cproxy.Refused, OSError, asyncio.TimeoutError) as why:
                self.did["turned_away"] += 1
                self.did["last"] = repr(why)
                await asyncio.sleep(self.rng.uniform(0.01, 0.1))
                continue
            self.did["sessions"] += 1
            await self.visit(until)

    async def visit(self, until):
        session = self.session = self.client.session
        self.acknowledges, self.floor = self.rng.random() < 0.5, session.received
        self.over = asyncio.Event()
        self.publics = []
        reading = asyncio.ensure_future(self.read())
        for _ in range(self.rng.randrange(3, 40)):
            if self.over.is_set() or time.monotonic() >= until:
                break
            self.did["acts"] += 1
            # Connections may be lost under every act.
            with contextlib.suppress(OSError, cproxy.Lost):
                await self.act()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.over.wait(), self.rng.choice([0.001, 0.01, 0.05]))
        bye = self.rng.random() < 0.5
        if bye:
            session.write({"Close": {"code": "Bye"}})
        # What is written goes out, as far as the server reads.
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(session.stream.writer.drain(), 1)
        await cproxy.cancelled(reading)
        session.stream.reset()
        session.stream = None
        if bye or self.over.is_set() or self.rng.random() < 0.3:
            self.client.session = None
        for writer in self.sockets:
            cproxy.reset(writer)
        self.sockets.clear()

    def received(self):
        return self.session.received if self.acknowledges else self.floor

    async def read(self):
        session = self.session
        try:
            while True:
                name, inner = cproxy.only(await session.stream.receive(CTL_TO_CLIENT))
                if name == "Numbered":
                    session.received = max(session.received, inner["seq"])
                    self.on_message(*cproxy.only(inner["msg"]))
                elif name == "Ping":
                    session.write({"Pong": {"received": self.received()}})
                elif name in ("Pong", "Ack"):
                    session.on_ack(inner["received"])
                elif name == "Close":
                    if inner["code"] == "Violation":
                        self.did["unacknowledged" if not self.acknowledges else "wronged"] += 1
                    break
        except (cproxy.Lost, OSError):
            pass
        self.over.set()

    def on_message(self, name, inner):
        if name == "TunnelReady":
            self.did["ready"] += 1
            self.publics.append(inner["public"])
        elif name == "TunnelRefused":
            self.did["refused"] += 1

    async def act(self):
        what = self.rng.choices(
            [self.storm, self.ask, self.flood, self.talk_of_nothing, self.open_conns, self.come], [9, 3, 2, 1, 3, 3])[0]
        await what()

    async def storm(self):
        """Tunnels, closed at once or before they are open: on ports it has, on such as it may not have, on any."""
        first, last = self.options.ports
        for _ in range(self.rng.randrange(1, 200)):
            tunnel = self.rng.randrange(self.TUNNELS)
            # One that is registered must not be registered once more (P-TUN-5).
            self.session.send({"CloseTunnel": {"tunnel": tunnel}})
            port = self.rng.choice([0, 0, first, first, self.rng.randrange(first, last + 1), 80])
            self.session.send(registration(tunnel, port, self.rng))
            if self.rng.random() < 0.4:
                self.session.send({"CloseTunnel": {"tunnel": tunnel}})

    async def ask(self):
        for _ in range(self.rng.randrange(1, 2000)):
            self.session.write({"Ping": {"received": self.received()}})

    async def flood(self):
        """More answers than a server keeps for who acknowledges none."""
        for number in range(0 if self.acknowledges else 8000):
            self.session.send(registration(1000 + number, 80, self.rng))

    async def talk_of_nothing(self):
        conn = self.rng.randrange(100_000, 200_000)
        self.session.send({"Fin": {"conn": conn, "epoch": 1, "total": (1 << 64) - 1, "how": "Reset"}})
        self.session.send({"Done": {"conn": conn, "epoch": 1}})
        self.session.send({"Abort": {"conn": conn, "epoch": 1, "code": "ConnLost"}})
        self.session.send({"ConnFailed": {"count": (1 << 32) - 1}})

    async def open_conns(self):
        """Nobody asked for them, and nothing is answered on them."""
        session = self.session
        for _ in range(self.rng.randrange(1, 40)):
            number = session.next_conn
            session.next_conn += 1
            proof = cproxy.conn_proof(session.key, b"cproxy conn", session.id, number)
            hello = {"Hello": {"session": session.id, "conn": number, "proof": proof}}
            await self.connect(
                session.proxy_address, cproxy.preface(b"P") + cproxy.frame(PROXY_TO_SERVER, hello))
            self.did["conns"] += 1

    async def come(self):
        """Somebody visits a port of its own, and is not answered."""
        if self.publics:
            port = self.rng.choice(self.publics).rsplit(":", 1)[1]
            await self.connect((self.options.server[0], int(port)), b"a visitor")
            self.did["visits"] += 1

    async def connect(self, to, words):
        _, writer = await asyncio.open_connection(*to)
        writer.write(words)
        self.sockets.append(writer)


def ports(text):
    first, last = text.split("-")
    return int(first), int(last)


def arguments():
    parser = argparse.ArgumentParser(description="A hostile holder of a token.")
    parser.add_argument("--server", type=cproxy.address, required=True, metavar="HOST:PORT")
    parser.add_argument("--token-file", type=argparse.FileType("rb"), required=True)
    parser.add_argument("--ports", type=ports, required=True, metavar="FIRST-LAST")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--holders", type=int, default=4)
    options = parser.parse_args()
    options.token = options.token_file.read().rstrip(b"\r\n")
    return options


async def main():
    options = arguments()
    did = dict(acts=0, sessions=0, turned_away=0, ready=0, refused=0, conns=0, visits=0, unacknowledged=0, wronged=0,
               last="")
    print("Ready", flush=True)
    until = time.monotonic() + options.seconds
    holders = [Holder(options, random.Random(f"{options.seed}/{n}"), did) for n in range(options.holders)]
    await asyncio.gather(*(holder.live(until) for holder in holders))
    print("Stopped " + json.dumps(did), flush=True)
    return 1 if did["wronged"] else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
