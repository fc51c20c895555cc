"""The operator's socket: one JSON object per line each way.

::

    rrmaster reload ── {"do": "reload"} ──────────────────► Control (a task of the master's)
                    ◄─ {"line": "..."} ─ ... ─────────────       asks the Operator (the master)
                    ◄─ {"status": 0, "text": "..."} ──────

Every answer ends with the one object that has a ``status``, the exit status of the verb; with ``error`` if it is not
done.  ``docs/control.md`` has all requests.

**A client costs nobody anything.**  Lines, clients and what is kept of the log are bounded; requests and arrivals are
paced, so that a flood gets a few per cent of one processor; whoever does not read, or says nothing for long, is
dropped; when all places are taken the one that has been silent longest makes room.  Who connects must be root or the
master's own user, whatever has become of the file's mode.

*Error handling*: nothing that happens here ends the master.  A fault of ours is logged and answered with status 1.

This module does not know the supervisor: it asks an `Operator`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import trio
from attrs import Factory, define, field

from ..logs.log import Entry, logger, subscribe
from ..status.model import Snapshot, to_json
from ..supervision.reload_progress import Busy, Reload
from .socket_paths import peer_of

MAX_REQUEST = 4 * 1024
"""Bytes of one request; the longest real one is under a hundred."""

VISITORS = 32
"""Clients at once: some operators, their dashboards, and room to spare."""

IDLE_S = 60.0
"""Seconds between requests; `top` asks each second."""

SEND_S = 5.0
"""Seconds to read one line of an answer."""

PARTING_S = 1.0
"""Seconds for one that is turned away to say what it wants."""

PACE_S = 0.005
"""Seconds of rest after each request, and after each arrival: 200 a second for all clients together.  A status of
eight workers takes a fifth of a millisecond, so a flood costs four per cent of one processor."""

KEPT = 1_000
"""Log entries kept for `logs` and `events`, of each kind; with 4 KiB of text at most, 4 MB."""

MOST_WORKERS = 1024
"""As for --workers."""

QUIET_S, STACKS_S = 0.3, 3.0
"""Seconds: stacks are complete when nothing more has come for the first; and are not coming after the second."""

BUSY = 13
"""Exit status: something else is under way that excludes this."""

OUTPUT = "worker.output"
"""The event under which log entries of workers' output go."""


class Refused(Exception):
    """The request cannot be granted, and why; `status` is the verb's exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


class Operator(Protocol):
    """What can be asked of a master."""

    def status(self) -> Snapshot:
        """How everything is now."""

    def scale(self, size: int) -> None:
        """Have so many workers, now or after the reload that runs."""

    def automatic_size(self) -> int:
        """How many workers `auto` is."""

    def begin_reload(self, supersede: bool = False) -> Reload:
        """Replace all workers.  Raises Busy when another reload runs."""

    def begin_rollback(self, supersede: bool = False) -> Reload:
        """The same with the code of the previous generation.  Raises Busy, and LookupError if that is not kept."""

    def restart(self, slot: int) -> None:
        """Replace one worker, the new one first.  Raises LookupError for an unknown slot."""

    def retire(self, slot: int) -> None:
        """Replace one worker, as if it had asked for it.  Raises LookupError."""

    def stacks(self, slot: int) -> None:
        """Have a worker write its stacks to its output.  Raises LookupError for an unknown slot."""

    async def stop(self) -> None:
        """Let everybody finish, and end."""

    def hurry(self, graceful: float = 0.0) -> None:
        """Have no more patience than this."""


# --- what is kept of the log


@define(eq=False)
class Ring:
    """The last entries, numbered.  Filled from any thread, and read in trio's."""

    last: int = 0
    _kept: deque[dict[str, Any]] = Factory(lambda: deque(maxlen=KEPT))
    _lock: threading.Lock = Factory(threading.Lock)

    def add(self, entry: dict[str, Any]) -> None:
        """Keep one more."""
        with self._lock:
            self._kept.append(entry)
            self.last += 1

    def after(self, number: int) -> tuple[int, int, list[dict[str, Any]]]:
        """What came after this number: how many of it are kept no more, the last number, and the others."""
        with self._lock:
            wanted = self.last - number
            kept = list(self._kept)[max(len(self._kept) - wanted, 0) :] if wanted > 0 else []
            return max(wanted - len(kept), 0), self.last, kept


