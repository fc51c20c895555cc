"""How a server is started, asked who serves, and ended with all that it has started.

Each is a process group of its own, listens on a port that it is told, and ends by its number; what it says is kept in a
file without a name.  Which servers there are is in `contenders`.
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
"""Seconds that a whole fleet may take until all its workers serve; eight of them start at once, on two cores."""

REFUSED = 0.02
"""Seconds until whoever refuses is asked again: those who start would have to share their processor with the asking."""

STOP = 1.0
"""Seconds it may take to end before it is killed: nothing is in progress any more when it is asked."""


@frozen
class Contender:
    """One that can be started."""

    name: str
    command: Callable[[Wanted], Sequence[str]]
    """Raises Missing."""
    needs: tuple[str, ...] = ()
    """Modules (Python) or programs (others) without which it is missing."""
    says: str | None = None
    """What it says when all its workers serve; None: they can be asked who they are (`apps`)."""
    grow: int | None = signal.SIGTTIN
    """The signal for one worker more."""
    recycles: bool = True
    python: bool = True
    asgi: bool = True
    tree: Path = HOME.parent
    """The checkout whose rrmaster it is."""

    def check(self) -> None:
        """Raises Missing."""
        for need in self.needs:
            there = importlib.util.find_spec(need) if self.python else shutil.which(need)
            if there is None:
                raise Missing(f"no {need}")


@frozen
class Wanted:
    """What is to be started."""

    port: int
    workers: int
    app: str | None = None
    """Another application than the trivial one."""
    max_requests: int = 0
    """How many requests a worker serves before it is replaced; 0: never."""

    def recycle(self, flag: str, jitter: str | None = None) -> list[str]:
        """Flags for that, up to half as many more where a server can, so that not all go at the same moment.

        A tenth is usual, of thousands, and then lasts longer than a start; of 150 it would be a fifth of a second, and
        a server whose load is even would be there with no worker at all.
        """
        if not self.max_requests:
            return []
        more = [jitter, str(self.max_requests // 2)] if jitter else []
        return [flag, str(self.max_requests), *more]


@define(eq=False)
class Fleet:
    """One that runs."""

    contender: Contender
    want: Wanted
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started: float = field(factory=time.monotonic)
    _family: list[int] = field(factory=list)
    """All that it had started when it was asked to go."""
    _asked: float | None = None
    """When that was."""

    @property
    def name(self) -> str:
        return self.contender.name

    @property
    def port(self) -> int:
        return self.want.port

    @property
    def pid(self) -> int:
        """Of the process that was started: the master, where there is one."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """To the master."""
        self.process.send_signal(number)

    def said(self) -> str:
        """What it has printed."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    # --- until it serves

    def wait_until_it_serves(self) -> None:
        """Until all workers do, by its own word or by theirs.  Raises TimeoutError, RuntimeError (it has ended)."""
        if self.contender.says is None:
            self.wait_for_workers()
            return
        deadline = time.monotonic() + START
        while not re.search(self.contender.says, self.said(), re.MULTILINE):
            self._check(deadline, f"it does not serve after {START:g} s")
            pause(0.01)

    def wait_for_answer(self, path: str = "/pid") -> None:
        """Until the first answer.  Raises TimeoutError, RuntimeError (it has ended)."""
        deadline = time.monotonic() + START
        while ask(self.port, path) is None:
            self._check(deadline, f"it does not answer after {START:g} s")
            pause(0.002)  # the resolution of what is measured here, and no load to speak of

    def wait_for_workers(
        self, count: int | None = None, without: Collection[int] = (), patience: float = START
    ) -> set[int]:
        """Until so many (default: all) workers have answered, besides those `without`; their numbers.

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
        """Until none of these answers.  Raises TimeoutError, RuntimeError (it has ended)."""
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
        """Once.  (Its stdin ends, too: by that programs end whose parent is gone.)"""
        if self._asked is not None:
            return
        self._asked = time.monotonic()
        assert self.process.stdin is not None
        if self.alive:
            self._family = descendants(self.pid)
            self.signal(signal.SIGTERM)
            for pid in self._family:
                _kill(pid, signal.SIGCONT)  # one that is stopped would be waited for
        self.process.stdin.close()

    def end(self) -> None:
        """Ask it to go, then see that it and all it has started are gone."""
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
        with contextlib.suppress(ProcessLookupError):  # none of its group is left, as it should be
            os.killpg(self.pid, signal.SIGKILL)


def free_port() -> int:
    """One that nobody listens on now.  Between 20,000 and 32,000: no client is given a port from there."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue  # somebody else's
        return port


@contextlib.contextmanager
def running(contender: Contender, workers: int, app: str | None = None, max_requests: int = 0) -> Iterator[Fleet]:
    """Run it for the time of the block; it may not serve yet when that begins.  Raises Missing."""
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
    """All of them for the time of the block, serving; they are asked to go together, and not one after the other."""
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
    """Whether the process with this number still is one that was started here, and no other that got its number."""
    try:
        return str(HOME.parent).encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False  # it is gone, or another user's


def descendants(pid: int) -> list[int]:
    """All processes below one, nearest first."""
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
    """Those that are on this machine; of the others a note is made."""
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
