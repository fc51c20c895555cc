"""Is a process guilty of its silence, or does it wait for a processor?  Each deadline for a process asks here.

::

    its time begins ──(1/8 of the limit)──► first look ──(the limit)──► look again ──► guilty
                                                                           └──► more time, said in the log ──► again

`rules.fair_time` decides.  A `Hearing` is one case; `Docket` keeps those of one worker, for a caller that has a clock
of its own; `in_fair_time` is a deadline for a task.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from logging import WARNING
from typing import TypeVar

import trio
from attrs import Factory, define, field

from ..logs.log import tell
from ..rules.fair_time import FIRST_LOOK, Observed, more_time
from .processor_time import Look, look, look_here

T = TypeVar("T")

COMPLAINT_S = 10.0
"""Seconds between log lines about processes that wait for a processor: on a starved machine each of them does."""

WORTH_TELLING = 0.1
"""The part of a limit that was waited for a processor from which on a verdict says so."""

CLOCK_GAP = 1.0
"""Seconds by which the master must wake up too late to conclude that it was itself stopped or asleep."""

Pids = Callable[[], Iterable[int]]
"""The processes whose doing a deadline waits for, as far as they are known at that moment."""


class Overdue(Exception):
    """A process has not done in its own time what it should.  The message is the evidence, and may be empty."""


def with_evidence(text: str, evidence: object) -> str:
    """A verdict, and the evidence for it if there is any."""
    return f"{text} ({evidence})" if str(evidence) else text


@define(eq=False)
class _Complaints:
    """The pace of the log lines."""

    _not_before: float = float("-inf")

    def say(self, now: float, name: str, limit: float, seen: Observed) -> None:
        """Log that a process is given more time, and why."""
        if self._not_before - COMPLAINT_S <= now < self._not_before:  # each run of trio has a clock of its own
            return
        self._not_before = now + COMPLAINT_S
        text = (
            f"{name} is given more time than {limit:g} s: processor time is short, "
            f"it waited {seen.waited:.1f} s for it, and the master {seen.delay:.1f} s"
        )
        facts = {"limit": limit, "waited": round(seen.waited, 3), "delay": round(seen.delay, 3)}
        tell("processor.short", text, level=WARNING, **facts)


_COMPLAINTS = _Complaints()


@define(eq=False)
class Hearing:
    """One case: a process that should do something within a limit, measured since `began`, on trio's clock."""

    limit: float
    began: float
    pids: Pids
    name: str
    """The name of the accused in the log."""
    due: float = field(init=False)
    """When to judge, or to look for the first time."""
    _looked: float | None = None
    """When it was looked at first."""
    _stopped: float = 0.0
    """Seconds that do not count: the master did not look, and did not wait for a processor either."""
    _delay: float = 0.0
    """Seconds for which the master's loop had waited for a processor at the last look."""
    _first: Look = Factory(Look)
    _master: Look = Factory(Look)

    def __attrs_post_init__(self) -> None:
        self.due = self.began + FIRST_LOOK * self.limit

    def judge(self, now: float) -> str | None:
        """Look, if it is time.  None: it has more time.  A text: it is guilty, and that is the evidence, if any."""
        if now < self.due:
            return None
        if self._looked is None:
            self._begin(now)
            return None
        seen, known = self._observed(now)
        stopped = now - self.due - (seen.delay - self._delay)
        self._delay = seen.delay
        if stopped > CLOCK_GAP:
            self._stopped += stopped
            self.due = now + FIRST_LOOK * self.limit
            return None
        more = more_time(self.limit, seen)
        if more > 0:
            self.due = now + more
            _COMPLAINTS.say(now, self.name, self.limit, seen)
            return None
        return self._evidence(seen, known)

    def _begin(self, now: float) -> None:
        self._looked, self._first, self._master = now, look(self.pids()), look_here()
        # A look that comes late has measured nothing yet: what passed before is not held against the process.
        self._stopped = max(now - FIRST_LOOK * self.limit - self.began, 0.0)
        self.due = self.began + self._stopped + self.limit

    def _observed(self, now: float) -> tuple[Observed, bool]:
        assert self._looked is not None
        later = look(self.pids())
        ran, waited = later.since(self._first)
        passed = max(now - self.began - self._stopped, 0.0)
        measured = min(now - self._looked, passed)
        delay = min(look_here().since(self._master).waited, measured)
        waited = min(waited, measured)
        seen = Observed(passed, measured, ran, waited, delay, later.runnable)
        return seen, later.waits_known

    def _evidence(self, seen: Observed, known: bool) -> str:
        found = []
        if seen.waited > WORTH_TELLING * self.limit or seen.delay > WORTH_TELLING * self.limit:
            found.append(
                f"in {seen.passed:.1f} s it ran {seen.ran:.1f} s and waited {seen.waited:.1f} s for a processor, "
                f"the master {seen.delay:.1f} s"
            )
        if not known and self._first.threads:
            found.append("how long it waited for a processor is not known: this kernel has no /proc/PID/schedstat")
        return "; ".join(found)


@define(eq=False)
class Docket:
    """The cases of one process, by their limits; each is about the silence since a moment."""

    _cases: dict[float, Hearing] = Factory(dict)

    def due(self, limit: float, began: float) -> float:
        """When to `judge` next.  No case is opened: most silences end soon."""
        case = self._cases.get(limit)
        return case.due if case is not None and case.began == began else began + FIRST_LOOK * limit

    def judge(self, limit: float, began: float, now: float, pids: Iterable[int], name: str) -> str | None:
        """None: it has more time.  A text: it is guilty, and that is the evidence, if any."""
        if now < self.due(limit, began):
            return None
        case = self._cases.get(limit)
        if case is None or case.began != began:
            case = self._cases[limit] = Hearing(limit, began, lambda: pids, name)
        return case.judge(now)


async def in_fair_time(limit: float, pids: Pids, name: str, work: Callable[[], Awaitable[T]]) -> T:
    """What `work` returns.  Raises Overdue, with the work cancelled, if these processes had `limit` seconds for it."""
    case = Hearing(limit, trio.current_time(), pids, name)
    evidence: list[str] = []
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(_hear, case, evidence, scope)
        with scope:
            try:
                result = await work()
            except trio.Cancelled:
                raise
            except BaseException as error:  # raised below: a nursery would wrap it into a group
                failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if scope.cancelled_caught:
        raise Overdue(*evidence)
    return result


async def _hear(case: Hearing, evidence: list[str], scope: trio.CancelScope) -> None:
    while True:
        await trio.sleep_until(case.due)
        found = case.judge(trio.current_time())
        if found is not None:
            evidence.append(found)
            scope.cancel()
            return
