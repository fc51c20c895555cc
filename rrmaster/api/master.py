"""A master inside a program: its handle, and the block that it lives in.

::

    async with rrmaster.open_master(rrmaster.Settings("shop:app", workers=4)) as master:
        async with master.events() as events:
            async for event in events: ...

Everything ends with the block: leaving it, normally, by an error or by cancellation, drains and stops the fleet within
the graceful timeout, and no process outlives it.  No signal is handled here, and several masters in one program do not
know of each other.

`fork`, `send`, `disconnect` and `kill` behave as in Node's cluster, without its faults: `disconnect` returns when the
last worker has left and not the first, sending to a dead worker is an error where it is sent, and workers are replaced
unless ``respawn=False``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio
from attrs import define, frozen

from ..config.settings import Settings
from ..events.bus import Subscription, WorkerGone
from ..events.events import WorkerExited, WorkerOnline
from ..faults import unwrapped
from ..master import RunningMaster
from ..protocol import wire
from ..protocol.starting import check_may_start
from ..rules.lifecycle import State
from ..rules.rollout import BUSY
from ..status.model import Snapshot
from ..supervision.reconfigure import listen
from ..supervision.reload_progress import Busy, Reload
from ..supervision.supervisor import Supervisor
from .worker import Worker


class ReloadRefused(Exception):
    """A reload or rollback failed; the workers of before serve on."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.reason = reason
        """Why, mostly the new code's own traceback."""
        self.status = status
        """The exit status of ``rrmaster reload``: 10 refused before any client saw the new code, 11 rolled back, 12 out
        of time, 13 another reload runs, 1 there is nothing to go back to."""


@frozen
class ReloadResult:
    """A reload that was committed: what `Master.reload` and `Master.rollback` return."""

    generation: int
    """The number of the generation that serves now."""
    lines: tuple[str, ...]
    """Its progress, for people."""


@define(eq=False, repr=False)
class _Workers(Mapping[int, Worker]):
    """A live view: the workers that have not ended, by id."""

    _supervisor: Supervisor

    def __repr__(self) -> str:
        return repr(dict(self))

    def __getitem__(self, id_: int) -> Worker:
        return Worker(self._supervisor.workers[id_], self._supervisor)

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._supervisor.workers))

    def __len__(self) -> int:
        return len(self._supervisor.workers)


@define(eq=False, repr=False)
class Master:
    """A running fleet: the handle that `open_master` and `serve` give.

    It lives as long as the block of `open_master`.  Its methods belong to the trio thread of that block; from another
    thread use `trio.from_thread`.  Coroutine methods may be cancelled: what they asked for goes on all the same, unless
    they say otherwise.
    """

    _inner: RunningMaster

    def __repr__(self) -> str:
        where = ", ".join(self.addresses) or "no address"
        return f"<Master of {self.settings.application} on {where}, {len(self.workers)} workers>"

    @property
    def addresses(self) -> tuple[str, ...]:
        """The bound addresses as a person writes them, port 0 resolved."""
        return self._inner.addresses

    @property
    def settings(self) -> Settings:
        """The settings in force; a reload may have brought others than the block began with."""
        return self._inner.settings

    @property
    def workers(self) -> Mapping[int, Worker]:
        """The workers that have not ended, by id: a live view.

        A draining worker is among them until its process has ended, so it can still receive messages.
        `Worker.is_connected` tells the workers that receive connections.  (Node's documentation of ``cluster.workers``
        says the same; the code forgets a worker as soon as it disconnects.)
        """
        return _Workers(self._supervisor)

    @property
    def _supervisor(self) -> Supervisor:
        return self._inner.supervisor

    def events(self) -> AbstractAsyncContextManager[Subscription]:
        """``async with master.events() as events``, then ``async for event in events``.

        Yields every event from the subscription on, in order.  A subscriber that is too slow loses the oldest events
        beyond 10,000, or beyond 16 MiB of messages, and gets an `EventsMissed` in their place.  Ends with the master.
        """
        return self._supervisor.announcements.news.subscribe()

    def status(self) -> Snapshot:
        """Everything that ``rrmaster status`` shows, now.  Cheap: some 20 us for each worker."""
        return self._inner.status()

    async def fork(self, env: Mapping[str, str] | None = None) -> Worker:
        """Add one worker, with these variables added to its environment; returns when its process runs.

        Its replacements have the same environment.  With ``respawn=False`` it takes the slot of a worker that has
        ended, if there is one.  During a reload this waits until the reload is decided.  The idea is Node's
        ``cluster.fork``.  Raises OSError if its process cannot be started.
        """
        supervisor = self._supervisor
        async with self.events() as events:
            vacated = supervisor.vacated_slot
            slot = supervisor.reload.size_wanted if vacated is None else vacated
            self._inner.spawner.set_slot_environment(slot, env or {})
            if vacated is None:
                self._inner.scale(slot + 1)
            else:
                supervisor.fill(slot)
            async for event in events:
                match event:
                    case WorkerOnline(id=id_, slot=found) if found == slot and id_ in supervisor.workers:
                        return Worker(supervisor.workers[id_], supervisor)
                    case WorkerExited(slot=found, code=None, signal=None, reason=reason) if found == slot:
                        raise OSError(reason)
        raise RuntimeError("the master has ended")

    async def scale(self, size: int) -> None:
        """Set the fleet's size to `size` workers, at least 1; returns when exactly these serve.

        Returns early if another size is asked for meanwhile.  During a reload this waits until the reload is decided.
        """
        supervisor = self._supervisor
        supervisor.fill_all()
        self._inner.scale(size)
        wanted = supervisor.reload.size_wanted

        def reached() -> bool:
            workers = supervisor.workers.values()
            serving = [worker for worker in workers if worker.state is State.SERVING and not worker.leaving]
            return supervisor.reload.size_wanted != wanted or len(serving) == len(workers) == wanted

        await self._until(reached)

    async def reload(self) -> ReloadResult:
        """Load the code and the configuration again, and replace all workers if the new ones prove good.

        Raises ReloadRefused, with the reason, if they do not, or if another reload runs.
        """
        return await self._outcome(self._inner.begin_reload)

    async def rollback(self) -> ReloadResult:
        """Replace all workers by new ones of the code before the last reload, kept in memory for the rollback window.

        Raises ReloadRefused, with the reason; its status is 1 if there is nothing to go back to.
        """
        return await self._outcome(self._inner.begin_rollback)

    async def _outcome(self, begin: Callable[[], Reload]) -> ReloadResult:
        try:
            reload = begin()
        except Busy as busy:
            raise ReloadRefused(str(busy), BUSY) from None
        except LookupError as unknown:
            raise ReloadRefused(str(unknown), 1) from None
        rollout = await reload.ended()
        status = rollout.status
        if status:
            raise ReloadRefused(rollout.reason, status)
        return ReloadResult(rollout.generation, tuple(rollout.lines))

    async def broadcast(self, value: Any) -> int:
        """Send a message to every worker that has not ended; returns the number of workers it reached.

        Waits for the slowest.  Raises NoteRefused before any worker has got it.  If cancelled, some workers have it and
        some do not.
        """
        reached = 0

        async def one(worker: Worker) -> None:
            nonlocal reached
            try:
                await worker.send(value)
                reached += 1
            except WorkerGone:
                pass  # it has ended since the list was made, which is no fault of the message

        wire.encode_note(value)
        async with trio.open_nursery() as nursery:
            for worker in self.workers.values():
                nursery.start_soon(one, worker)
        return reached

    async def disconnect(self) -> None:
        """Let all workers leave, and return when the last one has.  The addresses stay open, and clients wait.

        `fork` and `scale` start workers again.  The idea is Node's ``cluster.disconnect``, which calls back when the
        first has left.
        """
        supervisor = self._supervisor
        supervisor.vacate_all()
        async with trio.open_nursery() as nursery:
            for worker in self.workers.values():
                nursery.start_soon(worker.disconnect)

    async def _until(self, true: Callable[[], bool]) -> None:
        async with self.events() as events:
            if true():
                await trio.lowlevel.checkpoint()
                return
            async for _ in events:
                if true():
                    return
        raise RuntimeError("the master has ended")


