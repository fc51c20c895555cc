"""Values that two forked processes would draw alike from compiled code are found by drawing them."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from types import ModuleType

import pytest

from rrmaster.worker.preload.trial.twins import drawn_alike

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""The runner has threads, and the child does nothing but answer."""


class Panic(BaseException):
    """As Rust's, in Python."""


def panics() -> str:
    raise Panic


def loaded(monkeypatch: pytest.MonkeyPatch, name: str, function: Callable[..., object], file: str) -> None:
    """A module that has this function is loaded."""
    module = ModuleType("a_module")
    module.__file__ = file
    setattr(module, name, function)
    for known in ("polars", "pyarrow.compute"):
        monkeypatch.delitem(sys.modules, known, raising=False)
    monkeypatch.setitem(sys.modules, "a_module", module)


COMPILED = "/srv/a_module.abi3.so"

COPIED = random.Random(1)


def copied() -> float:
    return COPIED.random()


def copied_after_the_time() -> str:
    return f"{time.perf_counter_ns():032x}-{COPIED.getrandbits(80):020x}"


@pytest.mark.parametrize("function", [copied, copied_after_the_time])
def test_a_state_that_a_fork_copies_is_found(monkeypatch: pytest.MonkeyPatch, function: Callable[..., object]) -> None:
    loaded(monkeypatch, "uuid4", function, COMPILED)
    (found,) = drawn_alike()
    assert found.what == (
        "used the generator of a_module.uuid4, which goes on with the same values in each forked process"
    )


@pytest.mark.parametrize(
    ("name", "function", "file", "why"),
    [
        ("uuid4", lambda: os.urandom(8), COMPILED, "the kernel's"),
        (
            "uuid1",
            lambda: f"{time.perf_counter_ns()}-1a2b3c4d5e6f",
            COMPILED,
            "a host's address is not drawn",
        ),
        ("uuid4", lambda: 7, COMPILED, "it is always the same, also in one process"),
        ("uuid4", object, COMPILED, "it does not say its value"),
        ("uuid4", lambda text: text, COMPILED, "it wants an argument"),
        ("uuid4", panics, COMPILED, "it fails in its own way"),
        ("uuid4", copied, "/srv/a_module.py", "Python's generators are seeded anew"),
        ("rand", copied, COMPILED, "numbers may be the same on purpose"),
        ("fluid", copied, COMPILED, "it makes no id"),
    ],
)
def test_what_is_no_trouble_is_not_found(
    monkeypatch: pytest.MonkeyPatch, name: str, function: Callable[..., object], file: str, why: str
) -> None:
    loaded(monkeypatch, name, function, file)
    assert drawn_alike() == (), why


def test_nothing_is_forked_where_no_function_makes_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(monkeypatch, "fluid", copied, COMPILED)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it forks"))
    assert drawn_alike() == ()
