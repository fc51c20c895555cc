"""What passing a connection on costs the master, beside Node's cluster and a master in C.

``python -m bench.dispatch [--seconds S] [--rounds N] [--workers 4] [--concurrency 32]``

The servers take turns under the same load, A B C A B C: what the machine does meanwhile (others, clock, heat) falls on
all of them, and each round gives a ratio that has seen the same weather.  In its turn a server is started anew and has
two windows: its *first* 4,000 connections, and, after a while without measuring, *warm*.  For Node they differ by much:
its primary costs more than twice as much per connection until its compiler has seen some thousands of them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from attrs import asdict, frozen

from .handlers import ANSWER
from .machine import HOME, Spread, children, cpu_ns, describe, keep, table
from .servers import Missing, Server, compiled, contenders, started

FIRST = 4_000
"""Connections in the first window.  What is asked of us beside Node's primary was found over so many, and holds for so
many: 0.40 of what a warm one takes (27 us) would be 11 us, and the master in C takes 17."""

LONG_ENOUGH = 30.0
"""Seconds for them: a second is usual, on a busy machine two or three."""

WITHOUT_END = 2**31 - 1


@frozen
class Window:
    """One server under load, once."""

    done: int
    failed: int
    seconds: float
    p50_us: float
    p99_us: float
    master_us: float
    """Microseconds of the master's processor time per connection."""
    workers_us: float
    """The same of all workers."""

    @property
    def rate(self) -> float:
        """Connections per second."""
        return self.done / self.seconds


@frozen
class Target:
    """A ratio of ours to a peer's that is asked of us."""

    what: str
    peer: str
    figure: Callable[[Window], float]
    bound: float
    at_most: bool

    def met(self, ratio: float) -> bool:
        return ratio <= self.bound if self.at_most else ratio >= self.bound

    @property
    def spelled(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.bound:.2f}"


TARGETS = (
    Target("master CPU per connection", "node", lambda window: window.master_us, 0.40, True),
    Target("master CPU per connection", "c", lambda window: window.master_us, 1.80, True),
    Target("connections per second", "node", lambda window: window.rate, 1.30, False),
    Target("connections per second", "c", lambda window: window.rate, 0.0, False),
)

Rounds = dict[str, list[Window]]


def loader(python: bool) -> tuple[list[str], str | None]:
    """The load generator's command, and what is to be said about it."""
    try:
        if python:
            raise Missing("--python-clients")
        return [str(compiled("load"))], None
    except Missing as missing:
        words = f"{missing}: the clients are Python, and they, not the servers, limit connections per second"
        return [sys.executable, "-m", "bench.load"], words


def load(command: Sequence[str], server: Server, seconds: float, concurrency: int, most: int) -> dict[str, float]:
    """Run the clients against a server, for so long or so many connections."""
    argv = [*command, str(server.port), str(seconds), str(concurrency), str(len(ANSWER)), str(most)]
    done = subprocess.run(argv, cwd=HOME.parent, stdout=subprocess.PIPE, check=True, timeout=seconds + 30)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def measure(command: Sequence[str], server: Server, seconds: float, concurrency: int, most: int) -> Window:
    """One window: read the clocks, load, read the clocks."""
    workers = children(server.pid)
    before, workers_before = cpu_ns(server.pid), sum(map(cpu_ns, workers))
    said = load(command, server, seconds, concurrency, most)
    master, others = cpu_ns(server.pid) - before, sum(map(cpu_ns, workers)) - workers_before
    done, failed = int(said["done"]), int(said["failed"])
    each = 1e3 * max(done + failed, 1)
    return Window(done, failed, said["seconds"], said["p50_us"], said["p99_us"], master / each, others / each)


def run(options: argparse.Namespace) -> tuple[Rounds, Rounds, list[str]]:
    """All rounds of all servers, their first connections and warm, and what there is to say beside."""
    command, words = loader(options.python_clients)
    notes = [words] if words else []
    first: Rounds = {}
    warm: Rounds = {}
    present = [contender for contender in contenders(options.beside) if contender.name not in options.without]
    for number in range(options.rounds):
        for contender in list(present):
            try:
                with started(contender, options.workers) as server:
                    for state, rounds, most in (("first", first, FIRST), ("warm", warm, WITHOUT_END)):
                        seconds = options.seconds if most == WITHOUT_END else LONG_ENOUGH
                        window = measure(command, server, seconds, options.concurrency, most)
                        rounds.setdefault(server.name, []).append(window)
                        _tell(f"round {number + 1} of {options.rounds}, {server.name}, {state}: {_line(window)}")
                        if rounds is first:
                            load(command, server, options.seconds, options.concurrency, WITHOUT_END)
            except Missing as missing:
                notes.append(f"{contender.name} is not measured: {missing}")
                present.remove(contender)
    return first, warm, notes


