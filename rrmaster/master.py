"""Wires the rooms together; signals; order of birth and death.

Birth: addresses are bound, privileges dropped, then workers start; the master accepts when the first is ready, and
until then clients wait in the backlog.  Death: what the backlog holds is accepted and handed over, the listeners are
closed, the workers are told that there will be no more, and have the graceful timeout to finish.
"""

from __future__ import annotations

import contextlib
import grp
import importlib
import json
import math
import os
import pwd
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from . import __version__, probe
from .autoscale import Autoscaler, Scaling
from .balance import POLICIES, Policy, UserPolicy, policy_named
from .change import Change, environment_of, open_all, prepare
from .control import Control
from .dispatcher import Dispatcher
from .fleet import Goal
from .lifecycle import Patience
from .listeners import BindError, Listener, activated, adopt
from .log import logger, open_pipe
from .places import DEFAULT_NAME, CannotClaim, Place, Taken, claim_by_name
from .probe import Question
from .process import package_root, start, usable_cpus, worker_command
from .recycling import Limits
from .rollout import Rollout, Trial
from .settings import Between, Inherited, Settings, SettingsError
from .status import Snapshot
from .supervisor import Hopeless, Probing, Supervisor
from .survey import survey
from .ward import Birth, Born

LAST_CALL = 0.5
"""The part of the graceful timeout that the backlog may take at a stop, if clients keep coming."""

NOT_FOR_WORKERS = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID")
"""systemd's messages to the master, which a worker must not take for its own."""


class CannotStart(Exception):
    """The machine or its configuration does not allow what was asked; the message says what to do."""


