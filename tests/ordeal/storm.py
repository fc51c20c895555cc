"""A storm in which each connection is looked for by name: who held it when it was cut, and does the master say so?

::

    python -m tests.ordeal.storm --seeds 1-5               # 60 s each, connections are parked
    python -m tests.ordeal.storm --seeds 1 -- --park-after off

64 clients keep their connections, and 200 new ones come each second.  Workers and the idle pool are killed, stopped and
paused, one or both at once; the fleet is reloaded and scaled meanwhile.

*Whose hands they were* is asked of the kernel, and not of rrmaster: a process is stopped, its descriptors are read
(``/proc/PID/fd``), then it is killed, and what of these connections no process has any longer (``/proc/net/tcp``) was
in dead hands.  A client closes its connection only while no kill is prepared (`Gate`): what a client has closed and the
server has not noticed would be lost without a loser.

What must hold, exactly, at the end of each run (`Books.judge`):

- the connections that clients have seen cut are those that were in dead hands, one by one, and none is in two;
- the master's ``lost`` is the number of those that were in workers' hands, and ``cut`` of those in a pool's;
- its log says the same numbers; none is refused, and the master has accepted each that was opened, once.

On 2026-11-29, two busy processors, seeds 1 to 5: 41,265 connections, each in its one count: 3,361 were cut, and the
master says ``lost`` 368 and ``cut`` 2,993, seed by seed the numbers of the clients.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import trio
from attrs import define

from .books import PATIENCE_S, Books
from .fleet import Master, running
from .troubles import _send

KEPT, RATE = 64, 200.0
PATHS = ("/", "/", "/", "/", "/slow", "/body")


@define(eq=False)
class Kernel:
    """What the kernel knows of one server's connections."""

    port: int

    def held(self) -> dict[int, int]:
        """By inode, the clients' ports of all connections that a process of the server's has."""
        found, ours = {}, b":%04X" % self.port
        for row in Path("/proc/net/tcp").read_bytes().splitlines()[1:]:
            fields = row.split(None, 10)
            if fields[1].endswith(ours) and fields[3] != b"0A" and fields[9] != b"0":
                found[int(fields[9])] = int(fields[2][-4:], 16)
        return found

    def in_hands(self, pid: int) -> set[int]:
        """The clients' ports of the connections that this process has."""
        inodes, held = set(), self.held()
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                link = os.readlink(f"/proc/{pid}/fd/{name}")
                if link.startswith("socket:["):
                    inodes.add(int(link[8:-1]))
        return {port for inode, port in held.items() if inode in inodes}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


