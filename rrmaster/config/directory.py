"""Which directory is the working directory, as the operator named it?

Deployments switch a symbolic link: ``current -> releases/7`` (Capistrano), ``..data`` (Kubernetes).  The kernel knows
the working directory only by what the link named at the start, so a reload would find the old release for ever.  The
shell's ``PWD`` has the path as it was typed, and is kept here as a shell keeps it.  POSIX: ``pwd -L``.
"""

from __future__ import annotations

import os


def logical_directory() -> str:
    """The working directory with its symbolic links, where ``PWD`` names it; otherwise without."""
    pwd = os.environ.get("PWD", "")
    try:
        if os.path.isabs(pwd) and os.path.samefile(pwd, "."):
            return pwd
    except OSError:
        pass  # PWD names nothing: a link that was switched and pruned, or a parent that did not care
    return os.getcwd()


def change_directory(path: str) -> None:
    """Change the working directory, and ``PWD`` with it, as ``cd`` does.  Raises OSError."""
    before = os.path.join(logical_directory(), path)
    os.chdir(path)
    os.environ["PWD"] = os.path.normpath(before)


def logical_path(path: str) -> str:
    """The path as an absolute one, with its symbolic links."""
    return os.path.normpath(os.path.join(logical_directory(), path))
