"""For how long may a request be in progress?  `--request-timeout`, off by default.

::

    a request older than --request-timeout ── it is cancelled in place ── ended: its connection gets 500
                                    │                      │
                                    │          it has not ended after `CANCEL_S`: a thread holds it
                                    │                      │
                                    └── WSGI ──── its worker asks to be replaced, and prints its stacks

What waits for a client that does not read is not stuck: before a worker is replaced, that client's connection is reset.

The worker gets no more connections, its other requests have the graceful timeout, and then the master ends it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from attrs import Factory, define

from ..duty import Duty
from ..stacks import DUMP_SIGNAL

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Message, Receive, Send], Awaitable[None]]

CANCEL_S = 2.0
"""Seconds that a cancelled request has to end: it cleans up, or it waits for a thread, which cannot be cancelled."""


class TooLong(TimeoutError):
    """Raised in the place of a request that was cancelled, for the server's log; the client gets its error 500."""


@define(eq=False)
class _Running:
    """A request in progress."""

    scope: Message
    began: float
    cancel: Callable[[], object] | None
    """None: it cannot be cancelled."""
    cancelled: bool = False
    cut_at: float | None = None
    """When the connection of its client was reset."""

    def give_up(self) -> None:
        """Cancel it, once."""
        self.cancelled = True
        if self.cancel is not None:
            self.cancel()

    def lose_connection(self, now: float) -> None:
        """Its connection was reset."""
        self.cut_at = now


@define(eq=False)
class RequestTimeout:
    """The requests in progress, in the order in which they began."""

    limit: float
    """Seconds; 0: no limit, and no request is noted here."""
    duty: Duty
    write: Callable[[str], object] = sys.stderr.write
    clock: Callable[[], float] = time.monotonic
    dump: Callable[[], object] = lambda: os.kill(os.getpid(), DUMP_SIGNAL)
    """Prints the stacks of all threads and tasks."""
    cut: Callable[[Message], bool] = lambda _: False
    """Resets the connection of the request with this scope, if its client does not read; returns whether it did."""
    running: dict[_Running, None] = Factory(dict)
    _gone: bool = False
    """Whether this worker has asked to be replaced."""

    def begin(self, scope: Message, cancel: Callable[[], object] | None) -> _Running | None:
        """A call of the application begins.  None: it is a websocket or the lifespan, which have no limit."""
        if scope["type"] != "http":
            return None
        request = _Running(scope, self.clock(), cancel)
        self.running[request] = None
        return request

    def end(self, request: _Running | None) -> None:
        """The call has ended."""
        if request is not None:
            del self.running[request]

    def words(self, request: _Running) -> str:
        """What is wrong with it."""
        what, age = f"{request.scope['method']} {request.scope['path']!r}", self.clock() - request.began
        return f"{what} has been in progress for {age:.1f} s (--request-timeout {self.limit:g}s)"

    def look(self) -> None:
        """Cancel what is older than the limit, or have this worker replaced if that does not help."""
        now = self.clock()
        for request in list(self.running):
            age = now - request.began
            if age < self.limit:
                return  # so are all that have begun after it
            if request.cancel is not None and not request.cancelled:
                self.write(f"{self.words(request)}: cancelled\n")
                request.give_up()
            elif (request.cancel is None or age >= self.limit + CANCEL_S) and not self._waits_for_client(request, now):
                self._replace(request)

    def _waits_for_client(self, request: _Running, now: float) -> bool:
        """Whether its client does not read, or did not until its connection was reset a moment ago."""
        if request.cut_at is None and self.cut(request.scope):
            self.write(f"{self.words(request)}, and its client does not read: the connection is reset\n")
            request.lose_connection(now)
        return request.cut_at is not None and now - request.cut_at < CANCEL_S

    def _replace(self, request: _Running) -> None:
        if self._gone:
            return
        self._gone = True
        reason = f"{self.words(request)}, in a thread, which cannot be cancelled"
        self.write(f"{reason}: this worker is replaced\n")
        self.dump()
        self.duty.retire(reason, now=True)


def timed_by_scopes(app: ASGI, timed: RequestTimeout, make_scope: Callable[[], Any]) -> ASGI:
    """The application, each of whose requests `timed` can cancel, with the cancel scopes of trio or of anyio."""
    if not timed.limit:
        return app

    async def call(scope: Message, receive: Receive, send: Send) -> None:
        with make_scope() as cancelling:
            request = timed.begin(scope, cancelling.cancel)
            try:
                await app(scope, receive, send)
            finally:
                timed.end(request)
        if cancelling.cancelled_caught and request is not None:
            raise TooLong(timed.words(request))

    return call