async def _gone(pid: int) -> None:
    """Wait for its end: a leader is a zombie before its other threads have let go of the descriptors."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)


@define(eq=False)
class Storm:
    """What is done to the fleet."""

    master: Master
    books: Books
    kernel: Kernel
    luck: random.Random

    async def one(self) -> None:
        name = self.luck.choices(list(ALL), weights=[weight for weight, _ in ALL.values()])[0]
        self.books.troubles[name] += 1
        await ALL[name][1](self)

    async def _worker(self) -> int | None:
        serving = [w.pid for w in (await self.master.status()).workers if w.state in ("serving", "draining") and w.pid]
        return self.luck.choice(serving) if serving else None

    async def _pool(self) -> int | None:
        pool = (await self.master.status()).pool
        return pool.pid if pool is not None else None

    async def kill_worker(self) -> None:
        await self._kill([(await self._worker(), "worker")])

    async def kill_pool(self) -> None:
        await self._kill([(await self._pool(), "pool")])

    async def kill_both(self) -> None:
        await self._kill([(await self._worker(), "worker"), (await self._pool(), "pool")])

    async def kill_two(self) -> None:
        first, second = await self._worker(), await self._worker()
        await self._kill([(pid, "worker") for pid in {first, second}])

    async def kill_in_a_reload(self) -> None:
        self.master.process.send_signal(signal.SIGHUP)
        await trio.sleep(self.luck.uniform(0.0, 1.5))
        await self.luck.choice((self.kill_worker, self.kill_both, self.kill_pool))()

    async def _kill(self, found: list[tuple[int | None, str]]) -> None:
        victims = [(pid, kind) for pid, kind in found if pid is not None]
        async with self.books.gate.closed():
            await self._quiet()
            had = [(self._freeze(pid), kind) for pid, kind in victims]
            await self._let_go(had, {pid for pid, _ in victims})
            for pid, _ in victims:
                _send(pid, signal.SIGKILL)
            for pid, _ in victims:
                await _gone(pid)
            await self._settled(had)

    def _freeze(self, pid: int) -> set[int]:
        """Stop a process, and read what it has in its hands."""
        _send(pid, signal.SIGSTOP)
        deadline = time.monotonic() + 5.0
        while _state(pid) not in ("T", "", "Z", "X") and time.monotonic() < deadline:
            time.sleep(0.0002)
        try:
            return self.kernel.in_hands(pid)
        except OSError:
            return set()  # it has just ended by itself

    async def _let_go(self, had: list[tuple[set[int], str]], victims: set[int]) -> None:
        """Wait until workers have closed their own descriptors of what rests in a pool that is going to die."""
        resting = set[int]().union(*(ports for ports, kind in had if kind == "pool"))
        with trio.move_on_after(2.0):
            while resting & self._in_other_hands(victims):
                await trio.sleep(0.002)

    def _in_other_hands(self, victims: set[int]) -> set[int]:
        found = set[int]()
        for seen in self.master.descendants():
            if seen.pid not in victims:
                with suppress(OSError):
                    found |= self.kernel.in_hands(seen.pid)
        return found

    async def _settled(self, had: list[tuple[set[int], str]]) -> None:
        living = set(self.kernel.held().values())
        taken: set[int] = set()
        for ports, kind in reversed(had):  # what both had was parked, and is the pool's
            self.books.died(ports - living - taken, kind)
            taken |= ports

    async def _quiet(self) -> None:
        """Wait until the server has closed all that clients have closed."""
        with trio.move_on_after(2.0):
            while any(map(self.books.is_over, self.kernel.held().values())):
                await trio.sleep(0.002)

    async def stop_worker(self) -> None:
        await self._stop(await self._worker(), "worker")

    async def stop_pool(self) -> None:
        await self._stop(await self._pool(), "pool")

    async def _stop(self, pid: int | None, kind: str) -> None:
        """Stop it until the master kills it."""
        if pid is None:
            return
        async with self.books.gate.closed():
            await self._quiet()
            had = self._freeze(pid)
            await self._let_go([(had, kind)], {pid})
            with trio.move_on_after(PATIENCE_S):
                await _gone(pid)
            await self._settled([(had, kind)])

    async def pause(self) -> None:
        """Stop a worker or the pool for a moment."""
        pid = await self.luck.choice((self._worker, self._worker, self._pool))()
        if pid is not None:
            _send(pid, signal.SIGSTOP)
            await trio.sleep(self.luck.uniform(0.05, 1.0))
            _send(pid, signal.SIGCONT)

    async def pause_master(self) -> None:
        self.master.process.send_signal(signal.SIGSTOP)
        await trio.sleep(self.luck.uniform(0.05, 1.0))
        self.master.process.send_signal(signal.SIGCONT)

    async def reload(self) -> None:
        self.master.process.send_signal(signal.SIGHUP)

    async def scale(self) -> None:
        await self.master.ask("scale", to=str(self.luck.randint(2, 5)))

    async def term(self) -> None:
        if (pid := await self._worker()) is not None:
            _send(pid, signal.SIGTERM)


ALL = {
    "kill a worker": (8, Storm.kill_worker),
    "kill the pool": (4, Storm.kill_pool),
    "kill a worker and the pool": (4, Storm.kill_both),
    "kill two workers": (2, Storm.kill_two),
    "kill in a reload": (3, Storm.kill_in_a_reload),
    "stop a worker": (1, Storm.stop_worker),
    "stop the pool": (1, Storm.stop_pool),
    "pause": (5, Storm.pause),
    "pause the master": (2, Storm.pause_master),
    "reload": (3, Storm.reload),
    "scale": (3, Storm.scale),
    "term": (2, Storm.term),
}
"""The name, how often it comes, and what it does."""


async def _keep(books: Books, luck: random.Random) -> None:
    while not books.ending:
        connection = await books.open()
        while connection is not None and await books.ask(connection, luck.choice(PATHS)) and not books.ending:
            await trio.sleep(luck.choice((0.0, 0.001, 0.005, 0.1)) * luck.random() * 2)
        await trio.sleep(0.01)


async def _fresh(books: Books, rate: float, luck: random.Random) -> None:
    async def one(path: str) -> None:
        if (connection := await books.open()) is not None and await books.ask(connection, path):
            await trio.sleep(luck.random() * 0.01)
            await books.close(connection)

    due = trio.current_time()
    async with trio.open_nursery() as nursery:
        while not books.ending:
            due += luck.expovariate(rate)
            await trio.sleep_until(due)
            nursery.start_soon(one, luck.choice(PATHS))


async def run(seed: int, seconds: float, rate: float, options: list[str]) -> list[str]:
    """One run, and what is wrong with it."""
    luck = random.Random(seed)
    chosen = ["--runtime", luck.choice(("uvloop", "uvloop", "asyncio")), "--workers", str(luck.randint(2, 5))]
    chosen += ["--park-after", luck.choice(("0", "1ms", "20ms"))]
    async with running([*chosen, "--keep-alive", "300s", *options]) as master:
        books = Books(master.port)
        storm = Storm(master, books, Kernel(master.port), luck)
        async with trio.open_nursery() as clients:
            for _ in range(KEPT):
                clients.start_soon(_keep, books, random.Random(luck.random()))
            clients.start_soon(_fresh, books, rate, random.Random(luck.random()))
            end = trio.current_time() + seconds
            while trio.current_time() < end:
                await trio.sleep(luck.expovariate(1 / 0.7))
                with trio.fail_after(3 * PATIENCE_S):
                    await storm.one()
            await trio.sleep(2.0)
            books.end()
        await trio.sleep(2.0)
        for one in books.all:
            if not (one.over or one.cut) and one.stream.socket.fileno() >= 0 and one.has_ended():
                one.cut = "in a request" if one.asks else "between two"
        seen = await master.status()
        wrong = books.judge(seen, master.log)
        print(f"seed {seed}, {' '.join(chosen)}: {books.line(seen)}\n  {dict(books.troubles)}", flush=True)
        if wrong:
            place = Path(tempfile.gettempdir(), f"storm-{seed}.log")
            place.write_text(master.log)
            print(*wrong[:40], *books.deaths, f"log: {place}", sep="\n  ", flush=True)
    return wrong


def main() -> int:
    """The exit status is the number of runs with which something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.ordeal.storm")
    parser.add_argument("--seeds", default="1", help="one, or the first and the last: 1-5")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=RATE, help="new connections in a second")
    parser.add_argument("more", nargs="*", help="further options of rrmaster, after --")
    asked = parser.parse_args()
    first, _, last = asked.seeds.partition("-")
    return sum(
        bool(trio.run(run, seed, asked.seconds, asked.rate, asked.more))
        for seed in range(int(first), int(last or first) + 1)
    )


if __name__ == "__main__":
    os.environ.pop("PORT", None)
    sys.exit(main())