@define(eq=False)
class Master:
    """A running master: listeners, dispatcher and workers.  Made by `open_master`."""

    settings: Settings
    size: int
    listeners: list[Listener]
    name: str = DEFAULT_NAME
    """Among several masters; the verbs know it by it."""
    dispatcher: Dispatcher = field(init=False)
    supervisor: Supervisor = field(init=False)
    reread: Callable[[], Settings] | None = None
    """Reads the configuration again, for a reload; raises SettingsError."""
    _change: Change | None = None
    """What the reload under way will change."""
    _environ: dict[str, str] = field(factory=dict)
    _stopped: bool = False
    _last_call: trio.CancelScope = field(factory=trio.CancelScope)
    _cwd: str = field(factory=os.getcwd)
    _began: float = field(factory=trio.current_time)

    def __attrs_post_init__(self) -> None:
        chosen = self.settings
        self.dispatcher = Dispatcher(
            _policy(chosen), lambda id_, what: self.supervisor.breached(id_, what), chosen.recall_after
        )
        for listener in self.listeners:
            self.dispatcher.open(listener)
        self._environ = environment_of(chosen)
        self.supervisor = Supervisor(
            self.dispatcher,
            self._spawn,
            Goal(self.size, surge=surge_of(chosen, self.size), at_once=usable_cpus()),
        )
        self.supervisor.renewal.prepare = self._prepare
        self.supervisor.renewal.decided = self._decided
        self._apply(chosen)

    def _apply(self, chosen: Settings) -> None:
        """Behave as these settings say, as far as it is not the workers who do."""
        supervisor, renewal = self.supervisor, self.supervisor.renewal
        supervisor.patience = Patience(chosen.ready_timeout, chosen.graceful_timeout, chosen.hang_timeout)
        supervisor.window, supervisor.limit = chosen.window, chosen.worker_connections
        supervisor.limits = Limits(chosen.max_requests, chosen.max_age, chosen.max_memory)
        supervisor.question = _question(chosen)
        supervisor.probing = Probing(chosen.probe_interval, chosen.probe_timeout, chosen.probe_failures)
        self.dispatcher.recall.lateness.after = chosen.recall_after
        renewal.surge = partial(surge_of, chosen)
        renewal.trial = Trial(chosen.probation, chosen.soak, chosen.reload_timeout)
        renewal.heartbeat = chosen.heartbeat
        renewal.autoscaler = _autoscaler(chosen)

    def _prepare(self) -> str:
        """Before a reload: read the configuration again.  Why it must not be, or nothing."""
        try:
            new = self.reread() if self.reread is not None else self.settings
            self._change = prepare(self.settings, new)
            _policy(new), _question(new)  # they name what must be there
        except (SettingsError, BindError) as error:
            if self._change is not None:
                self._change.undo()
            self._change = None
            return str(error)
        return ""

    def _decided(self, rollout: Rollout) -> None:
        """A reload is over: what it would have changed is so, or is not."""
        change, self._change = self._change, None
        if change is None:
            return
        if rollout.status != 0:
            change.undo()
            return
        old, self.settings, self._environ = self.settings, change.settings, change.environment
        for listener in change.opened:
            self.dispatcher.open(listener)
        for door in [
            door for door in self.dispatcher.doors if door.listener.bind in set(old.bind) - set(self.settings.bind)
        ]:
            self.dispatcher.shut(door)
        if old.policy != self.settings.policy:
            self.dispatcher.adopt(_policy(self.settings))
        self._apply(self.settings)
        if old.workers != self.settings.workers:
            self.scale(fleet_size(self.settings))

    @property
    def addresses(self) -> tuple[str, ...]:
        """The bound addresses as a person writes them, port 0 resolved."""
        return tuple(door.listener.name for door in self.dispatcher.doors)

    def status(self) -> Snapshot:
        """How everything is now."""
        return survey(self.name, self.settings, self.supervisor, self.dispatcher, self._began)

    def reload(self) -> None:
        """Replace all workers by new ones, once those are all ready; the old serve until then."""
        self.supervisor.reload()

    def begin_reload(self, supersede: bool = False) -> Rollout:
        """The same, to be watched.  Raises Busy when one runs, unless that is to be given up for it."""
        return self.supervisor.begin_reload(supersede)

    def scale(self, size: int) -> None:
        """Have so many workers from now on; at least one."""
        self.supervisor.scale(size)

    def automatic_size(self) -> int:
        """How many workers `auto` is: one for each processor this process may use."""
        return usable_cpus()

    def restart(self, slot: int) -> None:
        """Replace the worker in this slot: the new one serves before the old one drains.  Raises LookupError."""
        self.supervisor.restart(slot)

    def retire(self, slot: int) -> None:
        """Have the worker in this slot drained and replaced, as if it had asked for it.  Raises LookupError."""
        self.supervisor.retire(slot)

    def stacks(self, slot: int) -> None:
        """Have the worker in this slot write its stacks into the log.  Raises LookupError."""
        self.supervisor.stacks(slot)

    async def run(self) -> None:
        """Serve until `stop` has done its work.  Raises Hopeless if no worker ever becomes ready."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.dispatcher.run)
            await self.supervisor.run()
            nursery.cancel_scope.cancel()

    async def stop(self) -> None:
        """Accept what the backlog holds, close the listeners, and let the workers finish; `run` returns then."""
        if self._stopped:
            return
        self._stopped = True
        with self._last_call:
            await self.dispatcher.last_call(self.settings.graceful_timeout * LAST_CALL)
        self.dispatcher.close_doors()
        self.supervisor.stop()

    def hurry(self, graceful: float = 0.0, term: float = 5.0) -> None:
        """Have no more patience than this with workers that are to go, in seconds before TERM and before KILL."""
        self._last_call.cancel()
        self.supervisor.hurry(graceful, term)

    def close(self) -> None:
        """Close what is still open."""
        self.dispatcher.close()

    def _for(self, birth: Birth) -> tuple[Settings, dict[str, str]]:
        """The settings and the additional environment of its generation."""
        rollout = self.supervisor.rollout
        if self._change is not None and rollout is not None and birth.generation == rollout.generation:
            return self._change.settings, self._change.environment
        return self.settings, self._environ

    async def _spawn(self, birth: Birth) -> Born:
        """Start a worker's process.  Raises OSError."""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            outputs: list[tuple[int, int]] = []
            for _ in range(2):
                mine, its = open_pipe()
                ours.callback(os.close, mine)
                theirs.callback(os.close, its)
                outputs.append((mine, its))
            settings, environ = self._for(birth)
            title = ["--slot", str(birth.slot), settings.application]
            process = await start(
                worker_command(title),
                worker_environment(settings, self._cwd, birth, self.supervisor.goal.size, environ),
                birth.line,
                outputs[0][1],
                outputs[1][1],
                package_root(),
            )
            ours.pop_all()
        return Born(process, tuple(mine for mine, _ in outputs))


