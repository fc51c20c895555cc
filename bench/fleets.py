"""Which servers are measured over HTTP: how each is started, reloaded, grown and recycled, and how it is ended.

Each has its usual flags, no access log, and keeps a connection for 75 s (some close after 2 s by default, while others
are still being opened).  What a server cannot do it is not asked: the field is None, and the figure says so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO

from attrs import define, field, frozen

from .census import ask, meet
from .machine import HOME, children
from .servers import Missing
from .several import pause

START = 60.0
"""Seconds that a whole fleet may take until all its workers serve; eight of them start at once, on two cores."""

STOP = 1.0
"""Seconds it may take to end before it is killed: nothing is in progress any more when it is asked."""

KEEP = "75"
"""Seconds an idle connection is kept, nginx's default; longer than any figure needs."""

ASGI = "bench.apps:asgi"
SHOP = "bench.shop:app"


@frozen
class Contender:
    """One that can be started."""

    name: str
    command: Callable[[Wanted], Sequence[str]]
    needs: tuple[str, ...] = ()
    """Modules (Python) or programs (others) without which it is missing."""
    grow: int | None = signal.SIGTTIN
    """The signal for one worker more."""
    recycles: bool = True
    python: bool = True
    asgi: bool = True

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
        """Flags for that, a tenth more or less where a server can (not all at the same moment)."""
        if not self.max_requests:
            return []
        more = [jitter, str(self.max_requests // 10)] if jitter else []
        return [flag, str(self.max_requests), *more]


def _rrmaster(want: Wanted) -> list[str]:
    options = ["-w", str(want.workers), "-b", f"127.0.0.1:{want.port}", "--app-dir", str(HOME.parent)]
    options += ["--keep-alive", f"{KEEP}s", "--log-level", "warning", *want.recycle("--max-requests")]
    options += ["--name", f"bench-{want.port}"]
    return [sys.executable, "-m", "rrmaster", *options, want.app or ASGI]


def _uvicorn(want: Wanted) -> list[str]:
    options = ["--workers", str(want.workers), "--port", str(want.port), "--timeout-keep-alive", KEEP]
    options += want.recycle("--limit-max-requests", "--limit-max-requests-jitter")
    return [sys.executable, "-m", "uvicorn", *options, "--no-access-log", "--log-level", "warning", want.app or ASGI]


def _gunicorn(want: Wanted, *kind: str, app: str) -> list[str]:
    options = ["-w", str(want.workers), "-b", f"127.0.0.1:{want.port}", "--keep-alive", KEEP, *kind]
    options += want.recycle("--max-requests", "--max-requests-jitter")
    return [sys.executable, "-m", "gunicorn", *options, "--log-level", "warning", "--no-control-socket", app]


def _gunicorn_uvicorn(want: Wanted) -> list[str]:
    return _gunicorn(want, "-k", "uvicorn_worker.UvicornWorker", app=want.app or ASGI)


def _gunicorn_gthread(want: Wanted) -> list[str]:
    return _gunicorn(want, "-k", "gthread", "--threads", "4", app="bench.apps:wsgi")


def _hypercorn(want: Wanted) -> list[str]:
    options = ["-w", str(want.workers), "-b", f"127.0.0.1:{want.port}", "-k", "uvloop", "--keep-alive", KEEP]
    options += want.recycle("--max-requests", "--max-requests-jitter")
    return [sys.executable, "-m", "hypercorn", *options, "--log-level", "warning", want.app or ASGI]


def _granian(want: Wanted) -> list[str]:
    options = ["--workers", str(want.workers), "--port", str(want.port), "--interface", "asgi", "--loop", "uvloop"]
    options += ["--respawn-failed-workers", "--no-access-log", "--log-level", "error"]
    return [sys.executable, "-m", "granian", *options, want.app or ASGI]


def _node(policy: str) -> Callable[[Wanted], list[str]]:
    def command(want: Wanted) -> list[str]:
        return ["node", str(HOME / "peer_http.js"), *map(str, (want.port, want.workers, policy, want.max_requests))]

    return command


UVLOOP = ("uvicorn", "uvloop", "httptools")

CONTENDERS = (
    Contender("rrmaster", _rrmaster, UVLOOP),
    Contender("node rr", _node("rr"), ("node",), python=False, asgi=False),
    Contender("node none", _node("none"), ("node",), python=False, asgi=False),
    Contender("uvicorn", _uvicorn, UVLOOP),
    Contender("gunicorn uvicorn", _gunicorn_uvicorn, ("gunicorn", "uvicorn_worker", *UVLOOP)),
    Contender("gunicorn gthread", _gunicorn_gthread, ("gunicorn",), asgi=False),
    Contender("hypercorn", _hypercorn, ("hypercorn", "uvloop"), grow=None),
    Contender("granian", _granian, ("granian", "uvloop"), grow=None, recycles=False),
)
OURS = CONTENDERS[0].name


@define(eq=False)
class Fleet:
    """One that runs."""

    contender: Contender
    want: Wanted
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started: float = field(factory=time.monotonic)

    @property
    def name(self) -> str:
        return self.contender.name

    @property
    def port(self) -> int:
        return self.want.port

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """To the master."""
        self.process.send_signal(number)

    def said(self) -> str:
        """The last of what it has printed."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-2000:]

    def wait_for_answer(self, path: str = "/pid") -> None:
        """Until the first answer.  Raises RuntimeError."""
        deadline = time.monotonic() + START
        while ask(self.port, path) is None:
            if not self.alive:
                raise RuntimeError(f"{self.name} ended with status {self.process.returncode}:\n{self.said()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not answer after {START:g} s:\n{self.said()}")
            time.sleep(0.002)  # the resolution of what is measured here, and no load to speak of

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
            seen |= meet(self.port, 2 * count, count - len(seen), {*without, *seen}) - set(without)
        return seen

    def wait_until_gone(self, workers: Collection[int], patience: float) -> None:
        """Until none of these answers.  Raises TimeoutError, RuntimeError (it has ended)."""
        deadline = time.monotonic() + patience
        while met := meet(self.port, 4 * self.want.workers) & set(workers):
            self._check(deadline, f"{len(met)} old workers answer after {patience:g} s")

    def _check(self, deadline: float, words: str) -> None:
        pause()
        if not self.alive:
            raise RuntimeError(f"{self.name} ended with status {self.process.returncode}:\n{self.said()}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{self.name}: {words}")


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
    path = os.pathsep.join(filter(None, (str(HOME.parent), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            contender.command(want),
            cwd=HOME.parent,
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        fleet = Fleet(contender, want, process, log)
        try:
            yield fleet
        finally:
            _end(fleet)


def _end(fleet: Fleet) -> None:
    """Ask it to go, then see that it and all it has started are gone."""
    family = descendants(fleet.pid) if fleet.alive else []
    if fleet.alive:
        fleet.signal(signal.SIGTERM)
        for pid in family:
            _kill(pid, signal.SIGCONT)  # one that is stopped would be waited for
        try:
            fleet.process.wait(STOP)
        except subprocess.TimeoutExpired:
            family += [pid for pid in descendants(fleet.pid) if pid not in family]
            fleet.process.kill()
            fleet.process.wait()
    for pid in family:
        if _is_ours(pid):
            _kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # none of its group is left, as it should be
        os.killpg(fleet.pid, signal.SIGKILL)


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


def present(notes: list[str], among: Sequence[Contender] = CONTENDERS) -> list[Contender]:
    """Those that are on this machine; of the others a note is made."""
    found = []
    for contender in among:
        try:
            contender.check()
        except Missing as missing:
            notes.append(f"{contender.name} is not measured: {missing}")
        else:
            found.append(contender)
    return found
