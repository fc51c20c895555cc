"""The state of uvicorn's connections, read from outside, with each of its protocols for HTTP and a fake transport."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from rrmaster.worker.deadlines.of_uvicorn import is_fresh
from rrmaster.worker.serving.asgi import Message, Receive, Send


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
