"""What it costs to begin a worker: replacement, memory, start, beside uvicorn and gunicorn with its preload.

``python -m bench.template`` runs all of it (about 5 minutes); ``python -m bench.template replace`` one part.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, define, frozen

from .machine import HOME, Spread, children, describe, keep, table

APP = "bench.small_shop:app"

PATIENCE = 60.0
"""Seconds that anything may take before it is given up."""

STORM_S, KILLS = 6.0, 60
"""Seconds, and how many workers are killed in them."""

SIZES = (1, 2, 4, 8, 16, 32)
"""Workers of which the start is measured."""


@frozen
class Contender:
    """One that is measured."""

    name: str
    command: Callable[[int, int], Sequence[str]]
    """For a port and so many workers."""
    ready: str
    """What it says so often as ..."""
    each: bool
    """... there are workers, or once."""


def _rrmaster(preload: str, port: int, workers: int) -> Sequence[str]:
    where = ["-b", f"127.0.0.1:{port}", "--app-dir", str(HOME.parent), "--preload", preload]
    return [sys.executable, "-m", "rrmaster", "-w", str(workers), *where, APP]


def _uvicorn(port: int, workers: int) -> Sequence[str]:
    return [sys.executable, "-m", "uvicorn", "--port", str(port), "--workers", str(workers), "--no-access-log", APP]


def _gunicorn(port: int, workers: int) -> Sequence[str]:
    options = ["--preload", "--worker-class", "asgi", "--bind", f"127.0.0.1:{port}", "--workers", str(workers)]
    return [sys.executable, "-m", "gunicorn", *options, APP]


def contenders() -> list[Contender]:
    """Those that are installed."""
    ready = r"ready: \d+ of \d+ workers serve"
    found = [
        Contender("rrmaster", functools.partial(_rrmaster, "auto"), ready, False),
        Contender("rrmaster --preload off", functools.partial(_rrmaster, "off"), ready, False),
        Contender("uvicorn", _uvicorn, "Application startup complete", True),
    ]
    if shutil.which("gunicorn", path=os.path.dirname(sys.executable)):
        found.append(Contender("gunicorn --preload", _gunicorn, "Booting worker with pid", True))
    else:
        print("gunicorn is missing, and left out")
    return found


@define
class Fleet:
    """One that runs."""

    pid: int
    port: int
    began: float
    took: float = 0.0
    """Seconds from its start until it said that all workers serve."""

    def ask(self, timeout: float = PATIENCE) -> int:
        """A connection, a request; the process id that answers."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as sock:
            sock.sendall(b"GET /pid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := sock.recv(4096):
                answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200") or not re.search(rb"\d", body):  # it was killed in the middle
            raise ConnectionResetError(f"no answer: {answer!r}")
        return int(re.findall(rb"\d+", body)[-1])

    def workers(self, count: int) -> set[int]:
        """Wait until so many have answered; their process ids."""
        found: set[int] = set()
        deadline = time.monotonic() + PATIENCE
        while len(found) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(found)} of {count} workers have answered")
            with contextlib.suppress(OSError):  # it may not listen yet
                found.add(self.ask())
        return found


@contextlib.contextmanager
def running(contender: Contender, workers: int) -> Iterator[Fleet]:
    """Run it for the time of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.monotonic()
    process = subprocess.Popen(
        contender.command(port, workers),
        cwd=HOME.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    )
    assert process.stdout is not None
    fleet = Fleet(process.pid, port, began)
    reader = threading.Thread(target=_drain, args=(process.stdout,), daemon=True)
    try:
        _until(process, contender.ready, workers if contender.each else 1)
        fleet.took = time.monotonic() - began
        reader.start()  # or it blocks when the pipe is full
        yield fleet
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if reader.ident is not None:
            reader.join(5)
        process.stdout.close()


def _until(process: subprocess.Popen[bytes], pattern: str, times: int) -> None:
    assert process.stdout is not None
    said, deadline = b"", time.monotonic() + PATIENCE
    while len(re.findall(pattern.encode(), said)) < times:
        if not select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
            raise RuntimeError(f"not ready after {PATIENCE:g} s:\n{said.decode()}")
        more = os.read(process.stdout.fileno(), 65536)
        if not more:
            raise RuntimeError(f"it ended:\n{said.decode()}")
        said += more


def _drain(pipe: Any) -> None:
    with contextlib.suppress(OSError, ValueError):  # it is closed
        while os.read(pipe.fileno(), 65536):
            pass


def own_memory(pid: int) -> float:
    """MiB that are this process's alone (USS)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(found) for found in re.findall(r"Private_(?:Clean|Dirty):\s+(\d+) kB", text)) / 1024


# --- the parts


def replace(rounds: int) -> dict[str, Any]:
    """Milliseconds from the SIGKILL of one of two workers to the first answer of its replacement; and their memory."""
    times: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for contender in contenders():
        with running(contender, 2) as fleet:
            alive = fleet.workers(2)
            time.sleep(2)  # what is done after a start is done
            for _ in range(rounds):
                victim = min(alive)
                at = time.monotonic()
                os.kill(victim, signal.SIGKILL)
                alive = {*(alive - {victim}), newcomer(fleet, alive)}
                times.setdefault(contender.name, []).append((time.monotonic() - at) * 1000)
                time.sleep(0.2)
            for _ in range(200):
                fleet.ask()
            memory[contender.name] = [own_memory(pid) for pid in alive]
    rows = [("", "killed to serving, ms", "USS of a worker, MiB", "of uvicorn's")]
    uvicorn = Spread.of(memory["uvicorn"]).median
    for name, values in times.items():
        own = Spread.of(memory[name])
        rows.append((name, Spread.of(values).show(0), own.show(), f"{own.median / uvicorn:.2f}"))
    print(table(rows))
    return {
        "replaced_ms": {name: asdict(Spread.of(values)) for name, values in times.items()},
        "uss_mib": {name: asdict(Spread.of(values)) for name, values in memory.items()},
    }


