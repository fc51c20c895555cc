"""How does a master become a service: addresses, privileges, PID file, control socket, signals, systemd, and its end?

A process that is a master and nothing else is set up here.  A master inside another program (`api`) has none of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial
from logging import INFO
from pathlib import Path
from typing import Any

import trio

from .._version import __version__
from ..config.presentation import CommandLine
from ..config.settings import Settings
from ..control.server import ControlServer
from ..control.socket_paths import DEFAULT_NAME, CannotClaim, ControlSocket, SocketInUse, claim_by_name
from ..dispatch.listeners import BindError
from ..faults import unwrapped
from ..logs import access
from ..logs.log import logger, tell
from ..master import RunningMaster
from ..processes.cgroups import Cgroups
from ..processes.process import reap_strangers
from ..processes.two_users.starter import Starter
from ..processes.worker_environment import NOT_FOR_WORKERS
from ..protocol.family.children import note_handlers, remember_handlers
from ..protocol.starting import check_may_start
from ..status.formatting import count
from ..supervision.crashes import NoWorkerReady
from ..supervision.reconfigure import listen
from .addresses import shown_address
from .admin_process import AdminProcess, admin_listeners
from .admin_token import token_of
from .cannot_start import CannotStart
from .close_guard import guarding
from .pid_file import pid_file
from .privileges import drop_privileges, give_up_root
from .sd_notify import Notifier


def run(application: str | Settings | Callable[..., Any], **options: Any) -> int:
    """Serve an application until a signal ends it.  This is what the command `rrmaster` does.

    `application` is ``module:attribute``, or the handler itself, or a `Settings`; `options` are the fields of
    `Settings`, and ignored if that is given.  The call blocks, and must be made from the main thread, since it handles
    signals and runs its own trio event loop: TERM and INT finish all connections and end, a second one ends at once,
    QUIT cuts connections, HUP replaces the workers (a reload), USR1 opens the log file again, TTIN and TTOU add and
    remove one worker.  When the call returns, all workers have ended and all sockets and files are closed and removed.
    Nothing is logged unless the program has set up logging.

    Returns the exit status: 0 if the master ended as asked, 1 if a process had to be killed.

    Raises SettingsError for settings that are wrong, BindError for an address that cannot be bound, CannotStart if the
    privileges, the PID file or the control socket cannot be had, and NoWorkerReady if no worker ever becomes ready.
    """
    check_may_start()
    settings = application if isinstance(application, Settings) else Settings(application, **options)
    return trio.run(run_with_signals, settings)


async def run_with_signals(
    settings: Settings,
    explicit_bind: bool = True,
    reread: Callable[[], Settings] | None = None,
    command_line: CommandLine | None = None,
) -> int:
    """The same as `run`, in an event loop of trio that is already running in the main thread.

    `explicit_bind` is False if the addresses are the default and not a choice of the user's.  `reread` reads the
    settings again for a reload, `command_line` says from what.
    """
    with contextlib.ExitStack() as cleanup:
        # Signals are handled first and released last: one that ended the process in between would leave files behind.
        signals = _receive_signals(cleanup)
        cleanup.enter_context(guarding())
        notifier = Notifier.from_environment(os.environ, os.getpid())
        cleanup.callback(notifier.close)
        listeners = listen(settings, explicit_bind)
        for listener in listeners:
            cleanup.callback(listener.close)
        # After the addresses, which may need root, and before any file is made, so the files belong to the new user.
        starter, cgroups = _give_up_root(settings, cleanup)
        cleanup.enter_context(pid_file(settings.pid))
        token = token_of(settings, os.environ)
        for name in NOT_FOR_WORKERS:
            os.environ.pop(name, None)
        control = _control_socket(settings, cleanup)
        admin = _admin_process(settings, control, token, cleanup)
        name = settings.name or (control.path.stem if control is not None else DEFAULT_NAME)
        announce = partial(_notify, notifier)
        others = partial(_companions, admin, starter)
        make = partial(RunningMaster, owns_process=True, starter=starter, cgroups=cgroups)
        master = make(settings, listeners, name, reread, announce=announce, companions=others)
        cleanup.callback(master.close)
        _log_start(master)
        try:
            server = _control_server(master, control, command_line)
            await _run_obeying(master, server, admin, notifier, signals)
        except BaseExceptionGroup as group:
            raise unwrapped(group) from None
        accepted = master.dispatcher.accepted
        tell("master.stopped", "stopped: " + count(accepted, "connection") + " accepted", accepted=accepted)
        return 1 if master.supervisor.killed_while_stopping else 0


def _receive_signals(cleanup: contextlib.ExitStack) -> AsyncIterator[int]:
    remember_handlers(_SIGNALS)
    signals = cleanup.enter_context(trio.open_signal_receiver(*_SIGNALS))
    note_handlers(_SIGNALS)
    # A mask is inherited: a master that a thread of a supervisor started with TERM blocked could not be stopped.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return signals


def _give_up_root(settings: Settings, cleanup: contextlib.ExitStack) -> tuple[Starter | None, Cgroups | None]:
    """Become the wished user; returns what starts the workers if they have another one, and their control groups."""
    cgroups = Cgroups.make() if settings.kill_mode == "tree" else None
    if cgroups is not None:
        cleanup.callback(cgroups.close)
    starter = give_up_root(settings, [cgroups.give_ownership] if cgroups is not None else [])
    if starter is not None:
        cleanup.callback(starter.close)
    return starter, cgroups


def _companions(admin: AdminProcess, starter: Starter | None) -> set[int] | None:
    """The process ids of what is beside the workers; None while one is being started."""
    found = admin.children()
    return found if found is None or starter is None else found | starter.children()


def _control_socket(settings: Settings, cleanup: contextlib.ExitStack) -> ControlSocket | None:
    """The control socket; None if none can be had.  Raises CannotStart if one was asked for by its path or name."""
    try:
        if settings.control is not None:
            control = ControlSocket.claim(Path(settings.control))
        else:
            control = claim_by_name(settings.name, os.environ, os.geteuid())
        cleanup.callback(control.close)
        return control
    except CannotClaim as error:
        if settings.control is not None or (settings.name is not None and isinstance(error, SocketInUse)):
            raise CannotStart(f"no control socket: {error}") from None
        logger.warning("no control socket, so no status, reload or other verbs: %s", error)
        return None


def _control_server(
    master: RunningMaster, control: ControlSocket | None, command_line: CommandLine | None
) -> ControlServer | None:
    return None if control is None else ControlServer(master, control.socket, command_line=command_line)


def _admin_process(
    settings: Settings, control: ControlSocket | None, token: str, cleanup: contextlib.ExitStack
) -> AdminProcess:
    """The admin server, not started yet.  Raises BindError, CannotStart."""
    if settings.admin is not None and control is None:
        raise CannotStart("--admin needs a control socket, which cannot be had here; see the warning above")
    path = control.path if control is not None else Path()
    return AdminProcess(settings, cleanup.enter_context(admin_listeners(settings)), path, token)


async def _run_obeying(
    master: RunningMaster,
    control: ControlServer | None,
    admin: AdminProcess,
    notifier: Notifier,
    signals: AsyncIterator[int],
) -> None:
    """Run the master together with everything that watches or orders it."""
    async with trio.open_nursery() as nursery:
        beside: Callable[..., None] = partial(nursery.start_soon, master.fault.guard)  # type: ignore[arg-type]
        if control is not None:
            beside(control.serve)
        # Orphans become children of this process if it is process 1, or adopts those of its templates.  Otherwise there
        # are none, and this costs nothing.
        beside(reap_strangers, master.children)
        beside(admin.run)
        if master.starter is not None:
            beside(master.starter.watch)
        beside(_obey, master, signals)
        beside(_log_ready, master, notifier)
        beside(notifier.feed, master.dispatcher.wait_for_turn)
        await master.run()
        if control is not None:
            await control.say_goodbye()
        nursery.cancel_scope.cancel()


_SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU,
)  # fmt: skip


def _log_start(master: RunningMaster) -> None:
    workers = count(master.size, "worker")
    chosen = master.settings
    addresses = ", ".join(shown_address(address, chosen) for address in master.addresses)
    where = f" on {addresses}" if addresses else ""  # a program opens its addresses later, and each is logged then
    text = f"rrmaster {__version__} (pid {os.getpid()}) serves {chosen.application}{where} with {workers}"
    facts = {"application": chosen.application, "addresses": list(master.addresses), "workers": master.size}
    tell("master.started", f"{text}, {chosen.policy_name}", level=INFO, version=__version__, pid=os.getpid(), **facts)


async def _log_ready(master: RunningMaster, notifier: Notifier) -> None:
    await master.supervisor.complete.wait()
    serving = master.supervisor.serving
    tell("master.ready", f"ready: {serving} of {master.size} workers serve", serving=serving)
    notifier.ready(_summary(master))


def _summary(master: RunningMaster) -> str:
    """The line for `systemctl status`."""
    addresses = ", ".join(master.addresses)
    refused = "; code on disk was refused" if master.supervisor.reload.refused else ""
    where = f" on {addresses}" if addresses else ""
    return f"{master.supervisor.serving} of {master.supervisor.reload.goal.size} workers serve{where}{refused}"


def _notify(notifier: Notifier, master: RunningMaster, what: str) -> None:
    """Pass an announcement of the master on to systemd."""
    if what == "reloading":
        notifier.reloading()
    elif what == "stopping":
        notifier.stopping()
    else:
        notifier.ready(_summary(master))


async def _obey(master: RunningMaster, signals: AsyncIterator[int]) -> None:
    """Do what each signal asks for."""
    async with trio.open_nursery() as nursery:
        asked_to_end = False
        async for number in signals:
            tell("master.signal", f"received {signal.Signals(number).name}", signal=signal.Signals(number).name)
            match number:
                case signal.SIGHUP:
                    master.reload()
                case signal.SIGUSR1:
                    access.reopen_all()
                case signal.SIGTTIN:
                    master.scale(master.supervisor.reload.goal.size + 1)
                case signal.SIGTTOU:
                    master.scale(master.supervisor.reload.goal.size - 1)
                case signal.SIGQUIT:
                    master.hurry(graceful=0.0)
                    nursery.start_soon(master.stop, False)
                case _ if asked_to_end:
                    master.hurry(graceful=0.0, term=0.0)
                case _:
                    # Ctrl-C comes from a person, who waits; TERM from an orchestrator, whose load balancers learn late.
                    nursery.start_soon(master.stop, number == signal.SIGTERM)
            if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                asked_to_end = True


__all__ = ["BindError", "CannotStart", "NoWorkerReady", "drop_privileges", "run", "run_with_signals"]
