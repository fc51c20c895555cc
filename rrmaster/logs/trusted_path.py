"""How does root touch a file whose path an ordinary user may bend?

A log file, or a unix socket, stands in a directory that the service's user owns, and root opens it before it becomes
that user.  A link there would send what is written to any file of root's.  So root follows a link only if root, or
root's process itself, has made it: another user cannot make one that belongs to root.  Each part of the path is opened
by itself, relative to the one before (`openat`), so nothing can change between the look and the step.

Any other user opens files as always: the kernel lets it do no harm that it could not do by itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from attrs import frozen

MAX_LINKS = 40
"""Links in one path, as in the kernel (path_resolution(7))."""

MAX_SOCKET_PATH = 107
"""Bytes; sun_path of unix(7) less the closing zero."""


@frozen
class Place:
    """Where a file stands, or will: its directory, open, and its name there, which may be a link."""

    path: str
    directory: int
    """An O_PATH descriptor.  All that is done to the file is done relative to it."""
    name: str
    fixed: bool = True
    """Whether the path leads here as long as root and this user want it to."""
    in_proc: bool = False
    """The name is a link of /proc, as /proc/self/fd/1, which leads to what is open, whatever its text says."""

    @property
    def socket_address(self) -> str:
        """An address to bind or connect to.  The path, which other programs show, unless it is too long or may bend."""
        if self.fixed and len(os.fsencode(self.path)) <= MAX_SOCKET_PATH:
            return self.path
        return f"/proc/self/fd/{self.directory}/{self.name}"

    def look(self) -> os.stat_result:
        """What stands there; a link is not followed.  Raises OSError."""
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)

    def unlink(self) -> None:
        """Remove what stands there.  Raises OSError."""
        os.unlink(self.name, dir_fd=self.directory)


@contextlib.contextmanager
def trusted_place(path: str, follow: bool = False) -> Iterator[Place]:
    """Where the last part of a path stands, for the time of the block.  `follow`: where a link at its end leads to.

    Raises OSError: ELOOP for a link that root does not follow.
    """
    with contextlib.ExitStack() as opened:
        if os.geteuid() != 0:
            directory, name = os.path.split(path)
            fd = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            yield Place(path, fd, name)
        else:
            yield _walk(path, follow, opened)


def open_trusted(path: str, flags: int, mode: int = 0o666) -> int:
    """Like `os.open`, but as root it follows no link of another user's.

    Returns a descriptor, which the caller owns.  Raises OSError: ELOOP for such a link, EMLINK for a file that has more
    names: where the kernel does not forbid it (fs.protected_hardlinks), a user can give one to any file of root's.
    """
    flags |= os.O_CLOEXEC
    if os.geteuid() != 0:
        return os.open(path, flags, mode)
    with trusted_place(path, follow=not flags & os.O_NOFOLLOW) as place:
        nofollow = 0 if place.in_proc else os.O_NOFOLLOW
        fd = os.open(place.name, flags | nofollow, mode, dir_fd=place.directory)
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_nlink > 1 and not place.fixed and not place.in_proc:
            os.close(fd)
            raise OSError(errno.EMLINK, "it has another name as well (a hard link), where others may have made one")
        return fd


def unlink_if_same(path: str, device: int, inode: int) -> None:
    """Remove a file unless another one has taken its path.  Raises OSError: it is gone, or may not be removed."""
    with trusted_place(path) as place:
        found = place.look()
        if (found.st_dev, found.st_ino) == (device, inode):
            place.unlink()


def _walk(path: str, follow: bool, opened: contextlib.ExitStack) -> Place:
    def step(part: str, directory: int | None = None, follow: int = os.O_NOFOLLOW) -> int:
        fd = os.open(part, os.O_PATH | os.O_CLOEXEC | follow, dir_fd=directory)
        opened.callback(os.close, fd)
        return fd

    directory, parts, links, fixed = step("/" if path.startswith("/") else "."), _parts_of(path), 0, True
    while True:
        part, *rest = parts
        try:
            there = step(part, directory)
            found = os.fstat(there)
        except FileNotFoundError:
            if rest:
                raise
            return Place(path, directory, part, fixed)  # it may be made now
        is_link = stat.S_ISLNK(found.st_mode)
        in_proc = is_link and found.st_dev == os.stat("/proc").st_dev
        if not rest and (not is_link or not follow or in_proc):
            return Place(path, directory, part, fixed, in_proc and follow)
        fixed = fixed and _stays(found, os.fstat(directory))
        if in_proc:
            directory, parts = step(part, directory, follow=0), rest
        elif not is_link:
            directory, parts = there, rest
        else:
            links += 1
            if found.st_uid not in (0, os.geteuid()) or links > MAX_LINKS:
                raise OSError(errno.ELOOP, "its path has a link of another user's, which root does not follow")
            target = os.readlink("", dir_fd=there)
            directory, parts = (step("/") if target.startswith("/") else directory), [*_parts_of(target), *rest]


def _stays(found: os.stat_result, directory: os.stat_result) -> bool:
    """Whether root alone can replace what was found in this directory."""
    sticky = bool(directory.st_mode & stat.S_ISVTX) and found.st_uid == 0
    return directory.st_uid == 0 and (sticky or not directory.st_mode & 0o022)


def _parts_of(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")] or ["."]
