"""Do two forked processes draw the same random values from compiled code?  Two are forked, and do it.

A generator in a library's own memory, which the import has used, goes on in each forked process from the same state.
Python's and numpy's are seeded anew, and some libraries notice a fork; what others do can be seen in no trace.  So two
processes draw a few values each and end at once::

    template ── fork ──► 3f2a.. 77c1..   ┐
             ── fork ──► 3f2a.. 77c1..   ┴─► the same: all forked workers would draw these

What makes an id is found by its name among the functions of compiled modules: no such function is there to give the
same twice.  A generator of numbers may have a seed on purpose, so of these only some are known.  A seed on purpose in
one of them (`polars.set_random_seed`) looks the same, and prevents forking, too.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from types import ModuleType
from typing import Any

from ....protocol.forks.safety import Finding, draws_the_same
from .forking import quiet_fork

PATIENCE_S = 3.0
"""Seconds for the values of a process; they take milliseconds, or hundredths where a library begins threads."""

_MAKES_IDS = re.compile(r"_?(uuid\d?|guid|ulid|nano_?id|ksuid|cuid2?|tsid|snowflake_?id)(_?\w+)?", re.IGNORECASE)

_SAYS_NOTHING = re.compile(r" at 0x[0-9a-f]+|None")
"""What is said of an object that does not say its value."""

_END = 12
"""The letters at the end of a value that are compared: at the beginning of many ids stands the time."""


def _polars(polars: Any) -> Any:
    """polars 2.1: the generator behind `sample` and `shuffle`."""
    return polars.Series(range(1 << 20)).sample(4).to_list()


def _pyarrow(compute: Any) -> Any:
    """pyarrow 26."""
    return compute.random(2).to_pylist()


_DRAWS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "polars": ("polars.Series.sample", _polars),
    "pyarrow.compute": ("pyarrow.compute.random", _pyarrow),
}
"""Generators of numbers: by the module that must be loaded, what is said of it, and how to draw."""


def drawn_alike() -> tuple[Finding, ...]:
    """What two forked processes draw alike."""
    draws = dict(_draws())
    if not draws:
        return ()
    one, other = _twin(draws), _twin(draws)
    same = (name for name in draws if name in one and one[name] == other.get(name))
    return tuple(Finding(draws_the_same(name), trace=f"draw {name}") for name in same)


def _draws() -> Iterator[tuple[str, Callable[[], Any]]]:
    for module, (name, draw) in _DRAWS.items():
        if (loaded := sys.modules.get(module)) is not None:
            yield name, lambda draw=draw, loaded=loaded: draw(loaded)  # type: ignore[misc]
    for loaded in list(sys.modules.values()):
        if issubclass(type(loaded), ModuleType) and _is_compiled(loaded):
            # Not vars(): that would load a module of importlib.util.LazyLoader.
            for name, found in list(ModuleType.__getattribute__(loaded, "__dict__").items()):
                if _MAKES_IDS.fullmatch(name) and callable(found):
                    yield f"{loaded.__name__}.{name}", found


def _is_compiled(module: ModuleType) -> bool:
    file = ModuleType.__getattribute__(module, "__dict__").get("__file__")
    return isinstance(file, str) and file.endswith(tuple(EXTENSION_SUFFIXES))


def _twin(draws: dict[str, Callable[[], Any]]) -> dict[str, list[str]]:
    """The ends of what a forked process draws, two of each; none of those that are alike or cannot be told."""
    ours, its = os.pipe()
    try:
        pid = quiet_fork()
    except OSError:  # at a limit of processes, as for `fork_once`
        os.close(ours)
        os.close(its)
        return {}
    if pid == 0:
        try:
            _tell(its, draws)
        finally:
            os._exit(0)
    os.close(its)
    told = _read(ours, time.monotonic() + PATIENCE_S)
    os.close(ours)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return dict(json.loads(line) for line in told.splitlines() if line.endswith(b"]"))


def _tell(its: int, draws: dict[str, Callable[[], Any]]) -> None:
    for name, draw in draws.items():
        try:
            values = [str(draw()), str(draw())]
        except BaseException:  # a panic of Rust is one
            continue  # it wants an argument, or is something else
        ends = [re.sub(r"\W", "", value)[-_END:] for value in values]
        if ends[0] != ends[1] and not _SAYS_NOTHING.search(values[0]):
            os.write(its, json.dumps([name, ends]).encode() + b"\n")


def _read(ours: int, deadline: float) -> bytes:
    """All that is written, up to the deadline."""
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    told = b""
    while poll.poll(max(deadline - time.monotonic(), 0) * 1000):
        if not (some := os.read(ours, 65536)):
            break
        told += some
    return told
