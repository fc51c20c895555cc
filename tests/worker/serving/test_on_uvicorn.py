"""The state of uvicorn's connections, read from outside, with each of its protocols for HTTP and a fake transport."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from attrs import Factory, define
from uvicorn import Config
from uvicorn.server import ServerState

from rrmaster.worker.deadlines.of_uvicorn import is_fresh
from rrmaster.worker.serving.asgi import Message, Receive, Send
from rrmaster.worker.serving.http1.mixins import FRAGMENTS, Fragments


class FakeTransport(asyncio.Transport):
    """A transport that drops what is written."""

    def write(self, data: Any) -> None:
        """Thrown away."""

    def is_closing(self) -> bool:
        return False


async def answers(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_a_client_is_fresh_until_its_first_byte(http: Any) -> None:
    config = Config(answers, http=http, log_config=None, lifespan="off")
    config.load()

    async def act() -> None:
        client: Any = config.http_protocol_class(config=config, server_state=ServerState(), app_state={})  # type: ignore[call-arg]
        client.connection_made(FakeTransport())
        assert is_fresh(client)
        for part in (b"G", b"ET / HTTP/1.1\r\nHost: a", b".example\r\n\r\n"):
            client.data_received(part)
            assert not is_fresh(client)
        for _ in range(5):
            await asyncio.sleep(0)
            assert not is_fresh(client)
        assert client.cycle.response_complete
        assert not is_fresh(client), "between two requests it is idle"
        client.connection_lost(ConnectionResetError())
        client.timeout_keep_alive_task.cancel()

    asyncio.run(act())


# --- websockets


@define
class Frame:
    data: bytes
    fin: bool = False


@define(slots=False)
class Uvicorns:
    """What uvicorn's websocket does with the fragments of a message."""

    frames: list[bytes] = Factory(list)
    messages: list[bytes] = Factory(list)

    def handle_text(self, frame: Frame) -> None:
        self.frames = [frame.data]

    def handle_cont(self, frame: Frame) -> None:
        self.frames.append(frame.data)
        if frame.fin:
            self.messages.append(b"".join(self.frames))
            self.frames = []


class WebSocket(Fragments, Uvicorns):
    pass


def test_uvicorn_keeps_fragments_as_it_is_taken_to() -> None:
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol as Real

    assert "self.frames.append(event.data)" in inspect.getsource(Real.handle_cont)


@pytest.mark.parametrize("count", [1, 2, FRAGMENTS - 1, FRAGMENTS, FRAGMENTS + 1, 10 * FRAGMENTS + 3])
def test_a_message_in_many_fragments_is_whole_and_kept_in_few_pieces(count: int) -> None:
    websocket = WebSocket()
    for _ in range(2):
        parts, most = [b"%d," % number if number % 3 else b"" for number in range(count)], 0
        websocket.handle_text(Frame(b"first "))
        for part in parts[:-1]:
            websocket.handle_cont(Frame(part))
            most = max(most, len(websocket.frames))
        websocket.handle_cont(Frame(parts[-1], fin=True))
        assert websocket.messages.pop() == b"first " + b"".join(parts)
        assert most <= FRAGMENTS + count // FRAGMENTS + 1
    assert websocket.frames == []
