"""Errors that the kernel might return, put under a running master by strace(1): each must cost what the law says.

::

    python -m tests.ordeal.errnos --seed 1 --each 12       # 12 errors of each call, chosen by the seed; 5 minutes
    python -m tests.ordeal.errnos --each 200               # all of them

By hand, outside the CI: it needs strace, and the right to trace.  Each row is one call of the master's main thread and
one error: every 20th such call fails for a second, while eight clients ask.  The law is `rules.kernel_errors`; the
doings in a row are judged by it (`Row.wrong`).  strace puts the error in the place of the call, so a `close` that fails
closes nothing here, and a connection whose accept fails stays in the backlog.  It cannot tell the master's calls from
those of trio's loop below it: a master that one of those has ended is counted apart.

On 2026-11-29, seed 7, five errors of each call: all of 54 rows go as the law says but for masters that a call of trio's
own has ended.  `tests/dispatch/test_errno_table.py` has some thirty of these rows in the CI, put in the place of the
calls in one process.
"""

from __future__ import annotations

import argparse
import errno
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import trio
from attrs import define

from rrmaster.rules.kernel_errors import LAWS, OWN_STATE, Cost

from .clients import Asker
from .fleet import Master, running
from .ledger import OURS, Ledger

CALLS = {
    "accept": "accept4",
    "sendmsg (hand over)": "sendmsg",
    "recv (a report)": "recvfrom",
    "ioctl (count a letterbox)": "ioctl",
    "epoll_ctl": "epoll_ctl",
    "close": "close",
    "sched_yield": "sched_yield",
}
"""The system call behind each law."""

SEEN = {"ioctl (count a letterbox)": "OUTQ", "epoll_ctl": r"epoll_ctl\((?!3, EPOLL_CTL_MOD)"}
"""What a line of strace has if the call is the one that is meant.  A change in trio's epoll, descriptor 3, is none:
trio takes each error of it for a descriptor that is new, and what follows has another error."""

CLIENTS = 8
ROW_S = 1.0
"""Seconds for which calls fail."""

RECOVERY_S = 20.0
"""Seconds in which the master must serve with all workers after a row."""


@define(eq=False)
class Row:
    """What one error did."""

    law: str
    number: int
    injected: int = 0
    ended: int = 0
    """Workers that ended meanwhile."""
    cut: int = 0
    status: int | None = None
    """The master's exit status, if it ended."""
    by_trio: bool = False
    """The call was one of trio's own, which ended the master."""
    wrong: str = ""

    @property
    def cost(self) -> Cost:
        """What the law says that it costs."""
        return LAWS[self.law].cost(self.number)

    def judge(self, ledger: Ledger, log: str) -> None:
        """Say what is against the law."""
        self.cut = ledger.ends["cut"]
        kept = self.cost is not Cost.WORKER and self.cost is not Cost.MASTER
        self.by_trio = re.search(r"_(wakeup_socketpair|io_epoll)\.py", log) is not None
        wrong = [f"{ledger.ends[end]} {end}" for end in ("hung", "wrong") if ledger.ends[end]]
        if self.by_trio:
            return
        if "Traceback" in log and OURS.search(log) and "its own state is wrong" not in log:
            wrong.append("a traceback")
        if self.cost is Cost.MASTER and self.injected:
            wrong += [] if self.status == 1 else [f"the master has status {self.status}"]
        elif self.status is not None:
            wrong.append(f"the master ended with {self.status}")
        if kept and (self.ended or self.cut):
            wrong.append(f"{self.ended} workers ended, {self.cut} requests cut")
        self.wrong = "; ".join(wrong)

    def line(self) -> str:
        """The row."""
        name = errno.errorcode.get(self.number, str(self.number))
        facts = f"{self.injected} failed, {self.ended} workers ended, {self.cut} cut"
        verdict = self.wrong or ("trio has ended" if self.by_trio else "as the law says")
        return f"{self.law:26} {name:16} {self.cost.value:15} {facts}  {verdict}"


