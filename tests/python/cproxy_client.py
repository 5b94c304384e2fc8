#!/usr/bin/env python3
"""A CProxy client in one file: Python 3.8, standard library only, written from protocol-sm/PROTOCOL.md.

    python3 cproxy_client.py --server 127.0.0.1:8080 --local 127.0.0.1:7777 [--public-port 6022]

It is the document's example and the test suite's second opinion, not a product. The numbers (P-...) are the
document's. One thread; every await is a place where other visitors are served. It runs until SIGTERM, and
then prints what it has done as one line, `Stopped {...}`.
"""
import argparse
import array
import asyncio
import collections
import contextlib
import errno
import fcntl
import hashlib
import hmac
import ipaddress
import json
import random
import re
import secrets
import signal
import socket
import struct
import sys
import termios
import time


class Violation(Exception):
    """The server did what no honest server does (P-VIOL-1)."""


class Malformed(Violation):
    """Bytes that are no message."""


class BadLength(Violation):
    """A frame's length that is out of range."""


class Lost(Exception):
    """A connection is gone."""


class Refused(Exception):
    """The server does not take a connection."""


# ---- Encoding -----------------------------------------------------------------------------------------
# A type encodes a value to bytes and decodes one from a Cursor. Messages are the values that
# vectors.json shows: "Name", {"Name": {"field": ...}} or {"Name": inner}; byte arrays are `bytes`.


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        piece = self.data[self.at:self.at + count]
        if len(piece) < count:
            raise Malformed("too short")
        self.at += count
        return piece


class Varint:
    def __init__(self, bits):
        self.bits = bits

    def encode(self, value):
        assert 0 <= value < 1 << self.bits
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
        return bytes(out)

    def decode(self, cursor):
        value = shift = 0
        while True:
            byte = cursor.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if value >> self.bits or (byte == 0 and shift > 7):
            raise Malformed("a number too large, or not the shortest")  # P-ENC-2, P-ENC-3
        return value


class Bool:
    def encode(self, value):
        return b"\x01" if value else b"\x00"

    def decode(self, cursor):
        byte = cursor.take(1)[0]
        if byte > 1:
            raise Malformed("neither 0 nor 1")
        return byte == 1


class Bytes:
    def __init__(self, count):
        self.count = count

    def encode(self, value):
        assert len(value) == self.count
        return value

    def decode(self, cursor):
        return cursor.take(self.count)


class Text:
    def encode(self, value):
        data = value.encode()
        return U64.encode(len(data)) + data

    def decode(self, cursor):
        try:
            return cursor.take(U64.decode(cursor)).decode()
        except UnicodeDecodeError:
            raise Malformed("not UTF-8") from None


class Option:
    def __init__(self, inner):
        self.inner = inner

    def encode(self, value):
        return b"\x00" if value is None else b"\x01" + self.inner.encode(value)

    def decode(self, cursor):
        return self.inner.decode(cursor) if Bool().decode(cursor) else None


class Ip:
    def encode(self, value):
        ip = ipaddress.ip_address(value)
        return bytes([0 if ip.version == 4 else 1]) + ip.packed

    def decode(self, cursor):
        kind = U32.decode(cursor)
        if kind > 1:
            raise Malformed("neither IPv4 nor IPv6")
        return str(ipaddress.ip_address(cursor.take(16 if kind else 4)))


class Address:
    def encode(self, value):
        host, port = value.rsplit(":", 1)
        return Ip().encode(host.strip("[]")) + U16.encode(int(port))

    def decode(self, cursor):
        ip = Ip().decode(cursor)
        host = f"[{ip}]" if ":" in ip else ip
        return f"{host}:{U16.decode(cursor)}"


class Network:
    def encode(self, value):
        network = ipaddress.ip_network(value)
        kind = 0 if network.version == 4 else 1
        return bytes([kind]) + network.network_address.packed + bytes([network.prefixlen])

    def decode(self, cursor):
        kind = U32.decode(cursor)
        if kind > 1:
            raise Malformed("neither IPv4 nor IPv6")
        ip = ipaddress.ip_address(cursor.take(16 if kind else 4))
        length = cursor.take(1)[0]
        if kind and ip.ipv4_mapped and length >= 96:
            raise Malformed("an IPv4 network in IPv6")
        try:
            return str(ipaddress.ip_network((ip, length)))
        except ValueError:
            raise Malformed("too many bits, or bits behind them") from None


class List:
    def __init__(self, inner, most):
        self.inner, self.most = inner, most

    def encode(self, value):
        return U64.encode(len(value)) + b"".join(map(self.inner.encode, value))

    def decode(self, cursor):
        count = U64.decode(cursor)
        if count > self.most:
            raise Malformed("too long a list")
        return [self.inner.decode(cursor) for _ in range(count)]


