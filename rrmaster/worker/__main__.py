"""How does a worker's process start?  It reads what the master tells it, and serves, or forks as a template.

The master starts it with ``RRMASTER_LINE`` (the descriptor of its line) and ``RRMASTER_LAUNCH`` (see `launch`).  A
worker in another language needs only the former, see ``docs/protocol.md``.  With ``RRMASTER_TEMPLATE`` (the descriptor
of another line, see `template_wire`) the process serves no client, and forks the workers that do.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # The master starts this process in the directory that holds the package, so that `-m` finds this very package.
    # Python puts that directory first on the path.  No other module may be found there, so it goes before any import.
    sys.path.pop(0)

import faulthandler
import os

from ..protocol import wire
from ..protocol.channel import Letterbox
from ..protocol.launch import Launch, is_program
from .boot import be_parent, counting, prepare, read_identity, serve
from .ending.descendants import answer_for_descendants, be_the_last_exit_handler
from .ending.leash import exit_with_master
from .loading import CannotLoad, explain
from .stacks import DUMP_SIGNAL


def main() -> int:
    """Load, serve, and return the exit status."""
    faulthandler.register(DUMP_SIGNAL, file=2, all_threads=True)
    be_the_last_exit_handler()
    launch = Launch.decode(os.environ.pop("RRMASTER_LAUNCH"))
    if "RRMASTER_TEMPLATE" in os.environ:
        from .template import be_template

        return be_template(int(os.environ.pop("RRMASTER_TEMPLATE")), launch)
    letterbox = Letterbox.inherit(int(os.environ.pop("RRMASTER_LINE")))
    if is_program(launch.application):
        return _run_program(letterbox, launch)
    return serve(letterbox, launch, lambda: prepare(launch))


def _run_program(letterbox: Letterbox, launch: Launch) -> int:
    """Run a program that opens its own addresses.  Its loop is its own, and so is its exit status."""
    from .programs.letterbox import EdgeTriggeredLetterbox
    from .programs.ports import Ports
    from .programs.run import run

    answer_for_descendants(letterbox, launch.kill_mode)
    identity, talk = read_identity()
    if page := os.environ.pop("RRMASTER_LAST_WORDS", ""):  # a program's requests are its own, and not seen here
        os.close(int(page))
    be_parent(letterbox, talk)
    try:
        exit_with_master(letterbox.fileno(), launch.graceful_timeout)
        os.chdir(launch.chdir)
        ports = Ports(
            EdgeTriggeredLetterbox.over(letterbox),
            identity,
            launch.heartbeat,
            talk,
            counting=counting(),
            recall_after=launch.recall_after,
        )
    except (OSError, CannotLoad) as error:
        letterbox.send(wire.Failed(explain(error)))
        return 1
    return run(launch, ports)


if __name__ == "__main__" and not sys.flags.safe_path:
    sys.exit(main())