def _told(entry: Entry) -> dict[str, Any]:
    told = {"time": entry.time, "level": entry.level, "event": entry.event, "text": entry.text}
    return {**{str(name): value for name, value in entry.fields.items()}, **told}


# --- the server


@define(eq=False)
class Visitor:
    """One client.  Whoever says something to it in vain for `SEND_S` ends it."""

    stream: trio.SocketStream
    seen: float
    """When it last asked something."""
    answering: bool = False
    scope: trio.CancelScope = Factory(trio.CancelScope)
    _unread: bytes = b""

    async def request(self) -> bytes | None:
        """The next line; None: there will be none."""
        while b"\n" not in self._unread:
            if len(self._unread) > MAX_REQUEST:
                await self.say({"status": 1, "error": f"a request is one line of at most {MAX_REQUEST} bytes"})
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
            pass  # a reset is a client's way to leave
        return b""

    async def say(self, answer: Mapping[str, Any]) -> None:
        """One line.  A client that does not read it, or has left, is dropped: this is cancelled then."""
        line = json.dumps(answer, default=str, separators=(",", ":")).encode() + b"\n"
        try:
            with trio.fail_after(SEND_S):
                await self.stream.send_all(line)
        except (trio.TooSlowError, trio.BrokenResourceError):
            self.scope.cancel()
            await trio.lowlevel.checkpoint()

    async def until_it_leaves(self) -> None:
        """While an answer flows, the end of the client's stream, and whatever else it says, ends the answer."""
        with contextlib.suppress(trio.BrokenResourceError):  # it has left in a hurry
            await self.stream.receive_some(1)
        self.scope.cancel()


