"""Stand-ins for the world around supervisor and dispatcher: a worker's process, its end of a line, and clients.

Lines, listeners and clients are real; only the processes of workers are simulated.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import Factory, define, evolve, frozen
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.config.addresses import Bind, Tcp
from rrmaster.config.settings import Settings
from rrmaster.dispatch.dispatcher import Dispatcher
from rrmaster.dispatch.link import Link
from rrmaster.dispatch.listeners import Listener, open_listeners
from rrmaster.dispatch.load import Policy, WorkerLoad
from rrmaster.dispatch.policies import LeastLoaded
from rrmaster.faults import Fault
from rrmaster.processes.spawner import StartedWorker
from rrmaster.processes.worker_environment import WorkerSpec
from rrmaster.protocol import wire
from rrmaster.protocol.channel import HungUp, Letterbox
from rrmaster.protocol.line import Line
from rrmaster.rules.backoff import Exit
from rrmaster.rules.lifecycle import State
from rrmaster.rules.plan import Goal
from rrmaster.supervision.crashes import NoWorkerReady
from rrmaster.supervision.supervisor import Supervisor

DEADLINE = 5.0
"""Real seconds until a wait fails; on an idle machine it takes milliseconds."""

HEARTBEAT = 0.5
"""Seconds between two reports of an idle worker: the master's own default."""

NO_PROCESS = 10_000_000
"""Process ids from here on belong to no process: the kernel gives none beyond 4,194,304."""

STEP = 0.125
"""Seconds, a step of `pass_time`; a power of two adds up exactly."""

FAR = 3600.0
"""Seconds that no test reaches: a deadline that never comes."""


async def eventually(condition: Callable[[], bool]) -> None:
    """Run the other tasks until this holds; for events in a thread, in the kernel, or at a real time.

    The deadline is a real one and this task never sleeps, so a mock clock neither stops nor hurries it.
    """
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it did not become so"
        await trio.lowlevel.checkpoint()


async def pass_time(clock: MockClock, seconds: float) -> None:
    """Let time pass in steps in which no task comes late: a larger jump looks like a master that was asleep."""
    for _ in range(round(seconds / STEP)):
        clock.jump(STEP)
        await wait_all_tasks_blocked()


