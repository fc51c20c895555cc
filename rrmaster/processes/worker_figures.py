"""What does the master know of the times that one worker's requests and connections have taken, and of their ends?

It owns the page in which the worker counts (`protocol.pages.figures`), and reads it when it is asked, every few seconds
for the figures of late, and once more after the worker's end, so that nothing is lost that was counted.
"""

from __future__ import annotations

from attrs import Factory, define

from ..events.latency import Recent
from ..protocol.pages.figures import NOTHING, Figures, Histogram, open_page, read_ends, read_page
from ..waiting import close


@define(eq=False)
class WorkerFigures:
    """The figures of one worker, from the decision to start it."""

    page: tuple[int, ...] = ()
    """The descriptor of its page, until it has ended.  Owned."""
    _last: Figures | None = None
    """What was read after its end, ..."""
    _last_ends: tuple[int, int] = (0, 0)
    """... and this, too."""
    _recent: Recent = Factory(Recent)
    """Of its requests."""

    @classmethod
    def open(cls) -> WorkerFigures:
        """With a new page.  Raises OSError."""
        return cls((open_page(),))

    def so_far(self) -> Figures | None:
        """What it has counted; None if it does not count."""
        for fd in self.page:
            return read_page(fd)
        return self._last

    def ends(self) -> tuple[int, int]:
        """How many connections it has closed, and parked instead, as far as it has counted that."""
        for fd in self.page:
            return read_ends(fd)
        return self._last_ends

    def look(self, now: float) -> None:
        """Called with each of its reports: reads the page if the present window of the figures of late is over."""
        if self._recent.is_due(now) and (figures := self.so_far()) is not None:
            self._recent.note(figures.durations, now)

    def now(self) -> tuple[Figures | None, Histogram]:
        """What it has counted, and of that its requests of the last 5 to 10 seconds."""
        figures = self.so_far()
        return figures, self._recent.of(figures.durations) if figures else NOTHING

    def close(self) -> None:
        """Its process has ended: read the page once more, and close it."""
        self._last, self._last_ends = self.so_far(), self.ends()
        for fd in self.page:
            close(fd)
        self.page = ()
