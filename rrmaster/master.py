"""The wiring: what is made from the settings, and the order of start and stop.

Start: addresses are bound, privileges dropped, then workers start; the master accepts when the first is ready, and
until then clients wait in the backlog.  Stop: what the backlog holds is accepted and handed over, the listeners are
closed, the workers are told that there will be no more, and they have the graceful timeout to finish.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial

import trio
from attrs import define, evolve, field

from .config.directory import logical_directory
from .config.settings import Settings
from .control.socket_paths import DEFAULT_NAME
from .dispatch.dispatcher import Dispatcher
from .dispatch.listeners import Listener
from .dispatch.listening.dynamic_listeners import DynamicListeners
from .faults import Fault
from .logs.log import tell
from .parking.keeper import IdlePool
from .processes.cgroups import Cgroups
from .processes.orphans import Census, Orphans
from .processes.process import usable_cpus
from .processes.spawner import Spawner
from .processes.two_users.starter import Starter
from .protocol.launch import is_program
from .rules.autoscaler import fleet_size, surge_of
from .rules.plan import Goal
from .status.model import Snapshot
from .status.snapshot import take_snapshot
from .supervision.announcements import Announcements
from .supervision.reconfigure import Reconfigurer, check_certificate, policies_of
from .supervision.reload_progress import Busy, Reload
from .supervision.supervisor import Supervisor
from .supervision.worker_record import WorkerRecord
from .watcher import CodeWatcher, in_words, watcher_for

LAST_CALL = 0.5
"""The part of the graceful timeout that the backlog may take at a stop."""


@define(eq=False)
class RunningMaster:
    """A running master: listeners, dispatcher and workers.  It owns the listeners from its construction on.

    Made by `service.run`, and by `api` inside a program.  All its methods belong to the thread that runs trio.
    """

    _settings: Settings
    listeners: list[Listener]
    name: str = DEFAULT_NAME  # among the masters of one machine, for the verbs
    reread: Callable[[], Settings] | None = None
    """Reads the configuration again, for a reload.  Raises SettingsError."""
    command: tuple[str, ...] = ()
    """Started as a worker instead of this package's own; a program that speaks as docs/protocol.md says."""
    owns_process: bool = False
    """This process is a master and nothing else, so it may adopt all orphans among its descendants."""
    starter: Starter | None = None  # starts the workers as another user
    cgroups: Cgroups | None = None  # one for each worker; this and the starter are the caller's
    respawn: bool = True  # whether a worker that has ended is replaced
    companions: Callable[[], Collection[int] | None] = tuple
    """The process ids of other children that a task waits for; None while one is being started."""
    announce: Callable[[RunningMaster, str], None] = lambda master, what: None
    """Called with "reloading", "reloaded" and "stopping"."""
    size: int = field(init=False)  # the number of workers at the start
    dispatcher: Dispatcher = field(init=False)
    dynamic_listeners: DynamicListeners = field(init=False)
    reconfigurer: Reconfigurer = field(init=False)
    spawner: Spawner = field(init=False)
    pool: IdlePool = field(init=False)
    supervisor: Supervisor = field(init=False)
    _watcher: CodeWatcher | None = field(init=False)
    _stopped: bool = False
    fault: Fault = field(factory=Fault)
    """An error of the master's own, raised when the fleet has gone."""
    _last_call: trio.CancelScope = field(factory=trio.CancelScope)
    _began: float = field(factory=trio.current_time)
    _directory: str = field(factory=logical_directory)

    def __attrs_post_init__(self) -> None:
        settings = self._settings
        self.size = fleet_size(settings, usable_cpus())
        check_certificate(settings)
        self._watcher = watcher_for(settings)
        self.dispatcher = Dispatcher(
            policies_of(settings),
            lambda id_, what: self.supervisor.breached(id_, what),
            settings.recall_after,
            lambda link, request: self.dynamic_listeners.handle(link, request),
            self.fault,
        )
        self.pool = IdlePool.of(self.dispatcher, lambda: self.settings.max_parked or 0)
        may_ask = bool(self.command) or is_program(settings.application)
        self.dynamic_listeners = DynamicListeners(self.dispatcher, settings.backlog, settings.unix_mode, may_ask)
        for listener in self.listeners:
            self.dispatcher.open(listener)
        self.reconfigurer = Reconfigurer(
            settings, self.dispatcher, self.dynamic_listeners, self.reread, partial(self.announce, self)
        )
        orphans = Orphans(self._census, lambda: self.settings.kill_mode == "tree", self.cgroups)
        self.spawner = Spawner(self.reconfigurer, self.command, self.owns_process, orphans, starter=self.starter)
        self.supervisor = Supervisor(
            self.dispatcher,
            self.spawner,
            self.spawner.generations,
            self.reconfigurer,
            Goal(self.size, surge=surge_of(settings, self.size), at_once=usable_cpus()),
            Announcements(self._addresses_of),
            self.respawn,
            self.fault,
        )

    @property
    def settings(self) -> Settings:
        """The settings in force; a reload may bring others."""
        return self.reconfigurer.settings

    @property
    def addresses(self) -> tuple[str, ...]:
        """The bound addresses, port 0 resolved."""
        return tuple(acceptor.listener.name for acceptor in self.dispatcher.acceptors)

    def _addresses_of(self, worker: WorkerRecord) -> tuple[str, ...]:
        return tuple(one.listener.name for one in self.dispatcher.acceptors if worker.link.serves(one.number))

    def status(self) -> Snapshot:
        """All that is known of the fleet."""
        fleet = self.settings, self.supervisor, self.dispatcher, self.spawner.generations
        taken = take_snapshot(self.name, *fleet, self._began, self._directory, self.pool)
        return evolve(taken, stopping=self._stopped)

    def children(self) -> set[int] | None:
        """The process ids of all workers, templates and companions; None while one is being started."""
        return self._census().pids()

    def _census(self) -> Census:
        workers = {worker.id: worker.process for worker in self.supervisor.workers.values()}
        generations = self.spawner.generations
        others = self.pool.beside(self.companions())
        return Census.of(workers, generations.children(), others, starting=generations.starting)

    # --- what an operator asks for

    def reload(self) -> None:
        """Begin a reload, or let one follow the one that runs."""
        self.supervisor.reload.reload()

    def begin_reload(self, supersede: bool = False) -> Reload:
        """Begin a reload, to be watched.  Raises Busy when one runs, unless it must be superseded."""
        return self.supervisor.reload.begin(supersede)

    def begin_rollback(self, supersede: bool = False) -> Reload:
        """Begin a reload to what was before the last one.  Raises Busy, and LookupError if that code is not kept."""
        if not self.spawner.generations.can_go_back:
            raise LookupError(self.spawner.why_no_way_back(self.settings))
        return self.supervisor.reload.begin(supersede, back=True)

    def scale(self, size: int) -> None:
        """Set the fleet's size, at least 1; in a reload, when that is decided."""
        self.supervisor.reload.scale(size)

    def automatic_size(self) -> int:
        """The size that ``auto`` stands for: one worker for each processor that this process may use."""
        return usable_cpus()

    def restart(self, slot: int) -> None:
        """Replace the worker in this slot, its replacement first.  Raises LookupError."""
        self.supervisor.restart(slot)

    retire = restart  # a worker that retires is replaced first, too

    def stacks(self, slot: int) -> None:
        """Let the worker in this slot write its stacks into the log.  Raises LookupError."""
        self.supervisor.stacks(slot)

    # --- start and stop

    async def run(self) -> None:
        """Serve until `stop` has done its work.  Raises NoWorkerReady if no worker ever becomes ready."""
        with self.spawner:
            async with self.spawner.orphans.ended_at_last(), trio.open_nursery() as nursery:
                guard, spawner, news = self.fault.guard, self.spawner, self.supervisor.announcements.news
                nursery.start_soon(self._end_at_a_fault)
                await nursery.start(guard, spawner.generations.run)
                nursery.start_soon(guard, self.pool.run, news.publish)
                for task in (spawner.orphans.run, spawner.memory.run, self.dispatcher.run):
                    nursery.start_soon(guard, task)
                if self._watcher is not None:
                    nursery.start_soon(guard, self._watcher.run, self._code_changed)
                    await self._watcher.begun.wait()  # or a save while the first workers start could be missed
                try:
                    await self.supervisor.run()
                finally:
                    news.close()
                nursery.cancel_scope.cancel()
        if self.fault.first is not None:
            raise self.fault.first

    async def _end_at_a_fault(self) -> None:
        await self.fault.wait()
        self._stopped = True
        self.announce(self, "stopping")
        self._end_fleet()

    def _code_changed(self, files: list[str]) -> None:
        """A file was saved; a reload under way is superseded."""
        tell("code.changed", f"{in_words(files)} changed: reload", files=files)
        with suppress(Busy):  # the master is stopping, and starts no workers
            self.begin_reload(supersede=True)

    async def stop(self, delay: bool = True) -> None:
        """After ``--shutdown-delay`` accept what waits, close the listeners, drain the workers; `run` returns then."""
        if self._stopped:
            return
        self._stopped = True
        self.announce(self, "stopping")
        with self._last_call:
            await self.fault.guard(self._take_what_waits, delay)
        self._end_fleet()

    async def _take_what_waits(self, delay: bool) -> None:
        if delay and (seconds := self.settings.shutdown_delay):
            tell("master.not_ready", f"not ready; serves on for {seconds:g} s (--shutdown-delay)", seconds=seconds)
            await trio.sleep(seconds)
        self.dynamic_listeners.stop()
        await self.pool.end()
        await self.dispatcher.drain_listeners(self.settings.graceful_timeout * LAST_CALL)

    def _end_fleet(self) -> None:
        self.supervisor.stop()  # first: whatever else fails, the workers end
        self.dynamic_listeners.stop()
        self.dispatcher.lanes.hang_up()
        self.dispatcher.close_listeners()
        self.spawner.generations.end()

    def hurry(self, graceful: float = 0.0, term: float = 5.0) -> None:
        """Lower the deadlines of workers that must go, in seconds before SIGTERM and before SIGKILL."""
        self._last_call.cancel()
        self.supervisor.hurry(graceful, term)

    def close(self) -> None:
        """Close what is still open."""
        self.reconfigurer.close()
        self.dispatcher.close()
