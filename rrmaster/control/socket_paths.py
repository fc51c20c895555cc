"""Where is a master's control socket, and where does a verb look for it?

The default path is ``<directory>/<name>.sock``, in the first of these directories that can be used:

1. ``$XDG_RUNTIME_DIR/rrmaster``: private to a logged-in user;
2. ``/run/rrmaster``: root makes it, and a service manager may make it for the user of a service;
3. ``rrmaster-<uid>`` in the directory for temporary files, with mode 0700 and checked to belong to this user.

A verb looks into all three; for root it also looks into those of all other users.  A master that runs alone is found
without its name; among several, a name or a path is needed.  Only the owner can connect to the socket (mode 0600), from
the moment its file exists: the mode is set on the socket before `bind`, and the kernel gives it to the file.  A file
left behind by a master that was killed is replaced.  The file of a running master is not.

This module knows files and sockets, and not what is said through them (`requests` does).
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

from ..logs.trusted_path import MAX_SOCKET_PATH, Place, trusted_place, unlink_if_same
from ..protocol.family.children import keep_from_children

DEFAULT_NAME = "default"

MAX_DEFAULT_NAMES = 9
"""Masters of one user that get a default name (default, default-2, ..., default-9); the next one needs a --name."""

SYSTEM_DIRECTORY = Path("/run/rrmaster")

BACKLOG = 16
"""Clients that may wait to be accepted."""

LOCK_S = 1.0
"""Seconds to wait for another master that opens a socket in the same directory; opening one takes microseconds."""

_UCRED = struct.Struct("3i")


class CannotClaim(Exception):
    """No control socket can be opened at this path; the message says why."""


class SocketInUse(CannotClaim):
    """A running master listens at this path."""


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Pid and uid of the process at the other end (SO_PEERCRED)."""
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


# --- the master's side


@define(eq=False)
class ControlSocket:
    """A listening control socket.  It owns the descriptor and the file, and removes both when closed."""

    path: Path
    socket: socket.socket
    _identity: tuple[int, int]
    """Device and inode of the file, to recognise it at the end."""

    @classmethod
    def claim(cls, path: Path) -> ControlSocket:
        """Bind to this path and listen.  A stale file is replaced.  Raises SocketInUse, CannotClaim."""
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise CannotClaim(
                f"{path} is longer than the {MAX_SOCKET_PATH} bytes a unix socket may have; choose a shorter one"
            )
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        keep_from_children(listener)
        try:
            listener.setblocking(False)
            # Before bind: the file never exists with another mode.
            os.fchmod(listener.fileno(), 0o600)
            with trusted_place(os.fspath(path)) as place, _locked(place.directory):
                _remove_stale(place)
                listener.bind(place.socket_address)
                listener.listen(BACKLOG)  # under the lock: a socket that is bound and does not listen looks stale
                found = place.look()
        except OSError as error:
            listener.close()
            raise CannotClaim(f"{path}: {error.strerror or error}") from None
        except BaseException:
            listener.close()
            raise
        return cls(path.absolute(), listener, (found.st_dev, found.st_ino))

    def close(self) -> None:
        """Stop listening, and remove the file unless another one has taken its path."""
        self.socket.close()
        with contextlib.suppress(OSError):  # removed already, or not removable after --user
            unlink_if_same(os.fspath(self.path), *self._identity)


def claim_by_name(name: str | None, environ: Mapping[str, str], uid: int) -> ControlSocket:
    """A control socket in the default directory.  Without a name it gets the first default name that is free.

    Raises SocketInUse, CannotClaim.
    """
    directory = usable_directory(environ, uid)
    if name is not None:
        return ControlSocket.claim(directory / f"{name}.sock")
    for number in range(1, MAX_DEFAULT_NAMES + 1):
        default = DEFAULT_NAME if number == 1 else f"{DEFAULT_NAME}-{number}"
        try:
            return ControlSocket.claim(directory / f"{default}.sock")
        except SocketInUse:
            pass  # another master of this user has this name; try the next one
    raise SocketInUse(f"{MAX_DEFAULT_NAMES} masters have sockets in {directory} already; give this one a --name")


def usable_directory(environ: Mapping[str, str], uid: int) -> Path:
    """The directory for this user's sockets, created if missing.  Raises CannotClaim."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and _is_private(Path(runtime), uid):
        return _made(Path(runtime) / "rrmaster", 0o700, uid)
    if uid == 0:
        with contextlib.suppress(OSError):  # a read-only /run, as in some containers
            SYSTEM_DIRECTORY.mkdir(0o755, exist_ok=True)
    if SYSTEM_DIRECTORY.is_dir() and os.access(SYSTEM_DIRECTORY, os.W_OK):
        return SYSTEM_DIRECTORY
    temporary = _temporary()
    if temporary is None:
        raise CannotClaim(
            "there is no directory to write to, not even a temporary one; choose a path with --control PATH"
        )
    return _made(temporary / f"rrmaster-{uid}", 0o700, uid)


def _temporary() -> Path | None:
    """The directory for temporary files; None if there is none, as on a read-only root without a /tmp."""
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return None


def _made(directory: Path, mode: int, uid: int) -> Path:
    try:
        directory.mkdir(mode, exist_ok=True)
    except OSError as error:
        raise CannotClaim(f"{directory}: {error.strerror}; choose another path with --control PATH") from None
    if not _is_private(directory, uid):
        raise CannotClaim(
            f"{directory} is not a directory of this user's own, closed to others; "
            "remove it, or choose another path with --control PATH"
        )
    return directory


def _is_private(directory: Path, uid: int) -> bool:
    """Whether this is a directory, not a link to one, that belongs to this user and that no other user can write to."""
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o022


@contextlib.contextmanager
def _locked(directory: int) -> Iterator[None]:
    """Keep other masters from opening or replacing a socket here.  After `LOCK_S` the block runs without the lock."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        end = time.monotonic() + LOCK_S
        while not try_lock(fd) and time.monotonic() < end:
            time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def try_lock(fd: int) -> bool:
    """Whether the file is ours now; yes, too, where the file system has no locks.  It does not wait."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # this file system has no locks
    return True


def _remove_stale(place: Place) -> None:
    path = place.path
    try:
        mode = place.look().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotClaim(f"{path} exists and is no socket; remove it, or choose another --control PATH")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(place.socket_address)
            pid, _ = peer_of(probe)
    except ConnectionRefusedError:
        place.unlink()
    except BlockingIOError:  # its queue is full, so a master listens
        raise SocketInUse(f"a running master listens at {path}; give this one another --name") from None
    else:
        raise SocketInUse(
            f"the master with pid {pid} listens at {path}; give this one another --name, or stop that one"
        )


# --- the verbs' side


def directories_to_search(environ: Mapping[str, str], uid: int) -> list[Path]:
    """The directories in which this user's masters may have their sockets; for root, those of all users."""
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    # A verb writes nothing, so it also looks where it could not write.
    temporary = _temporary() or Path("/tmp")
    found = [Path(runtime) / "rrmaster", SYSTEM_DIRECTORY, temporary / f"rrmaster-{uid}"]
    if uid == 0:
        found += sorted(Path("/run/user").glob("*/rrmaster"))
        found += [path for path in sorted(temporary.glob("rrmaster-*")) if _belongs_to_the_user_in_its_name(path)]
    return list(dict.fromkeys(found))


def _belongs_to_the_user_in_its_name(path: Path) -> bool:
    match = re.fullmatch(r"rrmaster-(\d{1,10})", path.name)
    return match is not None and _is_private(path, int(match[1]))
