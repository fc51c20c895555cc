"""How does a program without a master get a unix socket?  As the master opens one: over a dead program's, with a mode.

trio has no unix listeners, and asyncio's replace any socket at the path, that of a living server too.
"""

from __future__ import annotations

import errno
import os
import socket
import stat


def open_unix(path: str, mode: int | None, backlog: int) -> socket.socket:
    """A listening socket at this path, the caller's to close.  Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if mode is not None:
            # Before the bind: the file gets no permissions beyond these, not even for a moment.
            os.fchmod(sock.fileno(), mode)
        _bind(sock, path)
        if mode is not None:
            os.chmod(path, mode)  # and all of these, whatever the umask has taken away
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, path: str) -> None:
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _is_stale(path):
            raise
        os.unlink(path)
        sock.bind(path)


def _is_stale(path: str) -> bool:
    """Whether a dead server has left the socket at this path: no process listens there."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED
