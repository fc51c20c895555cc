"""How does a master start processes of another user, though it is not root?

With ``--master-user`` a process that stays root (`as_root`) does it, at the master's order.  Here is the master's side,
whose `start` stands in for `process.start`.  Workers have another user than both, so they can do neither any harm; and
a master that is taken over can have processes of the workers' user, and of no other.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from logging import ERROR
from pathlib import Path

import trio
from attrs import define

from ...logs.log import tell
from ...protocol.family.children import keep_from_children
from ...waiting import close, readable
from ..process import Child, adopted
from . import as_root

ANSWER_S = 30.0
"""Seconds for one start, which takes some milliseconds: two forks of a small process and an exec."""

END_S = 5.0
"""Seconds in which it ends after its line has."""

_FOR_ALL_TO_WRITE = 0o622
"""The mode of the pipes for output: an application may open ``/dev/stdout``, and the pipe is the master's.  No other
user finds it: that takes a look into the process's own descriptors."""


def admit(pipes: Sequence[int]) -> None:
    """Let another user open these pipes by their names."""
    for fd in pipes:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):  # nothing else is this master's own
            os.fchmod(fd, _FOR_ALL_TO_WRITE)


@define(eq=False)
class Starter:
    """The master's end of the line to the process that stays root."""

    _line: socket.socket
    _process: subprocess.Popen[bytes]
    home: Mapping[str, str]
    """HOME, USER and LOGNAME of the user that processes are started as."""

    @classmethod
    def launch(cls, uid: int, groups: Sequence[int], home: Mapping[str, str], forbids: bool) -> Starter:
        """Start it.  Called by root, before that becomes the master's user.  The first group is the user's own.

        `forbids`: what is started may gain no privileges.  Raises OSError.
        """
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        keep_from_children(ours)
        words = [str(its.fileno()), str(uid), str(int(forbids)), *map(str, groups)]
        with its:
            process = subprocess.Popen(
                [sys.executable, "-I", str(Path(as_root.__file__).resolve()), *words],
                stdin=subprocess.DEVNULL,
                env={},
                cwd="/",
                pass_fds=[its.fileno()],
                process_group=0,
            )
        ours.settimeout(ANSWER_S)
        return cls(ours, process, home)

    def children(self) -> set[int]:
        """The process ids that this object waits for."""
        return {self._process.pid}

    async def watch(self) -> None:
        """Say it if the process ends before its master; until cancelled."""
        pidfd = os.pidfd_open(self._process.pid)
        try:
            await readable(pidfd)
        finally:
            trio.lowlevel.notify_closing(pidfd)
            close(pidfd)
        text = "the process that starts workers (--master-user) has ended: restart the master, which can start no more"
        tell("starter.ended", text, level=ERROR, pid=self._process.pid)

    def close(self) -> None:
        """Have it end, and wait for that."""
        self._line.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    async def start(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        inherit: Sequence[int],
        stdout: int,
        stderr: int,
        cwd: str,
    ) -> Child:
        """Start a process as the other user, as `process.start` does.  Raises OSError."""
        admit((stdout, stderr))
        own = {name: value for name, value in self.home.items() if environ.get(name) == os.environ.get(name)}
        numbers = [1, 2, *inherit]
        order = {"argv": list(argv), "environ": {**environ, **own}, "cwd": cwd, "numbers": numbers}
        descriptors = [stdout, stderr, *inherit]
        try:
            return await trio.to_thread.run_sync(self._order, json.dumps(order).encode(), descriptors)
        except RuntimeError as error:  # no thread can be started: a limit of processes
            raise OSError(errno.EAGAIN, str(error)) from None

    def _order(self, order: bytes, descriptors: Sequence[int]) -> Child:
        """Give an order and wait for its outcome.  Called in a thread."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, its:
            ours.settimeout(ANSWER_S)
            with open(os.memfd_create("order", os.MFD_CLOEXEC), "w+b", buffering=0) as file:
                file.write(order)
                file.seek(0)
                socket.send_fds(self._line, [b"start"], [file.fileno(), its.fileno(), *descriptors])
            its.close()
            number, fds, _, _ = socket.recv_fds(ours, 32, 1, socket.MSG_CMSG_CLOEXEC)
            if not fds:
                raise OSError(int(number or errno.ECHILD), "the process that starts workers could not")
            try:
                child = adopted(fds[0], int(number))
            except ValueError as error:
                raise OSError(errno.ECHILD, str(error)) from None
            if failed := ours.recv(32):
                child.disown()  # it ends at once, and is reaped as any stranger
                raise OSError(int(failed), os.strerror(int(failed)))
            return child
