"""What can happen to a fleet, as a program that embeds a master is told of it.

For each worker the order is total, and always this; what stands in brackets may be missing::

    WorkerForked → [WorkerOnline → [WorkerListening]] → WorkerDisconnected → WorkerExited

with its `WorkerMessage`s between WorkerOnline and WorkerExited, in the order in which it sent them, and a
`WorkerChanged` wherever its state changes.  (The names are those of Node's cluster, with its *fork*, *online*,
*listening*, *disconnect*, *exit* and *message*; there, disconnect and exit come in either order.)
"""

from __future__ import annotations

from typing import Any

from attrs import frozen


@frozen
class WorkerEvent:
    """Something happened to one worker."""

    id: int
    """Counts up from 1, and is never used again."""
    slot: int
    """0 to N-1; a replacement has the slot of the one it replaces."""
    generation: int
    """1, and one more with each reload."""


@frozen
class WorkerForked(WorkerEvent):
    """A worker is begun; its process is being started."""


@frozen
class WorkerOnline(WorkerEvent):
    """Its process runs.  This says nothing about its application yet."""

    pid: int
    """Of its process."""


@frozen
class WorkerListening(WorkerEvent):
    """It is ready, has stood what a new worker has to stand, and is given connections from now on."""

    addresses: tuple[str, ...]
    """The listeners it serves, as a person writes them, port 0 resolved."""


@frozen
class WorkerChanged(WorkerEvent):
    """Its state has changed: booting, proving, serving, draining, stopping, killed, gone."""

    before: str
    """The state it was in."""
    state: str
    """The one it is in now."""
    why: str
    """In a few words; may be empty."""


@frozen
class WorkerMessage(WorkerEvent):
    """Its application has sent a message."""

    message: Any
    """A JSON value."""


@frozen
class WorkerDisconnected(WorkerEvent):
    """It is given no more connections: it finishes what it has, or is dead already."""


@frozen
class WorkerExited(WorkerEvent):
    """Its process has ended, or could not be started."""

    code: int | None
    """Its exit status; None if a signal ended it, or it never ran."""
    signal: int | None
    """What ended it, as in the module `signal`; None if it ended by itself, or never ran."""
    exited_after_disconnect: bool
    """It was asked to go, or has asked for it itself; else it died."""
    reason: str
    """Why it could not start, in the application's own words; mostly empty."""


@frozen
class ReloadStarted:
    """A new generation is started beside the old one."""

    generation: int
    """The new one."""


@frozen
class ReloadCommitted:
    """The new generation is good, and the old one goes."""

    generation: int
    """The one that serves now."""


@frozen
class ReloadRolledBack:
    """The new generation was not good enough, or not in time; the old one serves on."""

    generation: int
    """The one that was given up."""
    status: int
    """10: refused before any client saw it, 11: rolled back afterwards, 12: out of time."""
    reason: str
    """In the words of whoever was not good enough: mostly the application's."""


@frozen
class FleetScaled:
    """There are to be so many workers from now on."""

    size: int
    """How many."""


@frozen
class EventsMissed:
    """This subscriber was too slow: so many events before the next one are lost to it.  The others have them."""

    count: int
    """How many."""


Event = (
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
    | EventsMissed
)
