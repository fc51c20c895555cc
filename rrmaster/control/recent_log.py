"""Which log entries are kept for `logs` and `events`, and how does a follower learn of the next one?

Entries arrive in any thread and are read in trio's.  What is kept is bounded, so a follower that is slower than the log
misses entries, and learns how many.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import trio
from attrs import Factory, define

from ..logs.log import Entry

MAX_ENTRIES = 1_000
"""Log entries kept of each kind; with 4 KiB of text at most, 4 MB."""

OUTPUT = ("worker.output", "worker.access")
"""The events of log entries that workers write; with a line for each request no other event would be kept for long."""


@define(eq=False)
class LogBuffer:
    """A ring buffer of the last entries, numbered from 1.  Safe to use from any thread."""

    last: int = 0
    """The number of the newest entry."""
    _kept: deque[dict[str, Any]] = Factory(lambda: deque(maxlen=MAX_ENTRIES))
    _lock: threading.Lock = Factory(threading.Lock)

    def add(self, entry: dict[str, Any]) -> None:
        """Append an entry, and drop the oldest if the buffer is full."""
        with self._lock:
            self._kept.append(entry)
            self.last += 1

    def after(self, number: int) -> tuple[int, int, list[dict[str, Any]]]:
        """The entries after this number: how many of them were dropped, the number of the newest, and the rest."""
        with self._lock:
            wanted = self.last - number
            kept = list(self._kept)[max(len(self._kept) - wanted, 0) :] if wanted > 0 else []
            return max(wanted - len(kept), 0), self.last, kept


@define(eq=False)
class RecentLog:
    """The recent entries of a master's log, and the wake-up of the tasks that follow it."""

    events: LogBuffer = Factory(LogBuffer)
    output: LogBuffer = Factory(LogBuffer)
    """What the workers write; everything else is in `events`."""
    ended: bool = False
    """The master has nothing more to say: a follower that has read everything leaves."""
    followers: int = 0
    """Answers that are being streamed.  While there are none, an entry does not wake the event loop."""
    _next: trio.Event = Factory(trio.Event)
    _token: trio.lowlevel.TrioToken | None = None

    def attach(self) -> None:
        """Wake followers in the event loop that calls this."""
        self._token = trio.lowlevel.current_trio_token()

    def record(self, entry: Entry) -> None:
        """Keep a log entry.  Called in the thread that logs it."""
        (self.output if entry.event in OUTPUT else self.events).add(_as_json(entry))
        if self.followers and self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):  # the master's last entries: its followers have gone
                self._token.run_sync_soon(self._wake, idempotent=True)

    def end(self) -> None:
        """There will be no more entries."""
        self.ended = True
        self._wake()

    def next_entry(self) -> trio.Event:
        """An event that the next entry sets.  Get it before reading a buffer, or an entry in between is missed."""
        return self._next

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Count one follower for the time of the block."""
        self.followers += 1
        try:
            yield
        finally:
            self.followers -= 1

    def _wake(self) -> None:
        event, self._next = self._next, trio.Event()
        event.set()


def _as_json(entry: Entry) -> dict[str, Any]:
    # The four names of every entry win over fields of the same name.
    common = {"time": entry.time, "level": entry.level, "event": entry.event, "text": entry.text}
    return {**{str(name): value for name, value in entry.fields.items()}, **common}
