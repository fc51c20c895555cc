"""What is one client of the control socket: how are its lines read and written, and when is it dropped?

Each direction has a limit of time and size, so a client that sends nothing, reads nothing or never ends its line costs
the master a bounded amount of memory for a bounded time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import trio
from attrs import Factory, define

MAX_REQUEST = 4 * 1024
"""Bytes of one request; the longest real one is under a hundred."""

IDLE_S = 60.0
"""Seconds between requests; `top` sends one each second."""

SEND_S = 5.0
"""Seconds in which a client must read one line of an answer."""


@define(eq=False)
class ClientSession:
    """One connection of a client.  A send that takes longer than `SEND_S` ends it."""

    stream: trio.SocketStream
    last_request: float
    """The time of its last request, or of its connection, on trio's clock."""
    answering: bool = False
    """True while a request is being answered."""
    scope: trio.CancelScope = Factory(trio.CancelScope)
    """The task that serves this client runs in it; cancelled, the session ends."""
    _unread: bytes = b""

    async def request(self) -> bytes | None:
        """The next line; None when there will be no more."""
        while b"\n" not in self._unread:
            if len(self._unread) > MAX_REQUEST:
                await self.send({"status": 1, "error": f"a request is one line of at most {MAX_REQUEST} bytes"})
                return None
            data = await self._receive()
            if not data:
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return bytes(line)

    async def _receive(self) -> bytes:
        try:
            with trio.move_on_after(IDLE_S):
                return bytes(await self.stream.receive_some(MAX_REQUEST))
        except trio.BrokenResourceError:
            pass  # the client has reset the connection, which ends it as well as a close
        return b""

    def begin_answer(self) -> None:
        """A request has arrived."""
        self.last_request, self.answering = trio.current_time(), True

    def end_answer(self) -> None:
        """The request has been answered."""
        self.answering = False

    async def send(self, answer: Mapping[str, Any]) -> None:
        """Send one line.  If the client does not read it in time, or has left, the session is cancelled."""
        line = json.dumps(answer, default=str, separators=(",", ":")).encode() + b"\n"
        try:
            with trio.fail_after(SEND_S):
                await self.stream.send_all(line)
        except (trio.TooSlowError, trio.BrokenResourceError):
            self.scope.cancel()
            await trio.lowlevel.checkpoint()

    async def wait_for_end(self) -> None:
        """While an answer is streamed: cancel the session when the client closes its end, or sends anything."""
        with contextlib.suppress(trio.BrokenResourceError):  # a reset is an end as well
            await self.stream.receive_some(1)
        self.scope.cancel()
