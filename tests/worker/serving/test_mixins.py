"""The code with which a websocket ends for its application, with each of uvicorn's protocols and a fake transport."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from rrmaster.worker.serving.asgi import Message, Receive, Send
from rrmaster.worker.serving.http1.mixins import PIECE, Pieces, WebSocket

PATIENCE = 20.0

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
CLOSE_4001 = b"\x88\x82" + bytes(4) + (4001).to_bytes(2)
CLOSE_WITHOUT_CODE = b"\x88\x80" + bytes(4)


class FakeTransport(asyncio.Transport):
    """A transport that drops what is written, and tells when something was."""

    def __init__(self) -> None:
        super().__init__()
        self.wrote, self.closing = asyncio.Event(), False

    def write(self, data: Any) -> None:
        self.wrote.set()

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        """Bytes come by calls alone."""

    def resume_reading(self) -> None:
        """Bytes come by calls alone."""


async def code_after(ws: Any, sent: bytes) -> int:
    """The code that an application is told when a client sends some bytes and the connection is then lost."""
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def accepts(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            pass
        ended.set_result(message["code"])

    config = Config(accepts, ws=ws, log_config=None, lifespan="off")
    config.load()
    protocol = type("Client", (WebSocket, config.ws_protocol_class), {})  # type: ignore[arg-type]
    client: Any = protocol(config=config, server_state=ServerState(), app_state={})
    transport = FakeTransport()
    async with asyncio.timeout(PATIENCE):
        client.connection_made(transport)
        client.data_received(HANDSHAKE)
        await transport.wrote.wait()
        if sent:
            client.data_received(sent)
        client.connection_lost(ConnectionResetError())
        return await ended


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
@pytest.mark.parametrize(
    ("sent", "code"),
    [(b"", 1006), (CLOSE_4001, 4001), (CLOSE_WITHOUT_CODE, 1005)],
    ids=["it breaks", "closed with a code", "closed without one"],
)
def test_the_code_of_a_websocket_is_its_clients_or_says_that_it_broke(ws: str, sent: bytes, code: int) -> None:
    assert asyncio.run(code_after(ws, sent)) == code


class _Reads:
    """In the place of uvicorn's websocket: each ``.`` ends a message, and the rest belongs to the next one."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.transport = self
        self.loop = self
        self.read_paused = self.close_sent = self.paused = self.closing = False
        self.parsed, self.soon = b"", deque[Callable[[], None]]()

    def data_received(self, data: bytes) -> None:
        self.parsed += data
        for _ in range(data.count(b".")):
            self.queue.put_nowait({})
            if not self.read_paused:
                self.read_paused = True
                self.pause_reading()

    async def send(self, message: dict[str, Any]) -> None:
        self.close_sent = True
        self.read_paused = False
        self.resume_reading()

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closing

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def turn(self) -> None:
        for _ in range(len(self.soon)):
            self.soon.popleft()()


class _InPieces(Pieces, _Reads):
    pass


@pytest.mark.parametrize("rest", [b"", b"x", b"x" * (2 * PIECE + 5)])
async def test_many_small_messages_are_parsed_as_fast_as_they_are_taken(rest: bytes) -> None:
    reads, data, taken = _InPieces(), b"." * (3 * PIECE + 7) + rest, 0
    reads.data_received(data)
    assert (len(reads.parsed), reads.paused) == (PIECE, True)
    reads.data_received(b"y")  # it was under way when the reading was paused
    for _ in range(100):
        reads.turn()
        assert reads.queue.qsize() <= PIECE
        while not reads.queue.empty():
            await reads.receive()
            taken += 1
            assert reads.paused or reads.parsed == data + b"y"
    assert (reads.parsed, taken) == (data + b"y", 3 * PIECE + 7)
    assert (reads.paused, reads.read_paused) == (False, False)


async def test_a_large_message_passes_and_a_closed_one_is_read_to_its_end() -> None:
    reads = _InPieces()
    reads.data_received(b"x" * 50 * PIECE)
    while reads.soon:
        reads.turn()
    assert (len(reads.parsed), reads.paused) == (50 * PIECE, False)
    reads.data_received(b"." * 3 * PIECE)
    await reads.send({"type": "websocket.close"})
    while reads.soon:
        reads.turn()
    assert (len(reads.parsed), reads.paused) == (53 * PIECE, False)


async def test_what_waits_goes_with_the_connection() -> None:
    reads = _InPieces()
    reads.data_received(b"." * 2 * PIECE)
    reads.closing = True
    while not reads.queue.empty():
        await reads.receive()
    reads.turn()
    assert (len(reads.parsed), bool(reads._unread)) == (PIECE, False)
