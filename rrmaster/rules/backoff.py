"""When a crashed worker is replaced, and when the crashes are called a crash loop.

A *crash* is an end before ready, by the worker's own exit, by a fault signal, or out of memory.  A worker that the
master has to kill while it serves, or that leaves as soon as it serves, counts as crashed too.  A worker killed from
outside (SIGKILL, SIGTERM) has not crashed: an operator wanted its end, and it is replaced at once.

The first crash is replaced at once, the next ones after a back-off that doubles, with jitter, up to a cap.  It is the
back-off of the fleet, not of a slot: code that crashes in one slot crashes in all, and eight slots that each back off
alone restart eight times as often.  A worker that had served for `STABLE_S` starts no loop, so eight good workers that
crash together come back together.  No slot is given up while any worker serves.

A worker that crashes with requests in hand has most likely been killed by one of them, and its code serves all others:
a back-off would let one request that comes twice a second take the whole fleet away.  It is replaced at once too, at
the pace of `STARTS_PER_S`, and what it had in hand is counted (`DeadlyRequests`).

This module knows no clock and no processes; time and randomness are arguments.
"""

from __future__ import annotations

import signal
from collections import deque

from attrs import Factory, define, frozen

STABLE_S = 10.0
"""Seconds of serving after which a crash is the first one again, not part of a loop."""

FIRST_S, CAP_S = 1.0, 30.0
"""Seconds of the second back-off and of the largest.  1, 2, 4, 8, 16, 30: seven tries in the first minute, then two a
minute, which is seldom enough to read the log and often enough to notice when the database is back."""

ALONE_CAP_S = 1.0
"""Seconds, the cap while no worker serves: then every client waits for the next try."""

BRIEF_S = 1.0
"""Seconds.  A worker that leaves by itself sooner than this after it began to serve counts as crashed: the next one
would leave as soon, and the one after it.  (Node's users and gunicorn start the next one at once, for ever.  systemd
counts every start against its limit, however the last one ended; supervisord calls a start good that lasts this long,
`startsecs`.  Both rules are better, except that they give up.)  A worker that stays longer has served: a program may
well have one worker for each job."""

WINDOW_S, LOOP = 60.0, 5
"""Seconds, and the number of crashes within them that is reported as a crash loop."""

JITTER = 0.2
"""The share by which the back-off varies, so that several masters on one machine do not restart in step."""

STARTS_PER_S = 20
"""The most workers replaced in one second.  It bounds the cost of a program that kills workers in a loop."""

_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP}


@frozen
class Exit:
    """How a process ended: by itself with a status, or by a signal."""

    code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    """The signal was the kernel's own SIGKILL, as far as the master can tell."""

    def __str__(self) -> str:
        if self.signal is None:
            return f"exited with status {self.code}"
        if self.out_of_memory:
            return "was ended by the kernel's SIGKILL: out of memory"
        try:
            return f"was ended by {signal.Signals(self.signal).name}"
        except ValueError:
            return f"was ended by signal {self.signal}"

    @property
    def killed(self) -> bool:
        """Whether the signal came from outside: not a fault, and not the kernel's own SIGKILL, where that is known."""
        return self.signal is not None and self.signal not in _FAULTS and not self.out_of_memory


def counts_as_crash(end: Exit, was_ready: bool) -> bool:
    """Whether this end of a worker is a crash, given that the master did not ask for it."""
    return not was_ready or not end.killed


@frozen
class Deadly:
    """A request that was in hand when workers died."""

    deaths: int
    last: float
    """The time of the last one."""


DEADLY_S = 600.0
"""Seconds for which a request is remembered after the last death."""

MOST_DEADLY, KEPT = 20, 1000
"""Requests that are told, and those that are counted: one death may come with 64, and the killer must not be lost among
paths that clients make up."""