@define(eq=False)
class Control:
    """Serves one control socket for one master."""

    operator: Operator
    listener: socket.socket
    """Bound and listening; it stays its owner's."""
    uid: int = field(factory=os.geteuid)
    """Whose requests are granted, beside root's."""
    events: Ring = Factory(Ring)
    output: Ring = Factory(Ring)
    visitors: list[Visitor] = Factory(list)
    arrivals: int = 0
    """All that ever came."""
    followers: int = 0
    """Of the visitors those who are told what comes as it comes."""
    _news: trio.Event = Factory(trio.Event)
    _pace: trio.Lock = Factory(trio.Lock)
    _token: trio.lowlevel.TrioToken | None = None
    _nursery: trio.Nursery | None = None

    async def serve(self) -> None:
        """Serve until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        unsubscribe = subscribe(self.note)
        try:
            async with trio.open_nursery() as self._nursery:
                listener = trio.socket.from_stdlib_socket(self.listener.dup())
                with listener:
                    await self._let_in(listener, self._nursery)
        finally:
            unsubscribe()

    def note(self, entry: Entry) -> None:
        """Keep a log entry.  Called in whatever thread logs."""
        (self.output if entry.event == OUTPUT else self.events).add(_told(entry))
        if self.followers and self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):  # the last words of a master; nobody follows any more
                self._token.run_sync_soon(self._stir, idempotent=True)

    def _stir(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    # --- who may come in

    async def _let_in(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            try:
                sock, _ = await listener.accept()
            except OSError as error:
                logger.error("control socket: cannot accept: %s", error.strerror)
                await trio.sleep(1.0)  # descriptors are short; clients are served first
                continue
            nursery.start_soon(self._attend, Visitor(trio.SocketStream(sock), trio.current_time()))
            await trio.sleep(PACE_S)

    async def _attend(self, visitor: Visitor) -> None:
        self.arrivals += 1
        try:
            with visitor.scope:
                refusal = self._refusal(visitor)
                if refusal:
                    await self._turn_away(visitor, refusal)
                else:
                    await self._converse(visitor)
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(visitor.stream)

    def _refusal(self, visitor: Visitor) -> str:
        """Why it may not stay, or nothing."""
        _, uid = peer_of(visitor.stream.socket)  # type: ignore[arg-type]  # trio's has the same getsockopt
        if uid not in (0, self.uid):
            logger.warning("control socket: user %d was refused", uid)
            return f"this master obeys user {self.uid} and root; you are user {uid}"
        if len(self.visitors) < VISITORS:
            return ""
        silent = [other for other in self.visitors if not other.answering]
        if not silent:
            return f"{VISITORS} clients are being answered; try again later"
        longest = min(silent, key=lambda other: other.seen)
        self.visitors.remove(longest)
        longest.scope.cancel()
        return ""

    async def _turn_away(self, visitor: Visitor, why: str) -> None:
        """After it has asked: to close with its words unread would take back ours, too."""
        with trio.move_on_after(PARTING_S):
            await visitor.request()
        await visitor.say({"status": 1, "error": why})

    async def _converse(self, visitor: Visitor) -> None:
        self.visitors.append(visitor)
        try:
            await self._answer_all(visitor)
        finally:
            with contextlib.suppress(ValueError):  # it had to make room
                self.visitors.remove(visitor)

    async def _answer_all(self, visitor: Visitor) -> None:
        while (line := await visitor.request()) is not None:
            async with self._pace:
                await trio.sleep(PACE_S)
            visitor.seen, visitor.answering = trio.current_time(), True
            answer = await self._answer(visitor, line)
            await visitor.say(answer)
            visitor.answering = False

    # --- what may be asked

    async def _answer(self, visitor: Visitor, line: bytes) -> dict[str, Any]:
        try:
            request = _parse(line)
            do = _DO.get(str(request.get("do")))
            if do is None:
                raise Refused(f"'do' is one of {', '.join(_DO)}", 2)
            return {"status": 0} | await do(self, visitor, request)
        except Refused as refused:
            return {"status": refused.status, "error": str(refused)}
        except Busy as busy:
            return {"status": BUSY, "error": str(busy)}
        except LookupError as unknown:
            return {"status": 1, "error": str(unknown)}
        except Exception:
            logger.exception("control socket: a request failed; this is a fault of rrmaster")
            return {"status": 1, "error": "a fault of rrmaster; the master's log has it"}

    async def _status(self, visitor: Visitor, request: dict[str, Any]) -> dict[str, Any]:
        return {"snapshot": to_json(self.operator.status())}

    async def _scale(self, visitor: Visitor, request: dict[str, Any]) -> dict[str, Any]:
        before = self.operator.status().size
        if before == 0:
            raise Refused("the master is stopping")
        size = new_size(str(request.get("to", "")), before, self.operator.automatic_size)
        self.operator.scale(size)
        if size == before:
            return {"text": f"{size} workers, as before"}
        later = "" if self.operator.status().size == size else ", once the reload that runs is decided"
        return {"text": f"scaling from {before} to {size} workers{later}"}

    async def _restart(self, visitor: Visitor, request: dict[str, Any]) -> dict[str, Any]:
        slot = _slot(request)
        (self.operator.retire if request["do"] == "retire" else self.operator.restart)(slot)
        return {"text": f"worker {slot} is being replaced: the new one serves first, then the old one is drained"}

    async def _stop(self, visitor: Visitor, request: dict[str, Any]) -> dict[str, Any]:
        assert self._nursery is not None
        count = len(self.operator.status().workers)
        if request.get("now") is True:
            self.operator.hurry(0.0)
        self._nursery.start_soon(self.operator.stop)
        logger.info("stopping, asked through the control socket")
        return {"text": f"stopping: {count} workers finish what they have"}

    async def _reload(self, visitor: Visitor, request: dict[str, Any]) -> dict[str, Any]:
        begin = self.operator.begin_rollback if request["do"] == "rollback" else self.operator.begin_reload
        reload = begin(request.get("supersede") is True)

        async def tell() -> None:
            async for line, progress in reload.progress():
                await visitor.say({"line": line, "progress": round(progress, 3)})

        await self._flow(visitor, tell)
        rollout = await reload.ended()
        done = {"status": rollout.status, "generation": rollout.generation, "text": rollout.reason}
        return done if rollout.status == 0 else done | {"error": rollout.reason}

    async def _events(self, visitor: Visitor, request: dict[str, Any]) -> dict[str, Any]:
        return await self._tail(visitor, self.events, request, lambda entry: True)

    async def _logs(self, visitor: Visitor, request: dict[str, Any]) -> dict[str, Any]:
        slot = None if request.get("slot") is None else _slot(request)
        return await self._tail(visitor, self.output, request, lambda e: slot is None or e.get("slot") == slot)

    async def _tail(
        self, visitor: Visitor, ring: Ring, request: dict[str, Any], wanted: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        lines = request.get("lines", 0)
        if type(lines) is not int or lines < 0:
            raise Refused("'lines' is a number", 2)
        _, last, kept = ring.after(0)
        chosen = [entry for entry in kept if wanted(entry)]
        for entry in chosen[len(chosen) - min(lines, len(chosen)) :]:
            await visitor.say({"entry": entry})
        if request.get("follow") is True:
            await self._flow(visitor, lambda: self._follow(visitor, ring, last, wanted))
        return {}

    async def _follow(self, visitor: Visitor, ring: Ring, last: int, wanted: Callable[[dict[str, Any]], bool]) -> None:
        while True:
            news = self._news
            missed, last, entries = ring.after(last)
            if missed:
                await visitor.say({"missed": missed})
            for entry in filter(wanted, entries):
                await visitor.say({"entry": entry})
            if not entries:
                await news.wait()

    async def _stacks(self, visitor: Visitor, request: dict[str, Any]) -> dict[str, Any]:
        slot = _slot(request)
        last, told = self.output.last, 0
        self.operator.stacks(slot)

        async def tell() -> None:
            nonlocal last, told
            while True:
                news = self._news
                _, last, entries = self.output.after(last)
                for entry in entries:
                    if entry.get("slot") == slot and entry.get("stream") != "stdout":
                        told += 1
                        await visitor.say({"entry": entry})
                with trio.move_on_after(QUIET_S if told else STACKS_S) as patience:
                    await news.wait()
                if patience.cancelled_caught:
                    return

        await self._flow(visitor, tell)
        if not told:
            raise Refused(f"worker {slot} has written nothing for {STACKS_S:g} s; if it does, it is in the log")
        return {}

    async def _flow(self, visitor: Visitor, tell: Callable[[], Awaitable[None]]) -> None:
        """Tell for as long as the client is there."""
        self.followers += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(visitor.until_it_leaves)
                await tell()
                nursery.cancel_scope.cancel()
        finally:
            self.followers -= 1


_DO: dict[str, Callable[[Control, Visitor, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
    "status": Control._status,
    "scale": Control._scale,
    "reload": Control._reload,
    "rollback": Control._reload,
    "restart": Control._restart,
    "retire": Control._restart,
    "stop": Control._stop,
    "events": Control._events,
    "logs": Control._logs,
    "stacks": Control._stacks,
}


def _parse(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise Refused('a request is one JSON object in one line, such as {"do": "status"}', 2)
    return request


def _slot(request: dict[str, Any]) -> int:
    slot = request.get("slot")
    if type(slot) is not int:
        raise Refused("'slot' is the number of a worker's slot", 2)
    return slot


def new_size(text: str, now: int, automatic: Callable[[], int]) -> int:
    """N, +N, -N or auto.  Raises Refused."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if text == "auto":
        size = automatic()
    elif digits.isascii() and digits.isdigit() and len(digits) < 6:
        size = int(text) if digits == text else now + int(text)
    else:
        raise Refused(f"{text!r} is no number of workers; write N, +N, -N or auto", 2)
    if not 1 <= size <= MOST_WORKERS:
        raise Refused(f"{size} workers cannot be; there are 1 to {MOST_WORKERS} (to have none, stop the master)", 2)
    return size
