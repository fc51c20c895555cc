"""Is a template to blame for the early deaths of the workers that are forked from it?

::

    trusted ── two workers in a row end before ready ──► doubted: the next worker imports the application
       ▲                                                                  │
       ├───────── it ends before ready, too: the application is at fault ─┤
       └── another template ◄── condemned ◄── it becomes ready ───────────┘

A forked worker inherits the state of its template: a limit on memory, a lock that is never released.  If that ends the
worker, it looks like a crash of the application, although a worker that imports the application would live.  So the
cause is tested, not guessed: a template holds the last good code, whatever the disk holds by now, and is not given up
because a database is down for a minute.

Only an application that has been ready before gives reason for doubt; any other simply does not start.  This module
knows no processes and no clock.
"""

from __future__ import annotations

from attrs import define

ENOUGH = 2
"""Ends before ready in a row.  One may be chance, and its place is filled at once; before the third there would be a
back-off."""


@define
class TemplateHealth:
    """The record of the workers that were forked from one template."""

    good: bool = False
    """Whether any worker with this code has been ready, forked or not."""
    doubted: bool = False
    """Whether the template forks no worker until the test has shown which side is at fault."""
    deaths: int = 0
    """The number of forked workers in a row that ended before they were ready."""
    _enough: int = ENOUGH

    def forked(self, ready: bool) -> bool:
        """Take note that a forked worker is ready, or ended before that.  Returns whether this begins a doubt."""
        if ready:
            self.good = True
            self.reset()
            return False
        self.deaths += 1
        if self.doubted or not self.good or self.deaths < self._enough:
            return False
        self.doubted = True
        return True

    def imported(self, ready: bool) -> bool:
        """Take note that a worker started without the template is ready, or ended before that.

        Returns whether this condemns the template.
        """
        doubted, self.doubted = self.doubted, False
        self.good = self.good or ready
        if doubted and not ready:
            # Each test costs an import, and a crash loop may last for days: test half as often each time.
            self._enough *= 2
        return doubted and ready

    def reset(self) -> None:
        """Forget the deaths: a forked worker is ready, or the template is another one."""
        self.doubted, self.deaths, self._enough = False, 0, ENOUGH