def worker_environment(
    settings: Settings, cwd: str, birth: Birth, size: int, more: Mapping[str, str]
) -> dict[str, str]:
    """What a worker's process is started with, in the directory `cwd`, as one of `size`."""
    environ = {name: value for name, value in os.environ.items() if name not in NOT_FOR_WORKERS} | dict(more)
    launch = {
        "application": settings.application,
        "app_dir": os.path.normpath(os.path.join(cwd, settings.app_dir or ".")),
        "chdir": cwd,
        "heartbeat": settings.heartbeat,
        "graceful": settings.graceful_timeout,
    }
    return environ | {
        "PYTHONUNBUFFERED": "1",
        "RRMASTER_LINE": str(birth.line),
        "RRMASTER_LAUNCH": json.dumps(launch),
        "RRMASTER_WORKER_ID": str(birth.id),
        "RRMASTER_WORKER_SLOT": str(birth.slot),
        "RRMASTER_WORKER_COUNT": str(size),
        "RRMASTER_GENERATION": str(birth.generation),
    }


def fleet_size(settings: Settings) -> int:
    """How many workers to begin with."""
    if isinstance(settings.workers, Between):
        return settings.workers.least
    return settings.workers or usable_cpus()


def _autoscaler(settings: Settings) -> Autoscaler | None:
    if not isinstance(settings.workers, Between):
        return None
    bounds, windows = settings.workers, (settings.scale_up_window, settings.scale_down_window)
    return Autoscaler(Scaling(bounds.least, bounds.most, settings.target_busy, *windows))


def surge_of(settings: Settings, size: int) -> int:
    """How many more workers than `size` may live in a reload; a share is rounded up, and at least one."""
    surge = settings.surge
    return max(math.ceil(size * surge) if isinstance(surge, float) else min(surge, size), 1)


def _policy(settings: Settings) -> Policy:
    if settings.policy in POLICIES:
        return policy_named(settings.policy, random.Random())
    return UserPolicy(rule=_load(settings, "policy", settings.policy), complain=_once_a_second(logger.error))


def _question(settings: Settings) -> Question | None:
    if settings.probe is None:
        return None
    if settings.probe == "tcp":
        return probe.tcp
    if settings.probe.startswith("http:"):
        return probe.http(settings.probe.removeprefix("http:"))
    question: Question = _load(settings, "probe", settings.probe)
    return question


