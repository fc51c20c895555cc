"""Reading what the log has written."""

from __future__ import annotations

import os


def read_all(fd: int) -> bytes:
    """What is in the pipe now; it does not wait for more."""
    os.set_blocking(fd, False)
    data = b""
    try:
        while piece := os.read(fd, 1 << 20):
            data += piece
    except BlockingIOError:
        pass  # that was all
    return data
