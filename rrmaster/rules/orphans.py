"""Which orphans must end: those of workers and templates that have ended.

An orphan whose parents have all ended is a child of the master, which adopts it.  Its mark tells which worker has
started it, directly or through others.  One that has lost its mark (it was given an environment of its own) belongs to
a process that lived when it was started; as long as any such process lives, it may be that one's, and is left alone.
So it ends with its worker if there is one worker, and otherwise at the latest in the second reload after, or at the
stop.

Times are clock ticks since the machine was started, in which two events may be equal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from attrs import frozen


@frozen
class Orphan:
    """A child of the master that is neither worker nor template."""

    pid: int
    began: int
    worker: int | None
    """The worker that started it; 0: a template, or a process that a template started; None: it does not tell."""


@frozen
class Living:
    """The processes of a master that live, and when each began."""

    workers: Mapping[int, int]
    """By the worker's number."""
    templates: Collection[tuple[int, float]] = ()
    """When each began, and when its import was done: from then on it starts workers alone."""


def must_end(orphan: Orphan, living: Living, all_are_ours: bool) -> bool:
    """Whether no living process of the master can have started this orphan, and no other process can.

    `all_are_ours`: no process but workers and templates leaves orphans to this master.
    """
    if orphan.worker:
        return orphan.worker not in living.workers
    if orphan.worker is None and not all_are_ours:
        return False
    if any(began <= orphan.began for began in living.workers.values()):
        return False
    return not any(began <= orphan.began <= imported for began, imported in living.templates)
