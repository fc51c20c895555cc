"""Where a master's control socket lies, and where a verb looks for it.

The default path is ``<directory>/<name>.sock``, in the first of these that can be used:

1. ``$XDG_RUNTIME_DIR/rrmaster``: private to a logged-in user;
2. ``/run/rrmaster``: root makes it, and a service manager may make it for a service's user;
3. ``rrmaster-<uid>`` in the directory for temporary files, 0700 and checked to be ours.

A verb looks into all three, and root's also into everybody's.  One living master is found without being named, among
several one has to say which.  The socket is its owner's alone (0600) from the moment it has a name: the mode is set
before `bind`, which the kernel takes it from.  A file left behind by a master that was killed is replaced; a living
master's is not.

This module knows files and sockets.  It does not know what is said through them (`control` does).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import stat
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import define

DEFAULT_NAME = "default"

NAMES = 9
"""How many masters get a default name of their own before one has to be chosen: default, default-2, ..., default-9."""

SYSTEM = Path("/run/rrmaster")

BACKLOG = 16
"""Verbs that may wait to be let in."""

LONGEST = 107
"""Bytes of a unix socket's path, unix(7)."""

LOCK_S = 1.0
"""Seconds to wait for another master that is just taking a place in the same directory; it takes microseconds."""

_UCRED = struct.Struct("3i")


class CannotClaim(Exception):
    """No control socket can be opened at this path, and why."""


class Taken(CannotClaim):
    """A living master listens there."""


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Pid and uid of the process at the other end (SO_PEERCRED)."""
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


# --- the master's side


@define(eq=False)
class Place:
    """A control socket that is ours: listening, and removed at the end."""

    path: Path
    socket: socket.socket
    _identity: tuple[int, int]

    @classmethod
    def claim(cls, path: Path) -> Place:
        """Bind and listen.  A stale file is replaced.  Raises Taken, CannotClaim."""
        if len(os.fsencode(path)) > LONGEST:
            raise CannotClaim(f"{path} is longer than the {LONGEST} bytes a unix socket may have; choose a shorter one")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            # Before bind, so that there is no moment in which the file has another mode.
            os.fchmod(listener.fileno(), 0o600)
            with _alone_in(path.parent):
                _remove_stale(path)
                listener.bind(os.fspath(path))
                listener.listen(BACKLOG)  # while alone: what is bound and does not listen looks stale
            found = os.lstat(path)
        except OSError as error:
            listener.close()
            raise CannotClaim(f"{path}: {error.strerror or error}") from None
        except BaseException:
            listener.close()
            raise
        return cls(path.absolute(), listener, (found.st_dev, found.st_ino))

    def close(self) -> None:
        """Stop listening, and remove the file if it is still ours."""
        self.socket.close()
        with contextlib.suppress(OSError):  # somebody has tidied up, or the directory is not ours as another user
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self.path)


def claim_by_name(name: str | None, environ: Mapping[str, str], uid: int) -> Place:
    """A place in the default directory.  Without a name the first free one of the default names is taken.

    Raises Taken, CannotClaim.
    """
    directory = usable_directory(environ, uid)
    if name is not None:
        return Place.claim(directory / f"{name}.sock")
    for number in range(1, NAMES + 1):
        default = DEFAULT_NAME if number == 1 else f"{DEFAULT_NAME}-{number}"
        try:
            return Place.claim(directory / f"{default}.sock")
        except Taken:
            pass  # another master of this user; the next name is as good
    raise Taken(f"{NAMES} masters live in {directory} already; give this one a --name")


def usable_directory(environ: Mapping[str, str], uid: int) -> Path:
    """The directory for this user's sockets; it is made if it is not there.  Raises CannotClaim."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and _is_private(Path(runtime), uid):
        return _made(Path(runtime) / "rrmaster", 0o700, uid)
    if uid == 0:
        with contextlib.suppress(OSError):  # a read-only /run, as in some containers
            SYSTEM.mkdir(0o755, exist_ok=True)
    if SYSTEM.is_dir() and os.access(SYSTEM, os.W_OK):
        return SYSTEM
    return _made(_temporary(uid), 0o700, uid)


def _temporary(uid: int | str) -> Path:
    return Path(tempfile.gettempdir()) / f"rrmaster-{uid}"


def _made(directory: Path, mode: int, uid: int) -> Path:
    try:
        directory.mkdir(mode, exist_ok=True)
    except OSError as error:
        raise CannotClaim(f"{directory}: {error.strerror}; name another place with --control PATH") from None
    if not _is_private(directory, uid):
        raise CannotClaim(
            f"{directory} is not a directory of this user's own, closed to others; "
            "remove it, or name another place with --control PATH"
        )
    return directory


def _is_private(directory: Path, uid: int) -> bool:
    """A directory, not a link to one, of this user, into which nobody else can write."""
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o022


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """While no other master takes or replaces a place here.  Who keeps the lock for long is not waited for."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + LOCK_S
        while not _locked(fd) and time.monotonic() < end:
            time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _remove_stale(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotClaim(f"{path} is there and is no socket; remove it, or name another --control PATH")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(os.fspath(path))
            pid, _ = peer_of(probe)
    except ConnectionRefusedError:
        os.unlink(path)
    except BlockingIOError:  # its queue is full: somebody lives there
        raise Taken(f"a master that lives listens at {path}; give this one another --name") from None
    else:
        raise Taken(f"the master with pid {pid} listens at {path}; give this one another --name, or stop that one")


# --- the verbs' side


def directories_to_search(environ: Mapping[str, str], uid: int) -> list[Path]:
    """Where this user's masters may be; root looks after everybody's."""
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    found = [Path(runtime) / "rrmaster", SYSTEM, _temporary(uid)]
    if uid == 0:
        found += sorted(Path("/run/user").glob("*/rrmaster"))
        found += [path for path in sorted(_temporary("x").parent.glob("rrmaster-*")) if _is_named_for_its_owner(path)]
    return list(dict.fromkeys(found))


def _is_named_for_its_owner(path: Path) -> bool:
    match = re.fullmatch(r"rrmaster-(\d{1,10})", path.name)
    return match is not None and _is_private(path, int(match[1]))
