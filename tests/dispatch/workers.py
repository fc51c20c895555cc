"""Workers of numbers alone: what the laws see of one, and the truth beside it."""

from __future__ import annotations

from collections import deque

from attrs import Factory, define

from rrmaster.dispatch.load import Post
from rrmaster.protocol import wire
from rrmaster.protocol.uplink import decode_up


@define(eq=False)
class Worker:
    """A worker and its letterbox, both simulated; `post` is what the master knows of it."""

    post: Post = None  # type: ignore[assignment]
    letterbox: deque[str] = Factory(deque)
    taken: int = 0
    closed: int = 0
    asides: int = 0

    def take(self) -> None:
        """Take one message, if there is one."""
        if self.letterbox:
            nudge = self.letterbox.popleft() == "nudge"
            self.asides += nudge
            self.taken += not nudge

    def close(self, count: int) -> None:
        self.closed += min(count, self.taken - self.closed)

    def report(self, busy: int = 0, taking: bool = True) -> wire.Report:
        """As it arrives: spelled and read."""
        message = decode_up(wire.encode(wire.Report(self.closed, busy, taking, asides=self.asides)))
        assert isinstance(message, wire.Report)
        return message

    @property
    def has_room(self) -> bool:
        """The truth, without touching what the master remembers."""
        post, handoffs = self.post, self.letterbox.count("handoff")
        return post.serving and not post.suspended and post.load < post.limit and handoffs < post.window


def hire(id_: int, window: int = 8, limit: int = 10_000, slot: int | None = None) -> Worker:
    worker = Worker()
    slot = id_ if slot is None else slot
    worker.post = Post(id_, slot, lambda: len(worker.letterbox), window, limit, serving=True)
    return worker
