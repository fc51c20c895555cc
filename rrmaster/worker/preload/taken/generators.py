"""Which generators of random numbers did the import make, and which of them did it seed on purpose?

A generator without a seed of its own is seeded anew in each forked worker, or all workers would draw the same numbers.
One that was seeded on purpose (``random.Random(42)``, ``default_rng(7)``) stays as it is: in a worker that imports the
application for itself it would start from that seed, too.

- `random.Random`: its method `seed` is called by each new object, without an argument if the object was.  A seed that
  comes from the clock, the process id or the kernel's random bytes counts as none.
- A state that is put into a generator (`setstate`, a copy, `pickle`) has the seed of the one that it was read from; one
  that was read from none, a file say, is there on purpose.
- The hidden generator behind `random.random` is seeded anew by Python at each fork, also if it had a seed.
- numpy's generators: see `numpys`.
- torch's generators have a constant default seed, the same in each process, so nothing is needed.
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any
from weakref import WeakValueDictionary

from .numpys import NumpysGenerators

_CLOCKS = (1, 1e3, 1e6, 1e9)
"""Units in which the time is told, for each second."""

_REMEMBERED = 256
"""Random values of the kernel that are remembered as possible seeds; a seed is used soon after it was drawn."""


class Generators:
    """The generators that the import makes."""

    def __init__(self) -> None:
        self._begun = time.time()
        self._values: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._unseeded: WeakValueDictionary[int, random.Random] = WeakValueDictionary()
        self._unseeded_states: set[int] = set()  # hashes of what `getstate` has returned of those
        self._pythons_state: Any = None  # of the generator behind random.random, if it was seeded on purpose
        self._pythons_is_seeded = False
        self._numpys = NumpysGenerators(self._is_on_purpose)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the seeds of `random.Random` in the block, and then find numpy's generators."""
        self._numpys.adopt()
        with ExitStack() as stack:
            stack.callback(self._finish)
            for name, noting in (("seed", self._seeding), ("getstate", self._telling), ("setstate", self._putting)):
                method = getattr(random.Random, name)
                stack.callback(setattr, random.Random, name, method)
                setattr(random.Random, name, noting(method))
            yield

    def _finish(self) -> None:
        if self._pythons_is_seeded:
            self._pythons_state = random.getstate()
        self._numpys.find()

    def note_value(self, value: Any) -> None:
        """The kernel has given this random value: as a seed it counts as none."""
        if isinstance(value, bytes):
            self._values.append(value)
            self._numpys.adopt(value)

    def is_unseeded(self, generator: Any) -> bool:
        """Whether this object of random.Random was made in the block without a seed, or is the hidden one without."""
        if generator is hidden():
            return not self._pythons_is_seeded
        return self._unseeded.get(id(generator)) is generator

    def drawn_from_numpy(self) -> bool:
        """Whether the import drew numbers from a generator of numpy's that has no seed."""
        return self._numpys.are_drawn_from()

    def kept_from_numpy(self) -> str:
        """Where the application has seeded a generator of numpy's at random that is gone: its numbers are kept."""
        return self._numpys.kept()

    def ask_who_seeds(self, place: Callable[[FrameType], str]) -> None:
        """`place`: where in the application a frame is; empty if it is not there."""
        self._numpys.ask_who_seeds(place)

    def renew(self) -> None:
        """In a forked worker: seed anew what was not seeded on purpose."""
        for generator in list(self._unseeded.values()):
            random.Random.seed(generator)
        if self._pythons_state is not None:
            random.setstate(self._pythons_state)
        self._numpys.renew()

    # --- what is done to objects of random.Random

    def note_seed(self, generator: Any, seed: Any) -> None:
        """A generator was seeded."""
        self._note(generator, self._is_on_purpose(seed))

    def note_state_told(self, generator: Any, state: Any) -> None:
        """A generator has told its state."""
        if self.is_unseeded(generator):
            self._unseeded_states.add(hash(state))

    def note_state_put(self, generator: Any, state: Any) -> None:
        """A state was put into a generator."""
        try:
            self._note(generator, hash(state) not in self._unseeded_states)
        except TypeError:  # it has lists where one that was told has tuples
            self._note(generator, True)

    def _note(self, generator: Any, on_purpose: bool) -> None:
        if generator is hidden():
            self._pythons_is_seeded = on_purpose
        elif on_purpose:
            self._unseeded.pop(id(generator), None)
        elif not isinstance(generator, random.SystemRandom):
            self._unseeded[id(generator)] = generator

    def _seeding(self, seed: Callable[..., None]) -> Callable[..., None]:
        def noting(generator: random.Random, a: Any = None, version: int = 2) -> None:
            seed(generator, a, version)
            self.note_seed(generator, a)

        return noting

    def _telling(self, getstate: Callable[..., Any]) -> Callable[..., Any]:
        def noting(generator: random.Random) -> Any:
            state = getstate(generator)
            self.note_state_told(generator, state)
            return state

        return noting

    def _putting(self, setstate: Callable[..., None]) -> Callable[..., None]:
        def noting(generator: random.Random, state: Any) -> None:
            setstate(generator, state)
            self.note_state_put(generator, state)

        return noting

    def _is_on_purpose(self, seed: Any) -> bool:
        if seed is None or seed == os.getpid():
            return False
        if isinstance(seed, int | float):
            now = time.time() + 1
            if any((self._begun - 1) * unit <= seed <= now * unit for unit in _CLOCKS):
                return False
        if isinstance(seed, int):
            return not any(seed in (int.from_bytes(drawn), int.from_bytes(drawn, "little")) for drawn in self._values)
        if isinstance(seed, str):
            try:
                return self._is_on_purpose(float(seed))
            except ValueError:
                return True
        return seed not in self._values if isinstance(seed, bytes) else True


def hidden() -> Any:
    """The generator behind `random.random`."""
    return getattr(random, "_inst", None)
