"""Does a counter of /metrics ever fall, and are the sums what clients have counted?

::

    python -m tests.ordeal.counters                        # 20 reloads and 50 kills, some minutes
    python -m tests.ordeal.counters --reloads 4 --kills 10 -- --park-after off

Four workers have about 100 requests a second, half of them over kept connections.  In each round the fleet is reloaded,
and workers in any state are killed, one of them during the reload.  A client scrapes ten times a second, and reads with
Prometheus' own parser.

At each scrape no series of a counter or a histogram may be smaller than it was, or have vanished.  And at the end:

- the master has accepted as many connections as were opened, and workers took each of them once, and once more each
  time that it came back from the idle pool;
- the requests that workers finished are those that clients saw answered, besides some that were cut: a worker that is
  killed may have counted an answer which has not left it;
- the histogram of durations counts each request that was finished; each connection that was cut is counted as lost, as
  are some of which the client has its answer and whose end the worker had not seen;
- the ends of workers by how are the ends of workers by slot, and the reloads are those that were asked for.

On 2026-11-29, with thirty other processes that wanted the two processors: 20 reloads and 50 kills, 893 scrapes, 164,128
comparisons and none fell; 3,422 connections and 9,884 answers, of both counts of the workers the same.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from contextlib import suppress

import httpx
import trio
from attrs import Factory, define
from prometheus_client.parser import text_string_to_metric_families

from .clients import Asker
from .fleet import Master, running
from .ledger import Ledger

PATIENCE_S = 120.0
"""Seconds until a wait fails, on a machine with many other processes."""

KEPT, RATE = 16, 50.0
"""Clients that keep their connections, and requests a second over connections of their own."""

OPTIONS = ("--admin", "127.0.0.1:0", "--workers", "4", "--probation", "100ms", "--soak", "100ms")

Series = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a sample, and its labels."""


@define(eq=False)
class Scraper:
    """What /metrics has said."""

    address: str
    last: dict[Series, float] = Factory(dict)
    scrapes: int = 0
    values: int = 0
    """Samples of counters that were compared with the ones before."""
    fallen: list[str] = Factory(list)
    unanswered: list[str] = Factory(list)
    """Where a machine is so slow that a kept connection expires between two scrapes."""

    async def run(self) -> None:
        """Scrape ten times a second, until cancelled."""
        async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
            while True:
                began = trio.current_time()
                try:
                    self._take((await client.get(f"{self.address}/metrics")).text)
                except httpx.TransportError as error:
                    self.unanswered.append(repr(error))
                await trio.sleep_until(began + 0.1)

    def _take(self, text: str) -> None:
        seen: dict[Series, float] = {}
        for family in text_string_to_metric_families(text):
            if family.type in ("counter", "histogram"):
                seen |= {(s.name, tuple(sorted(s.labels.items()))): float(s.value) for s in family.samples}
        for series, value in self.last.items():
            if seen.get(series, -1.0) < value:
                self.fallen.append(f"{series} fell from {value} to {seen.get(series)} in scrape {self.scrapes}")
        self.scrapes, self.values = self.scrapes + 1, self.values + len(self.last)
        self.last = seen

    def sum(self, name: str, **labels: str) -> float:
        """Over all series of this name with these labels."""
        wanted = set(labels.items())
        return sum(value for (each, of), value in self.last.items() if each == f"rrmaster_{name}" and wanted <= {*of})

    async def until(self, name: str, value: float, **labels: str) -> None:
        """Wait until this sum is reached."""
        with trio.fail_after(PATIENCE_S):
            while self.sum(name, **labels) < value:
                await trio.sleep(0.05)


@define(eq=False)
class Trouble:
    """Reloads and kills."""

    master: Master
    scraper: Scraper
    luck: random.Random
    kills: int = 0

    async def round(self, kills: int) -> None:
        """One reload, to its end, with so many kills in it and after it."""
        reloads = self.scraper.sum("reloads_total")
        self.master.process.send_signal(signal.SIGHUP)
        for number in range(kills):
            await trio.sleep(self.luck.uniform(0.0, 0.6))
            await self._kill()
            if number == 0:
                await self.scraper.until("reloads_total", reloads + 1)

    async def _kill(self) -> None:
        while True:
            workers = (await self.master.status()).workers
            worker = self.luck.choice(workers)
            with suppress(ProcessLookupError):
                if worker.pid and worker.state not in ("stopping", "killed"):
                    os.kill(worker.pid, signal.SIGKILL)
                    self.kills += 1
                    return
            await trio.sleep(0.01)


