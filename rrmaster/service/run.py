"""How a master becomes a service: addresses, privileges, pid file, control socket, signals, systemd; and its end.

What is specific to a process of its own stands here; a master inside somebody else's program has none of it.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from logging import INFO
from pathlib import Path
from typing import Any

import trio

from .._version import __version__
from ..config.option import SettingsError
from ..config.settings import Settings
from ..control.server import Control
from ..control.socket_paths import DEFAULT_NAME, CannotClaim, Place, Taken, claim_by_name
from ..dispatch.listeners import BindError
from ..logs.log import logger, tell
from ..logs.setup import give_ownership, reopen_files
from ..master import RunningMaster, unwrapped
from ..processes.process import reap_strangers
from ..processes.worker_environment import NOT_FOR_WORKERS
from ..supervision.crashes import NoWorkerReady
from ..supervision.reconfigure import listen
from .systemd import Notifier


class CannotStart(Exception):
    """The machine or its configuration does not allow what was asked; the message says what to do."""


def run(application: str | Settings | Callable[..., Any], **options: Any) -> int:
    """Serve until a signal says otherwise, and return the exit status.

    `application` is `Settings`, or ``module:attribute``, or the handler itself; `options` are those of `Settings`.
    TERM and INT finish what is in hand and end, a second one ends now, QUIT ends fast; HUP replaces the workers; TTIN
    and TTOU add and remove one.  So it needs the main thread.  Nothing is logged unless the program has set up logging.

    Raises SettingsError, BindError, CannotStart (privileges, PID file, control socket), and NoWorkerReady if no worker
    ever becomes ready.
    """
    settings = application if isinstance(application, Settings) else Settings(application, **options)
    return trio.run(run_with_signals, settings)


async def run_with_signals(
    settings: Settings, explicit_bind: bool = True, reread: Callable[[], Settings] | None = None
) -> int:
    """What `run` does.  0: stopped as asked; 1: something had to be killed.

    Raises BindError, CannotStart, SettingsError, NoWorkerReady.
    """
    with contextlib.ExitStack() as cleanup:
        # First of all, and last to go: a signal that ended us in between would leave files behind.
        signals = cleanup.enter_context(trio.open_signal_receiver(*_SIGNALS))
        notifier = Notifier.from_environment(os.environ, os.getpid())
        cleanup.callback(notifier.close)
        listeners = listen(settings, explicit_bind)
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
        announce = partial(_tell_service_manager, notifier)
        master = RunningMaster(settings, listeners, name, reread=reread, owns_process=True, announce=announce)
        cleanup.callback(master.close)
        _greet(master)
        try:
            await _run_obeying(master, place, notifier, signals)
        except BaseExceptionGroup as group:
            raise unwrapped(group) from None
        accepted = master.dispatcher.accepted
        tell("master.stopped", f"stopped: {accepted} connections accepted", accepted=accepted)
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


async def _run_obeying(
    master: RunningMaster, place: Place | None, notifier: Notifier, signals: AsyncIterator[int]
) -> None:
    async with trio.open_nursery() as nursery:
        if place is not None:
            nursery.start_soon(Control(master, place.socket).serve)
        # As process 1, and for its templates, it adopts orphans; else it has none, and this costs nothing.
        nursery.start_soon(reap_strangers, master.children)
        nursery.start_soon(_obey, master, signals)
        nursery.start_soon(_say_when_ready, master, notifier)
        nursery.start_soon(notifier.feed, master.dispatcher.turned)
        await master.run()
        nursery.cancel_scope.cancel()


_SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU,
)  # fmt: skip


def _greet(master: RunningMaster) -> None:
    workers = "1 worker" if master.size == 1 else f"{master.size} workers"
    addresses, chosen = ", ".join(master.addresses), master.settings
    where = f" on {addresses}" if addresses else ""  # a program's are told as they are opened
    text = f"rrmaster {__version__} (pid {os.getpid()}) serves {chosen.application}{where} with {workers}"
    facts = {"application": chosen.application, "addresses": list(master.addresses), "workers": master.size}
    tell("master.started", f"{text}, {chosen.policy_name}", level=INFO, version=__version__, pid=os.getpid(), **facts)


async def _say_when_ready(master: RunningMaster, notifier: Notifier) -> None:
    await master.supervisor.complete.wait()
    serving = master.supervisor.serving
    tell("master.ready", f"ready: {serving} of {master.size} workers serve", serving=serving)
    notifier.ready(_state(master))


def _state(master: RunningMaster) -> str:
    """A line for `systemctl status`."""
    addresses = ", ".join(master.addresses)
    refused = "; code on disk was refused" if master.supervisor.reload.refused else ""
    where = f" on {addresses}" if addresses else ""
    return f"{master.supervisor.serving} of {master.supervisor.reload.goal.size} workers serve{where}{refused}"


def _tell_service_manager(notifier: Notifier, master: RunningMaster, what: str) -> None:
    """Pass a master's news on to systemd."""
    if what == "reloading":
        notifier.reloading()
    elif what == "stopping":
        notifier.stopping()
    else:
        notifier.ready(_state(master))


async def _obey(master: RunningMaster, signals: AsyncIterator[int]) -> None:
    async with trio.open_nursery() as nursery:
        asked = False
        async for number in signals:
            tell("master.signal", f"received {signal.Signals(number).name}", signal=signal.Signals(number).name)
            match number:
                case signal.SIGHUP:
                    master.reload()
                case signal.SIGUSR1:
                    reopen_files()
                case signal.SIGTTIN:
                    master.scale(master.supervisor.reload.goal.size + 1)
                case signal.SIGTTOU:
                    master.scale(master.supervisor.reload.goal.size - 1)
                case signal.SIGQUIT:
                    master.hurry(graceful=0.0)
                    nursery.start_soon(master.stop)
                case _ if asked:
                    master.hurry(graceful=0.0, term=0.0)
                case _:
                    nursery.start_soon(master.stop)
            if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                asked = True


def drop_privileges(user: str | None, group: str | None) -> None:
    """Become another user and group, for good.  Raises CannotStart."""
    if user is None and group is None:
        return
    uid, gid, name = _who(user, group)
    give_ownership(uid, gid)
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


__all__ = ["BindError", "CannotStart", "NoWorkerReady", "drop_privileges", "run", "run_with_signals"]
