"""Are those whom a template forks fit to live?

::

    trusted ── they die before they are ready, one after the other ──► doubted: the next one is started without it
       ▲                                                                  │
       ├───────── that one dies as well: it is the application ───────────┤
       └── another template ◄── condemned ◄── that one becomes ready ─────┘

A newborn has what its template has: a limit on its memory, a lock that nobody will let go of.  What it dies of then
looks like a crash of the application, though one that imports this anew would live.  So who is to blame is tried, and
not guessed: a template is the last good code, whatever the disk has by now, and not given up for a database that is
down for a minute.

Only of an application that has been ready before is there any doubt; else it simply does not start.  It knows no
processes and no clock.
"""

from __future__ import annotations

from attrs import define

ENOUGH = 2
"""Deaths in a row.  One may be chance, and its place is filled at once; before the third there would be a pause."""


@define
class TemplateHealth:
    """What has become of those who were forked from one template."""

    good: bool = False
    """Somebody has been ready who had this code, wherever he had it from."""
    doubted: bool = False
    """Nobody is to be forked before it is known who is to blame."""
    deaths: int = 0
    """How many of the forked have died in a row."""
    _enough: int = ENOUGH

    def forked(self, ready: bool) -> bool:
        """One that was forked is ready, or has died before.  Whether that is one too many."""
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
        """One that was started without it is ready, or has died before.  Whether the template is condemned by that."""
        doubted, self.doubted = self.doubted, False
        self.good = self.good or ready
        if doubted and not ready:
            # Each trial costs an import, and a crash loop may last for days.
            self._enough *= 2
        return doubted and ready

    def reset(self) -> None:
        """It has shown that it can, or there is another one."""
        self.doubted, self.deaths, self._enough = False, 0, ENOUGH
