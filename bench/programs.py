"""Which programs are made from C, and what sends requests where there is no compiler.

Who is measured beside others is C or nothing (`compiled`).  Clients have a twin in Python (`client`): requests.py does
what requests.c does, and load.py what load.c does, at more cost.  The twin is taken where there is no compiler, or if
somebody wants it so (``--python-clients``), and then the record has a note of it.
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
    """What it takes is not on this machine."""


python_clients = False
"""Set by the command line, before anything is measured: for the whole run, so that all rounds have the same clients."""

_one_at_a_time = threading.Lock()
"""Servers are measured in several threads, which all want the same program at the same moment."""


def compiled(name: str) -> Path:
    """The program made of `name`.c, compiled when it is older.  Raises Missing."""
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
    """Under another name until it is whole: an interrupted compiler leaves half a program."""
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
    """Where programs are put: beside their sources; for this run alone, if nothing can be written there."""
    try:
        BUILD.mkdir(exist_ok=True)
    except OSError:
        pass  # not ours to write to: see below
    if os.access(BUILD, os.W_OK):
        return BUILD
    directory = tempfile.mkdtemp(prefix="rrmaster-bench-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


def client(name: str) -> list[str]:
    """The command of a generator of load: the program of `name`.c, or its twin in Python."""
    if why_python() is None:
        return [str(compiled(name))]
    return [sys.executable, "-m", f"bench.{name}"]


@functools.cache
def why_not_c() -> str | None:
    """Why clients cannot be C, if so; both are needed, so one that is missing makes both Python."""
    try:
        for name in ("load", "requests"):
            compiled(name)
    except Missing as missing:
        return str(missing)
    return None


def why_python() -> str | None:
    """Why clients are Python; None: they are C."""
    return WANTED if python_clients else why_not_c()


def said_of_clients() -> list[str]:
    """What a record is to say about its clients: nothing, if they are C."""
    why = why_python()
    if why is None:
        return []
    return [f"{why}: the clients are Python, and where servers are fast they, and not the servers, are the limit"]
