"""The idle pool's process, as the master starts it: ``python -S -E -m rrmaster.idle LINE PAGE MOST``."""

from __future__ import annotations

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # As in `worker.__main__`: no other module may be found in the directory that holds the package.
    sys.path.pop(0)

import mmap
import os
import resource
import signal
import socket

from ..protocol.parking.lane import PAGE
from .places import places
from .pool import BEAT_S, Pool


def main(line: int, page: int, most: int) -> None:
    """Hold connections until the master ends this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the master's, which ends this process last
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A close that waits for a client ends with any signal; SO_LINGER may stand on what a worker has kept a copy of.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, BEAT_S, BEAT_S)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    counts = memoryview(mmap.mmap(page, PAGE)).cast("Q")
    os.close(page)
    os.chdir("/")
    Pool(socket.socket(fileno=line), counts, places(most)).run()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
