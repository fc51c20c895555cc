"""A client that keeps its connection, by h11: one request at a time; it obeys `Connection: close`, or does not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import h11
import pytest
import trio
from attrs import Factory, define
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.whole.harness import PATIENCE

STAYS = ("--park-after", "off")
"""Connections stay with their worker, as those of TLS and of WSGI do."""

DRAINS = ("--graceful-timeout", "8s", "--keep-alive", "60s", "--defer-accept", "off", *STAYS)
"""A graceful timeout so long that a connection is closed at half of it and none at its end.  A silent client is in its
worker's hands, and not held back by the kernel."""


FRAMEWORKS: dict[str, tuple[str, ...]] = {
    "with_fastapi:app": (),
    "with_starlette:make": ("--factory", "--runtime", "asyncio"),
    "with_django:asgi": (),
    "with_django:wsgi": ("--threads", "2"),
    "with_quart:app": (),
    "with_flask:app": (),
}
"""Applications with the same answers, each with its options."""


class CutOff(Exception):
    """The server ended the connection where an answer should have come."""


@define(eq=False)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def last(self) -> bool:
        """Whether the server says that it closes the connection."""
        return "close" in self.headers.get("connection", "")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@define(eq=False)
class Browser:
    """One connection of a client."""

    stream: trio.SocketStream
    http: h11.Connection = Factory(lambda: h11.Connection(h11.CLIENT))

    async def get(self, path: str, **headers: str) -> Answer:
        """Send a request and wait for the answer.  Raises CutOff."""
        await self.ask(path, **headers)
        return await self.answer()

    async def ask(self, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> None:
        fields = {"host": "test", **({"content-length": str(len(body))} if body else {}), **headers}
        request = h11.Request(method=method, target=path, headers=list(fields.items()))
        data = self.http.send(request) + (self.http.send(h11.Data(body)) if body else b"")  # type: ignore[operator]
        try:
            with trio.fail_after(PATIENCE):
                await self.stream.send_all(data + self.http.send(h11.EndOfMessage()))  # type: ignore[operator]
        except trio.BrokenResourceError:
            raise CutOff("as it asked") from None

    async def answer(self) -> Answer:
        answer: Answer | None = None
        with trio.fail_after(PATIENCE):
            while True:
                match await self._event():
                    case h11.Response(status_code=status, headers=headers):
                        answer = Answer(status, {name.decode(): value.decode() for name, value in headers})
                    case h11.Data(data=data):
                        assert answer is not None
                        answer.body += data
                    case h11.EndOfMessage():
                        assert answer is not None
                        if not answer.last and self.http.our_state is h11.DONE:
                            self.http.start_next_cycle()
                        return answer
                    case h11.ConnectionClosed():
                        raise CutOff("before an answer")

    async def _event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            try:
                self.http.receive_data(await self.stream.receive_some())
            except trio.BrokenResourceError:
                raise CutOff("by a reset") from None
            except h11.RemoteProtocolError:
                raise CutOff("in the middle of an answer") from None
        return event

    async def closed(self) -> bool:
        """Wait until the server closes the connection; returns whether it sent nothing more."""
        with trio.fail_after(PATIENCE):
            try:
                return not await self.stream.receive_some()
            except trio.BrokenResourceError:
                return True


@asynccontextmanager
async def browsing(port: int) -> AsyncIterator[Browser]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield Browser(stream)


async def last_answer(browser: Browser) -> None:
    """Send requests until an answer says that it is the last: the drain may begin after the first request."""
    with trio.fail_after(PATIENCE):
        while not (answer := await browser.get("/")).last:
            assert answer.status == 200
    assert answer.status == 200
    assert await browser.closed()


async def customer(
    port: int, ledger: Counter[str], over: Callable[[], bool], think: float, path: str = "/slow?ms=20", **headers: str
) -> None:
    """Sends requests over one connection, with a pause between them, and opens another when an answer says so.

    A browser that sends ``Connection: close`` has a new connection for each request.
    """
    while not over():
        async with browsing(port) as browser:
            try:
                while not over():
                    answer = await browser.get(path, **headers)
                    ledger[str(answer.status)] += 1
                    if answer.last:
                        break
                    await trio.sleep(think)
            except CutOff as error:
                ledger[f"cut off {error}"] += 1


def held_until_1012(port: int, opened: Callable[[], None]) -> None:
    """In a thread: hold a websocket until the worker that drains closes it."""
    with connect(f"ws://127.0.0.1:{port}/ws", open_timeout=PATIENCE, proxy=None) as websocket:
        websocket.recv(PATIENCE)
        trio.from_thread.run_sync(opened)
        with pytest.raises(ConnectionClosed) as caught:
            websocket.recv(PATIENCE)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012


@define(eq=False)
class Ends:
    """The times at which connections ended, by the names that the methods give them."""

    at: dict[str, float] = Factory(dict)

    async def of(self, name: str, browser: Browser) -> None:
        assert await browser.closed()
        self.at[name] = trio.current_time()

    async def of_websocket(self, port: int, task_status: trio.TaskStatus[None]) -> None:
        await trio.to_thread.run_sync(held_until_1012, port, task_status.started)
        self.at["websocket"] = trio.current_time()
