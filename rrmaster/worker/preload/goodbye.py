"""How does a template end from which no worker is forked, because its import makes that unsafe?"""

from __future__ import annotations

import atexit
import os
import signal
import socket
from typing import NoReturn

from ...protocol import template_wire
from .notes import Notes


def is_dismissed(master: socket.socket) -> bool:
    """Wait for the master's answer to what makes a fork unsafe: its first order, or that it hangs up."""
    try:
        return not master.recv(1, socket.MSG_PEEK)
    except ConnectionResetError:
        return True  # it has died


def end_unused(status: int, notes: Notes) -> NoReturn:
    """End a template from which no worker was forked.  Its exit handlers delete the temporary files of its import.

    Otherwise no template runs exit handlers.  They are the workers', and where they would be in the way of a fork
    (they join a thread, send something) a process that never served has nothing for them to do.
    """
    if notes.temporary():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, template_wire.GOODBYE_S)  # the master may have died, and kills nothing
        atexit._run_exitfuncs()
    os._exit(status)
