"""What is known of one worker: what it is to be, what has become of it, and what it says."""

from __future__ import annotations

from collections.abc import Callable

import trio
from attrs import Factory, define, frozen

from ..dispatch.recall import Link
from ..events.bus import MessageChannel
from ..processes.process import Process
from ..protocol import wire
from ..rules.lifecycle import State
from ..rules.recycling import Limits, Wear


@frozen
class Birth:
    """What a new worker is to be."""

    id: int
    slot: int
    generation: int
    line: int
    """The descriptor to inherit; it stays the supervisor's, ..."""
    talk: int
    """... as does the other one."""


@frozen
class Born:
    """A new worker's process, and the descriptors of its output, now the supervisor's."""

    process: Process
    outputs: tuple[int, ...] = ()
    outcome: Callable[[bool], bool] = lambda ready: False
    """To be told once: whether it has become ready, or has died before.  True: not the application is to blame for who
    died, but how they were started, and the next ones are started in another way."""


@define(eq=False)
class Ward:
    """One worker, as the supervisor knows it."""

    id: int
    slot: int
    generation: int
    link: Link
    conversation: MessageChannel
    since: float
    """When it entered its state."""
    heard: float
    """When it was last heard."""
    state: State = State.BOOTING
    process: Process | None = None
    leaving: bool = False
    """It is to be replaced; it serves until its replacement does."""
    wish: str = ""
    """Why it should be replaced, when its turn comes."""
    gone: trio.Event = Factory(trio.Event)
    """Set when it has ended and is buried."""
    left_out: bool = False
    """It is given nothing any more, and that has been told."""
    asked: bool = False
    """We wanted it gone, so its end is no crash."""
    probed: bool = False
    """It is ready, and has answered its probe if there is one."""
    served_since: float | None = None
    ready: bool = False
    """It has said so."""
    outcome: Callable[[bool], bool] = lambda ready: False
    """As in `Born`."""
    judged: bool = False
    """It is decided whether its end is a crash."""
    retry: bool = False
    """It fills a crashed worker's place: if it lasts, the crash loop is over."""
    dumping: bool = False
    """It was just asked for its stacks; they take a moment."""
    reason: str = ""
    """Why it could not start, in its own words."""
    report: wire.Report | None = None
    wear: Wear = Factory(lambda: Wear(Limits()))
    sampled: float = float("-inf")
    """When its wear was last looked at."""

    def served_for(self, now: float) -> float:
        """Seconds since it began to serve; 0: it has not."""
        return 0.0 if self.served_since is None else now - self.served_since

    @property
    def key(self) -> tuple[int, int, int]:
        """Who it is, for the events of the library."""
        return self.id, self.slot, self.generation

    @property
    def facts(self) -> dict[str, object]:
        """For the events."""
        pid = self.process.pid if self.process else None
        return {"id": self.id, "slot": self.slot, "pid": pid, "generation": self.generation}

    @property
    def name(self) -> str:
        """For the log."""
        return f"worker {self.slot} (pid {self.process.pid if self.process else '-'})"