@contextmanager
def a_real_deadline(seconds: float = 2 * DEADLINE) -> Iterator[None]:
    """Fail after `seconds` real seconds: a mock clock never moves while a task spins."""
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        timer = threading.Timer(seconds, token.run_sync_soon, (scope.cancel,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
    assert not scope.cancelled_caught, f"not done after {seconds:g} real seconds: does a task spin?"


def run_alone(program: str) -> None:
    """Run a program that would harm the test's own process; it ends with an assertion."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def fill_the_table() -> Callable[[], None]:
    """Leave this process without a free descriptor; returns a function that undoes it.  For `run_alone`."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)  # all lower numbers are in use, so none is free below this limit
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- one line


@contextmanager
def a_line(window: int = 8) -> Iterator[tuple[Line, Letterbox]]:
    """A line, and the worker's end of it as a worker inherits it."""
    line = Line.open(window)
    letterbox = Letterbox.inherit(os.dup(line.key.fileno()))
    try:
        yield line, letterbox
    finally:
        letterbox.close()
        line.close()


# --- a worker's process


@define(eq=False)
class FakeProcess:
    """A `Process` that remembers its signals and ends when the test says so."""

    pid: int
    deaf: frozenset[int] = frozenset()
    """Signals that it survives.  (A real process survives SIGKILL only while the kernel cannot end it.)"""
    signals: list[int] = Factory(list)
    to_group: list[int] = Factory(list)
    how: Exit | None = None
    ended: trio.Event = Factory(trio.Event)

    async def wait(self) -> Exit:
        await self.ended.wait()
        assert self.how is not None
        return self.how

    def signal(self, number: int, group: bool = False) -> None:
        if self.how is not None:
            return
        (self.to_group if group else self.signals).append(number)
        if number in (signal.SIGTERM, signal.SIGKILL) and number not in self.deaf:
            self.end(Exit(signal=number))

    def end(self, how: Exit) -> None:
        """End in this way, if it has not ended yet."""
        if self.how is None:
            self.how = how
            self.ended.set()


@define(eq=False)
class Actor:
    """A worker that follows a script."""

    spec: WorkerSpec
    letterbox: Letterbox
    process: FakeProcess
    taken: int = 0
    asides: int = 0

    def say(self, message: wire.Up) -> None:
        self.letterbox.send(message)  # without effect if the master has closed the line already

    def ready(self) -> None:
        self.say(wire.Ready(self.process.pid))

    def report(self) -> None:
        self.say(wire.Report(self.taken, asides=self.asides, requests=self.taken))

    async def serve(self) -> None:
        """Take and close connections, and report, until the end of the stream; report when idle, too."""
        while True:
            try:
                found = self.letterbox.take()
            except HungUp:
                return
            if found is None:
                with trio.move_on_after(HEARTBEAT) as rest:
                    await trio.lowlevel.wait_readable(self.letterbox.fileno())
                if rest.cancelled_caught:
                    self.report()
                continue
            self.asides += isinstance(found[0], wire.Nudge)
            if found[1] is not None:
                os.close(found[1])
                self.taken += 1
            self.report()


Script = Callable[[Actor], Awaitable[Exit]]


async def serves(actor: Actor) -> Exit:
    """A script: become ready, serve, and exit with 0."""
    actor.ready()
    await actor.serve()
    return Exit(code=0)


async def boots_for_ever(actor: Actor) -> Exit:
    await trio.sleep_forever()
    raise AssertionError


async def falls_silent(actor: Actor) -> Exit:
    """A script: become ready, and hang."""
    actor.ready()
    return await boots_for_ever(actor)


async def crashes(actor: Actor) -> Exit:
    return Exit(code=1)


def fails(words: str) -> Script:
    """A script: report that the application cannot be loaded."""

    async def script(actor: Actor) -> Exit:
        actor.say(wire.Failed(words))
        return Exit(code=1)

    return script


@define(eq=False)
class Troupe:
    """Starts actors instead of processes."""

    nursery: trio.Nursery
    script: Script = serves
    """The script of workers that have none in `casting`."""
    casting: dict[int, Script] = Factory(dict)
    """Scripts by worker id."""
    deaf: frozenset[int] = frozenset()
    actors: list[Actor] = Factory(list)
    refuse: OSError | None = None
    """The kernel's error instead of a new process."""

    async def spawn(self, spec: WorkerSpec) -> StartedWorker:
        await trio.lowlevel.checkpoint()
        if self.refuse is not None:
            raise self.refuse
        process = FakeProcess(NO_PROCESS + spec.id, self.deaf)
        actor = Actor(spec, Letterbox.inherit(os.dup(spec.line)), process)
        self.actors.append(actor)
        self.nursery.start_soon(self._play, actor)
        return StartedWorker(process)

    async def _play(self, actor: Actor) -> None:
        """Follow the script; process and script end together."""
        script = self.casting.get(actor.spec.id, self.script)

        async def perform() -> None:
            actor.process.end(await script(actor))

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(perform)
                await actor.process.ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            actor.process.end(Exit(signal=signal.SIGKILL))  # the test is over
            actor.letterbox.close()

    def actor(self, id_: int) -> Actor:
        """The actor of the worker with this id.  (`actors` is in the order of starts, which trio leaves to chance.)"""
        return next(actor for actor in self.actors if actor.spec.id == id_)

    @property
    def living(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.process.how is None]


async def everybody_left() -> None:
    """Wait until cancelled tasks have ended."""
    with trio.CancelScope(shield=True):
        await wait_all_tasks_blocked()


# --- a supervised fleet


@define(eq=False)
class FakeSpawner:
    """A `Spawner` that starts workers as the test says."""

    spawn: Callable[[WorkerSpec], Awaitable[StartedWorker]]

    def forget_slots_from(self, size: int) -> None:
        pass  # no slot has an environment of its own here


@define(eq=False)
class FakeCode:
    """A `KeptCode` whose generations and rollback the test decides."""

    restorable: set[int] = Factory(set)
    previous: Settings | None = None
    """The settings of the code before the last reload, if that is kept."""
    committed_generations: list[int] = Factory(list)
    abandoned_generations: list[int] = Factory(list)

    def can_restore(self, generation: int) -> bool:
        return generation in self.restorable

    def go_back(self, generation: int) -> FakeImport | None:
        return None if self.previous is None else FakeImport(self.previous)

    def committed(self, generation: int, window: float) -> None:
        self.committed_generations.append(generation)

    def abandoned(self, generation: int) -> None:
        self.abandoned_generations.append(generation)


@frozen
class FakeImport:
    """An `ImportedCode` with these settings."""

    settings: Settings
    environment: Mapping[str, str] = Factory(dict)
    directory: str = "/srv/shop"


@define(eq=False)
class FakeReconfigurer:
    """A `Reconfigurer` whose next settings, or whose refusal, the test decides."""

    settings: Settings
    coming: Settings | None = None
    refusal: str = ""

    def directory_of(self, generation: int) -> str:
        return "/srv/shop"

    def prepare(self, generation: int, code: object = None) -> str:
        return self.refusal

    def commit(self) -> Settings:
        self.settings, self.coming = self.coming or self.settings, None
        return self.settings

    def abandon(self) -> None:
        self.coming = None


@define(eq=False)
class Fleet:
    """A supervisor with a troupe as its workers, and a real dispatcher between them."""

    supervisor: Supervisor
    troupe: Troupe
    spawner: FakeSpawner
    code: FakeCode
    reconfigurer: FakeReconfigurer
    dispatching: trio.CancelScope = Factory(trio.CancelScope)
    over: trio.Event = Factory(trio.Event)
    """Set when the supervisor's `run` has returned or raised `failure`."""
    failure: NoWorkerReady | None = None

    @property
    def serving(self) -> list[Actor]:
        """The workers that get connections, by slot."""
        found = {worker.id for worker in self.supervisor.workers.values() if worker.state is State.SERVING}
        return sorted((a for a in self.troupe.actors if a.spec.id in found), key=lambda actor: actor.spec.slot)

    @property
    def slots(self) -> list[int]:
        return [actor.spec.slot for actor in self.serving]

    async def until(self, condition: Callable[[], bool], within: float = 100.0) -> float:
        """Wait until this holds, on the (autojumping) clock; returns the seconds of that clock."""
        begun = trio.current_time()
        while not condition():
            assert trio.current_time() - begun < within, "it did not become so"
            await trio.sleep(0.01)
        return trio.current_time() - begun

    def configure(self, **options: Any) -> None:
        """Give the fleet other settings, as a committed reload does."""
        self.reconfigurer.settings = evolve(self.reconfigurer.settings, **options)
        self.supervisor.configure(self.reconfigurer.settings)
        self.supervisor.reload.configure(self.reconfigurer.settings)

    async def _supervise(self) -> None:
        try:
            await self.supervisor.run()
        except* NoWorkerReady as group:
            (self.failure,) = group.exceptions  # type: ignore[assignment]
        finally:
            self.over.set()

    async def _dispatch(self) -> None:
        with self.dispatching:
            await self.supervisor.dispatcher.run()


@asynccontextmanager
async def a_fleet(
    size: int = 2,
    script: Script = serves,
    casting: dict[int, Script] | None = None,
    deaf: frozenset[int] = frozenset(),
    at_once: int = 100,
    complete: bool = True,
    **options: Any,
) -> AsyncIterator[Fleet]:
    """A supervised fleet, complete if it can be.  Unless the options say so, no worker is killed for silence."""
    settings = Settings("shop:app", **{"hang_timeout": 0.0} | options)
    with a_real_deadline():
        async with trio.open_nursery() as nursery:
            troupe = Troupe(nursery, script, casting or {}, deaf)
            fault = Fault()
            dispatcher = Dispatcher(LeastLoaded, lambda id_, what: supervisor.breached(id_, what), FAR, fault=fault)
            spawner, code, reconfigurer = FakeSpawner(troupe.spawn), FakeCode(), FakeReconfigurer(settings)
            goal = Goal(size, surge=size, at_once=at_once)
            supervisor = Supervisor(dispatcher, spawner, code, reconfigurer, goal, fault=fault)
            fleet = Fleet(supervisor, troupe, spawner, code, reconfigurer)
            nursery.start_soon(fleet._dispatch)
            nursery.start_soon(fleet._supervise)
            try:
                if complete:
                    await supervisor.complete.wait()
                yield fleet
            finally:
                nursery.cancel_scope.cancel()
                await everybody_left()
                dispatcher.close()


# --- a dispatcher among clients


def opened(bind: Bind, backlog: int = 2048, unix_mode: int = 0o666) -> list[Listener]:
    """Listeners as the master opens them; the caller closes them, or a dispatcher does."""
    return open_listeners(bind, backlog, unix_mode)


@define(eq=False)
class Player:
    """A worker as the dispatcher sees it: the other end of a line, moved by the test."""

    load: WorkerLoad
    line: Line
    letterbox: Letterbox
    link: Link
    held: list[socket.socket] = Factory(list)
    """Connections that it has taken and not closed."""
    seen: list[wire.Handoff] = Factory(list)
    """All connections that it took, in order."""
    closed: int = 0
    asides: int = 0
    hung_up: bool = False
    """It has read the end of stream."""

    @property
    def waiting(self) -> int:
        """Messages in its letterbox, nudges included."""
        return self.line.unclaimed()

    def take(self, most: int = 1000) -> int:
        """Take connections, and keep them; returns their number."""
        count = 0
        while count < most:
            try:
                found = self.letterbox.take()
            except HungUp:
                self.hung_up = True
                break
            if found is None:
                break
            message, fd = found
            if isinstance(message, wire.Handoff) and fd is not None:
                self.seen.append(message)
                self.held.append(socket.socket(fileno=fd))
                count += 1
            elif isinstance(message, wire.Nudge):
                self.asides += 1
        return count

    def answer(self) -> None:
        """Answer and close all connections that it holds."""
        for sock in self.held:
            with sock:
                sock.send(b"served\n")
            self.closed += 1
        self.held.clear()

    def report(self, taking: bool = True) -> None:
        assert self.letterbox.send(wire.Report(self.closed, len(self.held), taking, asides=self.asides))

    def die(self) -> None:
        """End as by SIGKILL: what it held is closed, and what it had not taken stays in the letterbox."""
        for sock in self.held:
            sock.close()
        self.held.clear()
        self.letterbox.close()


@define(eq=False)
class House:
    """A dispatcher at work, with its workers and a ledger of the clients."""

    dispatcher: Dispatcher
    nursery: trio.Nursery
    players: list[Player] = Factory(list)
    clients: list[socket.socket] = Factory(list)
    breaches: dict[int, str] = Factory(dict)
    window: int = 8

    def add_worker(self, limit: int = 10_000, enlist: bool = True, kind: type[Line] = Line) -> Player:
        """Add a worker."""
        number = len(self.players) + 1
        line = kind.open(self.window)
        letterbox = Letterbox.inherit(os.dup(line.key.fileno()))
        load = WorkerLoad(number, number - 1, line.unclaimed, self.window, limit)
        player = Player(load, line, letterbox, self.dispatcher.connect(load, line, lambda message: None))
        self.players.append(player)
        if enlist:
            self.dispatcher.enlist(player.link)
        return player

    def call(self, count: int = 1, listener: int = 0) -> None:
        """Connect `count` clients; the kernel takes them into the backlog."""
        for _ in range(count):
            client = socket.create_connection(
                self.dispatcher.acceptors[listener].listener.socket.getsockname()[:2], DEADLINE
            )
            self.clients.append(client)

    async def calls(self, count: int = 1, listener: int = 0) -> None:
        """Connect `count` clients, and let the dispatcher do with them what it can at once."""
        self.call(count, listener)
        await wait_all_tasks_blocked()

    async def calls_one_by_one(self, count: int) -> None:
        """Connect `count` clients, each after the one before has been handed over and taken."""
        for _ in range(count):
            await self.calls()
            for player in self.players:
                player.take()

    async def read_reports(self) -> None:
        """Have the dispatcher read all reports now, and not only once something depends on them."""
        self.dispatcher.wake()
        await wait_all_tasks_blocked()

    @property
    def in_letterboxes(self) -> int:
        return sum(player.waiting for player in self.players if player.line.fileno() >= 0)

    @property
    def recall(self):  # type: ignore[no-untyped-def]
        return self.dispatcher.recall

    def remove(self, player: Player) -> int:
        """The worker's process is found dead.  Returns how many connections were lost with it."""
        player.die()
        return self.dispatcher.remove(player.link)

    async def settle(self, lost: int = 0) -> None:
        """Close the ledger: all living workers serve until each client has its answer, exactly one each."""
        living = [p for p in self.players if p.letterbox.line.fileno() >= 0 and p.load.id in self.dispatcher.links]

        def all_answered() -> bool:
            for player in living:
                if not player.link.breached:
                    moved = player.take()
                    player.answer()
                    if moved or player.load.suspended or player.load.closed != player.closed:
                        player.report()
            self.dispatcher.wake()
            answered = sum(player.closed for player in self.players)
            return answered + lost == len(self.clients)

        await eventually(all_answered)
        answers = [_read_all(client) for client in self.clients]
        assert sorted(answers) == [b""] * lost + [b"served\n"] * (len(self.clients) - lost)
        for player in self.players:
            if player.letterbox.line.fileno() >= 0 and not player.link.breached:
                assert player.take() == 0, "a connection was in two places"

    def close(self) -> None:
        for player in self.players:
            player.die()
        self.dispatcher.close()
        for client in self.clients:
            client.close()


def _read_all(client: socket.socket) -> bytes:
    data = b""
    try:
        while piece := client.recv(100):
            data += piece
    except ConnectionResetError:
        pass  # a connection that ended with its worker may end like this
    return data


@asynccontextmanager
async def a_house(
    workers: int = 2,
    window: int = 8,
    policy: Callable[[], Policy] | None = None,
    recall_after: float = FAR,
    binds: tuple[Bind, ...] = (Tcp("127.0.0.1", 0),),
    limit: int = 10_000,
    on_listener_request: Callable[[Link, wire.Listen | wire.Attend], None] = lambda link, request: None,
) -> AsyncIterator[House]:
    """A dispatcher at work, with `workers` players."""
    breaches: dict[int, str] = {}
    dispatcher = Dispatcher(policy or LeastLoaded, breaches.__setitem__, recall_after, on_listener_request)
    for bind in binds:
        for listener in opened(bind):
            dispatcher.open(listener)
    with a_real_deadline():
        async with trio.open_nursery() as nursery:
            house = House(dispatcher, nursery, breaches=breaches, window=window)
            try:
                for _ in range(workers):
                    house.add_worker(limit)
                nursery.start_soon(dispatcher.run)
                await wait_all_tasks_blocked()
                yield house
            finally:
                # No task may wait for the epoll when it is closed: let `run` end first.
                nursery.cancel_scope.cancel()
                await everybody_left()
                house.close()
