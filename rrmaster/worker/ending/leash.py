"""How does a worker end that its master has left, whatever its loop does?"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import NoReturn

from ..loading import CannotLoad
from .descendants import end_descendants


def exit_with_master(line: int, graceful: float) -> None:
    """Start a thread that ends this process `graceful` seconds after the master has died, whatever the loop does.

    A loop that runs sees the end of the line, and drains; a loop that is blocked sees nothing, and the process would
    outlive its master.  (PR_SET_PDEATHSIG kills healthy workers: it is bound to the thread that forked, and trio's
    threads end after ten idle seconds.)  Raises CannotLoad if no thread can be started.
    """

    def watch() -> NoReturn:
        poll = select.poll()
        poll.register(line, 0)  # POLLHUP alone: a half-close, which begins a drain, does not give it
        poll.poll()
        # The master's ends of the pipes are gone, and print would raise.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        time.sleep(graceful)
        end_descendants(alone=True)
        os._exit(1)

    try:
        threading.Thread(target=watch, name="rrmaster: exit with the master", daemon=True).start()
    except RuntimeError as error:
        raise CannotLoad(
            f"no thread can be started ({error}): raise the limit of processes (ulimit -u, TasksMax=, pids.max) or "
            "that of memory, or start fewer workers"
        ) from None
