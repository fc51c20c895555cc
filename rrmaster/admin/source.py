"""How does the admin server know how the master is doing?  It asks the control socket, and shares each answer.

Requests that wait for the master get the same answer, so that many scrapes, probes and browsers cost it no more than a
few.  A master that does not answer is the answer too: `Unreachable`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Generic, TypeVar

from attrs import define, field

from ..control.client import Client, NoMaster, connect_to_master
from ..control.socket_paths import peer_of
from ..status.model import Snapshot, from_json, to_json
from .secrets import Secrets

ANSWER_S = 2.0
"""Seconds that the master has to answer.  It answers in milliseconds; kubelet waits 1 s for a probe by default, and its
users set more for a reason."""


PACE_S = 0.02
"""Seconds between two askings of the same question.  A probe wants an answer that is not older than itself, so it waits
for its turn; those that wait share the answer, and a flood of them costs the master some per cent of a processor."""

LINES = {"events": 30, "logs": 50}
"""Entries that the page shows of each kind."""

T = TypeVar("T")


class Unreachable(Exception):
    """The master does not answer; the message says why."""


@define(eq=False)
class MasterClient:
    """The admin server's connection to the control socket.  It blocks, and is used by one thread at a time."""

    path: str
    secrets: Secrets = field(factory=lambda: Secrets({}))
    """What no answer may show."""
    _kept: Client | None = None
    _asking: Client | None = None
    _ended: bool = False
    _generation: int | None = None
    """Of which the secrets are known."""

    def status(self) -> Snapshot:
        """A snapshot.  Raises NoMaster, ValueError."""
        self.secrets.refresh()
        snapshot = self._asked(lambda client: client.status(ANSWER_S))
        if snapshot.generation != self._generation:
            self._asked(self._learn)  # a reload may have brought others
            self._generation = snapshot.generation
        return from_json(self.secrets.masked(to_json(snapshot)))

    def entries(self, kind: str, lines: int) -> list[dict[str, Any]]:
        """The last entries of ``events`` or of ``logs``, the oldest first.  Raises NoMaster, ValueError."""

        def ask(client: Client) -> list[dict[str, Any]]:
            answers = list(client.ask(kind, timeout=ANSWER_S, follow=False, lines=lines))
            return [self.secrets.masked(answer["entry"]) for answer in answers if isinstance(answer.get("entry"), dict)]

        return self._asked(ask)

    def order(self, do: str, **more: str | int) -> dict[str, Any]:
        """Have the master do something; returns its answer, or what it says as it begins what takes long.

        That goes on when this connection is closed.  Raises NoMaster, ValueError.
        """
        client = Client(*connect_to_master(self.path, None, {}, os.geteuid()))
        try:
            answer: dict[str, Any] = self.secrets.masked(next(client.ask(do, timeout=ANSWER_S, **more)))
            return answer
        finally:
            client.close()

    def _learn(self, client: Client) -> None:
        """Let no answer show what the master's settings and its environment have."""
        *_, answer = client.ask("config", timeout=ANSWER_S)
        started = answer.get("started") or {}
        self.secrets.learn(answer.get("settings") or {}, started.get("directory", ""), _environ_of(client))

    def end(self) -> None:
        """Know that the master has ended; called in any thread.  A request that is under way ends as well.

        While a master ends, the kernel still accepts connections to its socket, and no answer comes.
        """
        self._ended = True
        asking = self._asking
        if asking is not None:
            with contextlib.suppress(OSError):  # it has been closed by now
                asking.sock.shutdown(socket.SHUT_RDWR)

    def _asked(self, ask: Callable[[Client], T]) -> T:
        reused = self._kept is not None
        client = self._kept or Client(*connect_to_master(self.path, None, {}, os.geteuid()))
        self._kept, self._asking = None, client
        try:
            if self._ended:  # looked at last, or `end` could come in between
                raise NoMaster(f"{self.path}: the master has ended")
            if not reused:
                self._learn(client)
            answer = ask(client)
        except (NoMaster, ValueError):
            client.close()
            if not reused or self._ended:
                raise
            return self._asked(ask)  # the master drops a connection that was silent for long
        finally:
            self._asking = None
        self._kept = client
        return answer


def _environ_of(client: Client) -> dict[str, str]:
    """What the master's environment was at its start, where that can be read."""
    try:
        text = Path(f"/proc/{peer_of(client.sock)[0]}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return {name: value for name, _, value in (line.partition("=") for line in text.split("\0"))}


@define(eq=False)
class Shared(Generic[T]):
    """One question to the master, and its latest answer.  All methods belong to one event loop."""

    ask: Callable[[], T]
    """Blocks, and is called in a thread."""
    turn: asyncio.Lock
    """Held by the one question that the master is asked at a time."""
    clock: Callable[[], float]
    _running: asyncio.Task[T] | None = None
    _latest: T | None = None
    _taken: float = float("-inf")

    async def get(self, max_age: float = 0.0) -> T:
        """The answer: as of now, or at most `max_age` seconds old.  Raises Unreachable."""
        if self._latest is not None and self.clock() - self._taken <= max_age:
            return self._latest
        if self._running is None:
            self._running = asyncio.create_task(self._fetch())
        # Shielded: a client that leaves must not take the answer from the others.
        return await asyncio.shield(self._running)

    async def _fetch(self) -> T:
        try:
            await asyncio.sleep(self._taken + PACE_S - self.clock())
            async with self.turn:
                self._taken = self.clock()
                self._latest = await asyncio.to_thread(self.ask)
                return self._latest
        except (NoMaster, ValueError) as error:
            self._latest = None
            raise Unreachable(str(error)) from None
        finally:
            self._running = None


@define(eq=False)
class Source:
    """What the master answers: one object for the process."""

    master: MasterClient
    clock: Callable[[], float] = monotonic
    _status: Shared[Snapshot] = field(init=False)
    _entries: dict[str, Shared[list[dict[str, Any]]]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        turn, entries = asyncio.Lock(), self.master.entries
        self._status = Shared(self.master.status, turn, self.clock)
        self._entries = {kind: Shared(partial(entries, kind, lines), turn, self.clock) for kind, lines in LINES.items()}

    async def snapshot(self, max_age: float = 0.0) -> Snapshot:
        """How the master is doing: asked at present, or at most `max_age` seconds ago.  Raises Unreachable."""
        return await self._status.get(max_age)

    async def entries(self, kind: str, max_age: float = 0.0) -> list[dict[str, Any]]:
        """The last entries of ``events`` or ``logs``, the oldest first; none if the master does not answer."""
        try:
            return await self._entries[kind].get(max_age)
        except Unreachable:
            return []

    async def order(self, do: str, **more: str | int) -> dict[str, Any]:
        """Have the master do something; returns the beginning of its answer.  Raises Unreachable."""
        try:
            return await asyncio.to_thread(self.master.order, do, **more)
        except (NoMaster, ValueError) as error:
            raise Unreachable(str(error)) from None
