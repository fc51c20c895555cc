"""How each request ended, and what is wrong with a run."""

from __future__ import annotations

import re
from collections import Counter

from attrs import Factory, define

PATIENCE_S = 20.0
"""Seconds after which a request has hung.  A worker that hangs is killed after 3 s, or more on a busy machine."""

RECOVERY_S = 20.0
"""Seconds after the last trouble in which all workers must serve again: back-off included."""

OURS = re.compile(r'File "[^"]*/rrmaster/(?!worker/)[^"]*"')


@define(eq=False)
class Ledger:
    """One run's books.  A request is in exactly one count."""

    ends: Counter[str] = Factory(Counter)
    """answered, cut, refused, wrong, hung: those of ordinary requests."""
    harmful: Counter[str] = Factory(Counter)
    """The same of those that hurt a worker: they are cut, as a rule."""
    troubles: Counter[str] = Factory(Counter)
    opened: int = 0
    """Connections, of both kinds of requests."""
    slowest: float = 0.0
    """Seconds."""
    details: list[str] = Factory(list)
    """When and what, for all that were not answered."""
    lost: int = 0
    """Connections that the master says were in the hands of the dead."""
    hangs_told: int = 0
    """Workers that the master has killed because they hung."""
    recovery: float = 0.0
    """Seconds from the last trouble until all workers served, and answered ten requests each within a second."""
    faults: list[str] = Factory(list)
    """What is wrong in other ways."""

    def note(self, end: str, seconds: float, harmful: bool) -> None:
        """A request has ended."""
        (self.harmful if harmful else self.ends)[end] += 1
        if not harmful and end == "answered":
            self.slowest = max(self.slowest, seconds)

    def judge(self, log: str) -> list[str]:
        """What is wrong, in words."""
        wrong = list(self.faults)
        wrong += [f"{self.ends[end]} {end}" for end in ("hung", "wrong", "refused") if self.ends[end]]
        cut = self.ends["cut"] + self.harmful["cut"]
        if cut > self.lost:
            wrong.append(f"{cut} cut, and the master knows of {self.lost}")
        hanging = sum(self.troubles[name] for name in ("hang", "hang by a stop", "stop", "stop before a drain"))
        if self.hangs_told > hanging:
            wrong.append(f"{self.hangs_told} killed as hung, and {hanging} hung")
        if self.recovery > RECOVERY_S:
            wrong.append(f"{self.recovery:.1f} s to recover")
        if "Traceback" in log and OURS.search(log):
            wrong.append("a traceback of the master's")
        return wrong

    def line(self) -> str:
        """The figures."""
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.ends.items()))
        return (
            f"{ends}; harmful: {dict(self.harmful)}; slowest {self.slowest:.1f} s; lost {self.lost}; "
            f"killed as hung {self.hangs_told}; recovered in {self.recovery:.1f} s"
        )
