"""What a worker does last: it ends what it has started.

The master ends the process group of a worker that has ended, and what carries the worker's mark.  Two things are left
to the worker: a child with an environment of its own, which has no mark; and, when the master has been killed, all of
them.
"""

from __future__ import annotations

import atexit
import os
import select

from attrs import frozen

from ...protocol.channel import Letterbox
from ...protocol.family import lineage
from ...protocol.family.lineage import VARIABLE, Mark


@frozen(eq=False)
class _Own:
    """What this process was when it became a worker or a template."""

    pid: int
    parent: int
    """The master."""
    letterbox: Letterbox | None
    """Held, so that its descriptor stays open.  None in a template."""
    mark: Mark | None

    def is_alone(self) -> bool:
        """Whether the master has ended.

        The end of its line comes some milliseconds before the new parent, and may be why this worker ends.
        """
        if self.letterbox is None:
            return False
        poll = select.poll()
        poll.register(self.letterbox.fileno(), 0)  # POLLHUP alone: a half-close, which begins a drain, does not give it
        return os.getppid() != self.parent or bool(poll.poll(0))


_own: list[_Own] = []
"""One in a worker or a template whose descendants end with it, none in any other process."""


def be_the_last_exit_handler() -> None:
    """Have what this process has started ended after all that the application does at its exit.

    Exit handlers run in reverse order, so this is to be called before the application is imported.  A process that a
    worker forks has the handler too, and it does nothing there.
    """
    atexit.register(end_descendants)


def answer_for_descendants(letterbox: Letterbox | None, kill_mode: str) -> None:
    """Be a worker or a template from now on, which ends what it has started if `kill_mode` says so."""
    mark = Mark.parse(os.environ.get(VARIABLE, ""))
    if mark is not None:
        lineage.overwrite(mark)
    if kill_mode == "tree":
        _own[:] = [_Own(os.getpid(), os.getppid(), letterbox, mark)]


def end_descendants(alone: bool = False) -> None:
    """End what this process has started, if it answers for that.  `alone`: it is known that the master has ended."""
    for own in _own:
        if own.pid == os.getpid():
            alone = alone or own.is_alone()
            lineage.end_own(own.mark, everything=alone)
            if alone:
                from ...protocol.family import cgroup  # mostly not needed

                cgroup.leave_nothing()
