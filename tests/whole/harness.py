"""A master for one test, started as a user starts it, and its clients."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio
from attrs import Factory, define

import rrmaster as package
from rrmaster.status.model import Snapshot, from_json

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores SIGINT for background jobs, and the masters would inherit that: Ctrl-C would end none of them.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).resolve().parent / "programs"

#: How a frame of our own code begins in a traceback. A clone is itself named rrmaster, so the bare name says nothing.
OWN_FRAME = f'File "{Path(package.__file__).parent}/'

BRIEF = ("--probation", "100ms", "--soak", "100ms")
"""Options for reloads of good code.  Code that must fail by itself has the usual two seconds."""

PATIENCE = 60.0
"""Seconds until a wait of a test fails; on a busy machine it may take a few."""


@define(eq=False)
class Running:
    """A running master, with its output and its workers."""

    process: trio.Process
    lines: list[str] = Factory(list)
    deaf: bool = False
    """Stop reading its output."""
    clients: list[trio.SocketStream] = Factory(list)
    """Connections that are held until the end of the test."""
    _news: trio.Event = Factory(trio.Event)

    async def read(self) -> None:
        """Collect its output, until it ends."""
        unread = b""
        assert self.process.stderr is not None
        async for data in self.process.stderr:
            *whole, unread = (unread + data).split(b"\n")
            self.lines += [line.decode() for line in whole]
            self._tell()
            if self.deaf:
                await trio.sleep_forever()
        self.lines += [unread.decode()] if unread else []
        self._tell()

    def hear(self, lines: list[str]) -> None:
        """Take lines for its output that came in another way."""
        self.lines += lines
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    async def until(self, true: Callable[[], bool], what: str = "") -> None:
        """Wait until this holds; it is asked again after each piece of the master's output."""
        with trio.move_on_after(PATIENCE):
            while not true():
                await self._news.wait()
            return
        raise AssertionError(f"in vain: {what or true}\n{self.text}")

    async def said(self, pattern: str, times: int = 1) -> re.Match[str]:
        """Wait until its output matches `times` times; returns the last match."""
        await self.until(lambda: len(re.findall(pattern, self.text)) >= times, pattern)
        return list(re.finditer(pattern, self.text))[times - 1]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        match = re.search(r" on \S*?:(\d+)", self.text)
        assert match, self.text
        return int(match[1])

    @property
    def workers(self) -> dict[int, int]:
        """The slots of the workers that serve, by pid."""
        serving: dict[int, int] = {}
        for slot, pid, state in re.findall(r"worker (\d+) \(pid (\d+)\): \w+ -> (\w+)", self.text):
            if state == "serving":
                serving[int(pid)] = int(slot)
            else:
                serving.pop(int(pid), None)
        return serving

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def stop(self) -> int:
        """Ask it to end, and return its exit status."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        with trio.fail_after(PATIENCE):
            return await self.process.wait()

    async def hold(self, count: int) -> dict[trio.SocketStream, int]:
        """Open `count` connections, one after the other; each comes with the pid that answered."""
        held = {}
        for _ in range(count):
            stream = await connect(self.port)
            self.clients.append(stream)
            with trio.fail_after(PATIENCE):
                held[stream] = int(await stream.receive_some())
        return held

    async def burst(self, count: int) -> list[trio.SocketStream]:
        """Open `count` connections at once; nothing is read from them."""
        opened = [await connect(self.port) for _ in range(count)]
        self.clients += opened
        return opened

    async def settled(self, control: Path) -> int:
        """Wait until it has made its spare template, after which it starts no process by itself; returns its pid.

        The master is asked: the process can be seen before the master has closed what it needs to make one.
        """
        with trio.fail_after(PATIENCE):
            while True:
                (only,) = (await status(control)).templates
                if only.pid is not None and only.spare is not None:
                    return only.spare
                await trio.sleep(0.02)

    def descriptors(self) -> Counter[str]:
        """How many descriptors of each kind it keeps.

        At any moment it may have a file of /proc open, for as long as it reads it; one of ten looks finds that closed.
        """
        kept = set.intersection(*(self._open_files() for _ in range(10)))
        return Counter(re.sub(r"[0-9]+", "N", target) for _, target in kept)

    async def at_rest(self, kept: Counter[str]) -> None:
        """Wait until it keeps no more descriptors than these; it closes those of a dead worker after reaping it."""
        with trio.move_on_after(PATIENCE):
            while not self.descriptors() <= kept:
                await ask(self.port, b"-")
        assert self.descriptors() <= kept

    def _open_files(self) -> set[tuple[str, str]]:
        found = set()
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with suppress(FileNotFoundError):
                found.add((name, os.readlink(f"/proc/{self.pid}/fd/{name}")))
        return found

    def free_descriptor(self) -> int:
        """The lowest free descriptor: with this number as its limit the process can open no file."""
        taken = {int(name) for name in os.listdir(f"/proc/{self.pid}/fd")}
        return min(set(range(len(taken) + 1)) - taken)


@asynccontextmanager
async def running(
    application: str,
    *options: str,
    workers: int | None = 4,
    bind: str | None = "127.0.0.1:0",
    app_dir: Path = PROGRAMS,
    ready: bool = True,
    environ: dict[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    user: int | None = None,
    arguments: Sequence[str] = (),
    under: Sequence[str] = (),
) -> AsyncIterator[Running]:
    """A master that is ready; at the end it is killed with its workers, if the test has not stopped it.

    `application` may be a program with `arguments`, and then has no `bind`.  `under` is a command that executes the one
    after it.
    """
    where = ["--bind", bind] if bind is not None else []
    many = ["--workers", str(workers)] if workers is not None else []
    command = [*under, sys.executable, "-m", "rrmaster", *many, *where, "--app-dir", str(app_dir)]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            [*command, *options, application, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | (environ or {}),
            pass_fds=tuple(pass_fds),
            user=user,
        )
        master = Running(process)
        nursery.start_soon(master.read)
        try:
            if ready:
                await master.said(r"ready: \d+ of \d+ workers serve")
            yield master
        finally:
            nursery.cancel_scope.shield = True
            for client in master.clients:
                client.socket.close()
            if process.returncode is None:
                workers_left = master.workers
                process.kill()
                await process.wait()
                for pid in workers_left:
                    _kill(pid)
            nursery.cancel_scope.cancel()


def rrmaster(
    *words: str, cwd: Path = ROOT, user: int | None = None, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, in a process forked from an interpreter that has loaded the command line."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PORT", "WEB_CONCURRENCY")}
    order = {
        "words": words,
        "cwd": os.fspath(cwd),
        "user": user,
        "environ": clean | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"} | (environ or {}),
    }
    with (
        open(os.devnull) as nothing,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as warm,
    ):
        warm.settimeout(PATIENCE)
        warm.connect(_warm())
        socket.send_fds(warm, [json.dumps(order).encode()], [nothing.fileno(), out.fileno(), err.fileno()])
        pid = int(warm.recv(100))
        try:
            status = int(warm.recv(100))
        except TimeoutError:
            _kill(pid)
            raise
        finally:
            out.seek(0)
            err.seek(0)
        return subprocess.CompletedProcess(words, status, out.read(), err.read())


async def status(control: Path) -> Snapshot:
    done = await trio.to_thread.run_sync(lambda: rrmaster("status", "--json", "--control", str(control)))
    return from_json(json.loads(done.stdout))


@functools.cache
def _warm() -> bytes:
    """The address of the warm interpreter; it ends with this process, at the end of its stdin."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind("")  # the kernel finds a name, unix(7)
        listener.listen()
        command = [sys.executable, PROGRAMS / "warm.py", str(listener.fileno())]
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()], env=environ, cwd=ROOT)
        atexit.register(process.communicate)
        return bytes(listener.getsockname())