class Struct:
    def __init__(self, **fields):
        self.fields = fields

    def encode(self, value):
        return b"".join(kind.encode(value[name]) for name, kind in self.fields.items())

    def decode(self, cursor):
        return {name: kind.decode(cursor) for name, kind in self.fields.items()}


class Host(Text):
    """A name in lower case, a dot and a name, or nothing."""

    def decode(self, cursor):
        host = super().decode(cursor)
        name = host[1:] if host.startswith(".") else host
        if host and (len(host) > 120 or not re.fullmatch(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", name)):
            raise Malformed("not a host")
        return host


class Choice:
    """Alternatives in the order of their numbers: a name, or a pair of a name and what is in it."""

    def __init__(self, *alternatives):
        self.alternatives = [(a, None) if isinstance(a, str) else a for a in alternatives]

    def encode(self, value):
        name, inner = (value, None) if isinstance(value, str) else next(iter(value.items()))
        for number, (known, kind) in enumerate(self.alternatives):
            if known == name:
                return U32.encode(number) + (kind.encode(inner) if kind else b"")
        raise KeyError(name)

    def decode(self, cursor):
        number = U32.decode(cursor)
        if number >= len(self.alternatives):
            raise Malformed("no such message or code")
        name, kind = self.alternatives[number]
        return {name: kind.decode(cursor)} if kind else name


U16, U32, U64 = Varint(16), Varint(32), Varint(64)

HOW = Choice("Shut", "Reset")
ABORT = Choice("OuterReset", "ConnLost", "Deadline", "SessionOver", "Resources", "Stopping")
REFUSE = Choice("ConnectionRefused", "Unreachable", "TimedOut", "UnknownTunnel", "Resources")
CLOSE = Choice("Bye", "Replaced", "Violation", "Stopping", "Revoked", "Kicked")
HANDSHAKE = Choice(
    "Version", "TokenRequired", "TokenUnexpected", "WrongToken", "LoopbackOnly",
    "IdentityInUse", "Full", "Stopping", "UnknownSession", "ReplayedConn", "TooManyFailures",
    "TlsRequired")
TUNNEL = Choice(
    "PortInUse", "PortNotAllowed", "PortDenied", "NoFreePort", "TooManyTunnels", "Resources",
    "Released", "Closed", "HostInUse", "HostNotAllowed", "NoHosts", "NoUdp",
    "AddressNotAllowed", "NoAddress", "HeldByHolder", "NoExamine")
LEAVE = Choice("Upgraded", "TakenOver")
FINAL = {"Version", "TokenRequired", "TokenUnexpected", "WrongToken", "LoopbackOnly", "TlsRequired",
         "PortNotAllowed", "PortDenied", "HostNotAllowed", "NoHosts", "NoUdp",
         "AddressNotAllowed", "NoExamine"}

UDP = 32  # the feature: the server knows RegisterUdp (P-EVO-2)

NETWORKS = List(Network(), 16)
LIMITS = Struct(
    sources=Struct(allow=NETWORKS, deny=NETWORKS), max_connections=U32, max_connection_rate=U32)

PORT = Struct(tunnel=U32, public_port=U16, bind_addr=Option(Ip()), name=Text(), limits=LIMITS)
SITE = Struct(web=Choice("Http", "Https"), host=Host())
SERVICE = Struct(speaks=Choice("Http1", "Http2", "Both"), redirect=Bool(), forwarded=Bool())

FIN = ("Fin", Struct(conn=U64, epoch=U32, total=U64, how=HOW))
ABORTED = ("Abort", Struct(conn=U64, epoch=U32, code=ABORT))


def ctl(handshake, session):
    received = Struct(received=U64)
    return Choice(
        ("Handshake", handshake), ("Numbered", Struct(seq=U64, msg=session)), ("Ping", received),
        ("Pong", received), ("Ack", received), ("Close", Struct(code=CLOSE)))


CTL_TO_SERVER = ctl(
    Choice(
        ("Hello", Struct(
            nonce=Bytes(32), client=Bytes(16), token=Bool(), features=U64,
            resume=Option(Struct(session=Bytes(16), received=U64)))),
        ("Proof", Bytes(32))),
    Choice(
        ("RegisterTunnel", PORT),
        ("CloseTunnel", Struct(tunnel=U32)),
        ("ConnFailed", Struct(count=U32)),
        FIN,
        ("Done", Struct(conn=U64, epoch=U32)),
        ABORTED,
        "Drain",
        ("StartSeen", Struct(conn=U64, epoch=U32, seen=Bool())),
        ("ChangeTunnel", Struct(tunnel=U32, name=Text(), limits=LIMITS)),
        ("RegisterHost", Struct(tunnel=U32, site=SITE, service=SERVICE, name=Text(), limits=LIMITS)),
        ("RegisterUdp", PORT)))
CTL_TO_CLIENT = ctl(
    Choice(
        ("Hello", Struct(nonce=Bytes(32), features=U64)),
        ("Welcome", Struct(
            session=Bytes(16), resumed=Bool(), received=U64, proxy_port=U16, proof=Bytes(32))),
        ("Refused", HANDSHAKE)),
    Choice(
        ("TunnelReady", Struct(tunnel=U32, public=Address())),
        ("TunnelRefused", Struct(tunnel=U32, code=TUNNEL)),
        ("NeedConn", Struct(count=U32)),
        FIN,
        ABORTED,
        "Drain",
        ("AskStart", Struct(conn=U64, epoch=U32)),
        ("TunnelClosed", Struct(tunnel=U32, code=TUNNEL)),
        ("Leave", Struct(code=LEAVE)),
        ("DatagramPath", Struct(pin=Bytes(32)))))
PROXY_TO_SERVER = Choice(
    ("Hello", Struct(session=Bytes(16), conn=U64, proof=Bytes(32))),
    "Pong",
    ("Started", Struct(epoch=U32)),
    ("Refused", Struct(epoch=U32, code=REFUSE)))
PROXY_TO_CLIENT = Choice(
    ("Accepted", Struct(proof=Bytes(32))),
    ("Refused", HANDSHAKE),
    "Ping",
    ("Start", Struct(epoch=U32, tunnel=U32, visitor=Address(), public=Address())),
    ("Secured", Struct(host=Option(Host()), agreed=Option(Choice("Http1", "Http2")))))

LONGEST = {CTL_TO_SERVER: 512, CTL_TO_CLIENT: 512, PROXY_TO_SERVER: 128, PROXY_TO_CLIENT: 128}


# ---- Frames and prefaces --------------------------------------------------------------------------------


def frame(kind, message):
    body = kind.encode(message)
    return struct.pack("<H", len(body)) + body


def check_length(kind, header):
    (length,) = struct.unpack("<H", header)
    if not 1 <= length <= LONGEST[kind]:
        raise BadLength(f"a frame of {length} bytes")  # P-FRAME-2
    return length


def parse(kind, body):
    cursor = Cursor(body)
    message = kind.decode(cursor)
    if cursor.at != len(body):
        raise Malformed("bytes behind the message")  # P-FRAME-3
    return message


def only(message):
    """The name of a message and what is in it."""
    return (message, None) if isinstance(message, str) else next(iter(message.items()))


def preface(kind):
    return b"CPXY" + kind + bytes([1, 1, 0])


def check_reply(kind, reply):
    if reply[:5] != b"CPXY" + kind or reply[5] > 1:
        raise Malformed("not a CProxy server")  # P-PREF-5
    if reply[5] == 0:
        raise Refused("Version")


class Stream:
    """A connection to the server: frames, or raw bytes."""

    @classmethod
    async def open(cls, address):
        self = cls()
        self.reader, self.writer = await asyncio.open_connection(*address)
        set_options(self.writer)
        return self

    async def exactly(self, count):
        try:
            return await self.reader.readexactly(count)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Lost(str(error)) from None

    async def receive(self, kind):
        length = check_length(kind, await self.exactly(2))
        return parse(kind, await self.exactly(length))

    def send(self, kind, message):
        self.writer.write(frame(kind, message))

    def reset(self):
        reset(self.writer)


def set_options(writer):
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # drain() then waits until everything is with the kernel: back-pressure, and P-DONE-1.
    writer.transport.set_write_buffer_limits(high=0)


def reset(writer):
    """Closes so that the other end sees an error and never an end (P-ABORT-5)."""
    with contextlib.suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


# ---- A local_conn -----------------------------------------------------------------------------------------


class Local:
    """The LocalServer's socket, without a transport: that would drop what it has read when a reset follows, and would
    stop reading when a write fails (P-FIN-8)."""

    LOOK, LONGEST_LOOK, LINGER = 0.001, 0.128, 5

    def __init__(self, sock):
        self.sock, self.loop = sock, asyncio.get_running_loop()
        self.failed = self.shut = False

    @classmethod
    async def open(cls, host, port):
        error = None
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found:
            self = cls(socket.socket(family, kind, protocol))
            try:
                self.sock.setblocking(False)
                await self.loop.sock_connect(self.sock, address)
            except ConnectionResetError:
                self.failed = True  # it was connected: what it said before it was reset can be read
            except OSError as raised:
                error = raised
                self.sock.close()
                continue
            except BaseException:
                self.sock.close()
                raise
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self
        raise error or OSError(errno.EHOSTUNREACH, "no address")

    async def receive(self, stop):
        """Some bytes, or how the stream ended (P-FIN-9). After `stop` nothing is taken: its end is a reset."""
        reading = asyncio.ensure_future(self.loop.sock_recv(self.sock, 65536))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([reading, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set() or not reading.done():
                return "Reset"
            return reading.result() or ("Reset" if self.is_reset() else "Shut")
        except OSError:
            self.failed = True
            return "Reset"
        finally:
            await cancelled(reading, stopping)

    def is_reset(self):
        """The system tells a reset once, and a write may have had it: an end that was read may not be one."""
        self.failed = self.failed or (not self.shut and self.is_closed())
        return self.failed

    def is_closed(self):
        return self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE

    async def send(self, data):
        try:
            await self.loop.sock_sendall(self.sock, data)
        except OSError:
            self.failed = True

    def shut_write(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
            self.shut = True
        except OSError:
            self.failed = True

    async def settle(self):
        """Waits until the system has sent everything, or makes no progress: a reset drops the rest (P-FIN-13)."""
        pause, least, since = self.LOOK, None, time.monotonic()
        while True:
            left = self.unsent()
            if least is None or left < least:
                least, since = left, time.monotonic()
            if left == 0 or self.is_closed() or time.monotonic() - since >= self.LINGER:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, self.LONGEST_LOOK)

    def unsent(self):
        left = array.array("i", [0])
        fcntl.ioctl(self.sock, termios.TIOCOUTQ, left)  # SIOCOUTQ: an end that was shut counts as 1
        return left[0]

    def reset(self):
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()


TCP_CLOSE = 7


class Flow(Local):
    """A flow's own socket: to the conn it is a stream in which each datagram has its length in front (P-UDP-2)."""

    LONGEST = 65507

    def __init__(self, sock):
        super().__init__(sock)
        self.parts, self.over = b"", asyncio.Event()

    @classmethod
    async def open(cls, host, port):
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        self = cls(socket.socket(family, kind, protocol))
        self.sock.setblocking(False)
        self.sock.connect(address)
        return self

    async def receive(self, stop):
        """The next datagram; the peer's end is this one's, too (P-UDP-4)."""
        reading = asyncio.ensure_future(self.loop.sock_recv(self.sock, 65536))
        stopping = [asyncio.ensure_future(event.wait()) for event in (stop, self.over)]
        try:
            await asyncio.wait([reading, *stopping], return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set() or self.over.is_set() or not reading.done():
                return "Reset" if stop.is_set() else "Shut"
            data = reading.result()
            return struct.pack("<H", len(data)) + data
        except OSError:  # nobody is there (ECONNREFUSED)
            self.failed = True
            return "Reset"
        finally:
            await cancelled(reading, *stopping)

    async def send(self, data):
        datagrams, self.parts = self.split(self.parts + data)
        for datagram in datagrams:
            with contextlib.suppress(OSError):  # lost, as any may be
                self.sock.send(datagram)

    @classmethod
    def split(cls, data):
        """The whole datagrams at the front of a stream, and the rest of it."""
        datagrams = []
        while len(data) >= 2:
            length = struct.unpack("<H", data[:2])[0]
            if length > cls.LONGEST:
                raise Violation("longer than any datagram")
            if len(data) < 2 + length:
                break
            datagrams.append(data[2:2 + length])
            data = data[2 + length:]
        return datagrams, data

    def shut_write(self):
        self.over.set()

    async def settle(self):
        pass

    def reset(self):
        self.sock.close()


async def cancelled(*tasks):
    """Cancels and waits: whoever uses their sockets next must find them free."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# ---- Proofs (P-AUTH-6) ----------------------------------------------------------------------------------


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def transcript_of(*said):
    return hashlib.sha256(b"".join(said)).digest()


def client_proof(token, transcript):
    return mac(token, b"cproxy client", transcript)


def welcome_proof(token, transcript, welcome):
    return mac(
        token, b"cproxy server", transcript, welcome["session"], bytes([welcome["resumed"]]),
        struct.pack("<Q", welcome["received"]), struct.pack("<H", welcome["proxy_port"]))


def session_key_of(token, transcript, session):
    return mac(token, b"cproxy session", transcript, session)


def conn_proof(key, label, session, conn):
    return mac(key, label, session, struct.pack("<Q", conn))


# ---- A proxy_conn -----------------------------------------------------------------------------------------


class Conn:
    def __init__(self, session, number):
        self.session, self.number = session, number
        self.stream = self.local = None
        self.epoch, self.active = 0, False
        # What the server's `Fin` said, and what was announced here.
        self.end, self.fin, self.peer_reset = None, asyncio.Event(), asyncio.Event()
        self.announced = None
        self.task = asyncio.ensure_future(self.run())

    # What the ctl_conn says about it (P-STATE-2). It may come before `Accepted` (P-PROXY-7).

    def expected(self, epoch):
        """Whether `epoch` is the running one, or the next of an idle conn; older ones are stale."""
        now = self.epoch if self.active else self.epoch + 1
        if epoch > now:
            raise Violation("a transfer that was never started")
        return epoch == now

    def on_fin(self, epoch, total, how):
        if not self.expected(epoch):
            return
        if self.end is None:
            self.end = (total, how)  # kept if it overtook its Start (P-FIN-6)
        elif self.peer_reset.is_set() or self.end[0] != total or how != "Reset":
            raise Violation("a Fin too many")  # P-FIN-5, P-FIN-11
        self.fin.set()
        if how == "Reset":
            self.peer_reset.set()

    def on_abort(self, epoch):
        if self.expected(epoch):
            self.session.did["aborted"] += self.active
            self.drop()

    def on_ask_start(self, epoch):
        """Says whether the Start has come; if not, it never will (P-STALE-3)."""
        if self.expected(epoch):
            self.session.answer_ask(self.number, epoch, self.active)
            if not self.active:
                self.drop()

    def drop(self):
        """Resets everything, says nothing."""
        self.session.forget(self)
        self.task.cancel()

    # What it does.

    async def run(self):
        try:
            try:
                await asyncio.wait_for(self.open(), self.session.options.handshake_timeout)
            except (Lost, Refused, OSError, asyncio.TimeoutError) as error:
                log(f"conn {self.number}: not opened: {error!r}")
                self.session.send({"ConnFailed": {"count": 1}})  # P-POOL-2
                return
            self.session.did["conns"] += 1
            with contextlib.suppress(Lost):  # forgotten, without a message (P-POOL-9)
                while True:
                    start = await self.idle()
                    if not await self.transfer(start["tunnel"]):
                        return
        except Violation as violation:
            self.session.on_violation(violation)
        finally:
            self.session.forget(self)
            for end in filter(None, [self.local, self.stream]):
                end.reset()

    async def open(self):
        session = self.session
        self.stream = await Stream.open(session.proxy_address)
        proof = conn_proof(session.key, b"cproxy conn", session.id, self.number)
        self.stream.writer.write(preface(b"P"))
        self.stream.send(
            PROXY_TO_SERVER,
            {"Hello": {"session": session.id, "conn": self.number, "proof": proof}})
        check_reply(b"P", await self.stream.exactly(8))
        name, inner = only(await self.stream.receive(PROXY_TO_CLIENT))
        if name == "Refused":
            raise Refused(inner)
        expected = conn_proof(session.key, b"cproxy accept", session.id, self.number)
        if name != "Accepted" or not hmac.compare_digest(inner["proof"], expected):
            raise Violation("the server does not know the session")  # P-PROXY-4

    async def idle(self):
        """Answers pings until a visitor comes."""
        while True:
            name, inner = only(await self.stream.receive(PROXY_TO_CLIENT))
            if name == "Ping":
                self.stream.send(PROXY_TO_SERVER, "Pong")
                self.session.did["pongs"] += 1
                log(f"conn {self.number}: pong")
            elif name == "Start":
                if inner["epoch"] != self.epoch + 1:
                    raise Violation("a Start out of turn")  # P-XFER-1
                self.epoch, self.active = inner["epoch"], True
                return inner
            else:
                raise Violation(f"{name} on an idle conn")

    async def transfer(self, tunnel):
        """Serves a visitor. Whether the conn is idle again."""
        session, now = self.session, {"conn": self.number, "epoch": self.epoch}
        try:
            code = await self.dial(tunnel)
            if code is None:
                self.stream.send(PROXY_TO_SERVER, {"Started": {"epoch": self.epoch}})
                await all_of(self.egress(now), self.ingress())
                await self.end_local()
                session.did["transfers"] += 1
            else:
                refused = {"epoch": self.epoch, "code": code}
                self.stream.send(PROXY_TO_SERVER, {"Refused": refused})
                await self.ingress()  # takes what is on its way and gives it to nobody (P-REF-3)
                session.did["refused"] += 1
        except Lost:
            session.send({"Abort": dict(now, code="ConnLost")})
            session.did["aborted"] += 1
            return False
        self.active, self.end, self.announced = False, None, None
        self.fin.clear()
        self.peer_reset.clear()
        session.send({"Done": now})  # after a reset, too: the conn is used again (P-FIN-14)
        return True

    async def dial(self, tunnel):
        """Connects to the LocalServer; or why not. Bytes from the visitor wait in the meantime."""
        options = self.session.options
        if tunnel != self.session.TUNNEL:
            return "UnknownTunnel"
        try:
            self.local = await asyncio.wait_for(
                (Flow if options.udp else Local).open(*options.local), options.dial_timeout)
        except ConnectionRefusedError:
            return "ConnectionRefused"
        except asyncio.TimeoutError:
            return "TimedOut"
        except OSError as error:
            few = error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
            return "Resources" if few else "Unreachable"
        return None

    async def egress(self, now):
        """LocalServer to conn: raw bytes, counted; `Fin` at their end, or the visitor's reset (P-FIN-1, P-FIN-12)."""
        total = 0
        while True:
            data = await self.local.receive(self.peer_reset)
            if isinstance(data, str):
                break
            total += len(data)
            self.stream.writer.write(data)
            await self.drained(self.stream.writer)
        self.announced = dict(now, total=total, how=data)
        self.session.send({"Fin": self.announced})
        await self.drained(self.stream.writer)

    @staticmethod
    async def drained(writer):
        try:
            await writer.drain()
        except OSError as error:
            raise Lost(str(error)) from None

    async def ingress(self):
        """Conn to LocalServer: exactly as many bytes as the server's `Fin` says (P-FIN-3, P-FIN-4)."""
        taken = 0
        while self.end is None or taken < self.end[0]:
            data = await self.take(65536 if self.end is None else min(65536, self.end[0] - taken))
            taken += len(data)
            if self.local and data and not self.local.failed:  # otherwise nobody gets them (P-FIN-10)
                await self.local.send(data)
                self.tell_reset_behind()
        if taken > self.end[0]:
            raise Violation("a Fin below what already came")  # P-FIN-5
        if self.local and not self.local.failed and self.end[1] == "Shut":
            self.local.shut_write()
            self.tell_reset_behind()

    def tell_reset_behind(self):
        """A write has failed: if the stream has ended well for the server, it has not (P-FIN-11)."""
        if self.local.failed and self.announced and self.announced["how"] == "Shut":
            self.announced = dict(self.announced, how="Reset")
            self.session.send({"Fin": self.announced})

    async def end_local(self):
        """Both directions are over (P-DONE-5)."""
        if self.peer_reset.is_set() and not self.local.failed:
            await self.local.settle()
        if self.peer_reset.is_set() or self.local.failed:
            self.local.reset()
        else:
            self.local.close()
        self.local = None

    async def take(self, most):
        """Some bytes off the conn; none if the `Fin` comes first."""
        reading = asyncio.ensure_future(self.stream.reader.read(most))
        hearing = asyncio.ensure_future(self.fin.wait())
        try:
            waited = [reading] if self.fin.is_set() else [reading, hearing]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                # Whoever reads next must find the reader free.
                reading.cancel()
                await asyncio.wait([reading])
                return b""
            data = reading.result()
        except OSError as error:
            raise Lost(str(error)) from None
        finally:
            hearing.cancel()
            reading.cancel()
        if not data:
            raise Lost("the conn ended in mid-transfer")  # P-ABORT-4
        return data


async def all_of(*coroutines):
    """Waits for all; the first failure stops the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# ---- A session ----------------------------------------------------------------------------------------------


class Session:
    """What survives a ctl_conn: numbered messages, conns, the key."""

    TUNNEL = 1

    def __init__(self, client, welcome, transcript, proxy_address):
        self.options, self.did = client.options, client.did
        self.id = welcome["session"]
        self.key = session_key_of(client.options.token, transcript, self.id)
        self.proxy_address = proxy_address
        self.stream = None
        self.unacked, self.acked = collections.deque(), 0
        self.received = self.told = 0
        self.conns, self.next_conn = {}, 1
        self.draining = False
        self.send(self.registration())

    def registration(self):
        return {"RegisterUdp" if self.options.udp else "RegisterTunnel": {
            "tunnel": self.TUNNEL, "public_port": self.options.public_port, "bind_addr": None,
            "name": self.options.name,
            "limits": {
                "sources": {"allow": [], "deny": []}, "max_connections": 0, "max_connection_rate": 0}}}

    @property
    def sent(self):
        return self.acked + len(self.unacked)

    def send(self, message):
        """Numbers a message and keeps it until it is acknowledged (P-SESS-1, P-SESS-5)."""
        self.unacked.append(message)
        if self.stream:
            self.write({"Numbered": {"seq": self.sent, "msg": message}})

    def write(self, message):
        self.stream.send(CTL_TO_SERVER, message)

    def tell(self, name):
        self.told = self.received
        self.write({name: {"received": self.received}})

    def on_ack(self, received):
        if not self.acked <= received <= self.sent:
            raise Violation("an acknowledgement of something never sent")  # P-SESS-4
        while self.acked < received:
            self.unacked.popleft()
            self.acked += 1

    def attach(self, stream, received):
        """A ctl_conn is up: replays what the server does not have (P-RES-3)."""
        self.on_ack(received)
        self.stream, self.gone = stream, asyncio.get_running_loop().create_future()
        for seq, message in enumerate(self.unacked, self.acked + 1):
            self.write({"Numbered": {"seq": seq, "msg": message}})

    def forget(self, conn):
        self.conns.pop(conn.number, None)

    def end(self):
        """Nothing of it exists any more (P-END-2)."""
        for conn in list(self.conns.values()):
            conn.drop()

    def on_violation(self, violation):
        log(f"the server broke the protocol: {violation}")
        if self.stream:
            self.write({"Close": {"code": "Violation"}})
            self.stream.writer.close()
        self.end()
        self.id = None

    async def serve(self):
        """Reads the ctl_conn until it is lost or closed. The code of a `Close`."""
        while True:
            try:
                message = await asyncio.wait_for(self.heard(), self.options.heartbeat_timeout)
            except (Lost, asyncio.TimeoutError):  # P-LIVE-2
                return None
            name, inner = only(message)
            if name == "Close":
                return inner["code"]
            if name == "Numbered":
                if inner["seq"] > self.received + 1 or inner["seq"] == 0:
                    raise Violation("a number was skipped")  # P-SESS-3
                if inner["seq"] == self.received + 1:
                    self.received += 1
                    self.on_message(*only(inner["msg"]))
                    if self.received - self.told >= 64:
                        self.tell("Ack")  # P-SESS-6
            elif name in ("Ping", "Pong", "Ack"):
                self.on_ack(inner["received"])
                if name == "Ping":
                    self.tell("Pong")
            else:
                raise Violation(f"{name} in a session")

    async def heard(self):
        """The next message. After `heartbeat_interval` of silence, a ping (P-LIVE-1)."""
        waiting = asyncio.ensure_future(self.stream.receive(CTL_TO_CLIENT))
        try:
            await asyncio.wait([waiting], timeout=self.options.heartbeat_interval)
            if not waiting.done():
                self.tell("Ping")
            return await waiting
        finally:
            waiting.cancel()

    def on_message(self, name, inner):
        if name == "NeedConn":
            self.open(inner["count"])
        elif name in ("Fin", "Abort", "AskStart"):
            if not 1 <= inner["conn"] < self.next_conn:
                raise Violation("a conn that was never opened")  # P-STATE-3
            conn = self.conns.get(inner["conn"])
            if name == "AskStart":
                if conn is None:
                    self.answer_ask(inner["conn"], inner["epoch"], False)
                else:
                    conn.on_ask_start(inner["epoch"])
            elif conn is None:
                return  # stale
            elif name == "Fin":
                conn.on_fin(inner["epoch"], inner["total"], inner["how"])
            else:
                conn.on_abort(inner["epoch"])
        elif name == "TunnelReady":
            port = inner["public"].rsplit(":", 1)[1]
            host, local = (self.options.shown[key] for key in ("server", "local"))
            scheme = "udp" if self.options.udp else "tcp"
            print(f"Forwarding {scheme}://{host}:{port} -> {local}", flush=True)
        elif name == "TunnelRefused":
            log(f"the tunnel is refused: {inner['code']}")
            if inner["code"] in FINAL:
                raise SystemExit(2)
            pause = 0 if inner["code"] == "Released" else 1  # P-RES-8, P-TUN-4
            asyncio.get_running_loop().call_later(pause, self.send, self.registration())
        elif name == "TunnelClosed":
            log(f"the tunnel is closed: {inner['code']}")
            pause = 0 if inner["code"] == "Released" else 30  # P-RES-8, P-TUN-13
            asyncio.get_running_loop().call_later(pause, self.send, self.registration())
        elif name == "Drain":
            log("the server is stopping")

    def answer_ask(self, conn, epoch, seen):
        self.send({"StartSeen": {"conn": conn, "epoch": epoch, "seen": seen}})
        self.did["unseen"] += not seen

    def open(self, count):
        if count == 0:
            raise Violation("NeedConn for none")  # P-POOL-1
        opened = 0 if self.draining else min(count, self.options.max_conns - len(self.conns))
        for _ in range(opened):
            self.conns[self.next_conn] = Conn(self, self.next_conn)
            self.next_conn += 1  # P-ID-2
        if count > opened:
            self.send({"ConnFailed": {"count": count - opened}})

    async def drain(self):
        """Lets transfers finish, for a bounded time (P-STOP-1)."""
        self.draining = True
        self.send("Drain")
        until = time.monotonic() + self.options.drain_timeout
        while time.monotonic() < until and any(conn.active for conn in self.conns.values()):
            await asyncio.sleep(0.02)
        if self.stream:
            self.write({"Close": {"code": "Bye"}})
            await asyncio.wait([self.gone], timeout=2)


# ---- The client ---------------------------------------------------------------------------------------------


class Client:
    def __init__(self, options):
        self.options, self.session = options, None
        self.did = dict(sessions=0, resumed=0, conns=0, pongs=0, transfers=0, refused=0, aborted=0, unseen=0)

    async def run(self):
        options = self.options
        pause, lost = options.reconnect_min, 0
        while True:
            if self.session and time.monotonic() - lost > options.transfer_grace:
                self.end_session()  # P-RES-6
            try:
                stream = await asyncio.wait_for(self.connect(), options.handshake_timeout)
            except Refused as refused:
                log(f"refused: {refused}")
                if str(refused) in FINAL:
                    return 2
            except (Lost, Violation, OSError, asyncio.TimeoutError) as error:
                log(f"no connection: {error!r}")
            else:
                pause = options.reconnect_min
                code = await self.serve(stream)
                log(f"the ctl_conn is gone: {code or 'lost'}")
                lost = time.monotonic()
                if code == "Replaced":
                    return 1  # P-REPL-3
            # P-RES-1: growing pauses, spread at random.
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, options.reconnect_max)

    def end_session(self):
        if self.session:
            self.session.end()
            self.session = None

    async def serve(self, stream):
        session = self.session
        try:
            code = await session.serve()
        except Violation as violation:
            session.on_violation(violation)
            code = "Violation"
        finally:
            session.stream = None
            session.gone.set_result(None)
            stream.reset()
        if code or session.id is None:
            self.end_session()  # P-END-1
        return code

    async def connect(self):
        """The ctl_conn's handshake, and a session: resumed or new."""
        options, old = self.options, self.session
        stream = await Stream.open(options.server)
        try:
            resume = old and {"session": old.id, "received": old.received}
            hello = frame(CTL_TO_SERVER, {"Handshake": {"Hello": {
                "nonce": secrets.token_bytes(32), "client": options.client_id,
                "token": bool(options.token), "features": UDP if options.udp else 0, "resume": resume}}})
            stream.writer.write(preface(b"C") + hello)
            reply = await stream.exactly(8)
            check_reply(b"C", reply)
            answer = await self.handshake(stream, "Hello")
            if options.udp and not answer["features"]:
                raise Refused("NoUdp")
            if answer["features"] & ~(UDP if options.udp else 0):
                raise Violation("a feature that was not offered")  # P-AUTH-8
            said = frame(CTL_TO_CLIENT, {"Handshake": {"Hello": answer}})
            transcript = transcript_of(preface(b"C"), reply, hello, said)
            proof = client_proof(options.token, transcript)
            stream.send(CTL_TO_SERVER, {"Handshake": {"Proof": proof}})
            welcome = await self.handshake(stream, "Welcome")
            expected = welcome_proof(options.token, transcript, welcome)
            if not hmac.compare_digest(welcome["proof"], expected):
                raise Refused("WrongToken")  # P-AUTH-8: the server has another token
            if welcome["resumed"]:
                if not old or welcome["session"] != old.id:
                    raise Violation("resumed something else")
                self.did["resumed"] += 1
            else:
                self.end_session()
                address = (stream.writer.get_extra_info("peername")[0], welcome["proxy_port"])
                self.session = Session(self, welcome, transcript, address)
                self.did["sessions"] += 1
            self.session.attach(stream, welcome["received"])
            return stream
        except BaseException:
            stream.reset()
            raise

    @staticmethod
    async def handshake(stream, wanted):
        name, inner = only(await stream.receive(CTL_TO_CLIENT))
        if name == "Handshake":
            name, inner = only(inner)
            if name == wanted:
                return inner
            if name == "Refused":
                raise Refused(inner)
        raise Violation(f"{name} in the handshake")

    async def stop(self):
        if self.session:
            await self.session.drain()
            self.end_session()


def log(line):
    print(line, file=sys.stderr, flush=True)


def address(text):
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def arguments():
    parser = argparse.ArgumentParser(description="An alternative CProxy client.")
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--local", required=True, metavar="HOST:PORT")
    parser.add_argument("--public-port", type=int, default=0)
    parser.add_argument("--udp", action="store_true")
    parser.add_argument("--name", default="python")
    parser.add_argument("--token-file", type=argparse.FileType("rb"))
    parser.add_argument("--client-id", type=bytes.fromhex, default=secrets.token_bytes(16))
    parser.add_argument("--max-conns", type=int, default=1024)
    seconds = dict(
        heartbeat_interval=5, heartbeat_timeout=15, handshake_timeout=10, transfer_grace=300,
        dial_timeout=5, drain_timeout=10, reconnect_min=0.25, reconnect_max=15)
    for name, default in seconds.items():
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=default)
    options = parser.parse_args()
    options.shown = {"server": options.server.rsplit(":", 1)[0], "local": options.local}
    options.server, options.local = address(options.server), address(options.local)
    # Without a token, every key is empty (P-AUTH-2).
    token = options.token_file.read() if options.token_file else b""
    if token.endswith(b"\n"):
        token = token[:-2] if token.endswith(b"\r\n") else token[:-1]
    if b"\0" in token:
        parser.error("the token holds a byte 0, which no token may have (P-AUTH-2)")
    options.token = token
    return options


async def main():
    client = Client(arguments())
    running = asyncio.ensure_future(client.run())
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    waiting = asyncio.ensure_future(asked.wait())
    await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        return running.result()
    await client.stop()
    running.cancel()
    print("Stopped " + json.dumps(client.did), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
