"""A worker's process: load the application by its name, choose the runtime, serve, and end with the master.

Started by the master with ``RRMASTER_LINE`` (the descriptor of its line) and ``RRMASTER_LAUNCH`` (see `launch`).
``docs/protocol.md`` says what a worker in another language needs: only the first.  With ``RRMASTER_TEMPLATE`` (the
descriptor of another line, see `births`) it serves nobody, and forks those who do.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Started from the package's own directory, so that it finds this very package.  Nothing else is to be found
    # there, and nothing may be imported before it is gone.
    sys.path.pop(0)

import faulthandler
import os

from ..protocol import wire
from ..protocol.channel import Letterbox
from ..protocol.launch import Launch, is_program
from . import DUMP_SIGNAL
from .boot import birth, leave_with_master, prepare, serve
from .loading import explain


def main() -> int:
    """Load, serve, and return the exit status."""
    faulthandler.register(DUMP_SIGNAL, file=2, all_threads=True)
    launch = Launch.decode(os.environ.pop("RRMASTER_LAUNCH"))
    if "RRMASTER_TEMPLATE" in os.environ:
        from .template import be_template

        return be_template(int(os.environ.pop("RRMASTER_TEMPLATE")), launch)
    letterbox = Letterbox.inherit(int(os.environ.pop("RRMASTER_LINE")))
    if is_program(launch.application):
        leave_with_master(letterbox.fileno(), launch.graceful_timeout)
        return _run_program(letterbox, launch)
    return serve(letterbox, launch, lambda: prepare(launch))


def _run_program(letterbox: Letterbox, launch: Launch) -> int:
    """One that opens its own addresses: its loop is its own, and so is its exit status."""
    from .programs.ports import Ports, Watched
    from .programs.program import run

    facts, talk = birth()
    try:
        os.chdir(launch.chdir)
        ports = Ports(Watched.over(letterbox), facts, launch.heartbeat, talk)
    except OSError as error:
        letterbox.send(wire.Failed(explain(error)))
        return 1
    return run(launch, ports)


if __name__ == "__main__":
    sys.exit(main())
