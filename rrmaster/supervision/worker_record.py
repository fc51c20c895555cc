"""What the master knows of one worker."""

from __future__ import annotations

from collections.abc import Callable

import trio
from attrs import Factory, define

from ..dispatch.recall import Link
from ..events.bus import Conversation
from ..processes.process import Process
from ..protocol import wire
from ..rules.lifecycle import State
from ..rules.recycling import Wear


@define(eq=False)
class WorkerRecord:
    """One worker, from the decision to start it until its process has ended.

    Written by `lifecycle_runner`, which carries out what the law says of it, and by the methods below; the rest of the
    master reads it.
    """

    id: int
    slot: int
    generation: int
    link: Link
    conversation: Conversation
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

    def leave(self) -> None:
        """Mark it as leaving at the master's wish: it serves until its replacement does."""
        self.leaving = self.asked = True

    def restart_deadlines(self, now: float) -> None:
        """Let its deadlines begin anew: the master itself was away, and could not hear it."""
        self.since = self.heard = now

    @property
    def key(self) -> tuple[int, int, int]:
        """Id, slot and generation: how events name it."""
        return self.id, self.slot, self.generation

    @property
    def facts(self) -> dict[str, object]:
        """The fields of a structured log entry."""
        pid = self.process.pid if self.process else None
        return {"id": self.id, "slot": self.slot, "pid": pid, "generation": self.generation}

    @property
    def name(self) -> str:
        """The name in the log."""
        return f"worker {self.slot} (pid {self.process.pid if self.process else '-'})"
