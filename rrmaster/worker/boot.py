"""How does a worker's process come to serve an application?

A worker has imported the application by itself (`__main__`), or was forked from a template that had (`template`).  In
either case this code follows, and makes the worker's own loop.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import frozen

from ..protocol import wire
from ..protocol.channel import Letterbox, TalkLine
from ..protocol.family.children import keep_descriptors_from_children, remember_handlers
from ..protocol.launch import Launch
from ..protocol.pages.figures import Counting
from .duty import Duty, Identity
from .ending.descendants import answer_for_descendants
from .ending.leash import exit_with_master
from .hooks import call_all
from .loading import Application, CannotLoad, explain, load
from .serving.runtimes import Run, server_for

if TYPE_CHECKING:
    from ..protocol.pages.last_words import LastWords

HANDLED = (signal.SIGTERM, signal.SIGINT)
"""The signals that a worker handles."""

_IDENTITY = ("RRMASTER_WORKER_ID", "RRMASTER_WORKER_SLOT", "RRMASTER_GENERATION")


@frozen(eq=False)
class Prepared:
    """An application that is imported, and the function that serves it."""

    application: Application
    run: Run
    launch: Launch
    """With its runtime decided."""


def prepare(launch: Launch) -> Prepared:
    """Import the application, and the module that serves it.  Raises CannotLoad, and what the application raises."""
    os.chdir(launch.chdir)
    sys.path.insert(0, launch.app_dir)
    application = load(launch)
    return Prepared(application, *server_for(application, launch))


def serve(letterbox: Letterbox, launch: Launch, prepared: Callable[[], Prepared]) -> int:
    """Serve to the end, and return the exit status.  `prepared` returns the application, or raises."""
    answer_for_descendants(letterbox, launch.kill_mode)
    try:
        exit_with_master(letterbox.fileno(), launch.graceful_timeout)
        ready = prepared()
        call_all()
    except BaseException as error:
        # Also SystemExit and KeyboardInterrupt: whatever ends an import, the master gets the reason.
        letterbox.send(wire.Failed(explain(error)))
        return 1
    identity, talk = read_identity()
    be_parent(letterbox, talk)
    try:
        duty = Duty(letterbox, identity, launch.heartbeat, talk, _last_words(), counting())
        ready.run(ready.application, duty, ready.launch)
    except CannotLoad as error:
        letterbox.send(wire.Failed(explain(error)))
        return 1
    return 0


def be_parent(letterbox: Letterbox, talk: TalkLine | None) -> None:
    """Have children that the application forks from now on keep nothing that makes this process a worker.

    To be called once, in the main thread, before the worker handles a signal.
    """
    remember_handlers(HANDLED)
    keep_descriptors_from_children(letterbox.fileno(), *([talk.fileno()] if talk else []))


def read_identity() -> tuple[Identity, TalkLine | None]:
    """This worker's numbers, and its talk line if it was given one, from the environment."""
    # Taken out of it: a process that the application starts must not use the line.
    talk = os.environ.pop("RRMASTER_TALK", None)
    identity = Identity(*(int(os.environ[name]) for name in _IDENTITY))
    return identity, TalkLine.inherit(int(talk)) if talk else None


def counting() -> Counting:
    """Where to count the times of requests and connections: on the master's page, if it has given one."""
    fd = os.environ.pop("RRMASTER_FIGURES", None)
    return Counting.unread() if fd is None else Counting.inherit(int(fd))


def _last_words() -> LastWords | None:
    """Where to note requests, if the master wants them noted: the last worker of this slot died with some in hand."""
    fd = os.environ.pop("RRMASTER_LAST_WORDS", None)
    if fd is None:
        return None
    from ..protocol.pages.last_words import LastWords

    return LastWords.inherit(int(fd))
