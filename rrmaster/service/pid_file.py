"""How is the process id of a master written to a file, and removed at its end?"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .cannot_start import CannotStart


@contextlib.contextmanager
def pid_file(path: str | None) -> Iterator[None]:
    """Keep the process id in this file for the time of the block; None: in no file.  Raises CannotStart."""
    if path is None:
        yield
        return
    try:
        with open(path, "x") as file:
            file.write(f"{os.getpid()}\n")
    except FileExistsError:
        _replace_pid_file(path)
    except OSError as error:
        raise CannotStart(f"cannot write --pid {path}: {error.strerror}") from None
    path = os.path.abspath(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):  # replaced by another master, or not removable after --user
            with open(path) as file:
                ours = int(file.read(32)) == os.getpid()
            if ours:
                os.unlink(path)


def _replace_pid_file(path: str) -> None:
    try:
        with open(path) as file:
            old = int(file.read(32))
        if old != os.getpid():
            os.kill(old, 0)
            raise CannotStart(
                f"--pid {path}: process {old} is running; stop it, or remove the file if it is not a master"
            )
    except (ValueError, ProcessLookupError):
        pass  # no process has this number: the file was left behind by a master that was killed
    except PermissionError:
        raise CannotStart(f"--pid {path}: the process named there is running, as another user") from None
    try:
        with open(path, "w") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        raise CannotStart(f"cannot write --pid {path}: {error.strerror}") from None
