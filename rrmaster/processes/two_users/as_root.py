"""Which process starts workers as `--user`, when the master has become `--master-user`?  This one, which stays root.

It is executed by its path, as ``python -I as_root.py``, and uses the standard library alone: what runs as root for as
long as the service lives should be short enough to be read.  It takes orders from the master alone, and all that an
order can have is a process of the one user that the command line names::

    master ── order, descriptors ──► this ── fork ──► middle, which ends ── fork ──► becomes the user
           ◄───────────────── its number and pidfd, sent by itself ────────────────┤ and executes what was ordered
           ◄───────────────── end of file, or the errno of what failed ────────────┘

The new process waits until it is the master's child, so that the master, which adopts orphans, can wait for its end.
This process ends at the end of its line.  Of root's capabilities it keeps the two that change users and groups.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable

SETGID, SETUID, KILL = 6, 7, 5
"""linux/capability.h"""

_VERSION = 0x20080522
_SET_NO_NEW_PRIVS = 38
_MOST_DESCRIPTORS = 64
_ADOPTION_S = 0.0005


def keep_capabilities(*kept: int) -> None:
    """Have no other capabilities in this thread, and give none on.  Raises OSError."""
    import ctypes

    bits = sum(1 << number for number in kept)
    head = (ctypes.c_uint32 * 2)(_VERSION, 0)
    data = (ctypes.c_uint32 * 6)(bits, bits, 0, 0, 0, 0)  # effective, permitted, inheritable; then the upper halves
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(head, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def forbid_new_privileges() -> bool:
    """Let no program that is executed from here gain privileges; returns whether that could be had."""
    import ctypes

    return bool(ctypes.CDLL(None).prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


def main(line: socket.socket, uid: int, groups: list[int]) -> None:
    """Obey until the master has ended."""
    while True:
        data, descriptors = _receive(line)
        if not data:
            return
        middle = os.fork()
        if middle == 0:
            _begin(descriptors, uid, groups)
        for fd in descriptors:
            os.close(fd)
        os.waitpid(middle, 0)


def _receive(line: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * fds.itemsize)
    data, ancillary, _, _ = line.recvmsg(16, room, socket.MSG_CMSG_CLOEXEC)
    for _, _, packed in ancillary:
        fds.frombytes(packed[: len(packed) - len(packed) % fds.itemsize])
    return data, list(fds)


def _begin(descriptors: list[int], uid: int, groups: list[int]) -> None:
    """In the middle process: fork the one that was ordered, which becomes an orphan."""
    try:
        middle = os.getpid()
        if os.fork() == 0:
            _become(descriptors, middle, uid, groups)
    finally:
        os._exit(127)


def _become(descriptors: list[int], middle: int, uid: int, groups: list[int]) -> None:
    order, answer, *inherited = descriptors
    said = socket.socket(fileno=answer)
    try:
        while os.getppid() == middle:
            time.sleep(_ADOPTION_S)
        os.setgroups(groups)
        os.setresgid(groups[0], groups[0], groups[0])
        os.setresuid(uid, uid, uid)
        os.setpgid(0, 0)
        with open(order, "rb") as file:  # root reads nothing of what the master says
            what = json.load(file)
        socket.send_fds(said, [b"%d" % os.getpid()], [os.pidfd_open(os.getpid())])
        _execute(what, inherited, said)
    except OSError as error:
        said.send(b"%d" % (error.errno or 1))


def _execute(what: dict[str, list[str] | dict[str, str] | str], inherited: list[int], said: socket.socket) -> None:
    numbers, argv, environ, cwd = what["numbers"], what["argv"], what["environ"], what["cwd"]
    above = max([*numbers, 2]) + 1
    parked = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in inherited]
    last = fcntl.fcntl(said.detach(), fcntl.F_DUPFD_CLOEXEC, above)
    try:
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        for fd, number in zip(parked, numbers, strict=True):
            os.dup2(fd, number)  # type: ignore[arg-type]
        os.chdir(cwd)  # type: ignore[arg-type]
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python has it ignored, which would be inherited
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execvpe(argv[0], argv, environ)  # type: ignore[index, arg-type]
    except OSError as error:
        os.write(last, b"%d" % (error.errno or 1))


def _run(words: Iterable[str]) -> None:
    line, uid, forbids, *groups = map(int, words)
    if forbids and not forbid_new_privileges():
        sys.exit("new privileges cannot be forbidden here")
    keep_capabilities(SETUID, SETGID)
    main(socket.socket(fileno=line), uid, groups)


if __name__ == "__main__":
    _run(sys.argv[1:])
