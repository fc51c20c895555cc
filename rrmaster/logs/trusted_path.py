"""How does root open a file whose path an ordinary user may bend?

A log file stands in a directory that the service's user owns, and root opens it before it becomes that user.  A link
there would send what is written to any file of root's.  So root follows a link only if root, or root's process itself,
has made it: another user cannot make one that belongs to root.  Each part of the path is opened by itself, relative to
the one before (`openat`), so nothing can change between the look and the step.

Any other user opens files as always: the kernel lets it do no harm that it could not do by itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

MAX_LINKS = 40
"""Links in one path, as in the kernel (path_resolution(7))."""


def open_trusted(path: str, flags: int, mode: int = 0o666) -> int:
    """Like `os.open`, but as root it follows no link of another user's.

    Returns a descriptor, which the caller owns.  Raises OSError: ELOOP for such a link.
    """
    if os.geteuid() != 0:
        return os.open(path, flags | os.O_CLOEXEC, mode)
    return _open_by_parts(path, flags | os.O_CLOEXEC, mode)


def _open_by_parts(path: str, flags: int, mode: int) -> int:
    with contextlib.ExitStack() as opened:

        def step(part: str, directory: int | None = None) -> int:
            fd = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            opened.callback(os.close, fd)
            return fd

        directory, parts, links = step("/" if path.startswith("/") else "."), _parts_of(path), 0
        while True:
            part, *rest = parts
            try:
                there = step(part, directory)
            except FileNotFoundError:
                there = None  # the last part may be made now; for another one the open below fails as well
            found = os.fstat(there) if there is not None else None
            is_link = found is not None and stat.S_ISLNK(found.st_mode) and (rest or not flags & os.O_NOFOLLOW)
            if found is None or there is None or not (rest or is_link):
                return os.open("/".join(parts), flags | os.O_NOFOLLOW, mode, dir_fd=directory)
            if not is_link:
                directory, parts = there, rest
                continue
            if found.st_dev == os.stat("/proc").st_dev:
                # /proc/self/fd/1, for /dev/stdout, leads to what is open, whatever its text says.
                return os.open("/".join(parts), flags, mode, dir_fd=directory)
            links += 1
            if found.st_uid not in (0, os.geteuid()) or links > MAX_LINKS:
                raise OSError(errno.ELOOP, "its path has a link of another user's, which root does not follow")
            target = os.readlink("", dir_fd=there)
            directory, parts = (step("/") if target.startswith("/") else directory), [*_parts_of(target), *rest]


def _parts_of(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")] or ["."]
