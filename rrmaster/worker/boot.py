"""How does a worker's process come to serve an application?

Whether it has imported it by itself (`__main__`) or was forked from a template that had (`template`), what follows is
this very code: its own loop is made here.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from attrs import frozen

from ..protocol import wire
from ..protocol.channel import Letterbox, TalkLine
from ..protocol.launch import Launch
from . import Duty, Facts
from .hooks import call_all
from .loading import Application, CannotLoad, explain, load
from .serving.runtimes import Run, server_for

_FACTS = ("RRMASTER_WORKER_ID", "RRMASTER_WORKER_SLOT", "RRMASTER_GENERATION")


@frozen(eq=False)
class Prepared:
    """An application that is imported, and who serves it."""

    application: Application
    run: Run
    launch: Launch
    """With its runtime decided."""


def prepare(launch: Launch) -> Prepared:
    """Import the application, and what is to serve it.  Raises CannotLoad, or whatever the application raises."""
    os.chdir(launch.chdir)
    sys.path.insert(0, launch.app_dir)
    application = load(launch)
    return Prepared(application, *server_for(application, launch))


def serve(letterbox: Letterbox, launch: Launch, prepared: Callable[[], Prepared]) -> int:
    """Serve to the end, and return the exit status.  `prepared` gets the application, or raises."""
    leave_with_master(letterbox.fileno(), launch.graceful_timeout)
    try:
        ready = prepared()
        call_all()
    except BaseException as error:
        letterbox.send(wire.Failed(explain(error)))
        return 1
    facts, talk = birth()
    try:
        ready.run(ready.application, Duty(letterbox, facts, launch.heartbeat, talk), ready.launch)
    except CannotLoad as error:
        letterbox.send(wire.Failed(explain(error)))
        return 1
    return 0


def birth() -> tuple[Facts, TalkLine | None]:
    """Who this is, and its talk line if it was given one."""
    talk = os.environ.pop("RRMASTER_TALK", None)
    facts = Facts(*(int(os.environ[name]) for name in _FACTS))
    return facts, TalkLine.inherit(int(talk)) if talk else None


def leave_with_master(line: int, graceful: float) -> None:
    """End this process some time after the master has died, whatever the serving loop is doing.

    The loop itself sees the end of stream and drains; a blocked one sees nothing.  (PR_SET_PDEATHSIG kills healthy
    workers: it is bound to the thread that forked, and trio's end after ten idle seconds.)
    """

    def watch() -> NoReturn:
        poll = select.poll()
        poll.register(line, 0)  # POLLHUP alone, which a half-close does not give
        poll.poll()
        # The master's ends of the pipes are gone, and print would raise.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        time.sleep(graceful)
        os._exit(1)

    threading.Thread(target=watch, name="rrmaster: leave with the master", daemon=True).start()
