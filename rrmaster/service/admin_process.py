"""How does the master keep its admin server: a process of its own, started again when it ends?

The master binds the addresses and hands over nothing but them: the server reads the control socket as any client does,
so whatever happens to it costs no request.  It ends with the master, because it holds the other end of a socket pair.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from logging import INFO, WARNING
from pathlib import Path

import trio
from attrs import define, field

from ..config.addresses import Unix, parse_bind
from ..config.settings import Settings
from ..config.sources import TOKEN_VARIABLE
from ..dispatch.listeners import Listener, open_listeners
from ..logs.capture import LineSplitter, capture_output, open_pipe
from ..logs.log import tell
from ..processes.process import Child, package_root, start
from ..processes.worker_environment import NOT_FOR_WORKERS
from ..rules.backoff import Exit
from .cannot_start import CannotStart

PACKAGES = ("uvicorn", "starlette", "prometheus_client", "jinja2")
"""What the server needs; the extra `admin`."""

BACKLOG = 128
"""Connections that wait while the server is started again."""

UNIX_MODE = 0o600
"""The file mode of a unix socket: the page shows what the control socket tells, and that is the owner's too."""

PAUSE_S, MOST_S = 0.5, 30.0
"""Seconds until a server that has ended is started again: the first time, and at most after it has doubled."""

STABLE_S = 10.0
"""Seconds of life after which the next pause is the first one again."""

END_S = 2.0
"""Seconds that it has after the master's end; then it is killed."""


def check_packages(settings: Settings | None = None) -> None:
    """Raises CannotStart if the server cannot be imported: found out at the start, not in a loop of failures.

    With settings that want no server nothing is missing.
    """
    if settings is not None and settings.admin is None:
        return
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CannotStart(f"--admin needs {', '.join(missing)}, which is missing: pip install 'rrmaster[admin]'")


@contextlib.contextmanager
def admin_listeners(settings: Settings) -> Iterator[list[Listener]]:
    """The sockets of the admin server, for the time of the block; none without --admin.

    Raises BindError, and CannotStart if a package is missing.
    """
    listeners: list[Listener] = []
    if settings.admin is not None:
        check_packages()
        listeners = open_listeners(parse_bind(settings.admin), BACKLOG, UNIX_MODE, f"--admin {settings.admin}")
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.close()


@define(eq=False)
class AdminProcess:
    """Keeps one admin server running beside a master."""

    settings: Settings
    listeners: list[Listener]
    """The caller's, which closes them after the end of `run`."""
    control: Path
    token: str = field(default="", repr=False)
    """With which it may act; empty: it may not."""
    _pid: int | None = None
    """The process that lives."""
    _starting: bool = False
    """Whether a process is being started whose number is not known yet."""

    async def run(self) -> None:
        """Start the server, and start it again when it ends, until cancelled; without --admin return at once."""
        if not self.listeners:
            return
        names = ", ".join(shown(listener.name) for listener in self.listeners)
        tell("admin.started", f"metrics, health and a page on {names}", level=INFO, addresses=names)
        pause = PAUSE_S
        while True:
            began = trio.current_time()
            how = await self._live_once()
            pause = PAUSE_S if trio.current_time() - began >= STABLE_S else pause
            text = f"the admin server {how}; it is started again in {pause:g} s"
            tell("admin.ended", text, level=WARNING, why=str(how))
            await trio.sleep(pause)
            pause = min(pause * 2, MOST_S)

    async def _live_once(self) -> Exit | str:
        with contextlib.ExitStack() as ours:
            try:
                leash, its_end = socket.socketpair()
                ours.callback(leash.close)
                ours.callback(its_end.close)
                output, its_output = open_pipe()
                ours.callback(os.close, its_output)
                child = await self._start(its_end.fileno(), its_output, output)
            except OSError as error:
                return f"cannot be started ({error.strerror})"
            finally:
                self._starting = False
            its_end.close()
            try:
                return await self._outlive(child, leash, output)
            finally:
                self._pid = None

    async def _start(self, leash: int, its_output: int, output: int) -> Child:
        inherited = [leash, *(listener.socket.fileno() for listener in self.listeners)]
        environ = {name: value for name, value in os.environ.items() if name not in NOT_FOR_WORKERS}
        if self.token:
            environ[TOKEN_VARIABLE] = self.token
        self._starting = True
        try:
            child = await start(self._command(leash), environ, inherited, its_output, its_output, package_root())
        except BaseException:
            os.close(output)  # else it is `capture_output` that closes it
            raise
        self._pid = child.pid
        return child

    async def _outlive(self, child: Child, leash: socket.socket, output: int) -> Exit:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(capture_output, output, LineSplitter(partial(_log, child.pid)))
            try:
                how = await child.wait()
            except trio.Cancelled:
                leash.close()
                await _end(child)
                raise
            nursery.cancel_scope.cancel()
        return how

    def children(self) -> set[int] | None:
        """The process ids of what a task waits for here; None while one is being started."""
        if self._starting:
            return None
        return {self._pid} if self._pid is not None else set()

    def _command(self, leash: int) -> list[str]:
        fds = [word for listener in self.listeners for word in ("--fd", str(listener.socket.fileno()))]
        chosen = ["--address", str(self.settings.admin), "--ready-when", self.settings.ready_when]
        if self.settings.env_file is not None:
            chosen += ["--env-file", os.path.abspath(self.settings.env_file)]
        return [
            sys.executable, "-m", "rrmaster.admin", "--control", os.path.abspath(self.control), *chosen, *fds,
            "--leash", str(leash),
        ]  # fmt: skip


async def _end(child: Child) -> None:
    """Wait until it has ended, now that its leash is cut; kill it if that takes long."""
    with trio.CancelScope(shield=True):
        with trio.move_on_after(END_S) as late:
            await child.wait()
        if late.cancelled_caught:
            child.signal(signal.SIGKILL, group=True)
            await child.wait()


def shown(name: str) -> str:
    """The address of a listener as a terminal can open it."""
    return name if isinstance(parse_bind(name), Unix) else f"http://{name}/"


def _log(pid: int, line: str) -> None:
    tell("admin.output", f"admin server: {line}", level=WARNING, pid=pid)
