"""What can happen to a fleet?  The events that ``async with master.events()`` delivers to a program.

For each worker the events come in this order; those in brackets may be missing::

    WorkerForked → [WorkerOnline → [WorkerListening]] → WorkerDisconnected → WorkerExited

Its `WorkerMessage`s come between WorkerOnline and WorkerExited, in the order in which it sent them, and a
`WorkerChanged` wherever its state changes.  Between two workers, and between a worker and the fleet, the order is that
in which the master acted.  Every event is published in the master's loop, when the master has acted on it.

The names are those of Node's cluster, with its *fork*, *online*, *listening*, *disconnect*, *exit* and *message*; in
Node, disconnect and exit come in either order.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen


@frozen
class WorkerEvent:
    """Something happened to one worker: the base class of the worker events, and never sent itself."""

    id: int
    """The number of the worker: it counts up from 1 over the master's life, and is never used again."""
    slot: int
    """0 to N-1; a replacement has the slot of the worker that it replaces."""
    generation: int
    """1, and one more with each reload."""


@frozen
class WorkerForked(WorkerEvent):
    """The master has decided to start a worker; its process is being started.

    The first event of every worker, also of one whose process cannot be started.
    """


@frozen
class WorkerOnline(WorkerEvent):
    """The worker's process runs.  Its application may not be loaded yet.  Comes after WorkerForked, at most once."""

    pid: int
    """The pid of the process."""


@frozen
class WorkerListening(WorkerEvent):
    """The worker is ready, has passed the checks of a new worker, and receives connections from now on.

    Comes after WorkerOnline, at most once, right after the WorkerChanged to "serving".
    """

    addresses: tuple[str, ...]
    """The listeners it serves, as text (``127.0.0.1:8000``), with port 0 resolved."""


@frozen
class WorkerChanged(WorkerEvent):
    """The worker's state has changed: booting, proving, serving, draining, stopping, killed or gone."""

    before: str
    """The state before."""
    state: str
    """The state now."""
    why: str
    """The reason in a few words; may be empty."""


@frozen
class WorkerMessage(WorkerEvent):
    """The worker's application has sent a message, with ``current_worker().send(value)``."""

    message: Any
    """A JSON value: a tuple that was sent is a list here."""


@frozen
class WorkerDisconnected(WorkerEvent):
    """The worker receives no more connections: it drains, or has ended already.

    Comes exactly once, before WorkerExited, also for a worker that never received a connection.
    """


@frozen
class WorkerExited(WorkerEvent):
    """The worker's process has ended, or could not be started.  The last event of every worker."""

    code: int | None
    """Its exit status; None if a signal ended it, or it never ran."""
    signal: int | None
    """The number of the signal that ended it, as in the module `signal`; None if it exited, or never ran."""
    exited_after_disconnect: bool
    """True if the master told it to leave, or it had asked to; False if it died.  Node's exitedAfterDisconnect."""
    reason: str
    """Why it could not start, as the application reports it (a traceback); otherwise empty."""
    out_of_memory: bool = False
    """True if the kernel has killed it because memory ran out, as far as the master can tell."""
    in_hand: tuple[str, ...] = ()
    """Method and path of the requests that it had in progress, the newest first, if it noted them: a worker does that
    once one of its slot has died with some in hand."""


@frozen
class ReloadStarted:
    """A reload has begun: workers of a new generation start beside the old ones.

    ReloadCommitted or ReloadRolledBack with the same generation follows, unless the master stops before, or another
    reload takes the place of this one.
    """

    generation: int
    """The new generation."""


@frozen
class ReloadCommitted:
    """The new generation has proved good; the workers of the old one have left or are leaving."""

    generation: int
    """The generation that serves now."""


@frozen
class ReloadRolledBack:
    """The new generation failed, or took too long; the old one serves on."""

    generation: int
    """The generation that was given up."""
    status: int
    """10: it failed before it received connections, 11: it failed afterwards, 12: out of time."""
    reason: str
    """Why, mostly as the application reports it."""


@frozen
class FleetScaled:
    """The size of the fleet was changed; the master starts or retires workers to reach it."""

    size: int
    """The number of workers from now on."""


@frozen
class PoolStarted:
    """The idle pool stands: connections between two requests can rest in it from now on."""

    pid: int
    """The pid of its process."""


@frozen
class PoolEnded:
    """The idle pool has ended, and another one is started; workers keep their connections until it stands.

    At a stop of the fleet there is no such event.
    """

    pid: int | None
    """The pid of its process; None if it could not be started."""
    reason: str
    """How it ended, or why it could not be started."""


@frozen
class PoolCut:
    """Connections that rested were closed with an idle pool that was killed.

    Comes about the time of its PoolEnded, if at all.
    """

    connections: int
    """How many; a second PoolCut, for what a worker counted late, adds to the first."""


@frozen
class PoolFull:
    """All places of the idle pool were taken, and those that had rested longest were closed.  Once a minute at most."""

    limit: int
    """The number of places: ``--max-parked``, or what the limit of descriptors leaves."""
    closed: int
    """The number of connections closed for that since the last PoolFull, or since the first pool began."""


@frozen
class EventsMissed:
    """This subscriber was too slow: events before the next one are lost to it.  Other subscribers received them.

    The master keeps 10,000 events for each subscriber, with 16 MiB of messages at most.
    """

    count: int
    """The number of lost events."""


PoolEvent = PoolStarted | PoolEnded | PoolCut | PoolFull

FleetEvent = (
    WorkerForked
    | WorkerOnline
    | WorkerListening
    | WorkerChanged
    | WorkerMessage
    | WorkerDisconnected
    | WorkerExited
    | ReloadStarted
    | ReloadCommitted
    | ReloadRolledBack
    | FleetScaled
    | PoolEvent
    | EventsMissed
)
