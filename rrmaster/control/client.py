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

from attrs import Factory, define

from ..status.model import Snapshot, from_json
from .socket_paths import directories_to_search, peer_of

CONNECT_S = 5.0
"""Seconds to connect; a healthy master takes milliseconds, one that is stopped (SIGSTOP) never accepts."""

RETRY_S = 0.02
"""Seconds between attempts to connect to a master whose queue is full."""

ANSWER_S = 10.0
"""Seconds to wait for each line of an answer that is not a stream."""

WHOLE_S = 60.0
"""Seconds to wait for all lines of such an answer together; an overwhelmed master may need seconds for some of them."""

POLL_S = 1.0
"""Seconds of one receive where there is no deadline.  A Ctrl-C that arrives just before a blocking call is only noticed
after it, so a follower of a quiet master would need a second one."""

MAX_LINE = 16 * 1024 * 1024
"""Bytes of one line of an answer: a thousand workers take 400 KB."""

LEAST_S = 0.001
"""Seconds of the last receive before a deadline; 0 would be a socket that does not block."""

NONE = "the answer is none of a master's"

MAX_ANSWER, MAX_LINES = 64 * 1024 * 1024, 100_000
"""Bytes and lines of an answer that is not a stream: the log that a master keeps has 1,000 lines, and takes 4 MB, or 24
where each character is escaped."""


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


@define
class _Limits:
    """How long an answer may take, and how large it may be."""

    each: float | None
    """Seconds for each line; None for a stream, which goes on until the operator or the master ends it."""
    _left: float = WHOLE_S
    _bytes: int = MAX_ANSWER
    _lines: int = MAX_LINES
    _began: float = 0.0

    def begin_line(self) -> float | None:
        """Until when the next line must be there, on the monotonic clock."""
        self._began = time.monotonic()
        return None if self.each is None else self._began + min(self.each, self._left)

    def end_line(self, size: int) -> bool:
        """A line of so many bytes is there; whether the answer may go on."""
        self._left -= time.monotonic() - self._began
        self._bytes -= size
        self._lines -= 1
        return self.each is None or (self._bytes >= 0 and self._lines >= 0)

    def silence(self) -> str:
        """What is wrong when a line is not there in time."""
        each = self.each or POLL_S
        if self._left < each:
            return f"the master has not ended its answer in {WHOLE_S:g} s"
        return f"the master has not answered for {each:g} s"


@define(eq=False)
class Client:
    """One connection to a master, for the verbs.  It owns the socket; all its methods block."""

    sock: socket.socket
    path: Path
    _unread: bytearray = Factory(bytearray)

    def ask(self, do: str, *, timeout: float | None = ANSWER_S, **more: Any) -> Iterator[dict[str, Any]]:
        """Send a request, and yield the lines of the answer; the last one has a status.

        `timeout` is in seconds for each line; None waits without a limit, as for a stream.  What is no stream ends:
        after `WHOLE_S`, and after `MAX_ANSWER` at the latest.  Raises NoMaster if the master ends, or does not answer
        in time, and ValueError for an answer that is none of a master's.
        """
        request = json.dumps({"do": do} | more).encode() + b"\n"
        limits = _Limits(timeout)
        try:
            self.sock.settimeout(POLL_S if timeout is None else timeout)
            self.sock.sendall(request)
            while "status" not in (answer := self._line(limits)):
                yield answer
            yield answer
        except TimeoutError:
            raise NoMaster(f"{self.path}: {limits.silence()}; it is stopped or overwhelmed") from None
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
        with contextlib.suppress(OSError):  # a reset is an end as well
            while self._receive(None):
                pass

    def _receive(self, deadline: float | None) -> bytes:
        while True:
            self.sock.settimeout(POLL_S if deadline is None else max(deadline - time.monotonic(), LEAST_S))
            try:
                return self.sock.recv(65536)
            except TimeoutError:
                if deadline is not None:
                    raise

    def _line(self, limits: _Limits) -> dict[str, Any]:
        deadline = limits.begin_line()
        seen = 0
        while (end := self._unread.find(b"\n", seen)) < 0:
            seen = len(self._unread)
            data = self._receive(deadline)
            if not data:
                raise ConnectionResetError
            self._unread += data
            if seen > MAX_LINE:
                raise ValueError(f"{self.path}: {NONE}: a line of it has more than {MAX_LINE >> 20} MiB")
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        if not limits.end_line(len(line)):
            raise ValueError(f"{self.path}: {NONE}: it does not end")
        return self._parsed(line)

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{self.path}: {NONE}: {error}") from None
        if not isinstance(answer, dict):
            raise ValueError(f"{self.path}: {NONE}: it is no object")
        status = answer.get("status", 0)
        if type(status) is not int or status not in range(256):  # 256 would end the verb with 0
            raise ValueError(f"{self.path}: {NONE}: its status is no exit status")
        return answer

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()