def judge(scraper: Scraper, ledger: Ledger, reloads: int) -> list[str]:
    """What is wrong, in words."""
    of, ends = scraper.sum, ledger.ends
    finished, cut = of("worker_requests_total"), ends["cut"]
    wrong = [*scraper.fallen, *(f"{ends[end]} {end}" for end in ("hung", "wrong", "refused") if ends[end])]
    for what, theirs, ours in (
        ("connections accepted", of("connections_accepted_total"), ledger.opened),
        ("taken by workers", of("worker_connections_total"), ledger.opened + of("connections_resumed_total")),
        ("waits until taken", of("accept_wait_seconds_count"), of("worker_connections_total")),
        ("durations of requests", of("request_duration_seconds_count"), finished),
        ("ends of workers", of("worker_exits_total"), of("worker_ends_total")),
        ("reloads", of("reloads_total"), reloads),
    ):
        wrong += [f"{what}: {theirs:g}, and it must be {ours:g}"] if theirs != ours else []
    if not ends["answered"] <= finished <= ends["answered"] + cut:
        wrong.append(f"{finished:g} requests finished; {ends['answered']} were answered and {cut} cut")
    lost = of("connections_lost_total") + of("parked_connections_ended_total", how="cut")
    return [*wrong, *([f"{cut} were cut, and {lost:g} are counted"] if cut > lost else [])]


async def run(seed: int, reloads: int, kills: int, options: list[str]) -> list[str]:
    """One run, and what is wrong with it."""
    luck, ledger, began = random.Random(seed), Ledger(), time.monotonic()
    async with running([*OPTIONS, *options]) as master, trio.open_nursery() as nursery:
        asker, scraper = Asker(master.port, ledger), Scraper(await _admin_of(master))
        nursery.start_soon(scraper.run)
        trouble = Trouble(master, scraper, luck)
        async with trio.open_nursery() as clients:
            for _ in range(KEPT):
                clients.start_soon(asker.keep, random.Random(luck.random()))
            clients.start_soon(asker.come, RATE, clients, random.Random(luck.random()))
            for number in range(reloads):
                await trouble.round(kills * (number + 1) // reloads - kills * number // reloads)
            asker.ending = True
        with trio.move_on_after(PATIENCE_S):
            while wrong := judge(scraper, ledger, reloads):  # a worker reports twice a second
                await trio.sleep(0.2)
        nursery.cancel_scope.cancel()
    exits = {dict(of)["how"]: value for (name, of), value in scraper.last.items() if "worker_exits" in name and value}
    ended = {dict(of)["result"]: value for (name, of), value in scraper.last.items() if "reloads" in name and value}
    print(
        f"{trouble.kills} kills, reloads {ended}, ends of workers {exits}; {time.monotonic() - began:.0f} s\n"
        f"{scraper.scrapes} scrapes, {scraper.values} comparisons, {len(scraper.fallen)} fell; unanswered: "
        f"{dict(Counter(scraper.unanswered))}\n"
        f"clients: {ledger.opened} connections, {dict(Counter(ledger.ends))}; workers: "
        f"{scraper.sum('worker_requests_total'):g} requests, {scraper.sum('worker_connections_total'):g} connections, "
        f"{scraper.sum('connections_resumed_total'):g} of them from the idle pool, "
        f"{scraper.sum('connections_lost_total'):g} lost in workers' hands"
    )
    return wrong


async def _admin_of(master: Master) -> str:
    with trio.fail_after(PATIENCE_S):
        while (found := re.search(r"page on (http://\S+)/", master.log)) is None:
            await trio.sleep(0.05)
    return found[1]


def main() -> int:
    """The exit status is 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.ordeal.counters")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reloads", type=int, default=20)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("more", nargs="*", help="further options of rrmaster, after --")
    asked = parser.parse_args()
    wrong = trio.run(run, asked.seed, asked.reloads, asked.kills, asked.more)
    print("\n".join(wrong) or "nothing wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
