"""What the master knows of one worker."""

from __future__ import annotations

from collections.abc import Callable

import trio
from attrs import Factory, define

from ..dispatch.link import Link
from ..events.bus import MessageChannel
from ..processes.process import Process
from ..processes.worker_figures import WorkerFigures
from ..protocol import wire
from ..protocol.pages.last_words import Heard, read_page
from ..rules.lifecycle import State
from ..rules.recycling import Wear
from ..verdicts.hearing import Docket
from ..waiting import close

LAG_WINDOW = 5.0
"""Seconds for which the worst lag is kept, twice: it is still there for an operator a moment after a block."""


@define(eq=False)
class WorkerRecord:
    """One worker, from the decision to start it until its process has ended.

    Only its own methods write it.  They are called by the `lifecycle_runner`, which carries out what the law says, and
    by those that judge its end (`crashes`, `supervisor`); the rest of the master reads it.
    """

    id: int
    slot: int
    generation: int
    link: Link
    conversation: MessageChannel
    since: float
    """When it entered its state, on trio's clock."""
    heard: float
    """When its last message was read."""
    wear: Wear
    """How it stands against the limits of --max-requests, --max-age and --max-memory."""
    state: State = State.BOOTING
    process: Process | None = None
    """None until its process has started."""
    report_start: Callable[[bool], bool] = lambda ready: False
    """See `spawner.StartedWorker`."""
    report: wire.Report | None = None
    """Its last report."""
    worst_lag: float = 0.0
    """Seconds by which its loop was late at worst, in the current `LAG_WINDOW`, ..."""
    worst_before: float = 0.0
    """... and in the one before."""
    lag_since: float = float("-inf")
    """When the current window began."""
    docket: Docket = Factory(Docket)
    """What is known of its silence, while it is silent."""
    gone: trio.Event = Factory(trio.Event)
    """Set when its process has ended and everything that follows from that is done."""

    # --- how far it has come

    ready: bool = False
    """It has said that it can take connections."""
    proved: bool = False
    """It is ready, and has passed its health check if there is one."""
    served_since: float | None = None
    """When it entered SERVING; None if it never has."""

    # --- how it leaves

    leaving: bool = False
    """A replacement is wanted; it serves until that serves."""
    asked: bool = False
    """The master asked it to go, or let it go, so its end is no crash."""
    recycle_reason: str = ""
    """Why it should be replaced when its turn comes; empty if it should not."""
    disconnected: bool = False
    """It receives no more connections, and that has been announced."""
    dumping: bool = False
    """It was just asked for its stacks, which take a moment to be written."""
    failure: str = ""
    """Why it could not start, in its own words."""

    # --- what it counts

    figures: WorkerFigures = Factory(WorkerFigures)
    """How long its requests take."""

    # --- what it had in hand

    page: tuple[int, ...] = ()
    """The descriptor of the page for its last words, if it notes its requests.  Owned."""
    heard_last: Heard | None = None
    """What the page said at its end."""

    # --- what its end means

    judged: bool = False
    """It is decided whether its end counts as a crash."""
    retry: bool = False
    """It fills a crashed worker's place: if it lasts, the crash loop is over."""
    sampled: float = float("-inf")
    """When its wear was last looked at."""

    def served_for(self, now: float) -> float:
        """Seconds since it began to serve; 0 if it never has."""
        return 0.0 if self.served_since is None else now - self.served_since

    # --- what happens to it

    def enter(self, state: State, now: float) -> None:
        """Enter another state."""
        self.state, self.since = state, now

    def started(self, process: Process, report_start: Callable[[bool], bool], now: float) -> None:
        """Its process runs.

        Its time to become ready begins now, for a template that failed may have used up much of it.
        """
        self.process, self.report_start = process, report_start
        if self.state is State.BOOTING:
            self.since = now

    def heard_from(self, now: float) -> None:
        """A message of its was read."""
        self.heard = now

    def reported(self, report: wire.Report, heartbeat: float) -> bool:
        """It has sent a report.  Returns whether it should be replaced for its wear, which was not known before."""
        self.report = report
        self._note_lag(report.lag_us / 1e6)
        self.figures.look(self.heard)
        if self.state is not State.SERVING or self.recycle_reason or self.heard - self.sampled < heartbeat:
            return False
        self.sampled = self.heard
        self.recycle_reason = self.wear.reason(report.requests, self.served_for(self.heard), report.rss, self.heard)
        return bool(self.recycle_reason)

    def _note_lag(self, seconds: float) -> None:
        passed = self.heard - self.lag_since
        if passed >= LAG_WINDOW:
            self.worst_before = self.worst_lag if passed < 2 * LAG_WINDOW else 0.0
            self.worst_lag, self.lag_since = 0.0, self.heard
        self.worst_lag = max(self.worst_lag, seconds)

    def lag(self, now: float, heartbeat: float) -> float:
        """Seconds by which its loop was late at worst, in the last 5 to 10 seconds, or is late at present.

        A blocked loop sends no report, so an overdue one is the only sign while it lasts; and the report that tells of
        it is followed by others in a few milliseconds, so the worst is kept.
        """
        passed = now - self.lag_since
        known = (self.worst_lag, self.worst_before) if passed < LAG_WINDOW else (self.worst_lag,)
        recent = max(known) if passed < 2 * LAG_WINDOW else 0.0
        return max(recent, self.overdue(now, heartbeat))

    def overdue(self, now: float, heartbeat: float) -> float:
        """Seconds by which its next report is overdue: its loop is blocked at present.  0 if it owes none."""
        owes = self.ready and self.state is not State.GONE
        return max(now - self.heard - heartbeat, 0.0) if owes else 0.0

    def became_ready(self) -> None:
        """It has said that it can take connections."""
        self.ready = True

    def passed(self) -> None:
        """It has passed its health check, or has none."""
        self.proved = True

    def served(self, now: float) -> None:
        """It receives connections from now on."""
        self.served_since = now

    def failed(self, reason: str) -> None:
        """It could not start, or is not well, for this reason."""
        self.failure = reason

    def extend(self, now: float) -> None:
        """Let the time of its state begin anew."""
        self.since = now

    def restart_deadlines(self, now: float) -> None:
        """Let all its deadlines begin anew: the master itself was away, and could not hear it."""
        self.since = self.heard = now

    # --- how it leaves

    def recycle(self, reason: str) -> None:
        """Replace it when its turn comes; the first reason stays."""
        self.recycle_reason = self.recycle_reason or reason

    def leave(self) -> None:
        """Let it leave at the master's wish: it serves until its replacement does."""
        self.leaving = self.asked = True

    def ask_to_go(self) -> None:
        """The master wants it to go, so its end is no crash."""
        self.asked = True

    def disconnect(self) -> bool:
        """It receives no more connections.  Returns whether that is new."""
        new, self.disconnected = not self.disconnected, True
        return new

    def dump(self, pending: bool) -> None:
        """Its stacks are being written (`pending`), or no longer."""
        self.dumping = pending

    # --- what it had in hand

    def hear_last_words(self) -> None:
        """Its process has ended: read its pages, and close them."""
        self.figures.close()
        for fd in self.page:
            self.heard_last = read_page(fd)
            close(fd)
        self.page = ()

    @property
    def in_hand(self) -> tuple[str, ...]:
        """Method and path of the requests that it had in progress when it ended, the newest first, if it noted them."""
        return self.heard_last.requests if self.heard_last is not None else ()

    @property
    def died_in_a_request(self) -> bool:
        """Whether it ended with a request in progress.  One that has noted none may have had any open connection."""
        if self.heard_last is not None and self.heard_last.noted:
            return bool(self.heard_last.requests)
        return self.link.lost > 0

    # --- what its end means

    def judge(self) -> None:
        """It is decided whether its end counts as a crash."""
        self.judged = True

    def fill_crashed_place(self, fills: bool) -> None:
        """It stands in a crashed worker's place, or the crash loop is over."""
        self.retry = fills

    @property
    def key(self) -> tuple[int, int, int]:
        """Id, slot and generation: how events name it."""
        return self.id, self.slot, self.generation

    @property
    def pids(self) -> tuple[int, ...]:
        """Its process, once that has started."""
        return (self.process.pid,) if self.process else ()

    @property
    def facts(self) -> dict[str, object]:
        """The fields of a structured log entry."""
        pid = self.process.pid if self.process else None
        return {"id": self.id, "slot": self.slot, "pid": pid, "generation": self.generation}

    @property
    def name(self) -> str:
        """The name in the log."""
        return f"worker {self.slot} (pid {self.process.pid if self.process else '-'})"
