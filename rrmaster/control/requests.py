"""What can be asked through the control socket, and what does the master answer?

Each request is one JSON object whose ``do`` names a function of `RequestHandler`; ``docs/control.md`` lists them.
Requests that stream an answer (`reload`, `events`, `logs`, `stacks`) send lines while they run.

*Error handling*: a request that cannot be granted is answered with its reason.  An exception that is our fault is
logged and answered with status 1, and never ends the master.

This module does not know the supervisor: it asks an `Operator`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio
from attrs import asdict, define

from ..config.presentation import CommandLine, as_json
from ..config.settings import Settings
from ..logs.access import reopen_all
from ..logs.log import logger, tell
from ..rules.rollout import BUSY
from ..status.formatting import count
from ..status.model import Snapshot, to_json
from ..supervision.reload_progress import Busy, Reload
from .recent_log import LogBuffer, RecentLog
from .session import ClientSession

MAX_FOLLOWERS = 24
"""Clients that may follow events or logs, of the 32 that are served: none of them is dropped while it is answered, and
an operator must always find a place to stop or reload."""

MAX_WORKERS = 1024
"""The limit of --workers."""

QUIET_S, STACKS_S = 0.3, 3.0
"""Seconds without another line after which a worker's stacks are complete; seconds to wait for their first line."""


class Refused(Exception):
    """The request cannot be granted, and why; `status` is the verb's exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


class Operator(Protocol):
    """What the control socket can ask of a master.  All of it is called in the master's own event loop."""

    @property
    def settings(self) -> Settings:
        """The settings in force."""

    def status(self) -> Snapshot:
        """The master as it is now."""

    def scale(self, size: int) -> None:
        """Set the fleet's size to `size` workers, now or after the reload that is running."""

    def automatic_size(self) -> int:
        """The number of workers that `auto` stands for."""

    def begin_reload(self, supersede: bool = False) -> Reload:
        """Begin to replace all workers.  Raises Busy when another reload runs, unless that is superseded."""

    def begin_rollback(self, supersede: bool = False) -> Reload:
        """The same with the code of the previous generation.  Raises Busy, and LookupError if that is not kept."""

    def restart(self, slot: int) -> None:
        """Replace one worker, the new one first.  Raises LookupError if no worker serves in that slot."""

    def retire(self, slot: int) -> None:
        """Replace one worker as if it had asked for it.  Raises LookupError if no worker serves in that slot."""

    def stacks(self, slot: int) -> None:
        """Have a worker write its stacks to its output.  Raises LookupError if no worker serves in that slot."""

    async def stop(self) -> None:
        """Let all workers finish their connections, and end."""

    def hurry(self, graceful: float = 0.0) -> None:
        """Shorten the graceful timeout of a stop to `graceful` seconds."""