@define
class DeadlyRequests:
    """What workers had in hand when they died.

    A request that is in hand at many deaths is the killer, and the others were beside it: the counts tell which.
    """

    _found: dict[str, Deadly] = Factory(dict)

    def died(self, requests: tuple[str, ...], now: float) -> str:
        """A worker died with these in hand; returns the one that was there most often, the newest of equals."""
        for request in dict.fromkeys(requests):
            before = self._found.get(request)
            self._found[request] = Deadly(before.deaths + 1 if before is not None else 1, now)
        # The most frequent are kept, and of those the latest: clients may make up any number of paths.
        kept = sorted(self._found.items(), key=lambda found: (found[1].deaths, found[1].last), reverse=True)
        worst = max(requests, key=lambda request: self._found[request].deaths, default="")
        self._found = dict(kept[:KEPT])
        return worst

    def deaths(self, request: str) -> int:
        """How often it was in hand."""
        found = self._found.get(request)
        return 0 if found is None else found.deaths

    def known(self, now: float) -> list[tuple[str, int]]:
        """The requests of the last `DEADLY_S`, with the number of deaths, the most frequent first."""
        self._found = {name: found for name, found in self._found.items() if now - found.last < DEADLY_S}
        most = sorted(self._found.items(), key=lambda found: found[1].deaths, reverse=True)[:MOST_DEADLY]
        return [(name, found.deaths) for name, found in most]


@define
class Backoff:
    """The crashes of a fleet, and the time at which the next replacement may start."""

    streak: int = 0
    """Crashes since a worker last proved stable.  From the second on there is a back-off."""
    not_before: float = 0.0
    """The time at which the present back-off ends."""
    crashes: deque[float] = Factory(deque)
    """Times of the crashes of the last `WINDOW_S`."""
    _retried: float = float("-inf")
    """The time at which a crashed worker was replaced last."""
    _started: deque[float] = Factory(deque)
    """Times of the replacements of the last second, of any kind."""

    def crashed(self, now: float, served_for: float, jitter: float) -> float:
        """Take note of a crash; returns the back-off in seconds.  `jitter` is a random number from 0 to 1."""
        if self.crashes and now - self.crashes[-1] > WINDOW_S + CAP_S:
            self.streak = 0
        self.crashes.append(now)
        self._forget(now)
        if served_for >= STABLE_S and self.streak <= 1:
            self.streak = 1
            return 0.0
        self.streak += 1
        if self.streak == 1:
            return 0.0
        delay = self._delay(jitter)
        self.not_before = max(self.not_before, now + delay)
        return delay

    def wait(self, now: float, any_serves: bool) -> float:
        """Seconds until a crashed worker may be replaced; 0: now."""
        waiting = max(self.not_before - now, 0.0)
        if not any_serves and self.crashes:
            waiting = min(waiting, max(max(self.crashes[-1], self._retried) + ALONE_CAP_S - now, 0.0))
        return waiting

    def retried(self, now: float) -> None:
        """Take note that a crashed worker was replaced.  In a loop one try is for all slots: the next waits."""
        self._retried = now
        if self.streak > 1:
            self.not_before = now + self._delay(0.5)

    def pace(self, now: float) -> float:
        """Seconds until any other worker may be replaced, crashed or not; 0: now."""
        while self._started and now - self._started[0] >= 1.0:
            self._started.popleft()
        return self._started[0] + 1.0 - now if len(self._started) >= STARTS_PER_S else 0.0

    def started(self, now: float) -> None:
        """Take note that a worker was started in the place of another."""
        self._started.append(now)

    def is_loop(self, now: float) -> bool:
        """Whether this is a crash loop."""
        self._forget(now)
        # A loop that is slowed down has few crashes in a minute, and is a loop all the same.
        return len(self.crashes) >= LOOP or (len(self.crashes) > 0 and self.streak >= LOOP)

    def reset(self) -> None:
        """Start without a streak: the code is new, or the operator tries again, or a replacement has proved stable."""
        self.streak, self.not_before = 0, 0.0

    def _delay(self, jitter: float) -> float:
        # 16: beyond it the cap holds anyway, and 2.0 ** streak would overflow after a thousand crashes.
        return min(FIRST_S * 2.0 ** min(self.streak - 2, 16), CAP_S) * (1 + JITTER * (2 * jitter - 1))

    def _forget(self, now: float) -> None:
        # The last crash is kept a back-off longer, so that a loop at its slowest is still one.
        while len(self.crashes) > 1 and now - self.crashes[0] > WINDOW_S:
            self.crashes.popleft()
        if self.crashes and now - self.crashes[0] > WINDOW_S + CAP_S:
            self.crashes.clear()
