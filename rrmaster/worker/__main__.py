"""A worker's process: load the application by its name, choose the runtime, serve, and end with the master.

Started by the master with ``RRMASTER_LINE`` (the descriptor of its line) and ``RRMASTER_LAUNCH`` (see `launch`).
``docs/protocol.md`` says what a worker in another language needs: only the first.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Started from the package's own directory, so that it finds this very package.  Nothing else is to be found
    # there, and nothing may be imported before it is gone.
    sys.path.pop(0)

import faulthandler
import os
import select
import threading
import time
from typing import NoReturn

from .. import wire
from ..channel import Letterbox, Talk
from ..launch import Launch, is_program
from . import DUMP_SIGNAL, Duty, Facts
from .loading import CannotLoad, explain, load
from .runtimes import server_for


def main() -> int:
    """Load, serve, and return the exit status."""
    faulthandler.register(DUMP_SIGNAL, file=2, all_threads=True)
    letterbox = Letterbox.inherit(int(os.environ.pop("RRMASTER_LINE")))
    launch = Launch.decode(os.environ.pop("RRMASTER_LAUNCH"))
    _leave_with_master(letterbox.fileno(), launch.graceful_timeout)
    if is_program(launch.application):
        return _run_program(letterbox, launch)
    try:
        os.chdir(launch.chdir)
        sys.path.insert(0, launch.app_dir)
        application = load(launch)
        run, launch = server_for(application, launch)
    except BaseException as error:
        letterbox.say(wire.Failed(explain(error)))
        return 1
    facts, talk = _birth()
    try:
        run(application, Duty(letterbox, facts, launch.heartbeat, talk), launch)
    except CannotLoad as error:
        letterbox.say(wire.Failed(explain(error)))
        return 1
    return 0


def _run_program(letterbox: Letterbox, launch: Launch) -> int:
    """One that opens its own addresses: its loop is its own, and so is its exit status."""
    from .ports import Ports, Watched
    from .program import run

    facts, talk = _birth()
    try:
        os.chdir(launch.chdir)
        ports = Ports(Watched.over(letterbox), facts, launch.heartbeat, talk)
    except OSError as error:
        letterbox.say(wire.Failed(explain(error)))
        return 1
    return run(launch, ports)


def _birth() -> tuple[Facts, Talk | None]:
    """Who this is, and its talk line if it was given one."""
    talk = os.environ.pop("RRMASTER_TALK", None)
    facts = Facts(*(int(os.environ[name]) for name in _FACTS))
    return facts, Talk.inherit(int(talk)) if talk else None


_FACTS = ("RRMASTER_WORKER_ID", "RRMASTER_WORKER_SLOT", "RRMASTER_GENERATION")


def _leave_with_master(line: int, graceful: float) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
