"""ASGI on trio, whose clients leave, half leave, overdo it, or never answer: each connection and each call ends."""

from __future__ import annotations

import re
import socket
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
import trio

from tests.whole.harness import PATIENCE, Running, ask, running

GET = "GET {} HTTP/1.1\r\nHost: test\r\n\r\n"

UPGRADE = (
    "GET {} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

CLOSE_1000, CLOSE_1009 = b"\x88\x02\x03\xe8", b"\x88\x02\x03\xf1"

MIB = 1 << 20


@asynccontextmanager
async def serving(*options: str) -> AsyncIterator[Running]:
    async with running("left_alone:app", "--runtime", "trio", "--lifespan", "off", *options, workers=1) as master:
        (pid,) = master.workers
        yield master
        assert list(master.workers) == [pid], "the worker lives"
        assert await master.stop() == 0


async def rest(stream: trio.SocketStream) -> bytes:
    """Everything until the end of the stream."""
    with trio.fail_after(PATIENCE):
        return b"".join([bytes(data) async for data in stream])


async def asked(master: Running, question: str) -> trio.SocketStream:
    """A connection that has sent this, and stays open until the master's end."""
    stream = (await master.burst(1))[0]
    await stream.send_all(question.encode())
    return stream


async def test_a_client_that_half_closes_after_its_requests_gets_all_answers():
    async with serving() as master:
        for path, times in (("/", 1), ("/slow", 1), ("/", 3)):
            streams = [await asked(master, GET.format(path) * times) for _ in range(8)]
            for stream in streams:
                await stream.send_eof()
            for stream in streams:
                assert (await rest(stream)).count(b"\r\n\r\nwell") == times, path


async def test_a_request_with_two_lengths_is_refused_and_ends_its_connection():
    smuggled = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    async with serving("--access-log") as master:
        said = await rest(await asked(master, smuggled + GET.format("/")))
        assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"400"]
        assert said.endswith(b"Transfer-Encoding\n"), "whole, though anycorn would close at what is behind the request"
        await master.said(r'"POST / HTTP/1.1" 400 ')


async def test_what_ends_a_program_costs_one_request_or_connection():
    async with serving() as master:
        for times, path in enumerate(("/interrupted", "/exits"), 1):
            assert (await ask(master.port, GET.format(path).encode())).startswith(b"HTTP/1.1 500")
            await master.said("RuntimeError: the application raised .*the view's own trouble", times)
        assert (await ask(master.port, GET.format("/").encode())).startswith(b"HTTP/1.1 200")
    async with running("left_alone:handler", workers=1) as master:
        (pid,) = master.workers
        ledger: Counter[str] = Counter()
        await ask(master.port, b"exit\n", ledger)
        assert ledger == {"cut off": 1}
        await master.said("SystemExit: the handler's own trouble")
        assert await ask(master.port, b"?\n") == b"well\n"
        assert list(master.workers) == [pid]


async def test_a_client_that_resets_is_no_news():
    async with serving() as master:
        for question in (b"", GET.format("/stream").encode()) * 20:
            stream = (await master.burst(1))[0]
            await stream.send_all(question)
            with trio.fail_after(PATIENCE):
                assert not question or await stream.receive_some()
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
        await master.said("a stream has ended", 20)
        assert "Traceback" not in master.text


async def test_an_answer_without_end_ends_with_its_client():
    async with serving() as master:
        for question, said in (
            (GET.format("/stream"), "a stream has ended"),
            (UPGRADE.format("/pour"), "a websocket's stream has ended"),
        ):
            stream = await asked(master, question)
            with trio.fail_after(PATIENCE):
                assert await stream.receive_some()
            await stream.aclose()
            await master.said(said)
        assert "Traceback" not in master.text


# --- websockets


async def websocket(master: Running, path: str) -> trio.SocketStream:
    stream, said = await asked(master, UPGRADE.format(path)), b""
    with trio.fail_after(PATIENCE):
        while b"\r\n\r\n" not in said:
            said += await stream.receive_some(1)  # to the last byte of the head
    return stream


