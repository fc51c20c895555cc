"""One worker, as the program that runs its master sees it."""

from __future__ import annotations

import signal as signals
from typing import Any

import trio
from attrs import define, frozen

from ..rules.lifecycle import Event, State
from ..rules.plan import STAYING
from ..supervision.supervisor import Supervisor
from ..supervision.worker_record import WorkerRecord


@frozen
class Health:
    """What a worker last reported of itself, and what the master concludes from its silence.

    A worker reports when its counters change, and at least once in each ``heartbeat``; the report comes from the loop
    that serves, so one that is blocked sends none.
    """

    silent: float
    """Seconds since its last message."""
    lag: float
    """The longest delay of its loop in the last 5 to 10 seconds, in seconds.  An overdue report counts at once, so the
    value grows while the loop is blocked; ``status`` shows the same as LAG."""
    busy: int
    """Requests in progress; for a stream handler, connections."""
    rss: int
    """Bytes of resident memory."""
    cpu: float
    """Seconds of processor time since its process started."""
    taking: bool
    """It accepts connections; False while the application has said ``set_ready(False)`` or descriptors are short."""
    suspended: bool
    """It left connections waiting for too long, and receives none until its next report."""
    full: bool = False
    """A further request would wait in it: all its threads are taken, or its application says so."""


@define(eq=False, repr=False)
class Worker:
    """One worker, as the program that runs its master sees it.

    Got from `Master.workers` or `Master.fork`.  Every property is current when it is read; after the worker has ended
    the object stays, with its last values.  For the trio thread of the master only.
    """

    _record: WorkerRecord
    _supervisor: Supervisor

    def __repr__(self) -> str:
        return f"<Worker {self.id} in slot {self.slot} (pid {self.pid}), {self.state}>"

    @property
    def id(self) -> int:
        """Counts up from 1, and is never reused."""
        return self._record.id

    @property
    def slot(self) -> int:
        """0 to N-1; a replacement has the slot of the worker it replaces."""
        return self._record.slot

    @property
    def generation(self) -> int:
        """1 at the start, and one more with each reload."""
        return self._record.generation

    @property
    def pid(self) -> int | None:
        """Its process id; None until its process has started."""
        return self._record.process.pid if self._record.process is not None else None

    @property
    def state(self) -> str:
        """``booting``, ``proving``, ``serving``, ``draining``, ``stopping``, ``killed`` or ``gone``."""
        return self._record.state.value

    @property
    def load(self) -> int:
        """Its connections, those in its letterbox included, and its requests whose connection is gone."""
        return self._record.link.load.in_hand

    @property
    def health(self) -> Health | None:
        """What it last reported; None before its first report.  Reports that wait to be read are read first."""
        if self._record.state is not State.GONE:
            self._supervisor.dispatcher.read_reports()  # an idle master reads them now and then: they look overdue
        report, load = self._record.report, self._record.link.load
        if report is None:
            return None
        silent = trio.current_time() - self._record.heard
        return Health(
            silent=silent,
            lag=self._supervisor.runner.lag(self._record),
            busy=report.busy,
            rss=report.rss,
            cpu=report.cpu_us / 1e6,
            taking=report.taking,
            suspended=load.suspended,
            full=load.full,
        )

    @property
    def exited_after_disconnect(self) -> bool | None:
        """Whether it left because the master or its application asked for it; None as long as it has not left."""
        return self._record.asked if self._record.disconnected else None

    def is_connected(self) -> bool:
        """Whether it may receive connections: it was not told to leave, and has not died."""
        return not self._record.disconnected

    def is_dead(self) -> bool:
        """Whether its process has ended."""
        return self._record.state is State.GONE

    async def send(self, value: Any) -> None:
        """Send a message, which its application finds in ``current_worker().messages()``.

        `value` is a JSON value of up to 60 KiB; keys that are no text become text, and tuples become lists.  Waits
        while the talk line is full, which happens when the application does not read its messages.  A draining worker
        still receives messages.

        Raises NoteRefused (a ValueError) for a value that cannot be sent, WorkerGone if the worker has ended.  If
        cancelled, nothing was sent.
        """
        await self._record.conversation.send(value)

    async def disconnect(self) -> None:
        """Give it no more connections, let it finish those it has, and return when it has ended.

        After the graceful timeout it is terminated, then killed.  It is replaced, unless ``respawn=False``.  If it is
        leaving already, or has left, this only waits.  If cancelled, the worker leaves all the same.  The idea is
        Node's ``worker.disconnect``, which does not wait.
        """
        if self._record.state in STAYING:
            self._supervisor.runner.happens(self._record, Event.RETIRE, "the program asked for it")
        await self._record.gone.wait()

    def kill(self, number: int = signals.SIGTERM) -> None:
        """Send a signal to its process; nothing happens if that has ended.

        SIGTERM has the effect that it has from a shell: the worker asks to be replaced, and drains once it is; a second
        one, or one during the drain, ends it now.  The worker's loop answers the signal, so a worker whose loop is
        blocked needs SIGKILL.
        """
        if self._record.process is not None:
            self._record.process.signal(number)
