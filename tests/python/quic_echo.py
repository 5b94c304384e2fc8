"""QUIC by aioquic: a service that echoes streams and datagrams, and a visitor who wants them back.

    quic_echo.py serve HOST PORT SIZE CERT KEY      SIZE: of its packets, which are never cut
    quic_echo.py ask HOST PORT SIZE CA              exits with 0 when all has come back
"""

import asyncio
import os
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import DatagramFrameReceived, StreamDataReceived

STREAM = bytes(range(256)) * 1200
# A packet's header and tag, and a frame's.
OVERHEAD = 64
PATIENCE = 30


def configuration(is_client: bool, size: int) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=["echo"],
        max_datagram_frame_size=65_535,
        max_datagram_size=size,
        server_name="echo.example" if is_client else None,
    )


class Echo(QuicConnectionProtocol):
    def quic_event_received(self, event) -> None:
        if isinstance(event, DatagramFrameReceived):
            self._quic.send_datagram_frame(event.data)
        elif isinstance(event, StreamDataReceived):
            self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)


class Asker(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.heard = asyncio.Queue()

    def quic_event_received(self, event) -> None:
        if isinstance(event, DatagramFrameReceived):
            self.heard.put_nowait(event.data)
        else:
            super().quic_event_received(event)

    async def echoed(self, datagram: bytes) -> None:
        """Sends it until it comes back: it may be lost, as any datagram."""
        while True:
            self._quic.send_datagram_frame(datagram)
            self.transmit()
            try:
                async with asyncio.timeout(0.3):
                    while await self.heard.get() != datagram:
                        pass
                return
            except TimeoutError:
                pass


async def serve_for_ever(host: str, port: int, size: int, certificate: str, key: str) -> None:
    own = configuration(False, size)
    own.load_cert_chain(certificate, key)
    await serve(host, port, configuration=own, create_protocol=Echo)
    await asyncio.Future()


async def ask(host: str, port: int, size: int, authority: str) -> None:
    own = configuration(True, size)
    own.load_verify_locations(authority)
    async with connect(host, port, configuration=own, create_protocol=Asker) as asker:
        for length in (1, 100, 1_000, size - OVERHEAD):
            await asker.echoed(length.to_bytes(2, "big")[-min(length, 2) :] * (length // min(length, 2)))
        reader, writer = await asker.create_stream()
        writer.write(STREAM)
        writer.write_eof()
        assert await reader.read() == STREAM, "another stream came back"
        # Closing would wait for as long as packets may be under way.
        os._exit(0)


def main(what: str, host: str, port: str, size: str, *files: str) -> None:
    act = serve_for_ever if what == "serve" else ask
    waiting = act(host, int(port), int(size), *files)
    asyncio.run(waiting if what == "serve" else asyncio.wait_for(waiting, PATIENCE))


main(*sys.argv[1:])
