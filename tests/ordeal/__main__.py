"""The command line, and one run from its start to its verdict."""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import trio
from attrs import frozen

from rrmaster.protocol.family import lineage

from .clients import Asker
from .fleet import Master, chosen, running
from .ledger import PATIENCE_S, Ledger
from .troubles import Troubles

SAMPLE_S = 10.0
"""Seconds between two looks at memory and descriptors."""


@frozen
class Plan:
    """The extent of a run."""

    seconds: float
    pause: float
    """Seconds between two troubles, on average."""
    kept: int
    """Clients that keep their connections."""
    rate: float
    """Requests a second over connections of their own."""


async def run(seed: int, plan: Plan, options: list[str], out: Path | None) -> tuple[Ledger, list[str]]:
    """One run, and what is wrong with it."""
    luck = random.Random(seed)
    ledger, samples = Ledger(), []
    async with running([*chosen(luck), *options]) as master:
        asker = Asker(master.port, ledger)
        async with trio.open_nursery() as clients, trio.open_nursery() as requests:
            for _ in range(plan.kept):
                clients.start_soon(asker.keep, random.Random(luck.random()))
            clients.start_soon(asker.come, plan.rate, requests, random.Random(luck.random()))
            clients.start_soon(_sample, master, samples, ledger, out)
            troubles = Troubles(master, asker, ledger, luck, requests)
            end = trio.current_time() + plan.seconds
            while trio.current_time() < end:
                await trio.sleep(luck.expovariate(1 / plan.pause))
                await _trouble(troubles)
            await _recover(master, asker, ledger)
            with trio.move_on_after(PATIENCE_S):  # those that were asked last
                await trio.sleep(1.0)
            clients.cancel_scope.cancel()
        await _end(master, ledger)
        log = master.log
        ledger.hangs_told = log.count("-> killed, its loop has not reported")
        wrong = ledger.judge(log)
        if out is not None or wrong:
            (out or Path(tempfile.gettempdir(), f"ordeal-{seed}")).with_suffix(".log").write_text(log)
    return ledger, wrong + _growth(samples)


async def _trouble(troubles: Troubles) -> None:
    try:
        with trio.fail_after(PATIENCE_S):
            await troubles.one()
    except (OSError, trio.TooSlowError, Exception) as error:
        troubles.ledger.faults.append(f"a trouble could not be done: {error!r}")


async def _sample(master: Master, samples: list[dict[str, float]], ledger: Ledger, out: Path | None) -> None:
    began = trio.current_time()
    while True:
        with suppress(OSError):
            seen = {"s": round(trio.current_time() - began, 1)} | {k: round(v, 1) for k, v in master.seen().items()}
            samples.append(seen)
            if out is not None:
                with out.open("a") as file:
                    file.write(json.dumps(seen | dict(ledger.ends)) + "\n")
        await trio.sleep(SAMPLE_S)


async def _recover(master: Master, asker: Asker, ledger: Ledger) -> None:
    """Wait until all workers serve and answer at once."""
    began, good = trio.current_time(), 0
    while good < 10 and trio.current_time() - began < 90:
        asked = trio.current_time()
        answered = await asker.ask("/") is not None and trio.current_time() - asked < 1.0
        try:
            snapshot = await master.status()
            reloads = snapshot.reload is not None and snapshot.reload.status is None  # a place may be empty meanwhile
            whole = snapshot.serving >= snapshot.size or reloads
        except Exception as error:
            ledger.faults.append(f"no status: {error!r}")
            return
        good = good + 1 if answered and whole else 0
        await trio.sleep(0.1)
    ledger.recovery = trio.current_time() - began


async def _end(master: Master, ledger: Ledger) -> None:
    """Stop it, with the books closed: what it leaves is wrong."""
    if master.process.returncode is not None:
        ledger.faults.append(f"the master has ended with {master.process.returncode}")
        return
    snapshot = await master.status()
    ledger.lost = snapshot.lost
    tree = master.descendants()
    master.process.send_signal(signal.SIGTERM)
    with trio.move_on_after(60):
        await master.process.wait()
    killed = "-> killed" in master.log.rpartition("received SIGTERM")[2]  # one that hung was still there
    if master.process.returncode != int(killed):
        ledger.faults.append(f"the stop gave {master.process.returncode}")
    await trio.sleep(0.3)
    left = [seen for seen in tree if (now := lineage.look(seen.pid)) and now.began == seen.began and not now.ended]
    if left:
        ledger.faults.append(f"it left {', '.join(f'{seen.name} ({seen.pid})' for seen in left)}")
        lineage.kill(left)


def _growth(samples: list[dict[str, float]]) -> list[str]:
    """What has grown over a long run: the median of its last quarter beside that of its second."""
    quarter = len(samples) // 4
    wrong = []
    for name, most in (("master uss MB", 1.2), ("master descriptors", 1.3), ("largest uss MB", 1.3)):
        if quarter >= 15:
            early = statistics.median(s[name] for s in samples[quarter : 2 * quarter])
            late = statistics.median(s[name] for s in samples[-quarter:])
            print(f"  {name}: {early:.1f} in the second quarter, {late:.1f} in the last")
            wrong += [f"{name} grew from {early:.1f} to {late:.1f}"] if late > most * early else []
    return wrong


def main() -> int:
    """The exit status is the number of runs with which something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.ordeal")
    parser.add_argument("what", choices=["chaos", "soak"])
    parser.add_argument("--seeds", default="1", help="one, or the first and the last: 1-20")
    parser.add_argument("--seconds", type=float, default=20.0, help="of trouble in each run of chaos")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the soak")
    parser.add_argument("--out", type=Path, help="where the samples of memory go, one a line")
    parser.add_argument("more", nargs="*", help="further options of rrmaster, after --")
    asked = parser.parse_intermixed_args()  # options may stand behind `soak`, and before --
    first, _, last = asked.seeds.partition("-")
    plan = Plan(asked.seconds, 0.7, 16, 20.0)
    if asked.what == "soak":
        plan = Plan(asked.minutes * 60, 20.0, 8, 5.0)
    bad = 0
    for seed in range(int(first), int(last or first) + 1):
        began = time.monotonic()
        ledger, wrong = trio.run(run, seed, plan, asked.more, asked.out)
        bad += bool(wrong)
        print(f"seed {seed} ({time.monotonic() - began:.0f} s): {'; '.join(wrong) or 'nothing wrong'}")
        print(
            f"  {ledger.line()}\n  {dict(ledger.troubles)}", *(ledger.details if wrong else ()), sep="\n  ", flush=True
        )
    return bad


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ.pop("PORT", None)
    sys.exit(main())
