"""How a verb finds a running master, and asks it.

Plain and blocking, without trio: `rrmaster status` is to answer in a tenth of a second.  What may be asked stands in
``docs/control.md``; where masters are looked for, in `places`.
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
"""Seconds to be let in; a healthy master takes milliseconds, one that is stopped (SIGSTOP) takes for ever."""

RETRY_S = 0.02
"""Seconds between knocks at a master whose queue is full."""

ANSWER_S = 10.0
"""Seconds to wait for each line of an answer that is not a stream."""

GLANCE_S = 1.0
"""Seconds of one wait among those without an end.  Python sees a Ctrl-C that came just before a wait only after it: a
follower of a quiet master would have to be told twice."""

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of one line of an answer: a thousand workers take 400 KB."""


class NoMaster(Exception):
    """No master answers, and why, and what to do."""


def reach(control: str | None, name: str | None, environ: Mapping[str, str], uid: int) -> tuple[socket.socket, Path]:
    """A connection to the master that is meant: at this path, of this name, or the only one there is.

    Raises NoMaster.
    """
    if control is not None:
        return _connect(Path(control)), Path(control)
    directories = directories_to_search(environ, uid)
    living, dead = _nearest(directories, name)
    if len(living) == 1:
        return living[0]
    for sock, _ in living:
        sock.close()
    what = f"no master named {name!r} answers" if name is not None else "no master answers"
    if living:
        ambiguous = len({path.stem for _, path in living}) < len(living)
        names = ", ".join(str(path) if ambiguous else path.stem for _, path in living)
        raise NoMaster(f"several masters live: {names}; say which with {'--control PATH' if ambiguous else '--name'}")
    if dead:
        raise NoMaster(f"{what}: {'; '.join(dead)}")
    raise NoMaster(f"{what}: there is no control socket in {', '.join(str(d) for d in directories)}")


def _nearest(directories: Sequence[Path], name: str | None) -> tuple[list[tuple[socket.socket, Path]], list[str]]:
    """Who lives in the first directory in which anybody does: one's own masters come before the machine's."""
    silent: list[str] = []
    for directory in directories:
        living, dead = _knock(sorted({path.resolve() for path in _sockets(directory, name)}))
        silent += dead
        if living:
            return living, silent
    return [], silent


def _knock(paths: list[Path]) -> tuple[list[tuple[socket.socket, Path]], list[str]]:
    living, dead = [], []
    for path in paths:
        try:
            living.append((_connect(path), path))
        except NoMaster as error:
            dead.append(str(error))
    return living, dead


def _sockets(directory: Path, name: str | None) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.suffix == ".sock" and name in (None, path.stem)]
    except OSError:
        return []  # not there, or not for us to look into


def _connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(CONNECT_S)
    deadline = time.monotonic() + CONNECT_S
    while True:
        try:
            sock.connect(os.fspath(path))
            break
        except BlockingIOError as error:  # its queue is full, and with a timeout the kernel does not wait
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
        raise NoMaster(f"{path}: user {owner} listens there, who is neither you nor root; nothing was said")
    return sock


def _why(path: Path, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return f"{path}: there is no such socket; is the master running?"
        case errno.ECONNREFUSED | errno.ENOTSOCK:
            return f"{path}: nobody listens there; its master has ended without removing it"
        case errno.EACCES | errno.EPERM:
            return f"{path}: it belongs to another user's master; become that user, or root"
    if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
        return f"{path}: the master does not let anybody in; it is stopped or overwhelmed"
    return f"{path}: {error.strerror or error}"  # a path that is too long has no errno


@define(eq=False)
class Client:
    """The verbs' side: plain and blocking.  It owns the socket."""

    sock: socket.socket
    path: Path
    _unread: bytes = b""

    def ask(self, do: str, *, patience: float | None = ANSWER_S, **more: Any) -> Iterator[dict[str, Any]]:
        """The lines of the answer; the last one has a status.  `patience` in seconds, for each line.

        Raises NoMaster if the master ends, or is silent for longer.
        """
        self.sock.settimeout(GLANCE_S if patience is None else patience)
        request = json.dumps({"do": do} | more).encode() + b"\n"
        try:
            self.sock.sendall(request)
            while "status" not in (answer := self._line(for_ever=patience is None)):
                yield answer
            yield answer
        except TimeoutError:
            silence = f"the master has not answered for {self.sock.gettimeout():g} s"
            raise NoMaster(f"{self.path}: {silence}; it is stopped or overwhelmed") from None
        except OSError:
            raise NoMaster(f"{self.path}: the master has ended") from None

    def status(self) -> Snapshot:
        """How everything is.  Raises NoMaster, ValueError."""
        *_, answer = self.ask("status")
        if answer["status"] != 0:
            raise ValueError(str(answer.get("error")))
        return from_json(answer["snapshot"])

    def until_end(self) -> None:
        """Wait until the master has ended, or has closed this connection."""
        self.sock.settimeout(GLANCE_S)
        with contextlib.suppress(OSError):  # a reset is an end, too
            while self._receive(for_ever=True):
                pass

    def _receive(self, *, for_ever: bool) -> bytes:
        while True:
            try:
                return self.sock.recv(65536)
            except TimeoutError:
                if not for_ever:
                    raise

    def _line(self, *, for_ever: bool) -> dict[str, Any]:
        while b"\n" not in self._unread:
            data = self._receive(for_ever=for_ever)
            if not data or len(self._unread) > MAX_ANSWER:
                raise ConnectionResetError
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ConnectionResetError
        return answer

    def close(self) -> None:
        """Leave."""
        self.sock.close()
