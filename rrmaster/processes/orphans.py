"""What does a worker leave behind, and how does that end?

A child in a session or a group of its own outlives its worker, unless the master ends it (``--kill-mode tree``).  Where
each worker has a control group, that is ended as a whole (`cgroups`).  What is not in one is told by other signs.  A
master with a process of its own adopts all orphans among its descendants (see `process.adopting`), so it finds what the
dead have left among its own children, and `rules.orphans` tells whose each is.  A master inside another program adopts
none, and searches the machine for the mark of a worker that has ended (`protocol.family.lineage`).

When the master itself is killed, each worker does the same at its own end (`worker.ending`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from logging import INFO

import trio
from attrs import Factory, define, frozen

from ..logs.log import tell
from ..protocol.family import lineage
from ..protocol.family.lineage import Mark, Seen
from ..rules.orphans import Living, Orphan, must_end
from .cgroups import Cgroups
from .process import Process

PASSES = 20
"""Looks at what is left, at most.  What is killed may just have started another process, which the next look finds."""

PAUSE_S = 0.002
"""Seconds between two looks.  A killed process is a zombie before, and its children are the master's."""

AGAIN_S = 0.1
"""Seconds until orphans are looked at again that may be a worker which is being started."""

NAMED = 5
"""Orphans that a line of the log names."""


@frozen
class Census:
    """The processes of a master that it has not seen end."""

    workers: Mapping[int, int]
    """The process ids, by the workers' numbers."""
    templates: Mapping[int, float]
    """When each had done its import, by process id; in clock ticks since the machine was started."""
    others: Collection[int] = ()
    """The process ids of other children that a task waits for."""
    complete: bool = True
    """No process is being started whose number is not known yet."""

    @classmethod
    def of(
        cls,
        workers: Mapping[int, Process | None],
        templates: Mapping[int, float],
        others: Collection[int] | None,
        starting: bool,
    ) -> Census:
        """`workers` are by number, and None while one is being started; so are the `others`."""
        pids = {number: process.pid for number, process in workers.items() if process is not None}
        complete = None not in workers.values() and others is not None and not starting
        return cls(pids, templates, others or (), complete)

    def known(self) -> set[int]:
        """The process ids of all of them."""
        return {*self.workers.values(), *self.templates, *self.others}

    def pids(self) -> set[int] | None:
        """The same; None while a process is being started."""
        return self.known() if self.complete else None


@define(eq=False)
class Orphans:
    """Ends what the workers and templates of one master leave behind.  Belongs to the thread that runs trio."""

    count: Callable[[], Census] = lambda: Census({}, {})
    wanted: Callable[[], bool] = lambda: True
    """Whether they end at all (``--kill-mode``)."""
    cgroups: Cgroups | None = None
    """The workers' control groups; the caller's."""
    master: str = Factory(lambda: secrets.token_hex(6))
    """This master's part of the marks."""
    _adopts: bool = False
    _all_are_ours: bool = False
    _again: trio.Event = Factory(trio.Event)

    def mark(self, worker: int = lineage.TEMPLATE) -> Mark:
        """The mark of a worker, or of the templates."""
        return Mark(self.master, worker)

    def adopted(self, owns_process: bool) -> None:
        """Orphans become this process's children from now on, and it has started no worker yet.

        `owns_process`: it is a master and nothing else.
        """
        # Process 1 of a container inherits orphans from elsewhere (docker exec), and so does a process that has had
        # children already: those of the shell that became this process by exec.
        self._adopts = True
        others = set(lineage.children_of(os.getpid())) - self.count().known()
        self._all_are_ours = owns_process and os.getpid() != 1 and not others

    async def run(self) -> None:
        """Look again when a template has ended, or when a look could not tell; until cancelled."""
        while True:
            await self._again.wait()
            self._again = trio.Event()
            await trio.sleep(AGAIN_S)
            await self.end_all()

    @asynccontextmanager
    async def ended_at_last(self) -> AsyncGenerator[None]:
        """End what is left after the block, whatever ends that."""
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await self.end_all()

    def look_again(self) -> None:
        """Have `run` look for orphans."""
        self._again.set()

    async def admit(self, pid: int, template: bool = False) -> None:
        """Give a new worker or template a control group, if there are any; it must not have started anything yet."""
        if self.cgroups is not None:
            await (self.cgroups.admit_template(pid) if template else self.cgroups.admit_worker(pid))

    async def end_of(self, worker: int, pid: int) -> None:
        """The worker with this number and process id has ended: end what it leaves."""
        grouped = await self.cgroups.end_of(pid, kill=self.wanted()) if self.cgroups is not None else []
        if not self._adopts and self.wanted():
            _log(await trio.to_thread.run_sync(lineage.end_marked, self.mark(worker)))
        else:
            await self.end_all(worker, grouped)

    async def end_all(self, worker: int | None = None, grouped: Collection[Seen] = ()) -> None:
        """End what was left by any process that has ended, among them this worker, whose group has been ended."""
        ended = {seen.pid: seen for seen in grouped}
        if not self._adopts or not self.wanted() or not lineage.is_ours():
            _log(list(ended.values()))
            return
        for _ in range(PASSES):
            found = lineage.tree_of(self._roots(worker))
            if not found:
                break
            ended.update((seen.pid, seen) for seen in lineage.kill(found))
            await trio.sleep(PAUSE_S)
            _reap(ended)
        _log(list(ended.values()))

    def _roots(self, worker: int | None) -> list[int]:
        """The children of this process that must end now."""
        census = self.count()
        known = census.known()
        children = [lineage.look(pid) for pid in lineage.children_of(os.getpid()) if pid not in known]
        own = os.getpgrp()  # a child in the master's own group was started by the program itself
        strangers = [seen for seen in children if seen is not None and seen.group != own and not seen.ended]
        if not strangers:
            return []
        living, found = _living(census), []
        for orphan in map(self._orphan, strangers):
            # A worker that is being started is a stranger, too, but it has not that mark.
            if worker is not None and orphan.worker == worker:
                found.append(orphan.pid)
            elif not census.complete:
                self.look_again()
            elif must_end(orphan, living, self._all_are_ours):
                found.append(orphan.pid)
        return found

    def _orphan(self, seen: Seen) -> Orphan:
        mark = lineage.mark_of(seen.pid)
        return Orphan(seen.pid, seen.began, mark.worker if mark is not None and mark.master == self.master else None)


def _living(census: Census) -> Living:
    """When those began that still live."""
    pids = {*census.workers.values(), *census.templates}
    began = {seen.pid: seen.began for seen in map(lineage.look, pids) if seen is not None and not seen.ended}
    return Living(
        {number: began[pid] for number, pid in census.workers.items() if pid in began},
        [(began[pid], imported) for pid, imported in census.templates.items() if pid in began],
    )


def _reap(ended: Collection[int]) -> None:
    """Reap those that were killed and are children of this process."""
    for pid in ended:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass  # it is reaped already, or not a child of this process


def _log(ended: Sequence[Seen]) -> None:
    """Tell it: a job that was meant to go on would otherwise vanish without a trace."""
    if not ended:
        return
    names = ", ".join(f"{seen.name} (pid {seen.pid})" for seen in ended[:NAMED])
    more = f" and {len(ended) - NAMED} more" if len(ended) > NAMED else ""
    text = f"processes that a worker had started were ended with it (--kill-mode tree): {names}{more}"
    tell("worker.orphans", text, level=INFO, ended=[seen.pid for seen in ended])
