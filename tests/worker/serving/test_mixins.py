"""The code with which a websocket ends for its application, with each of uvicorn's protocols and a fake transport."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from rrmaster.worker.serving.asgi import Message, Receive, Send
from rrmaster.worker.serving.http1.mixins import WebSocket

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