async def test_a_message_that_is_too_big_ends_its_websocket_at_once():
    """The application is told, the client's Close ends the connection, and what it sends before that is dropped."""
    async with serving() as master:
        stream = await websocket(master, "/")
        await stream.send_all(b"\x82\xff" + struct.pack(">Q", 40 * MIB) + bytes(4))
        for _ in range(20):
            await stream.send_all(bytes(MIB))
        await master.said("disconnected with 1009")
        for _ in range(20):
            await stream.send_all(bytes(MIB))
        await stream.send_all(b"\x88\x82" + bytes(4) + b"\x03\xf1")
        began = trio.current_time()
        assert await rest(stream) == CLOSE_1009
        assert trio.current_time() - began < 4, "it did not wait for the deadline"


async def test_a_websocket_whose_client_never_answers_close_is_closed():
    async with serving() as master:
        stream = await websocket(master, "/close")
        assert await rest(stream) == CLOSE_1000
        await master.said("disconnected with 1000")


# --- HTTP/2


class Modern:
    """A client of HTTP/2, with prior knowledge."""

    def __init__(self, stream: trio.SocketStream, window: int = 65_535) -> None:
        self.stream = stream
        self.events: deque[h2.events.Event] = deque()
        self.http = h2.connection.H2Connection(h2.config.H2Configuration())
        self.http.local_settings = h2.settings.Settings(client=True, initial_values={4: window})
        self.http.initiate_connection()

    async def ask(self, path: str, times: int, reset: bool = False) -> None:
        for _ in range(times):
            number = self.http.get_next_available_stream_id()
            names = ((":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "test"))
            self.http.send_headers(number, names, end_stream=True)
            if reset:
                await self.flush()
                self.http.reset_stream(number)
        await self.flush()

    async def next(self, kind: type) -> h2.events.Event:
        """The next event of this kind; those before it are dropped."""
        with trio.fail_after(PATIENCE):
            while True:
                while self.events:
                    if isinstance(event := self.events.popleft(), kind):
                        return event
                self.events += self.http.receive_data(bytes(await self.stream.receive_some()))
                await self.flush()

    async def flush(self) -> None:
        with trio.fail_after(PATIENCE):
            await self.stream.send_all(self.http.data_to_send())


async def test_answers_for_which_a_client_left_no_room_end_with_its_connection():
    async with serving() as master:
        client = Modern((await master.burst(1))[0], window=0)
        await client.ask("/stream", 50)
        answers = 0
        with trio.fail_after(PATIENCE):
            while answers < 50:
                events = client.http.receive_data(bytes(await client.stream.receive_some()))
                answers += sum(isinstance(event, h2.events.ResponseReceived) for event in events)
        await client.stream.aclose()
        await master.said("a stream has ended", 50)


async def test_a_stream_that_gets_no_room_is_reset_and_its_connection_goes_on():
    async with serving("--send-timeout", "1s") as master:
        client = Modern((await master.burst(1))[0], window=1000)
        await client.ask("/stream", 1)
        stalled, answered = (await client.next(h2.events.ResponseReceived)).stream_id, h2.events.StreamEnded
        assert (await client.next(h2.events.StreamReset)).stream_id == stalled
        await client.ask("/", 1)
        assert (await client.next(answered)).stream_id != stalled
        await master.said("a stream has ended")


@pytest.mark.parametrize("path", ["/sleeps", "/"])
async def test_a_client_that_resets_without_end_is_cut_off(path: str):
    """With requests that run on, and with requests that are answered at once."""
    async with serving() as master:
        client, said = Modern((await master.burst(1))[0]), b""

        async def listen(task_status: trio.TaskStatus[None]) -> None:
            nonlocal said
            task_status.started()
            try:
                async for data in client.stream:
                    said += data
            except trio.BrokenResourceError:
                pass  # it was closed with bytes unread

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                await nursery.start(listen)
                try:
                    await client.ask(path, 20_000, reset=True)
                except trio.BrokenResourceError:
                    pass  # it is closed, as it should be
                nursery.cancel_scope.deadline = trio.current_time() + 1
        code = struct.pack(">I", h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
        assert re.search(rb"\x00\x00\x08\x07\x00\x00\x00\x00\x00.{4}" + code, said, re.DOTALL), said[-60:]
        assert (await ask(master.port, GET.format("/").encode())).startswith(b"HTTP/1.1 200")