@define(eq=False)
class RequestHandler:
    """Answers the requests of all clients of one master."""

    operator: Operator
    log: RecentLog
    nursery: trio.Nursery
    """For a stop, which goes on when the client that asked for it has left."""
    command_line: CommandLine | None = None
    """How this process was started; None inside a program, whose settings are its own code."""

    async def answer(self, session: ClientSession, line: bytes) -> dict[str, Any]:
        """The last line of the answer to one request; the lines before it are sent on the way."""
        try:
            request = _parse(line)
            do = _DO.get(str(request.get("do")))
            if do is None:
                raise Refused(f"'do' is one of {', '.join(_DO)}", 2)
            return {"status": 0} | await do(self, session, request)
        except Refused as refused:
            return {"status": refused.status, "error": str(refused)}
        except Busy as busy:
            return {"status": BUSY, "error": str(busy)}
        except LookupError as unknown:
            return {"status": 1, "error": str(unknown)}
        except Exception:
            logger.exception("control socket: a request failed; this is a fault of rrmaster")
            return {"status": 1, "error": "a fault of rrmaster; the master's log has it"}

    async def _status(self, session: ClientSession, request: dict[str, Any]) -> dict[str, Any]:
        return {"snapshot": to_json(self.operator.status())}

    async def _config(self, session: ClientSession, request: dict[str, Any]) -> dict[str, Any]:
        """What runs, and how it was started: enough for the client to read the same sources again."""
        found = {"settings": as_json(self.operator.settings), "size": self.operator.status().size}
        started = self.command_line
        return found | {"started": None if started is None else asdict(started)}

    async def _reopen(self, session: ClientSession, request: dict[str, Any]) -> dict[str, Any]:
        files = reopen_all()
        if not files:
            raise Refused("there is no log file to open again: see --log-file and --access-log")
        tell("log.reopened", f"{', '.join(files)}: opened again, asked through the control socket", files=files)
        return {"text": f"{', '.join(files)}: opened again", "files": files}

    async def _scale(self, session: ClientSession, request: dict[str, Any]) -> dict[str, Any]:
        before = self.operator.status().size
        if before == 0:
            raise Refused("the master is stopping")
        size = new_size(str(request.get("to", "")), before, self.operator.automatic_size)
        self.operator.scale(size)
        if size == before:
            return {"text": count(size, "worker") + ", as before"}
        later = "" if self.operator.status().size == size else ", once the reload that runs is decided"
        return {"text": f"scaling from {before} to {size} workers{later}"}

    async def _restart(self, session: ClientSession, request: dict[str, Any]) -> dict[str, Any]:
        slot = _slot(request)
        (self.operator.retire if request["do"] == "retire" else self.operator.restart)(slot)
        return {"text": f"worker {slot} is being replaced: the new one serves first, then the old one is drained"}

    async def _stop(self, session: ClientSession, request: dict[str, Any]) -> dict[str, Any]:
        workers = count(len(self.operator.status().workers), "worker")
        if request.get("now") is True:
            self.operator.hurry(0.0)
        self.nursery.start_soon(self.operator.stop)
        logger.info("stopping, asked through the control socket")
        return {"text": f"stopping after what is in the hands of {workers}"}

    async def _reload(self, session: ClientSession, request: dict[str, Any]) -> dict[str, Any]:
        begin = self.operator.begin_rollback if request["do"] == "rollback" else self.operator.begin_reload
        reload = begin(request.get("supersede") is True)

        async def send_progress() -> None:
            async for line, progress in reload.progress():
                await session.send({"line": line, "progress": round(progress, 3)})

        await self._stream(session, send_progress)
        rollout = await reload.ended()
        done = {"status": rollout.status, "generation": rollout.generation, "text": rollout.reason}
        return done if rollout.status == 0 else done | {"error": rollout.reason}

    async def _events(self, session: ClientSession, request: dict[str, Any]) -> dict[str, Any]:
        return await self._tail(session, self.log.events, request, lambda entry: True)

    async def _logs(self, session: ClientSession, request: dict[str, Any]) -> dict[str, Any]:
        slot = None if request.get("slot") is None else _slot(request)
        known = {worker.slot for worker in self.operator.status().workers}
        if (
            slot is not None
            and slot not in known
            and not any(e.get("slot") == slot for e in self.log.output.after(0)[2])
        ):
            raise Refused(f"there is no worker in slot {slot}, and none has printed anything")
        return await self._tail(session, self.log.output, request, lambda e: slot is None or e.get("slot") == slot)

    async def _tail(
        self,
        session: ClientSession,
        buffer: LogBuffer,
        request: dict[str, Any],
        wanted: Callable[[dict[str, Any]], bool],
    ) -> dict[str, Any]:
        """The last `lines` entries, and the following ones if the request says `follow`."""
        lines = request.get("lines", 0)
        if type(lines) is not int or lines < 0:
            raise Refused("'lines' is a number", 2)
        if request.get("follow") is True and self.log.followers >= MAX_FOLLOWERS:
            raise Refused(f"{MAX_FOLLOWERS} clients follow already; the other places are for verbs that act")
        _, last, kept = buffer.after(0)
        chosen = [entry for entry in kept if wanted(entry)]
        for entry in chosen[len(chosen) - min(lines, len(chosen)) :]:
            await session.send({"entry": entry})
        if request.get("follow") is True:
            await self._stream(session, lambda: self._follow(session, buffer, last, wanted))
            return {"text": "the master has stopped"}
        return {}

    async def _follow(
        self, session: ClientSession, buffer: LogBuffer, last: int, wanted: Callable[[dict[str, Any]], bool]
    ) -> None:
        """Send each new entry.  Returns when the master has ended in order, and all of it is sent."""
        while True:
            next_entry, over = self.log.next_entry(), self.log.ended
            missed, last, entries = buffer.after(last)
            if missed:
                await session.send({"missed": missed})
            for entry in filter(wanted, entries):
                await session.send({"entry": entry})
            if not entries and over:
                return
            if not entries:
                await next_entry.wait()

    async def _stacks(self, session: ClientSession, request: dict[str, Any]) -> dict[str, Any]:
        slot = _slot(request)
        last, sent = self.log.output.last, 0
        self.operator.stacks(slot)

        async def send_stacks() -> None:
            nonlocal last, sent
            while True:
                next_entry = self.log.next_entry()
                _, last, entries = self.log.output.after(last)
                for entry in entries:
                    if entry.get("slot") == slot and entry.get("stream") != "stdout":
                        sent += 1
                        await session.send({"entry": entry})
                # The worker does not say when its stacks end, so a pause in its output does.
                with trio.move_on_after(QUIET_S if sent else STACKS_S) as timeout:
                    await next_entry.wait()
                if timeout.cancelled_caught:
                    return

        await self._stream(session, send_stacks)
        if not sent:
            raise Refused(f"worker {slot} has written nothing for {STACKS_S:g} s; if it does, it is in the log")
        return {}

    async def _stream(self, session: ClientSession, send: Callable[[], Awaitable[None]]) -> None:
        """Run `send` to its end, or until the client leaves."""
        with self.log.followed():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.wait_for_end)
                await send()
                nursery.cancel_scope.cancel()


_DO: dict[str, Callable[[RequestHandler, ClientSession, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
    "status": RequestHandler._status,
    "config": RequestHandler._config,
    "reopen": RequestHandler._reopen,
    "scale": RequestHandler._scale,
    "reload": RequestHandler._reload,
    "rollback": RequestHandler._reload,
    "restart": RequestHandler._restart,
    "retire": RequestHandler._restart,
    "stop": RequestHandler._stop,
    "events": RequestHandler._events,
    "logs": RequestHandler._logs,
    "stacks": RequestHandler._stacks,
}


def _parse(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):  # RecursionError: thousands of brackets fit the limit of a request
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
    """The size that N, +N, -N or auto means for a fleet of `now` workers.  Raises Refused."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if text == "auto":
        size = automatic()
    elif digits.isascii() and digits.isdigit() and len(digits) < 6:
        size = int(text) if digits == text else now + int(text)
    else:
        raise Refused(f"{text!r} is no number of workers; write N, +N, -N or auto", 2)
    if not 1 <= size <= MAX_WORKERS:
        raise Refused(f"{size} workers cannot be; there are 1 to {MAX_WORKERS} (to have none, stop the master)", 2)
    return size
