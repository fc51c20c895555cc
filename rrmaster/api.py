"""What does a program see of a master that it runs itself?

::

    async with rrmaster.open_master(rrmaster.Settings("shop:app", workers=4)) as master:
        async with master.events() as events:
            async for event in events: ...

Everything ends with the block: leaving it, by whatever way, drains and stops the fleet within the graceful timeout, and
nothing outlives it.  No signal is handled here, and several masters in one program do not know of each other.

The behaviour of `fork`, `send`, `disconnect` and `kill` is that of Node's cluster, without its faults: `disconnect`
returns when the last worker has left and not the first, sending to a dead worker is an error where it is sent, and
workers are replaced unless ``respawn=False``.
"""

from __future__ import annotations

import signal as signals
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio
from attrs import define, frozen

from . import master as inner
from .config.settings import Settings
from .events.bus import Subscription, WorkerGone
from .events.events import WorkerExited, WorkerOnline
from .protocol import wire
from .rules.lifecycle import Event, State
from .rules.plan import STAYING
from .rules.rollout import BUSY, Rollout
from .status.model import Snapshot
from .supervision.reconfigure import listen
from .supervision.reload import Busy
from .supervision.supervisor import Supervisor
from .supervision.worker_record import Ward


class ReloadRefused(Exception):
    """The new generation was not good enough; the old one serves on."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.reason = reason
        """In the words of whoever was not good enough: mostly the application's own traceback."""
        self.status = status
        """As `rrmaster reload` exits: 10 refused before any client saw it, 11 rolled back, 12 out of time, 13 another
        reload runs; 1 there is nothing to go back to."""


@frozen
class ReloadResult:
    """A reload that was committed."""

    generation: int
    """The one that serves now."""
    lines: tuple[str, ...]
    """What happened, for people."""


@frozen
class Health:
    """What a worker last said of itself, and what the master makes of it."""

    silent: float
    """Seconds since it was heard."""
    lag: float
    """Seconds by which its loop was late, at worst since the report before."""
    busy: int
    """Requests in progress; for a stream handler, connections."""
    rss: int
    """Bytes of resident memory."""
    cpu: float
    """Seconds of processor time since birth."""
    taking: bool
    """It wants connections."""
    suspended: bool
    """It was late, and gets none until it reports."""


@define(eq=False, repr=False)
class Worker:
    """One worker, in the program that runs its master.  It stays what it is when the worker has gone."""

    _ward: Ward
    _supervisor: Supervisor

    def __repr__(self) -> str:
        return f"<Worker {self.id} in slot {self.slot} (pid {self.pid}), {self.state}>"

    @property
    def id(self) -> int:
        """Counts up from 1, and is never used again."""
        return self._ward.id

    @property
    def slot(self) -> int:
        """0 to N-1; a replacement has the slot of the one it replaces."""
        return self._ward.slot

    @property
    def generation(self) -> int:
        """1, and one more with each reload."""
        return self._ward.generation

    @property
    def pid(self) -> int | None:
        """None until its process is started."""
        return self._ward.process.pid if self._ward.process is not None else None

    @property
    def state(self) -> str:
        """booting, proving, serving, draining, stopping, killed or gone."""
        return self._ward.state.value

    @property
    def load(self) -> int:
        """Connections it has, taken or not."""
        return self._ward.link.load.connections

    @property
    def health(self) -> Health | None:
        """None until it has reported."""
        report, load = self._ward.report, self._ward.link.load
        if report is None:
            return None
        silent = trio.current_time() - self._ward.heard
        return Health(
            silent, report.lag_us / 1e6, report.busy, report.rss, report.cpu_us / 1e6, report.taking, load.suspended
        )

    @property
    def exited_after_disconnect(self) -> bool | None:
        """Whether it went because it was asked to or asked for it; None as long as it has not left."""
        return self._ward.asked if self._ward.left_out else None

    def is_connected(self) -> bool:
        """Whether it has not been told to leave, and has not died."""
        return not self._ward.left_out

    def is_dead(self) -> bool:
        """Whether its process has ended, and has been buried."""
        return self._ward.state is State.GONE

    async def send(self, value: Any) -> None:
        """Send a message, which its application finds in ``current_worker().messages()``.

        `value` is a JSON value of up to 60 KiB; a key that is no text becomes one, and a tuple a list.  Waits while the
        line is full, which it is when the application does not listen.  To a draining worker it works.

        Raises NoteRefused (a ValueError) for what cannot be sent, WorkerGone if it has died.  Cancelled, it has sent
        nothing.
        """
        await self._ward.conversation.send(value)

    async def disconnect(self) -> None:
        """Give it no more connections, let it finish those it has, and return when it has ended.

        After the graceful timeout it is terminated, then killed.  It is replaced, unless ``respawn=False``.  Said of
        one that leaves already, or has left, it only waits.  Cancelled, it leaves all the same.  The idea is Node's
        ``worker.disconnect``, which does not wait.
        """
        if self._ward.state in STAYING:
            self._supervisor.happens(self._ward, Event.RETIRE, "the program asked for it")
        await self._ward.gone.wait()

    def kill(self, number: int = signals.SIGTERM) -> None:
        """Send it a signal; nothing happens if it is dead.

        SIGTERM, as from anybody else: it asks to be replaced, and drains once it is; said again, or while it drains, it
        ends now.  It is the worker's loop that hears it, so one that is stuck has to be sent SIGKILL.
        """
        if self._ward.process is not None:
            self._ward.process.signal(number)