@asynccontextmanager
async def open_master(
    settings: Settings, *, respawn: bool = True, worker_command: Sequence[str] = ()
) -> AsyncGenerator[Master]:
    """Run a fleet for the time of the block; leaving the block, in any way, drains and stops it.

    When the block begins the addresses are bound and the workers are being started.  With ``respawn=False`` a worker
    that ends is not replaced, and the fleet may become empty; `fork`, `scale` and a reload start workers again.
    `worker_command` (a program and its arguments) is started as a worker instead of Python: any program that speaks as
    docs/protocol.md says.  It is started in the working directory, and finds the application's name in its environment.

    The options of a master's own process (user, PID file, control socket, log, `admin`) have no effect here, because
    the process is the program's.

    Raises BindError before anything runs, NoWorkerReady if no worker becomes ready.  What the block raises rises as it
    is, or in an ExceptionGroup where both happens.
    """
    check_may_start()
    listeners = listen(settings, explicit=True)
    try:
        fleet = RunningMaster(settings, listeners, command=tuple(worker_command), respawn=respawn)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run_shielded, fleet, nursery.cancel_scope)
            try:
                yield Master(fleet)
            finally:
                with trio.CancelScope(shield=True):
                    await fleet.stop()
    except BaseExceptionGroup as group:
        raise unwrapped(group) from None
    finally:
        fleet.close()


async def _run_shielded(fleet: RunningMaster, caller: trio.CancelScope) -> None:
    """Run in spite of the caller's cancellation, so that a stop may drain."""
    with trio.CancelScope(shield=True):
        try:
            await fleet.run()
        finally:
            # The fleet has ended by itself (NoWorkerReady): the block has nothing left to wait for.
            caller.cancel()


async def serve(
    application: Any, *, task_status: trio.TaskStatus[Master] = trio.TASK_STATUS_IGNORED, **options: Any
) -> None:
    """Serve inside a trio program until cancelled, then drain.  No signal is handled.

    `application` is `Settings`, or ``module:attribute``, or the handler itself; `options` are those of `Settings`.
    ``await nursery.start(rrmaster.serve, ...)`` returns the `Master` once its addresses are bound.

    Raises SettingsError, BindError, NoWorkerReady, as `open_master` does.
    """
    settings = application if isinstance(application, Settings) else Settings(application, **options)
    async with open_master(settings) as master:
        task_status.started(master)
        await trio.sleep_forever()