def newcomer(fleet: Fleet, known: set[int]) -> int:
    """Ask until somebody new answers."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # the dead had it in hand
            if (pid := fleet.ask(5.0)) not in known:
                return pid
    raise RuntimeError("nobody new has answered")


def start(rounds: int) -> dict[str, Any]:
    """Seconds from the start of the command until all workers serve."""
    took: dict[str, dict[int, list[float]]] = {}
    for _ in range(rounds):
        for contender in contenders()[:3]:
            for size in SIZES if contender.name == "rrmaster" else (1, 8):
                with running(contender, size) as fleet:
                    took.setdefault(contender.name, {}).setdefault(size, []).append(fleet.took)
    rows = [("", *(f"-w {size}" for size in SIZES), "8 / 1")]
    for name, by_size in took.items():
        cells = [Spread.of(by_size[size]).show(2) if size in by_size else "" for size in SIZES]
        ratio = Spread.of(by_size[8]).median / Spread.of(by_size[1]).median
        rows.append((name, *cells, f"{ratio:.2f}"))
    print(table(rows))
    return {"start_s": {n: {str(size): asdict(Spread.of(v)) for size, v in sizes.items()} for n, sizes in took.items()}}


def storm(rounds: int) -> dict[str, Any]:
    """60 SIGKILLs in 6 seconds, under load: who waits for how long."""
    contender = contenders()[0]
    waits: list[float] = []
    failed = silent = 0.0
    with running(contender, 4) as fleet:
        time.sleep(2)
        over = threading.Event()
        counts, answers = [0], [time.monotonic()]
        threads = [threading.Thread(target=_client, args=(fleet, over, waits, counts, answers)) for _ in range(4)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        for number in range(KILLS):
            time.sleep(max(began + number * STORM_S / KILLS - time.monotonic(), 0))
            victims = [pid for pid in children(fleet.pid) if _is_worker(pid)]
            if victims:
                with contextlib.suppress(ProcessLookupError):  # it has just died
                    os.kill(victims[number % len(victims)], signal.SIGKILL)
        time.sleep(0.5)
        over.set()
        for thread in threads:
            thread.join()
        failed = counts[0]
        times = sorted(answers)
        silent = max(after - before for before, after in itertools.pairwise(times))
    print(
        f"{KILLS} kills in {STORM_S:g} s: {len(waits)} answered, {failed:g} lost in dead workers' hands; the longest "
        f"wait {max(waits) * 1000:.0f} ms, the longest time in which nobody was answered {silent * 1000:.0f} ms"
    )
    return {"storm": {"answered": len(waits), "lost": failed, "longest_wait_s": max(waits), "silence_s": silent}}


def _client(fleet: Fleet, over: threading.Event, waits: list[float], counts: list[int], answers: list[float]) -> None:
    while not over.is_set():
        at = time.monotonic()
        try:
            fleet.ask(10.0)
        except OSError:
            counts[0] += 1
        else:
            now = time.monotonic()
            waits.append(now - at)
            answers.append(now)


def _is_worker(pid: int) -> bool:
    try:
        return b"--slot" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def forks(rounds: int) -> dict[str, Any]:
    """A thousand forks: descriptors, memory and zombies of master and template, at the tenth and at the last."""
    contender = contenders()[0]
    total = 50 * rounds
    with running(contender, 4) as fleet:
        alive = fleet.workers(4)
        time.sleep(2)
        seen: list[dict[str, float]] = []
        for number in range(total + 1):
            if number in (total // 10, total):
                seen.append(_look(fleet))
            victim = min(alive)
            os.kill(victim, signal.SIGKILL)
            alive = {*(alive - {victim}), newcomer(fleet, alive)}
            time.sleep(0.04)  # not faster than a master starts anybody
    rows = [("after so many forks", *seen[0])]
    rows += [
        (str(number), *(f"{value:.1f}" for value in look.values()))
        for number, look in zip((total // 10, total), seen, strict=True)
    ]
    print(table(rows))
    return {"forks": {"count": total, "early": seen[0], "late": seen[1]}}


def _look(fleet: Fleet) -> dict[str, float]:
    family = children(fleet.pid)
    mothers = [pid for pid in family if b"--template" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    states = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] for pid in family]
    return {
        "master fds": len(os.listdir(f"/proc/{fleet.pid}/fd")),
        "master USS": own_memory(fleet.pid),
        "template fds": len(os.listdir(f"/proc/{mothers[0]}/fd")),
        "template USS": own_memory(mothers[0]),
        "zombies": states.count("Z") + len(children(mothers[0])),
    }


PARTS = {"replace": replace, "start": start, "storm": storm, "forks": forks}


def main() -> None:
    """All parts, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m bench.template", description=__doc__)
    parser.add_argument("part", nargs="*", choices=[*PARTS, []], default=[], help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="kills; starts are a quarter of it")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": describe()}
    for name in arguments.part or PARTS:
        print(f"\n{name}: {(PARTS[name].__doc__ or '').strip()}")
        found |= PARTS[name](max(arguments.rounds // 4, 1) if name == "start" else arguments.rounds)
    if not arguments.part:
        print(f"\nwritten to {keep('template', found)}")


if __name__ == "__main__":
    main()
