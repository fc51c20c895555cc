"""Which generators of random numbers did the import make, and which of them did it seed on purpose?

A generator without a seed of its own is seeded anew in each forked worker, or all workers would draw the same numbers.
One that was seeded on purpose (``random.Random(42)``, ``default_rng(7)``) stays as it is: in a worker that imports the
application for itself it would start from that seed, too.

- `random.Random`: its method `seed` is called by each new object, without an argument if the object was.  A seed that
  comes from the clock, the process id or the kernel's random bytes counts as none.
- The hidden generator behind `random.random` is seeded anew by Python at each fork, also if it had a seed.
- numpy's generators keep the sequence that seeded them, whose entropy is drawn from `secrets.randbits` if none is
  given: what is drawn there is remembered.
- torch's generators have a constant default seed, the same in each process, so nothing is needed.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

_CLOCKS = (1, 1e3, 1e6, 1e9)
"""Units in which the time is told, for each second."""

_REMEMBERED = 256
"""Random values of the kernel that are remembered as possible seeds; a seed is used soon after it was drawn."""


class Generators:
    """The generators that the import makes."""

    _kernels_bytes = staticmethod(os.urandom)
    """Kept in a class: while the import is watched, modules have another function of this name."""

    def __init__(self) -> None:
        self._begun = time.time()
        self._values: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._unseeded: WeakValueDictionary[int, random.Random] = WeakValueDictionary()
        self._pythons_state: Any = None  # of the generator behind random.random, if it was seeded on purpose
        self._pythons_is_seeded = False
        self._numpys_randbits: Any = None  # as numpy has it
        self._numpys_entropy: set[int] = set()
        self._numpys: list[Any] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the seeds of `random.Random` in the block, and then find numpy's generators."""
        seed = random.Random.seed
        self.adopt_numpy()

        def noting(generator: random.Random, a: Any = None, version: int = 2) -> None:
            seed(generator, a, version)
            self._note_seed(generator, a)

        setattr(random.Random, "seed", noting)  # noqa: B010  # mypy knows that a method is no variable
        try:
            yield
        finally:
            setattr(random.Random, "seed", seed)  # noqa: B010  # as above
            if self._pythons_is_seeded:
                self._pythons_state = random.getstate()
            self._leave_numpy()

    def note_value(self, value: Any) -> None:
        """The kernel has given this random value: as a seed it counts as none."""
        if isinstance(value, bytes):
            self._values.append(value)

    def note_pythons_seed(self, seed: Any) -> None:
        """The generator behind `random.random` was seeded."""
        self._pythons_is_seeded = self._is_on_purpose(seed)

    def is_unseeded(self, generator: Any) -> bool:
        """Whether this object of random.Random was made in the block without a seed, or is the hidden one without."""
        if generator is hidden():
            return not self._pythons_is_seeded
        return self._unseeded.get(id(generator)) is generator

    def drawn_from_numpy(self) -> bool:
        """Whether the import drew numbers from a generator of numpy's that has no seed."""
        return not all(map(_is_as_seeded, self._numpys))

    def renew(self) -> None:
        """In a forked worker: seed anew what was not seeded on purpose."""
        for generator in list(self._unseeded.values()):
            random.Random.seed(generator)
        if self._pythons_state is not None:
            random.setstate(self._pythons_state)
        for of in self._numpys:
            of.state = type(of)().state

    def _note_seed(self, generator: random.Random, seed: Any) -> None:
        if isinstance(generator, random.SystemRandom):
            return
        if self._is_on_purpose(seed):
            self._unseeded.pop(id(generator), None)
        else:
            self._unseeded[id(generator)] = generator

    def _is_on_purpose(self, seed: Any) -> bool:
        if seed is None or seed == os.getpid():
            return False
        if isinstance(seed, int | float):
            now = time.time() + 1
            if any((self._begun - 1) * unit <= seed <= now * unit for unit in _CLOCKS):
                return False
        if isinstance(seed, int):
            return not any(seed in (int.from_bytes(drawn), int.from_bytes(drawn, "little")) for drawn in self._values)
        return seed not in self._values if isinstance(seed, bytes) else True

    # --- numpy

    def adopt_numpy(self) -> None:
        """Remember what seeds numpy's generators, from the time on at which numpy draws its first seed."""
        seeding = _numpys_seeding()
        if seeding is None or self._numpys_randbits is not None or not hasattr(seeding, "randbits"):
            return
        self._numpys_randbits = seeding.randbits

        def randbits(bits: int) -> int:
            # Not `secrets.randbits`, whose calls are noted as the application's.
            drawn = int.from_bytes(self._kernels_bytes(-(-bits // 8))) >> (-bits % 8)
            self._numpys_entropy.add(drawn)
            return drawn

        setattr(seeding, "randbits", randbits)  # noqa: B010  # numpy's module, not ours

    def _leave_numpy(self) -> None:
        if self._numpys_randbits is not None:
            setattr(_numpys_seeding(), "randbits", self._numpys_randbits)  # noqa: B010  # as above
            self._numpys = list(self._found_in_numpy())

    def _found_in_numpy(self) -> Iterator[Any]:
        kind, own = _numpys_seeding().BitGenerator, _numpys_own()
        # A look at all objects takes some 100 ms in a large application, and few make generators at their import.
        for found in gc.get_objects() if self._numpys_entropy else [own]:
            if issubclass(type(found), kind):  # not isinstance(): that would make a lazy object load
                sequence = _sequence(found)
                # None: seeded by RandomState(42) or numpy.random.seed(42).  numpy's own is made before that is watched.
                if sequence is not None and (found is own or sequence.entropy in self._numpys_entropy):
                    yield found


def hidden() -> Any:
    """The generator behind `random.random`."""
    return getattr(random, "_inst", None)


def _numpys_seeding() -> Any:
    return sys.modules.get("numpy.random.bit_generator")


def _numpys_own() -> Any:
    """The generator behind `numpy.random.random`."""
    own: Any = getattr(sys.modules.get("numpy.random.mtrand"), "_rand", None)
    return getattr(own, "_bit_generator", None)


def _sequence(generator: Any) -> Any:
    """What seeded a generator of numpy's; None if it was a number of the old kind."""
    return getattr(generator, "seed_seq", None) or getattr(generator, "_seed_seq", None)  # the latter before 1.24


def _is_as_seeded(generator: Any) -> bool:
    return repr(type(generator)(_sequence(generator)).state) == repr(generator.state)
