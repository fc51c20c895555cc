"""How a server is started, how its workers are counted, and how it ends with all processes that it has started.

Each server is a process group, listens on a port that it is given, and is ended by its process id; its output is kept
in a file without a name.  `contenders` lists the servers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO

from attrs import define, field, frozen

from .census import ask, meet
from .machine import HOME, children
from .programs import Missing
from .several import pause

START = 60.0
"""Seconds that a whole fleet may take until all its workers serve; eight workers start at once, on two cores."""

REFUSED = 0.02
"""Seconds until a server that refused is asked again: more requests would slow the start of its workers."""

STOP = 1.0
"""Seconds that a server may take to end before it is killed: no request is in progress when it is asked to end."""


@frozen
class Contender:
    """A server that can be started."""

    name: str
    command: Callable[[Wanted], Sequence[str]]
    """The command that starts it.  Raises Missing."""
    needs: tuple[str, ...] = ()
    """Modules (of a server in Python) or programs (of another) that it cannot be started without."""
    says: str | None = None
    """A pattern of its output when all its workers serve; None: its workers answer with their process ids (`apps`)."""
    grow: int | None = signal.SIGTTIN
    """The signal that adds a worker."""
    recycles: bool = True
    python: bool = True
    asgi: bool = True
    tree: Path = HOME.parent
    """The checkout that rrmaster is imported from."""

    def check(self) -> None:
        """See whether it can be started here.  Raises Missing."""
        for need in self.needs:
            there = importlib.util.find_spec(need) if self.python else shutil.which(need)
            if there is None:
                raise Missing(f"no {need}")


@frozen
class Wanted:
    """What a server is started with."""

    port: int
    workers: int
    app: str | None = None
    """The application; None: the trivial one."""
    max_requests: int = 0
    """Requests that a worker serves before it is replaced; 0: any number."""

    def recycle(self, flag: str, jitter: str | None = None) -> list[str]:
        """Flags for `max_requests`, with a jitter of up to half as many more where a server has one.

        A tenth is usual.  Of thousands of requests that lasts longer than the start of a worker; of 150 it would be a
        fifth of a second, and a server with even load would be left without any worker.
        """
        if not self.max_requests:
            return []
        more = [jitter, str(self.max_requests // 2)] if jitter else []
        return [flag, str(self.max_requests), *more]


@define(eq=False)
class Fleet:
    """A server that runs, with its workers."""

    contender: Contender
    want: Wanted
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started: float = field(factory=time.monotonic)
    _family: list[int] = field(factory=list)
    """All processes below it when it was asked to end."""
    _asked: float | None = None
    """The time at which it was asked to end."""

    @property
    def name(self) -> str:
        return self.contender.name

    @property
    def port(self) -> int:
        return self.want.port

    @property
    def pid(self) -> int:
        """The process that was started: the master, where there is one."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """Signal the master."""
        self.process.send_signal(number)

    def said(self) -> str:
        """All that it has printed."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    # --- until it serves

    def wait_until_it_serves(self) -> None:
        """Wait until all workers serve, by its output or by their answers.

        Raises TimeoutError, RuntimeError (it has ended).
        """
        if self.contender.says is None:
            self.wait_for_workers()
            return
        deadline = time.monotonic() + START
        while not re.search(self.contender.says, self.said(), re.MULTILINE):
            self._check(deadline, f"it does not serve after {START:g} s")
            pause(0.01)

    def wait_for_answer(self, path: str = "/pid") -> None:
        """Wait for the first answer.  Raises TimeoutError, RuntimeError (it has ended)."""
        deadline = time.monotonic() + START
        while ask(self.port, path) is None:
            self._check(deadline, f"it does not answer after {START:g} s")
            pause(0.002)  # the resolution of this measurement, and a negligible load

    def wait_for_workers(
        self, count: int | None = None, without: Collection[int] = (), patience: float = START
    ) -> set[int]:
        """Wait until `count` (default: all) workers not in `without` have answered; returns their process ids.

        Raises TimeoutError, RuntimeError (it has ended).
        """
        count = self.want.workers if count is None else count
        deadline = time.monotonic() + patience
        seen: set[int] = set()
        while len(seen) < count:
            self._check(deadline, f"{len(seen)} of {count} workers answer after {patience:g} s")
            met = meet(self.port, 2 * count, count - len(seen), {*without, *seen})
            seen |= met - set(without)
            if not met:
                pause(REFUSED)
        return seen

    def wait_until_gone(self, workers: Collection[int], patience: float) -> None:
        """Wait until none of these workers answers.  Raises TimeoutError, RuntimeError (it has ended)."""
        deadline = time.monotonic() + patience
        while met := meet(self.port, 4 * self.want.workers) & set(workers):
            self._check(deadline, f"{len(met)} old workers answer after {patience:g} s")

    def _check(self, deadline: float, words: str) -> None:
        pause()
        if not self.alive:
            last = self.said()[-2000:]
            raise RuntimeError(f"{self.name} ended with status {self.process.returncode}:\n{last}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{self.name}: {words}")

    # --- its end

    def ask_to_go(self) -> None:
        """Ask it to end; only the first call does.  Its stdin is closed too, which tells programs that outlive it."""
        if self._asked is not None:
            return
        self._asked = time.monotonic()
        assert self.process.stdin is not None
        if self.alive:
            self._family = descendants(self.pid)
            self.signal(signal.SIGTERM)
            for pid in self._family:
                _kill(pid, signal.SIGCONT)  # a stopped process would not end
        self.process.stdin.close()

    def end(self) -> None:
        """Ask it to end, then kill whatever is left of it and of the processes that it has started."""
        self.ask_to_go()
        assert self._asked is not None
        try:
            self.process.wait(max(self._asked + STOP - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self._family += [pid for pid in descendants(self.pid) if pid not in self._family]
            self.process.kill()
            self.process.wait()
        for pid in self._family:
            if _is_ours(pid):
                _kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # no process of its group is left, as it should be
            os.killpg(self.pid, signal.SIGKILL)


def free_port() -> int:
    """A port that is not in use.  Between 20,000 and 32,000: the kernel gives clients no port from that range."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue  # in use
        return port


@contextlib.contextmanager
def running(contender: Contender, workers: int, app: str | None = None, max_requests: int = 0) -> Iterator[Fleet]:
    """Run a server during the block; it may not serve yet when the block begins.  Raises Missing."""
    contender.check()
    want = Wanted(free_port(), workers, app, max_requests)
    path = os.pathsep.join(filter(None, (str(contender.tree), str(HOME.parent), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            contender.command(want),
            cwd=contender.tree,
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        fleet = Fleet(contender, want, process, log)
        try:
            yield fleet
        finally:
            fleet.end()


@contextlib.contextmanager
def all_running(contenders: Sequence[Contender], workers: int) -> Iterator[list[Fleet]]:
    """Run several servers during the block, which begins when all serve; they are asked to end at the same time."""
    with contextlib.ExitStack() as stack:
        fleets = [stack.enter_context(running(contender, workers)) for contender in contenders]
        for fleet in fleets:
            fleet.wait_until_it_serves()
        try:
            yield fleets
        finally:
            for fleet in fleets:
                fleet.ask_to_go()


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, number)


def _is_ours(pid: int) -> bool:
    """Whether the process with this id was started here: another process may have been given the id since."""
    try:
        return str(HOME.parent).encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False  # it has ended, or is another user's


def descendants(pid: int) -> list[int]:
    """All processes below this one, nearest first."""
    found: list[int] = []
    level = [pid]
    while level:
        below: list[int] = []
        for parent in level:
            with contextlib.suppress(FileNotFoundError):  # it ended while we looked
                below += children(parent)
        found += below
        level = below
    return found


def present(notes: list[str], among: Sequence[Contender]) -> list[Contender]:
    """The servers that are on this machine; each of the others gets a note."""
    found = []
    for contender in among:
        try:
            contender.check()
        except Missing as missing:
            words = f"{contender.name} is not measured: {missing}"
            if words not in notes:
                notes.append(words)
        else:
            found.append(contender)
    return found
