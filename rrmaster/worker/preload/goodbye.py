"""How does a template end from which no worker is forked, because its import has failed or makes a fork unsafe?"""

from __future__ import annotations

import atexit
import signal
import socket

from ...protocol import template_wire
from .watch import ImportWatch


def is_dismissed(master: socket.socket) -> bool:
    """Wait for the master's answer to what makes a fork unsafe: its first order, or that it hangs up."""
    try:
        return not master.recv(1, socket.MSG_PEEK)
    except ConnectionResetError:
        return True  # it has died


def remove_temporary(watch: ImportWatch) -> None:
    """Run the exit handlers of an import that has made temporary files: they remove those.  The process is to end.

    Otherwise no template runs exit handlers.  They are the workers', and where they would be in the way of a fork
    (they join a thread, send something) a process that never served has nothing for them to do.
    """
    if watch.temporary():
        watch.listeners.start_again()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, template_wire.GOODBYE_S)  # the master may have died, and kills nothing
        atexit._run_exitfuncs()
        signal.setitimer(signal.ITIMER_REAL, 0)