def _load(settings: Settings, what: str, name: str) -> Any:
    """A callable of the operator's own.  It runs in the master, unlike the application: it should be small."""
    module, _, attribute = name.partition(":")
    directory = os.path.abspath(settings.app_dir or "")
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise SettingsError(f"--{what} {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise SettingsError(f"--{what} {name!r} is no callable")
    return found


def _once_a_second(say: Callable[[str], None]) -> Callable[[str], None]:
    last = float("-inf")

    def say_sometimes(text: str) -> None:
        nonlocal last
        now = trio.current_time()
        if now - last >= 1.0:
            last = now
            say(text)

    return say_sometimes


def listen(settings: Settings, explicit: bool = True) -> list[Listener]:
    """Open all addresses.  Sockets passed by systemd come first, and replace a bind that nobody asked for.

    Raises BindError, with nothing left open.
    """
    opened: list[Listener] = []
    passed = activated(os.environ, os.getpid())
    named = [bind.fd for bind in settings.binds if isinstance(bind, Inherited)] if explicit else []
    try:
        for fd in sorted(set(passed) - set(named)):
            opened.append(adopt(fd))  # noqa: PERF401  # one that fails must find the others in the list, to be closed
        if explicit or not passed:
            opened.extend(open_all(settings, settings.bind))
    except BaseException:
        for listener in opened:
            listener.close()
        raise
    return opened


def drop_privileges(user: str | None, group: str | None) -> None:
    """Become another user and group, for good.  Raises CannotStart."""
    if user is None and group is None:
        return
    uid, gid, name = _who(user, group)
    try:
        # In this order: without root neither the groups nor the group can be left any more.
        if name is not None:
            os.initgroups(name, gid)
        else:
            os.setgroups([gid])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except PermissionError:
        raise CannotStart("only root can become another user (--user, --group)") from None
    if uid != 0:
        with contextlib.suppress(PermissionError):  # this refusal is what we want
            os.setuid(0)
            raise CannotStart("root's rights could not be given up")


def _who(user: str | None, group: str | None) -> tuple[int, int, str | None]:
    uid, gid, name = os.getuid(), os.getgid(), None
    try:
        if user is not None:
            entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
            uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
    except KeyError:
        if user is None or not user.isdigit():
            raise SettingsError(f"--user: there is no user {user!r}") from None
        uid = gid = int(user)  # a container knows no name for it
    try:
        if group is not None:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise SettingsError(f"--group: there is no group {group!r}") from None
    return uid, gid, name


@contextlib.contextmanager
def _pid_file(path: str | None) -> Iterator[None]:
    if path is None:
        yield
        return
    try:
        with open(path, "x") as file:
            file.write(f"{os.getpid()}\n")
    except FileExistsError:
        _replace_pid_file(path)
    except OSError as error:
        raise CannotStart(f"cannot write --pid {path}: {error.strerror}") from None
    path = os.path.abspath(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):  # not ours any more, or not ours to remove as another user
            with open(path) as file:
                ours = int(file.read(32)) == os.getpid()
            if ours:
                os.unlink(path)


def _replace_pid_file(path: str) -> None:
    try:
        with open(path) as file:
            old = int(file.read(32))
        if old != os.getpid():
            os.kill(old, 0)
            raise CannotStart(f"--pid {path}: process {old} lives; stop it, or remove the file if it is not a master")
    except (ValueError, ProcessLookupError):
        pass  # a number that means nobody: left behind by a master that was killed
    except PermissionError:
        raise CannotStart(f"--pid {path}: the process named there lives, and is another user's") from None
    try:
        with open(path, "w") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        raise CannotStart(f"cannot write --pid {path}: {error.strerror}") from None


@contextlib.asynccontextmanager
async def open_master(settings: Settings, *, explicit_bind: bool = True) -> AsyncIterator[Master]:
    """A fleet for the time of the block.  Leaving it, by whatever way, drains and stops it.

    Raises BindError before anything runs, Hopeless (in an ExceptionGroup, as trio does) if no worker becomes ready.
    """
    listeners = listen(settings, explicit_bind)
    try:
        master = Master(settings, fleet_size(settings), listeners)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run_shielded, master, nursery.cancel_scope)
            try:
                yield master
            finally:
                with trio.CancelScope(shield=True):
                    await master.stop()
    finally:
        master.close()


async def _run_shielded(master: Master, caller: trio.CancelScope) -> None:
    """Run, and when the caller is cancelled, stop in peace."""
    with trio.CancelScope(shield=True):
        try:
            await master.run()
        finally:
            # Without workers there is nothing left to wait for.
            caller.cancel()


async def serve(
    application: str | Settings, *, task_status: trio.TaskStatus[Master] = trio.TASK_STATUS_IGNORED, **options: Any
) -> None:
    """Serve inside a trio program, until cancelled; no signal is handled.  `options` are those of `Settings`."""
    settings = application if isinstance(application, Settings) else Settings(application, **options)
    async with open_master(settings) as master:
        task_status.started(master)
        await trio.sleep_forever()


