"""How does the master keep the idle pool: one process, started when a worker parks, and again when it ends?

::

    wanted ──► started ──► stands: each worker has a lane ──► it has ended, or says nothing: killed
                  ▲                                               │ what lay in lanes, and on its line, goes to workers
                  └────── after a pause ──────────────────────────┘ what it held is closed by its end: counted, and told

The master reads the pool's counts from a page of memory, so that they are known when the pool is killed.  While none
stands the workers keep their connections.

What was cut with a pool is not what it says that it held: it may be killed between a message and its count.  While no
pool stands, each connection that workers have parked has come back to the master, or the pool has closed it, or it was
cut.  The first are counted by the workers, the second by the master, the third by the pool before it does so; what
remains is the fourth.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Collection
from functools import partial
from logging import INFO, WARNING

import trio
from attrs import Factory, define

from ..dispatch.dispatcher import Dispatcher
from ..dispatch.parked.lanes import Lanes
from ..dispatch.parked.returns import Returns
from ..events.events import PoolCut, PoolEnded, PoolEvent, PoolFull, PoolStarted
from ..logs.capture import LineSplitter, capture_output, open_pipe
from ..logs.log import tell
from ..processes.process import Child, package_root, start
from ..protocol.family.children import keep_from_children
from ..protocol.parking.lane import COUNTS, END, LIMIT, ORDER, PAGE
from ..rules.backoff import Exit
from ..verdicts.hearing import Overdue, in_fair_time, with_evidence

PAUSE_S, MOST_S = 0.1, 10.0
"""Seconds until a pool that has ended is started again: the first time, and at most after it has doubled."""

STABLE_S = 10.0
"""Seconds of life after which the next pause is the first one again."""

SILENT_S = 3.0
"""Seconds in which it must have made a turn; it makes one each second.  A client that speaks meanwhile waits."""

LOOK_S = 0.5
"""Seconds between two looks at its page."""

FULL_S = 60.0
"""Seconds between two lines that say that all places are taken: under a flood it would be one each second."""

READ_S = 2.0
"""Seconds that workers have to take what a pool has sent before it ended."""

GOODBYE_S = 1.0
"""Seconds at a stop in which clients whose connection rests may still speak, and are answered with
``Connection: close``: many times a round trip.  A client that has nothing to ask is not waited for longer."""

END_S = 2.0
"""Seconds that a pool has to end."""


@define(eq=False)
class IdlePool:
    """Keeps one idle pool beside a master."""

    lanes: Lanes
    returns: Returns
    wake: Callable[[], None]
    """Makes the dispatcher look."""
    most: Callable[[], int]
    """The number of connections that may rest: `--max-parked`; 0: the pool decides."""
    counts: dict[str, int] = Factory(lambda: dict.fromkeys(COUNTS, 0))
    """What the pools before this one have counted."""
    cut: int = 0
    """Connections that rested in a pool when it was killed."""
    restarts: int = 0
    rate: float = 0.0
    """Connections that were parked in a second, at the last look."""
    pid: int | None = None
    """The process that lives."""
    _seen: tuple[float, int] = (0.0, 0)
    """When the rate was counted, and what had been parked then."""
    _wanted: trio.Event = Factory(trio.Event)
    _ending: bool = False
    _killed: bool = False
    """The master itself ends now."""
    _page: int = -1
    _starting: bool = False
    _line: socket.socket | None = None
    _gone: trio.Event = Factory(trio.Event)
    _limit: int = 0
    _announce: Callable[[PoolEvent], None] = lambda event: None
    _last: int | None = None
    """The process that lives, or has ended last."""
    _evicted: int = 0
    """How many were closed for want of a place, as was told last, ..."""
    _full_until: float = float("-inf")
    """... and when it may be told again."""

    @classmethod
    def of(cls, dispatcher: Dispatcher, most: Callable[[], int]) -> IdlePool:
        """The pool of a fleet, which starts when a worker parks."""
        return cls(dispatcher.lanes, dispatcher.returns, dispatcher.wake, most)

    def __attrs_post_init__(self) -> None:
        self.lanes.call_when_wanted(lambda: self._wanted.set())

    # --- what is known of it

    @property
    def stands(self) -> bool:
        """Whether a pool stands now."""
        return self._line is not None

    @property
    def wanted(self) -> bool:
        """Whether there has been a worker that parks."""
        return self._wanted.is_set()

    def total(self) -> dict[str, int]:
        """What this pool and those before it have counted."""
        now = self._read_page()
        return {name: self.counts[name] + now[name] for name in COUNTS}

    def _read_page(self) -> dict[str, int]:
        data = b""
        if self._page >= 0:
            with contextlib.suppress(OSError):
                data = os.pread(self._page, PAGE, 0)
        return dict(zip(COUNTS, struct.unpack(f"{len(COUNTS)}Q", data.ljust(PAGE, b"\0")), strict=True))

    def beside(self, others: Collection[int] | None) -> Collection[int] | None:
        """These process ids and that of the pool; None while one of them is being started."""
        if self._starting or others is None:
            return None
        return [*others] if self.pid is None else [*others, self.pid]

    # --- its life

    async def run(self, announce: Callable[[PoolEvent], None]) -> None:
        """Keep a pool from the moment that a worker parks until cancelled; `announce` is called with what happens."""
        self._announce = announce
        await self._wanted.wait()
        pause = PAUSE_S
        while not self._ending:
            began = trio.current_time()
            how = await self._live_once()
            if self._ending:
                return
            self.restarts += 1
            pause = PAUSE_S if trio.current_time() - began >= STABLE_S else pause
            text = f"the idle pool {how}; workers keep their connections, and it is started again in {pause:g} s"
            tell("pool.ended", text, level=WARNING, why=str(how))
            self._announce(PoolEnded(self._last, str(how)))
            await trio.sleep(pause)
            self._count_cut()  # once more: a worker may have counted late what it had parked
            pause = min(pause * 2, MOST_S)

    async def _live_once(self) -> Exit | str:
        with contextlib.ExitStack() as ours:
            try:
                line, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                keep_from_children(line, its_end)
                ours.callback(line.close)
                ours.callback(its_end.close)
                line.setblocking(False)
                page = os.memfd_create("rrmaster: idle pool")
                ours.callback(os.close, page)
                os.ftruncate(page, PAGE)
                output, its_output = open_pipe()
                ours.callback(os.close, its_output)
                self._last = None
                child = await self._start(its_end.fileno(), page, its_output, output)
                its_end.close()
                self.returns.open(line)
            except OSError as error:
                return f"cannot be started ({error.strerror})"
            finally:
                self._starting = False
            self._page, self._line, self._gone = page, line, trio.Event()
            self.lanes.stand(line)
            self.wake()
            tell(
                "pool.started", f"connections between two requests rest in the idle pool (pid {child.pid})", level=INFO
            )
            self._announce(PoolStarted(child.pid))
            try:
                return await self._outlive(child, output)
            finally:
                await self._ended()

    async def _start(self, line: int, page: int, its_output: int, output: int) -> Child:
        self._limit = self.most()
        command = [sys.executable, "-S", "-E", "-s", "-B", "-m", "rrmaster.idle", *map(str, (line, page, self._limit))]
        self._starting = True
        try:
            child = await start(command, {}, (line, page), its_output, its_output, package_root())
        except BaseException:
            os.close(output)  # else it is `capture_output` that closes it
            raise
        self.pid = self._last = child.pid
        return child

    async def _outlive(self, child: Child, output: int) -> Exit:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(capture_output, output, LineSplitter(partial(_log, child.pid)))
            nursery.start_soon(self._watch, child)
            try:
                how = await child.wait()
            except trio.Cancelled:
                self._ending = self._killed = True
                with trio.CancelScope(shield=True):
                    child.signal(signal.SIGKILL, group=True)
                    await child.wait()
                raise
            nursery.cancel_scope.cancel()
        return how

    async def _watch(self, child: Child) -> None:
        """Kill a pool that does nothing, and tell it when the limit has changed."""
        try:
            while True:
                await in_fair_time(SILENT_S, lambda: (child.pid,), "the idle pool", self._until_it_beats)
                if self.most() != self._limit and self._line is not None:
                    with contextlib.suppress(OSError):  # it does not read; the next look tells it again
                        self._line.send(ORDER.pack(LIMIT, self.most()))
                        self._limit = self.most()
        except Overdue as overdue:
            what = with_evidence(f"the idle pool (pid {child.pid}) has done nothing for {SILENT_S:g} s", overdue)
            tell("pool.silent", f"{what}: killed", level=WARNING, pid=child.pid)
            child.signal(signal.SIGKILL, group=True)

    async def _until_it_beats(self) -> None:
        before = self._read_page()["beat"]
        while (now := self._read_page())["beat"] == before:
            await trio.sleep(LOOK_S)
        self._tell_full(self.counts["evicted"] + now["evicted"])
        since, parked = self._seen
        if (passed := trio.current_time() - since) >= LOOK_S:
            self.rate = max(now["taken"] - parked, 0) / passed
            self._seen = trio.current_time(), now["taken"]

    def _tell_full(self, evicted: int) -> None:
        """Tell, once in `FULL_S`, that connections were closed because there were too many."""
        if evicted > self._evicted and trio.current_time() >= self._full_until:
            closed, self._evicted, self._full_until = evicted - self._evicted, evicted, trio.current_time() + FULL_S
            text = f"all {self._limit} places of the idle pool were taken: {closed} that rested longest were closed"
            tell("pool.full", f"{text} (--max-parked)", level=WARNING, limit=self._limit, closed=closed)
            self._announce(PoolFull(self._limit, closed))

    async def _ended(self) -> None:
        """It has ended: what can still be had of it goes to workers, and the rest is counted."""
        self.lanes.fall()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + READ_S):
            while self.returns.is_open and not self._killed:
                self.returns.look()
                self.wake()
                await trio.sleep(0.001)
        self.returns.close()
        self.lanes.fallen()
        last = self._read_page()
        last["held"] = last["beat"] = 0
        self.counts = {name: self.counts[name] + last[name] for name in COUNTS}
        self._page, self.pid, self._line, self.rate = -1, None, None, 0.0
        self._count_cut()
        self._gone.set()

    def _count_cut(self) -> None:
        """No pool stands: what workers have parked, and has left by no other door, was cut with a pool."""
        counts, lanes, returns = self.counts, self.lanes, self.returns
        back = returns.resumed + returns.lost + lanes.taken_back + lanes.left + lanes.lost
        closed = counts["left"] + counts["expired"] + counts["evicted"] + counts["lost"]
        cut = lanes.parked() - back - closed - self.cut
        if cut > 0:
            self.cut += cut
            were = "1 connection that rested was" if cut == 1 else f"{cut} connections that rested were"
            tell("pool.cut", f"{were} closed with the idle pool", level=WARNING, connections=cut)
            self._announce(PoolCut(cut))

    # --- the end of the fleet

    async def end(self) -> None:
        """The fleet stops: no worker parks from now on, and what rests is closed unless its client speaks soon."""
        if self._line is None:
            self._ending = True
            return
        self.lanes.hang_up()
        with trio.move_on_after(GOODBYE_S):
            while self._read_page()["held"]:
                await trio.sleep(0.01)
        self._ending = True
        with contextlib.suppress(OSError):  # it has ended
            self._line.send(ORDER.pack(END, 0))
        with trio.move_on_after(END_S):
            await self._gone.wait()


def _log(pid: int, line: str) -> None:
    tell("pool.output", f"idle pool: {line}", level=WARNING, pid=pid)
