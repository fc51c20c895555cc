"""Generators of random numbers in forked workers: anew without a seed, as they are with one."""

from __future__ import annotations

import copy
import os
import pickle
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rrmaster.worker.preload.taken.generators import Generators
from rrmaster.worker.preload.watch import ImportWatch
from tests import forked
from tests.launches import a_launch

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""The runner has threads, and the child does nothing but answer."""


def in_two_workers(make: Callable[[], Any], draw: Callable[[Any], Any]) -> tuple[Any, Any]:
    """What is drawn from the generator in each of two workers forked from its import."""
    watch = ImportWatch(a_launch())
    with watch.watched():
        generator = make()

    def answer() -> bytes:
        watch.begin_worker(("a worker",))
        return repr(draw(generator)).encode()

    return forked.in_two_workers(answer)


def own_seed(generator: random.Random) -> Any:
    return generator.random()


class Derived(random.Random):
    """As an application may write."""


@pytest.mark.parametrize(
    "make",
    [
        random.Random,
        Derived,
        lambda: random.Random(os.getpid()),
        lambda: random.Random(time.time()),
        lambda: random.Random(int(time.time())),
        lambda: random.Random(time.time_ns()),
        lambda: random.Random(str(time.time())),
        lambda: random.Random(os.urandom(8)),
        lambda: random.Random(int.from_bytes(os.urandom(8))),
    ],
)
def test_a_generator_without_a_seed_of_its_own_is_another_in_each_worker(make: Callable[[], random.Random]) -> None:
    one, other = in_two_workers(make, own_seed)
    assert one != other


@pytest.mark.parametrize(
    "make",
    [
        lambda: random.Random(42),
        lambda: random.Random("shop"),
        lambda: random.Random(b"shop"),
        lambda: random.Random(0.5),
        lambda: random.Random(0),
        lambda: Derived(42),
    ],
)
def test_a_generator_that_was_seeded_on_purpose_stays_as_it_is(make: Callable[[], random.Random]) -> None:
    expected = repr(make().random()).encode()
    assert in_two_workers(make, own_seed) == (expected, expected)


def test_a_generator_that_is_seeded_later_in_the_import_stays_as_it_is() -> None:
    def make() -> random.Random:
        generator = random.Random()
        generator.seed(42)
        return generator

    expected = repr(random.Random(42).random()).encode()
    assert in_two_workers(make, own_seed) == (expected, expected)


def test_pythons_own_generator_keeps_a_seed_that_the_import_gave_it() -> None:
    state = random.getstate()
    try:
        expected = repr(random.Random(42).random()).encode()
        assert in_two_workers(lambda: random.seed(42), lambda _: random.random()) == (expected, expected)
        one, other = in_two_workers(lambda: random.seed(), lambda _: random.random())
        assert one != other
    finally:
        random.setstate(state)


def put_back() -> None:
    """What a library does that wants numbers which are the same each time."""
    state = random.getstate()
    random.seed(42)
    random.setstate(state)


def of_a_state(seed: int | None) -> random.Random:
    """A generator with the state of another."""
    generator = random.Random()
    generator.setstate(random.Random(seed).getstate())
    return generator


@pytest.mark.parametrize("make", [lambda: copy.copy(random.Random(42)), lambda: of_a_state(42), lambda: pickled(42)])
def test_a_generator_with_the_state_of_one_that_was_seeded_stays_as_it_is(make: Callable[[], random.Random]) -> None:
    expected = repr(random.Random(42).random()).encode()
    assert in_two_workers(make, own_seed) == (expected, expected)


@pytest.mark.parametrize("make", [lambda: copy.copy(random.Random()), lambda: of_a_state(None), lambda: pickled(None)])
def test_a_generator_with_the_state_of_one_without_a_seed_is_another_in_each_worker(
    make: Callable[[], random.Random],
) -> None:
    one, other = in_two_workers(make, own_seed)
    assert one != other


def pickled(seed: int | None) -> random.Random:
    found: random.Random = pickle.loads(pickle.dumps(random.Random(seed)))
    return found


def test_pythons_own_generator_is_another_in_each_worker_after_its_state_was_put_back() -> None:
    state = random.getstate()
    try:
        one, other = in_two_workers(put_back, lambda _: random.random())
        assert one != other
    finally:
        random.setstate(state)


def test_no_generator_is_kept_alive() -> None:
    generators = Generators()
    with generators.watched():
        for _ in range(10):
            random.Random()
        assert len(generators._unseeded) <= 1


# --- numpy


@pytest.mark.parametrize(
    ("make", "draw"),
    [
        ("numpy.random.default_rng()", "of.random()"),
        ("numpy.random.RandomState()", "of.random()"),
        ("numpy.random.Generator(numpy.random.MT19937())", "of.random()"),
        ("numpy.random.default_rng(numpy.random.SeedSequence().spawn(1)[0])", "of.random()"),
        ("numpy.random.default_rng(__import__('time').time_ns())", "of.random()"),
        ("numpy.random.RandomState(int(__import__('time').time()))", "of.random()"),
        ("None", "numpy.random.random()"),
        ("PUT_BACK", "numpy.random.random()"),
    ],
)
def test_numpys_generators_without_a_seed_are_others_in_each_worker(make: str, draw: str) -> None:
    numpy = pytest.importorskip("numpy")
    make = make.replace("PUT_BACK", "[of := numpy.random, old := of.get_state(), of.seed(7), of.set_state(old)]")
    one, other = in_two_workers(lambda: eval(make, {"numpy": numpy}), lambda of: eval(draw, {"of": of, "numpy": numpy}))
    assert one != other


@pytest.mark.parametrize(
    ("make", "draw"),
    [
        ("numpy.random.default_rng(7)", "of.random()"),
        ("numpy.random.RandomState(7)", "of.random()"),
        ("numpy.random.default_rng(numpy.random.SeedSequence(7).spawn(1)[0])", "of.random()"),
        ("numpy.random.seed(7)", "numpy.random.random()"),
    ],
)
def test_numpys_generators_that_were_seeded_on_purpose_stay_as_they_are(make: str, draw: str) -> None:
    numpy = pytest.importorskip("numpy")
    state = numpy.random.get_state()
    one, other = in_two_workers(lambda: eval(make, {"numpy": numpy}), lambda of: eval(draw, {"of": of, "numpy": numpy}))
    numpy.random.set_state(state)
    assert one == other


def test_numbers_that_the_import_drew_from_numpy_are_noticed() -> None:
    numpy = pytest.importorskip("numpy")
    taken = []
    for make in (lambda: numpy.random.default_rng(), lambda: numpy.random.default_rng(7)):
        watch = ImportWatch(a_launch())
        with watch.watched():
            generator = make()
            generator.random()
        taken.append(watch.taken())
    assert taken[0] == ("random numbers of numpy's (from a generator without a seed)",)
    assert taken[1] == ()
    assert sys.modules["numpy.random.bit_generator"].randbits.__name__ == "getrandbits", "as numpy has it"


@pytest.mark.parametrize(
    ("draw", "kept"),
    [
        ("default_rng().integers(9)", True),
        ("SeedSequence().entropy", True),
        ("default_rng(7).integers(9)", False),
        ("RandomState(7).rand()", False),
    ],
)
def test_numbers_of_a_generator_that_is_gone_are_noticed(draw: str, kept: bool, tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    watch = ImportWatch(a_launch())
    (tmp_path / "shop.py").write_text(f"numpy.random.{draw}")
    with watch.watched():
        eval(compile(f"numpy.random.{draw}", tmp_path / "shop.py", "eval"), {"numpy": numpy})
    assert [of.partition("(")[0] for of in watch.taken()] == (["random numbers of numpy's "] if kept else [])
