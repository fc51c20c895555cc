"""Our protocols for HTTP/1.1 with a fake transport: however requests are cut, each has its body and its answer."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.server import ServerState

from rrmaster.worker.serving.asgi import Message, Receive, Send
from rrmaster.worker.serving.http1 import httptools_client
from rrmaster.worker.serving.http1.h11_client import H11Client
from rrmaster.worker.serving.http1.httptools_client import HttptoolsClient

CLIENTS = {"httptools": HttptoolsClient, "h11": H11Client}

TURNS = 2_000
"""Turns of the loop after which a test gives up waiting."""


class FakeTransport(asyncio.Transport):
    """A transport that keeps what is written, and says whether it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.reads, self.closed = b"", True, False

    def write(self, data: Any) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def measures(scope: Message, receive: Receive, send: Send) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = json.dumps([scope["method"], scope["path"], size, len(scope["headers"])]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"

REQUESTS = {
    b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n": ["GET", "/a", 0, 1],
    b"\r\n\r\nGET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n": ["GET", "/", 0, 1],
    b"POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello": ["POST", "/c", 5, 2],
    b"POST /d HTTP/1.1\r\nHost: a\r\n" + H2C + b"Content-Length: 5\r\n\r\nhello": ["POST", "/d", 5, 5],
    b"GET /e HTTP/1.1\r\nHost: a\r\n" + H2C + b"\r\n": ["GET", "/e", 0, 4],
    b"PUT /f HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: 1\r\n\r\n": [
        "PUT", "/f", 5, 2,
    ],
}  # fmt: skip
"""Requests, and what the application sees of each: method, path, bytes of the body, fields of the head."""


async def answered(kind: str, pieces: list[bytes], count: int) -> bytes:
    """What is written when the pieces come, each when the transport reads."""
    config = Config(measures, http=kind, log_config=None, lifespan="off")  # type: ignore[arg-type]
    config.load()
    transport, waiting = FakeTransport(), list(pieces)
    client: Any = CLIENTS[kind](config=config, server_state=ServerState(), app_state={})
    client.connection_made(transport)
    for _ in range(TURNS):
        if waiting and transport.reads:
            client.data_received(waiting.pop(0))
        await asyncio.sleep(0)
        if not waiting and transport.written.count(b"HTTP/1.1 ") >= count:
            break
    client.connection_lost(ConnectionResetError())
    client._unset_keepalive_if_required()
    return transport.written


@pytest.mark.parametrize("kind", CLIENTS)
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_however_requests_are_cut_each_is_answered_in_order(kind: str, data: Any) -> None:
    chosen = data.draw(st.lists(st.sampled_from(sorted(REQUESTS)), min_size=1, max_size=12))
    stream = b"".join(chosen)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=8)))
    pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    with patch.object(httptools_client, "PIECE", data.draw(st.sampled_from([httptools_client.PIECE, 11]))):
        written = asyncio.run(answered(kind, pieces, len(chosen)))
    assert [json.loads(seen) for seen in re.findall(rb"\[.*?\]", written)] == [REQUESTS[one] for one in chosen]
    assert written.count(b"HTTP/1.1 200 ") == len(chosen)
