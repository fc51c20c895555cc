"""How does a verb find a running master, and ask it something?

The client is blocking and does not import trio, so `rrmaster status` answers in a tenth of a second.
``docs/control.md`` lists the requests; `socket_paths` says where masters are looked for.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define

from ..status.model import Snapshot, from_json
from .socket_paths import directories_to_search, peer_of

CONNECT_S = 5.0
"""Seconds to connect; a healthy master takes milliseconds, one that is stopped (SIGSTOP) never accepts."""

RETRY_S = 0.02
"""Seconds between attempts to connect to a master whose queue is full."""

ANSWER_S = 10.0
"""Seconds to wait for each line of an answer that is not a stream."""

POLL_S = 1.0
"""Seconds of one receive where there is no deadline.  A Ctrl-C that arrives just before a blocking call is only noticed
after it, so a follower of a quiet master would need a second one."""

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of one line of an answer: a thousand workers take 400 KB."""


class NoMaster(Exception):
    """No master answers; the message says why, and what to do."""


def connect_to_master(
    control: str | None, name: str | None, environ: Mapping[str, str], uid: int
) -> tuple[socket.socket, Path]:
    """A connection to a master: the one at this path, the one of this name, or the only one that runs.

    Returns the socket, which the caller owns, and its path.

    Raises NoMaster.
    """
    if control is not None:
        return _connect(Path(control)), Path(control)
    directories = directories_to_search(environ, uid)
    answering, silent = _nearest(directories, name)
    if len(answering) == 1:
        return answering[0]
    for sock, _ in answering:
        sock.close()
    what = f"no master named {name!r} answers" if name is not None else "no master answers"
    if answering:
        ambiguous = len({path.stem for _, path in answering}) < len(answering)
        names = ", ".join(str(path) if ambiguous else path.stem for _, path in answering)
        raise NoMaster(f"several masters run: {names}; say which with {'--control PATH' if ambiguous else '--name'}")
    if silent:
        raise NoMaster(f"{what}: {'; '.join(silent)}")
    raise NoMaster(f"{what}: there is no control socket in {', '.join(str(d) for d in directories)}")


def _nearest(directories: Sequence[Path], name: str | None) -> tuple[list[tuple[socket.socket, Path]], list[str]]:
    """The masters in the first directory in which any answers, and the errors of the sockets without one.

    A user's own masters come before the machine's.
    """
    silent: list[str] = []
    for directory in directories:
        answering, errors = _connect_to_all(sorted({path.resolve() for path in _sockets(directory, name)}))
        silent += errors
        if answering:
            return answering, silent
    return [], silent


def _connect_to_all(paths: list[Path]) -> tuple[list[tuple[socket.socket, Path]], list[str]]:
    answering, errors = [], []
    for path in paths:
        try:
            answering.append((_connect(path), path))
        except NoMaster as error:
            errors.append(str(error))
    return answering, errors


def _sockets(directory: Path, name: str | None) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.suffix == ".sock" and name in (None, path.stem)]
    except OSError:
        return []  # missing, or not readable by this user


def _connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(CONNECT_S)
    deadline = time.monotonic() + CONNECT_S
    while True:
        try:
            sock.connect(os.fspath(path))
            break
        except BlockingIOError as error:  # its queue is full; on a socket with a timeout the kernel does not wait
            if time.monotonic() < deadline:
                time.sleep(RETRY_S)
                continue
            sock.close()
            raise NoMaster(_why(path, error)) from None
        except OSError as error:
            sock.close()
            raise NoMaster(_why(path, error)) from None
    _, owner = peer_of(sock)
    if os.geteuid() not in (0, owner) and owner != 0:
        sock.close()
        raise NoMaster(f"{path}: user {owner} listens there, and is neither you nor root; nothing was sent")
    return sock


def _why(path: Path, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return f"{path}: there is no such socket; is the master running?"
        case errno.ECONNREFUSED | errno.ENOTSOCK:
            return f"{path}: no master listens there; the one that made it has ended without removing it"
        case errno.EACCES | errno.EPERM:
            return f"{path}: it belongs to another user's master; become that user, or root"
    if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
        return f"{path}: the master does not accept connections; it is stopped or overwhelmed"
    return f"{path}: {error.strerror or error}"  # the error for a path that is too long has no errno


@define(eq=False)
class Client:
    """One connection to a master, for the verbs.  It owns the socket; all its methods block."""

    sock: socket.socket
    path: Path
    _unread: bytes = b""

    def ask(self, do: str, *, timeout: float | None = ANSWER_S, **more: Any) -> Iterator[dict[str, Any]]:
        """Send a request, and yield the lines of the answer; the last one has a status.

        `timeout` is in seconds for each line; None waits without a limit, as for a stream.  Raises NoMaster if the
        master ends, or does not answer in time.
        """
        self.sock.settimeout(POLL_S if timeout is None else timeout)
        request = json.dumps({"do": do} | more).encode() + b"\n"
        try:
            self.sock.sendall(request)
            while "status" not in (answer := self._line(unlimited=timeout is None)):
                yield answer
            yield answer
        except TimeoutError:
            silence = f"the master has not answered for {self.sock.gettimeout():g} s"
            raise NoMaster(f"{self.path}: {silence}; it is stopped or overwhelmed") from None
        except OSError:
            raise NoMaster(f"{self.path}: the master has ended") from None

    def status(self, timeout: float = ANSWER_S) -> Snapshot:
        """A snapshot of the master.  Raises NoMaster, or ValueError for an answer that is none."""
        *_, answer = self.ask("status", timeout=timeout)
        if answer["status"] != 0:
            raise ValueError(str(answer.get("error")))
        return from_json(answer["snapshot"])

    def until_end(self) -> None:
        """Wait until the master has ended or has closed this connection."""
        self.sock.settimeout(POLL_S)
        with contextlib.suppress(OSError):  # a reset is an end as well
            while self._receive(unlimited=True):
                pass

    def _receive(self, *, unlimited: bool) -> bytes:
        while True:
            try:
                return self.sock.recv(65536)
            except TimeoutError:
                if not unlimited:
                    raise

    def _line(self, *, unlimited: bool) -> dict[str, Any]:
        while b"\n" not in self._unread:
            data = self._receive(unlimited=unlimited)
            if not data or len(self._unread) > MAX_ANSWER:
                raise ConnectionResetError
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ConnectionResetError
        return answer

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()