def chosen(luck: random.Random, each: int) -> Iterator[tuple[str, int]]:
    """The rows: the errors that end the master last, since each takes a master of its own."""
    harmless: list[tuple[str, int]] = []
    deadly: list[tuple[str, int]] = []
    numbers = sorted(set(errno.errorcode) - {errno.EAGAIN} - OWN_STATE)
    for law in CALLS:
        for number in luck.sample(numbers, min(each, len(numbers))) + sorted(OWN_STATE):
            (deadly if LAWS[law].cost(number) is Cost.MASTER else harmless).append((law, number))
    yield from harmless
    yield from deadly


async def row(master: Master, law: str, number: int) -> Row:
    """Let this call fail with this error for a while, and look at what it does."""
    ledger, before, found = Ledger(), len(master.log), Row(law, number)
    name = errno.errorcode[number]
    with tempfile.NamedTemporaryFile("r") as traced:
        what = f"inject={CALLS[law]}:error={name}:when=5+20"
        tracer = await trio.lowlevel.open_process(
            ["strace", "-q", "-o", traced.name, "-e", f"trace={CALLS[law]}", "-e", what, "-p", str(master.process.pid)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(ROW_S):
                async with trio.open_nursery() as clients:
                    for _ in range(CLIENTS):
                        clients.start_soon(_ask, Asker(master.port, ledger), nursery)
        if tracer.returncode is None:
            tracer.send_signal(signal.SIGINT)
        await tracer.wait()
        lines = [line for line in traced if "(INJECTED)" in line]
        found.injected = sum(re.search(SEEN.get(law, ""), line) is not None for line in lines)
    await _settle(master, found)
    log = master.log[before:]
    found.ended = len(re.findall(r"-> (?:gone|killed)", log)) if found.status is None else 0
    found.judge(ledger, log)
    if found.wrong or found.by_trio:
        Path(tempfile.gettempdir(), f"errno-{number}-{CALLS[law]}.log").write_text(log + "".join(lines))
    return found


async def _ask(asker: Asker, nursery: trio.Nursery) -> None:
    """Ask until cancelled; what was asked is answered later."""
    while True:
        done = trio.Event()

        async def one(done: trio.Event = done) -> None:
            await asker.ask("/")
            done.set()

        nursery.start_soon(one)
        await done.wait()


async def _settle(master: Master, found: Row) -> None:
    """Wait until it serves with all workers, or has ended."""
    with trio.move_on_after(RECOVERY_S):
        while True:
            if found.cost is Cost.MASTER and found.injected:
                found.status = await master.process.wait()
            if master.process.returncode is not None:
                found.status = master.process.returncode
                return
            try:
                snapshot = await master.status()
            except Exception:
                await trio.sleep(0.1)  # it is just ending
                continue
            if snapshot.serving == snapshot.size:
                return
            await trio.sleep(0.05)


async def run(seed: int, each: int) -> list[Row]:
    """All rows.  A master that has ended is followed by another."""
    done: list[Row] = []
    waiting = list(chosen(random.Random(seed), each))
    while waiting:
        async with running(["--workers", "2"]) as master:
            while waiting and master.process.returncode is None:
                done.append(await row(master, *waiting.pop(0)))
                print(done[-1].line(), flush=True)
    return done


def main() -> int:
    """The exit status is 1 if a row was against the law."""
    parser = argparse.ArgumentParser(prog="python -m tests.ordeal.errnos")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each", type=int, default=12, help="errors of each call, beside those that end the master")
    asked = parser.parse_args()
    if shutil.which("strace") is None:
        sys.exit("strace is needed")
    rows = trio.run(run, asked.seed, asked.each)
    reached = [found for found in rows if found.injected]
    print(f"{len(rows)} rows, {len(reached)} of them with failed calls ({sum(r.injected for r in rows)})")
    print(f"{sum(found.by_trio for found in rows)} masters ended by a call of trio's own")
    print(dict(Counter(found.cost.value for found in reached)), f"{sum(bool(r.wrong) for r in rows)} against the law")
    return int(any(found.wrong for found in rows))


if __name__ == "__main__":
    sys.exit(main())