def _line(window: Window) -> str:
    return (
        f"{window.master_us:.1f} us master, {window.rate:.0f}/s, p99 {window.p99_us / 1e3:.1f} ms, "
        f"{window.failed} failed"
    )


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


# --- what is made of it

FIGURES: tuple[tuple[str, Callable[[Window], float], int], ...] = (
    ("master us/conn", lambda window: window.master_us, 1),
    ("workers us/conn", lambda window: window.workers_us, 1),
    ("conn/s", lambda window: window.rate, 0),
    ("p50 ms", lambda window: window.p50_us / 1e3, 2),
    ("p99 ms", lambda window: window.p99_us / 1e3, 2),
)


def figures(rounds: Rounds) -> str:
    """The table of the servers."""
    rows = [["median (min..max)", *(head for head, _, _ in FIGURES), "connections", "failed"]]
    for name, windows in rounds.items():
        spreads = [Spread.of([figure(w) for w in windows]).show(digits) for _, figure, digits in FIGURES]
        rows.append([name, *spreads, str(sum(w.done for w in windows)), str(sum(w.failed for w in windows))])
    return table(rows)


def ratios(rounds: Rounds) -> list[tuple[str, Target, Spread]]:
    """Ours to theirs, round by round."""
    found = []
    for ours in (name for name in rounds if name.startswith("rrmaster")):
        for target in TARGETS:
            if target.peer in rounds:
                pairs = zip(rounds[ours], rounds[target.peer], strict=True)
                found.append((ours, target, Spread.of([target.figure(a) / target.figure(b) for a, b in pairs])))
    return found


def ratio_table(found: Sequence[tuple[str, Target, Spread]]) -> str:
    """The table of the ratios."""
    rows = [["ratio, per round", "median (min..max)", "target", ""]]
    for ours, target, spread in found:
        verdict = [target.spelled, "met" if target.met(spread.median) else "MISSED"] if target.bound else ["", ""]
        rows.append([f"{ours} / {target.peer}: {target.what}", spread.show(2), *verdict])
    return table(rows)


def as_json(rounds: Rounds) -> dict[str, Any]:
    """All that is kept of these windows."""
    servers = {
        name: {
            "medians": {head: round(Spread.of([figure(w) for w in windows]).median, 3) for head, figure, _ in FIGURES},
            "failed": sum(w.failed for w in windows),
            "rounds": [asdict(w) for w in windows],
        }
        for name, windows in rounds.items()
    }
    compared = [
        {"ours": ours, "peer": target.peer, "what": target.what, **asdict(spread)}
        | ({"target": target.spelled, "met": target.met(spread.median)} if target.bound else {})
        for ours, target, spread in ratios(rounds)
    ]
    return {"servers": servers, "ratios": compared}


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.dispatch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="length of the warm window, and of what goes before (default: 3)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="windows of each server (default: 5)")
    parser.add_argument("--workers", type=int, default=4, help="of each server (default: 4)")
    parser.add_argument("--concurrency", type=int, default=32, help="connections at a time (default: 32)")
    parser.add_argument("--beside", type=Path, action="append", default=[], metavar="DIR",
                        help="measure the rrmaster of this checkout, too")  # fmt: skip
    parser.add_argument("--without", action="append", default=[], metavar="NAME",
                        help="leave one out: node, c, rrmaster")  # fmt: skip
    parser.add_argument("--python-clients", action="store_true", help="clients as slow as where there is no compiler")
    parser.add_argument("--no-json", action="store_true", help="write no bench/results/dispatch.json")
    return parser.parse_args(argv)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    options = _options(argv)
    signal.signal(signal.SIGTERM, _interrupt)  # so that it, too, ends what was started
    try:
        first, warm, notes = run(options)
    except KeyboardInterrupt:
        _tell("interrupted; all servers are ended")
        return 130
    machine = describe()
    print(", ".join(f"{name} {value}" for name, value in machine.items() if value is not None))
    print(f"{options.workers} workers, {options.concurrency} connections at a time, {options.seconds:g} s a window")
    for state, rounds in ((f"the first {FIRST:,} connections", first), ("warm", warm)):
        print(f"\n{state}\n{figures(rounds)}")
        if compared := ratios(rounds):
            print(f"\n{ratio_table(compared)}")
    for note in notes:
        print(f"note: {note}")
    if not options.no_json:
        asked = {name: getattr(options, name) for name in ("seconds", "rounds", "workers", "concurrency")}
        content = {"machine": machine, "load": asked, "notes": notes}
        path = keep("dispatch", content | {"first": as_json(first), "warm": as_json(warm)})
        print(f"\nwritten: {os.path.relpath(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
