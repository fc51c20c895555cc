"""Which programs are compiled from C, and which send requests where there is no compiler?

A server that is measured beside others is C or left out (`compiled`).  Clients have a counterpart in Python (`client`):
requests.py does what requests.c does, and load.py what load.c does, at a higher cost.  It is used where there is no
compiler, or with ``--python-clients``, and then the record has a note about it.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from .machine import HOME

BUILD = HOME / "build"

WANTED = "--python-clients"


class Missing(Exception):
    """This machine lacks what a server or a program needs."""


python_clients = False
"""Set from the command line before the first measurement, so that all rounds have the same clients."""

_one_at_a_time = threading.Lock()
"""Held while a program is compiled: servers are measured in several threads, which need the same programs at once."""


def compiled(name: str) -> Path:
    """The program of `name`.c, compiled if it is older than its source.  Raises Missing."""
    source = HOME / f"{name}.c"
    with _one_at_a_time:
        for program in (BUILD / name, _build() / name):
            if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
                return program
        if shutil.which("cc") is None:
            raise Missing("no C compiler (cc)")
        _compile(source, program)
    return program


def _compile(source: Path, program: Path) -> None:
    """Compile to another name and rename: an interrupted compiler leaves half a program."""
    half = program.with_suffix(f".{os.getpid()}")
    try:
        done = subprocess.run(
            ["cc", "-O2", "-Wall", "-Wextra", "-o", half, source, "-lm"], capture_output=True, text=True
        )
        if done.returncode:
            raise Missing(f"cc does not compile {source.name}: {(done.stderr.strip() or 'no reason').splitlines()[0]}")
        half.replace(program)
    finally:
        half.unlink(missing_ok=True)


@functools.cache
def _build() -> Path:
    """The directory of the programs: beside their sources, or one for this run if that cannot be written to."""
    try:
        BUILD.mkdir(exist_ok=True)
    except OSError:
        pass  # may not be written to: see below
    if os.access(BUILD, os.W_OK):
        return BUILD
    directory = tempfile.mkdtemp(prefix="rrmaster-bench-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


def client(name: str) -> list[str]:
    """The command of a load generator: the program of `name`.c, or its counterpart in Python."""
    if why_python() is None:
        return [str(compiled(name))]
    return [sys.executable, "-m", f"bench.{name}"]


@functools.cache
def why_not_c() -> str | None:
    """The reason why clients cannot be C; None if they can.  If one of the two is missing, both are Python."""
    try:
        for name in ("load", "requests"):
            compiled(name)
    except Missing as missing:
        return str(missing)
    return None


def why_python() -> str | None:
    """The reason why clients are Python; None if they are C."""
    return WANTED if python_clients else why_not_c()


def said_of_clients() -> list[str]:
    """The notes of a record about its clients: none if they are C."""
    why = why_python()
    if why is None:
        return []
    return [f"{why}: the clients are Python, and where servers are fast they, and not the servers, are the limit"]
