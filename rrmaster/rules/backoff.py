"""When to try again, and when to call it a crash loop.

A *crash* is a death before ready, by own exit, by a fault signal, or out of memory; and whatever has the master end a
worker that serves, or has it leave as soon as it does.  A worker killed from outside (SIGKILL, SIGTERM) is no crash:
somebody wanted it gone, and it is replaced at once.

The first crash is replaced at once, the next ones after a back-off that doubles, with jitter, up to a cap.  What
counts is the fleet, not the slot: code that crashes crashes everywhere, and eight slots that each back off alone
restart eight times as often.  A worker that had served for `STABLE_S` starts no loop of its own, so eight good ones
that die together come back together.  Nothing is ever given up while anybody serves.

This module knows no clock and no processes; time and randomness are arguments.
"""

from __future__ import annotations

import signal
from collections import deque

from attrs import Factory, define, frozen

STABLE_S = 10.0
"""Seconds of serving after which a crash is news, not part of a loop."""

FIRST_S, CAP_S = 1.0, 30.0
"""Seconds of the second back-off and the largest.  1, 2, 4, 8, 16, 30: seven tries in the first minute, then two a
minute, which is seldom enough to read the log and often enough to notice when the database is back."""

ALONE_CAP_S = 1.0
"""Seconds, the cap while nobody serves: then every client waits for the next try."""

BRIEF_S = 1.0
"""Seconds.  Who leaves by its own wish sooner than this after it began to serve counts as crashed: the next one would
leave as soon, and the one after it.  (Node's users and gunicorn start the next one at once, for ever.  systemd counts
every start against its limit, however the last one ended; supervisord calls a start good that lasts this long,
`startsecs`.  Theirs is the better rule, but for giving up.)  Who stays longer has served: one worker for each job is a
way to live."""

WINDOW_S, LOOP = 60.0, 5
"""This many crashes within this many seconds are a crash loop, and are said to be one."""

JITTER = 0.2
"""The back-off varies by this share, so that several masters on one machine do not come back in step."""

STARTS_PER_S = 20
"""Workers replaced a second, at most: whoever kills them faster than this gains nothing by it."""

_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP}


@frozen
class Exit:
    """How a process ended: by itself with a status, or by a signal."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is None:
            return f"exited with status {self.code}"
        try:
            return f"was ended by {signal.Signals(self.signal).name}"
        except ValueError:
            return f"was ended by signal {self.signal}"

    @property
    def killed(self) -> bool:
        """By a signal that comes from outside.  The kernel's own SIGKILL, out of memory, looks the same here."""
        return self.signal is not None and self.signal not in _FAULTS


def counts_as_crash(how: Exit, was_ready: bool, out_of_memory: bool = False) -> bool:
    """Whether this end of a worker that nobody had asked to leave counts as a crash."""
    return not was_ready or not how.killed or out_of_memory


@define
class Backoff:
    """When the next replacement may start."""

    streak: int = 0
    not_before: float = 0.0
    crashes: deque[float] = Factory(deque)
    """Times of the crashes of the last `WINDOW_S`."""
    _retried: float = float("-inf")
    """When a crashed worker's place was filled last."""
    _started: deque[float] = Factory(deque)

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
        """Seconds until a crashed worker's place may be filled; 0: now."""
        waiting = max(self.not_before - now, 0.0)
        if not any_serves and self.crashes:
            waiting = min(waiting, max(max(self.crashes[-1], self._retried) + ALONE_CAP_S - now, 0.0))
        return waiting

    def retried(self, now: float) -> None:
        """A crashed worker's place was filled.  In a loop one tries for all: the next place waits as long again."""
        self._retried = now
        if self.streak > 1:
            self.not_before = now + self._delay(0.5)

    def pace(self, now: float) -> float:
        """Seconds until another one may be replaced; 0: now."""
        while self._started and now - self._started[0] >= 1.0:
            self._started.popleft()
        return self._started[0] + 1.0 - now if len(self._started) >= STARTS_PER_S else 0.0

    def started(self, now: float) -> None:
        """A worker was started in the place of another."""
        self._started.append(now)

    def is_loop(self, now: float) -> bool:
        """Whether this is a crash loop."""
        self._forget(now)
        # Slowed down it no longer crashes often, and is a loop all the same.
        return len(self.crashes) >= LOOP or (len(self.crashes) > 0 and self.streak >= LOOP)

    def reset(self) -> None:
        """New code, or a new try by the operator: the past does not count against it."""
        self.streak, self.not_before = 0, 0.0

    def _delay(self, jitter: float) -> float:
        return min(FIRST_S * 2.0 ** min(self.streak - 2, 16), CAP_S) * (1 + JITTER * (2 * jitter - 1))

    def _forget(self, now: float) -> None:
        while len(self.crashes) > 1 and now - self.crashes[0] > WINDOW_S:
            self.crashes.popleft()
        if self.crashes and now - self.crashes[0] > WINDOW_S + CAP_S:
            self.crashes.clear()
