"""HTTP/2 on trio keeps of a client what it needs, whatever the client offers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
import trio
from anycorn.config import Config
from anycorn.events import Closed, RawData
from anycorn.task_group import TaskGroup
from anycorn.typing import ConnectionState
from anycorn.worker_context import WorkerContext
from attrs import Factory, define
from hyperframe.frame import PriorityFrame
from trio.testing import wait_all_tasks_blocked

from rrmaster.worker.serving.http1.anycorn_targets import TABLE, Protocol

ANSWERS = 200


@define(eq=False)
class Conversation:
    """A protocol of the server's, and its client."""

    client: h2.connection.H2Connection
    protocol: Any
    said: list[Any] = Factory(list)
    """What the client has heard."""

    async def flush(self) -> None:
        """Let the server hear what the client has said, and answer."""
        await self.protocol.handle(RawData(self.client.data_to_send()))
        await wait_all_tasks_blocked()

    async def ask(self, method: bytes = b"GET") -> str:
        """One request; returns its status, or the error with which it was reset."""
        number = self.client.get_next_available_stream_id()
        names = ((b":method", method), (b":path", b"/"), (b":scheme", b"http"), (b":authority", b"test"))
        self.client.send_headers(number, names, end_stream=True)
        await self.flush()
        for event in self.said:
            if isinstance(event, h2.events.ResponseReceived) and event.stream_id == number:
                return dict(event.headers)[b":status"].decode()
            if isinstance(event, h2.events.StreamReset) and event.stream_id == number:
                return h2.errors.ErrorCodes(event.error_code).name
        return "nothing"


@asynccontextmanager
async def a_conversation(**settings: int) -> AsyncIterator[Conversation]:
    client = h2.connection.H2Connection(
        h2.config.H2Configuration(header_encoding=None, validate_outbound_headers=False)
    )
    chosen = {h2.settings.SettingCodes[name]: value for name, value in settings.items()}
    client.local_settings = h2.settings.Settings(client=True, initial_values=chosen)
    client.initiate_connection()

    async def app(scope: Any, receive: Any, send: Any, *threads: object) -> None:
        headers = [(b"x-request-id", b"%064d" % len(found.said)), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def send(event: Any) -> None:
        if isinstance(event, RawData):
            found.said += client.receive_data(event.data)

    async with TaskGroup() as group:
        parts = (app, Config(), WorkerContext(None), group, ConnectionState({}), None, None, send, None)
        protocol = Protocol(parts, is_http2=True)
        found = Conversation(client, protocol)
        await protocol.initiate()
        await found.flush()
        yield found
        await protocol.handle(Closed())


async def test_a_client_with_much_room_for_headers_makes_the_server_remember_no_more_of_them() -> None:
    with trio.fail_after(30):
        async with a_conversation(HEADER_TABLE_SIZE=2**31 - 1) as found:
            for _ in range(ANSWERS):
                assert await found.ask() == "200"
            table = found.protocol.protocol.connection.encoder.header_table
            assert table._current_size <= TABLE
            assert len(table.dynamic_entries) <= TABLE // 32  # RFC 7541, 4.1


async def test_a_client_with_less_room_for_headers_gets_what_it_can_read() -> None:
    with trio.fail_after(30):
        async with a_conversation() as found:
            for size in (100, 0, 2**20, 64):
                found.client.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
                for _ in range(3):
                    assert await found.ask() == "200"
                assert found.protocol.protocol.connection.encoder.header_table_size == min(size, TABLE)


@pytest.mark.parametrize("method", ["G\u00e9T".encode(), b"G\xffT", b'GE"T', b"G T", b"G\x1b[31mT"])
async def test_a_method_that_is_none_costs_its_request_alone(method: bytes) -> None:
    with trio.fail_after(30):
        async with a_conversation() as found:
            assert await found.ask(method) == "PROTOCOL_ERROR"
            assert found.protocol.protocol.idle
            assert await found.ask() == "200"


async def test_what_a_client_says_of_priorities_is_not_kept() -> None:
    with trio.fail_after(30):
        async with a_conversation() as found:
            for number in range(1, 6001, 2):
                depends_on = number - 2 if number > 1 else 0  # each below the one before: a tree as deep as it is large
                frame = PriorityFrame(number, stream_weight=5, depends_on=depends_on)
                await found.protocol.handle(RawData(frame.serialize()))
            assert await found.ask() == "200"
            assert len(found.protocol.protocol.priority._streams) < 10