@define(eq=False, repr=False)
class _Workers(Mapping[int, Worker]):
    """The workers that have not gone, by id: always as it is now."""

    _supervisor: Supervisor

    def __repr__(self) -> str:
        return repr(dict(self))

    def __getitem__(self, id_: int) -> Worker:
        return Worker(self._supervisor.wards[id_], self._supervisor)

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._supervisor.wards))

    def __len__(self) -> int:
        return len(self._supervisor.wards)


@define(eq=False, repr=False)
class Master:
    """A running fleet.  Made by `open_master`."""

    _inner: inner.Master

    def __repr__(self) -> str:
        where = ", ".join(self.addresses) or "no address"
        return f"<Master of {self.settings.application} on {where}, {len(self.workers)} workers>"

    @property
    def addresses(self) -> tuple[str, ...]:
        """The bound addresses as a person writes them, port 0 resolved."""
        return self._inner.addresses

    @property
    def settings(self) -> Settings:
        """Those in force; a reload may have brought others."""
        return self._inner.settings

    @property
    def workers(self) -> Mapping[int, Worker]:
        """Those that have not gone, by id; a view, always as it is now.

        One that drains is among them, after a reload too, until its process has ended: it may still be told and asked
        something.  `Worker.is_connected` tells those that are given connections.  (So says Node's documentation of
        ``cluster.workers``; what it does is to forget whom it disconnects at once.)
        """
        return _Workers(self._supervisor)

    @property
    def _supervisor(self) -> Supervisor:
        return self._inner.supervisor

    def events(self) -> AbstractAsyncContextManager[Subscription]:
        """``async with master.events() as events``, then ``async for event in events``.

        Every event from the subscription on, in order (see `events`); a subscriber that is slow loses the oldest
        beyond 10,000, or beyond 16 MiB of messages, and is told so by an `EventsMissed`.  Ends with the master.
        """
        return self._supervisor.chronicle.news.subscribe()

    def status(self) -> Snapshot:
        """How everything is now: what `rrmaster status` shows."""
        return self._inner.status()

    async def fork(self, env: Mapping[str, str] | None = None) -> Worker:
        """One worker more, with these variables added to its environment; returns when its process runs.

        Its replacements have the same environment.  Where workers are not respawned, it takes the place of one that
        has gone, if there is one.  During a reload it waits until that is decided.  The idea is Node's
        ``cluster.fork``.  Raises OSError if its process cannot be started.
        """
        supervisor = self._supervisor
        async with self.events() as events:
            slot = min((slot for slot in supervisor.vacated if slot < supervisor.renewal.wanted), default=None)
            if slot is None:
                slot = supervisor.renewal.wanted
                self._inner.slot_environ[slot] = dict(env or {})
                self._inner.scale(slot + 1)
            else:
                self._inner.slot_environ[slot] = dict(env or {})
                supervisor.vacated.discard(slot)
                supervisor.changed()
            async for event in events:
                match event:
                    case WorkerOnline(id=id_, slot=found) if found == slot and id_ in supervisor.wards:
                        return Worker(supervisor.wards[id_], supervisor)
                    case WorkerExited(slot=found, code=None, signal=None, reason=reason) if found == slot:
                        raise OSError(reason)
        raise RuntimeError("the master has ended")

    async def scale(self, size: int) -> None:
        """Have so many workers, at least one; returns when so many serve and no other is left.

        Returns early if another size is asked for meanwhile.  During a reload it waits until that is decided.
        Cancelled, it goes on.
        """
        supervisor = self._supervisor
        supervisor.vacated.clear()
        self._inner.scale(size)
        supervisor.changed()
        wanted = supervisor.renewal.wanted

        def so() -> bool:
            serving = [ward for ward in supervisor.wards.values() if ward.state is State.SERVING and not ward.leaving]
            return supervisor.renewal.wanted != wanted or len(serving) == len(supervisor.wards) == wanted

        await self._until(so)

    async def reload(self) -> ReloadResult:
        """Replace all workers by new ones, if those are good: the code is loaded anew, and proves itself first.

        Raises ReloadRefused, with the reason.  Cancelled, the reload goes on.
        """
        return await self._outcome(self._inner.begin_reload)

    async def rollback(self) -> ReloadResult:
        """Replace all workers by such of the previous code, which templates keep in memory for the rollback window.

        Raises ReloadRefused, with the reason; status 1 if there is nothing to go back to.  Cancelled, it goes on.
        """
        return await self._outcome(self._inner.begin_rollback)

    async def _outcome(self, begin: Callable[[], Rollout]) -> ReloadResult:
        try:
            rollout = begin()
        except Busy as busy:
            raise ReloadRefused(str(busy), BUSY) from None
        except LookupError as unknown:
            raise ReloadRefused(str(unknown), 1) from None
        await self._until(lambda: rollout.over)
        status = rollout.status
        if status:
            raise ReloadRefused(rollout.reason, status)
        return ReloadResult(rollout.generation, tuple(rollout.lines))

    async def broadcast(self, value: Any) -> int:
        """Send a message to every worker that has not gone; returns how many it reached.

        Waits for the slowest.  Raises NoteRefused, and then nobody got it.  Cancelled, some have it and some do not.
        """
        reached = 0

        async def one(worker: Worker) -> None:
            nonlocal reached
            try:
                await worker.send(value)
                reached += 1
            except WorkerGone:
                pass  # it has died since we counted, which is no fault of the message

        wire.encode_note(value)
        async with trio.open_nursery() as nursery:
            for worker in self.workers.values():
                nursery.start_soon(one, worker)
        return reached

    async def disconnect(self) -> None:
        """Have all workers leave, and return when the last one has.  The addresses stay open: clients wait.

        `fork` and `scale` start workers again.  Cancelled, they leave all the same.  The idea is Node's
        ``cluster.disconnect``, which calls back at the first.
        """
        supervisor = self._supervisor
        supervisor.vacated.update(range(supervisor.goal.size))
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
    """A fleet for the time of the block.  Leaving it, by whatever way, drains and stops it.

    The addresses are bound when the block begins, and the workers are being started.  With ``respawn=False`` who has
    gone is not replaced, and the fleet may become empty; `fork`, `scale` and a reload start workers again.
    `worker_command` (a program and its arguments) is started as a worker instead of Python: any program that speaks as
    docs/protocol.md says.  It is started in the working directory, and the application is to it a name in its
    environment.

    Raises BindError before anything runs, Hopeless if no worker becomes ready; what the block raises rises as it is, or
    in an ExceptionGroup where both happens.
    """
    listeners = listen(settings, explicit=True)
    try:
        fleet = inner.Master(settings, inner.fleet_size(settings), listeners, command=tuple(worker_command))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    fleet.supervisor.respawn = respawn
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run_shielded, fleet, nursery.cancel_scope)
            try:
                yield Master(fleet)
            finally:
                with trio.CancelScope(shield=True):
                    await fleet.stop()
    except BaseExceptionGroup as group:
        raise inner.unwrapped(group) from None
    finally:
        fleet.close()


async def _run_shielded(fleet: inner.Master, caller: trio.CancelScope) -> None:
    """Run, and when the caller is cancelled, stop in peace."""
    with trio.CancelScope(shield=True):
        try:
            await fleet.run()
        finally:
            # Without workers there is nothing left to wait for.
            caller.cancel()


async def serve(
    application: Any, *, task_status: trio.TaskStatus[Master] = trio.TASK_STATUS_IGNORED, **options: Any
) -> None:
    """Serve inside a trio program, until cancelled, then drain; no signal is handled.

    `application` is `Settings`, or ``module:attribute``, or the handler itself; `options` are those of `Settings`.
    ``await nursery.start(rrmaster.serve, ...)`` returns the `Master` once its addresses are bound.

    Raises SettingsError, BindError, Hopeless, as `open_master` does.
    """
    settings = application if isinstance(application, Settings) else Settings(application, **options)
    async with open_master(settings) as master:
        task_status.started(master)
        await trio.sleep_forever()