def _kill(pid: int) -> None:
    """End a worker with its process group: killed together with its master, it cannot end what it has started."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended with its master


async def connect(port: int) -> trio.SocketStream:
    with trio.fail_after(PATIENCE):
        return await trio.open_tcp_stream("127.0.0.1", port)


async def ask(port: int, question: bytes = b"?", ledger: Counter[str] | None = None) -> bytes:
    """One connection, one question, one answer.  A ledger counts each outcome under exactly one name."""
    try:
        with trio.fail_after(PATIENCE):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(question)
                answer = bytes(await stream.receive_some())
        end = "answered" if answer else "cut off"
    except trio.TooSlowError:
        answer, end = b"", "hung"
    except trio.BrokenResourceError:
        answer, end = b"", "cut off"
    except OSError as error:
        answer, end = b"", "refused" if isinstance(error, ConnectionRefusedError) or not error.errno else "cut off"
    if ledger is not None:
        ledger[end] += 1
    elif not answer:
        raise AssertionError(end)
    return answer


async def dial(master: Running) -> trio.SocketStream:
    """A connection, closed at the end of the test."""
    [stream] = await master.burst(1)
    return stream


async def closed(stream: trio.SocketStream) -> bytes:
    """Wait until the other side has closed the connection; returns what came before."""
    said = b""
    with trio.fail_after(PATIENCE):
        try:
            while data := await stream.receive_some():
                said += data
        except trio.BrokenResourceError:
            pass  # reset: closed, too
    return said


async def gone(pid: int) -> None:
    """Wait until a process that is not a child of this one has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.wait_readable(fd)
    finally:
        trio.lowlevel.notify_closing(fd)
        os.close(fd)


def is_free(port: int) -> bool:
    """Whether no server listens on a port.  For a moment a client of another test may have the port."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.05)
            else:
                return True