def run(application: str | Settings, **options: Any) -> int:
    """Serve until a signal says otherwise, and return the exit status.  `options` are those of `Settings`.

    TERM and INT finish what is in hand and end, a second one ends now, QUIT ends fast; HUP replaces the workers; TTIN
    and TTOU add and remove one.
    """
    settings = application if isinstance(application, Settings) else Settings(application, **options)
    return trio.run(run_with_signals, settings)


async def run_with_signals(
    settings: Settings, explicit_bind: bool = True, reread: Callable[[], Settings] | None = None
) -> int:
    """What `run` does.  0: stopped as asked; 1: something had to be killed.

    Raises BindError, CannotStart, SettingsError, Hopeless.
    """
    listeners = listen(settings, explicit_bind)
    with contextlib.ExitStack() as cleanup:
        for listener in listeners:
            cleanup.callback(listener.close)
        drop_privileges(settings.user, settings.group)
        cleanup.enter_context(_pid_file(settings.pid))
        for name in NOT_FOR_WORKERS:
            os.environ.pop(name, None)
        place = _claim_place(settings)
        if place is not None:
            cleanup.callback(place.close)
        name = settings.name or (place.path.stem if place is not None else DEFAULT_NAME)
        master = Master(settings, fleet_size(settings), listeners, name, reread=reread)
        cleanup.callback(master.close)
        _greet(master)
        try:
            await _run_obeying(master, place)
        except BaseExceptionGroup as group:
            raise _unwrap(group) from None
        logger.info("stopped: %d connections accepted", master.dispatcher.accepted)
        return 1 if master.supervisor.killed_while_stopping else 0


def _claim_place(settings: Settings) -> Place | None:
    """The control socket.  Without one that was asked for there is no start; without the default one there is."""
    try:
        if settings.control is not None:
            return Place.claim(Path(settings.control))
        return claim_by_name(settings.name, os.environ, os.geteuid())
    except CannotClaim as error:
        if settings.control is not None or (settings.name is not None and isinstance(error, Taken)):
            raise CannotStart(f"no control socket: {error}") from None
        logger.warning("no control socket, so no status, reload or other verbs: %s", error)
        return None


async def _run_obeying(master: Master, place: Place | None) -> None:
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            if place is not None:
                nursery.start_soon(Control(master, place.socket).serve)
            nursery.start_soon(_obey, master, signals)
            nursery.start_soon(_say_when_ready, master)
            await master.run()
            nursery.cancel_scope.cancel()


def _unwrap(group: BaseException) -> BaseException:
    """The one error in a group of one; trio wraps what a nursery's body raises."""
    while isinstance(group, BaseExceptionGroup) and len(group.exceptions) == 1:
        group = group.exceptions[0]
    return group


_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU)


def _greet(master: Master) -> None:
    workers = "1 worker" if master.size == 1 else f"{master.size} workers"
    logger.info(
        "rrmaster %s (pid %d) serves %s on %s with %s, %s",
        __version__, os.getpid(), master.settings.application, ", ".join(master.addresses), workers,
        master.settings.policy,
    )  # fmt: skip


async def _say_when_ready(master: Master) -> None:
    await master.supervisor.complete.wait()
    logger.info("ready: %d of %d workers serve", master.supervisor.serving, master.size)


async def _obey(master: Master, signals: AsyncIterator[int]) -> None:
    async with trio.open_nursery() as nursery:
        asked = False
        async for number in signals:
            logger.info("received %s", signal.Signals(number).name)
            match number:
                case signal.SIGHUP:
                    master.reload()
                case signal.SIGTTIN:
                    master.scale(master.supervisor.goal.size + 1)
                case signal.SIGTTOU:
                    master.scale(master.supervisor.goal.size - 1)
                case signal.SIGQUIT:
                    master.hurry(graceful=0.0)
                    nursery.start_soon(master.stop)
                case _ if asked:
                    master.hurry(graceful=0.0, term=0.0)
                case _:
                    nursery.start_soon(master.stop)
            asked = asked or number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


__all__ = [
    "BindError", "CannotStart", "Hopeless", "Master", "drop_privileges", "listen", "open_master", "run",
    "run_with_signals", "serve",
]  # fmt: skip
