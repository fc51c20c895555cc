"""Which of numpy's generators did the import make, and which of them did it seed on purpose?

They cannot be watched, so they are looked for after the import.  Each keeps the sequence that seeded it, whose entropy
is drawn from `secrets.randbits` if none is given: what is drawn there is remembered.  The generators of the old kind
(`numpy.random.seed(7)`, `RandomState(7)`) do not keep their seed; their state tells it, as long as nothing was drawn.
"""

from __future__ import annotations

import gc
import linecache
import os
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_WORDS = 624
"""The numbers that MT19937 makes at once."""

_LOOKED_BACK = 64
"""How often it is looked whether numpy's own generator has a state again that it had without a seed: after 40,000
numbers."""


class NumpysGenerators:
    """The generators of numpy that the import makes without a seed."""

    _kernels_bytes = staticmethod(os.urandom)
    """Kept in a class: while the import is watched, modules have another function of this name."""

    def __init__(self, is_on_purpose: Callable[[Any], bool]) -> None:
        self._is_on_purpose = is_on_purpose
        self._randbits: Any = None  # as numpy has it
        self._entropy: dict[int, str] = {}  # and where the application has drawn it, if it was the application
        self._place: Callable[[FrameType], str] = lambda _: ""
        self._first: Any = None  # the sequence that seeded the generator behind numpy.random.random, when that was made
        self._found: list[Any] = []
        self._drawn = False
        self._kept: dict[Any, str] = {}

    def ask_who_seeds(self, place: Callable[[FrameType], str]) -> None:
        """`place`: where in the application a frame is; empty if it is not there."""
        self._place = place

    def adopt(self, value: bytes = b"") -> None:
        """Remember what seeds numpy's generators, from the time on at which numpy draws its first seed, this value."""
        seeding = _seeding()
        if seeding is None or self._randbits is not None or not hasattr(seeding, "randbits"):
            return
        self._randbits = seeding.randbits
        own = _own()
        self._first = seeding.SeedSequence(int.from_bytes(value)) if own is None and value else _sequence(own)

        def randbits(bits: int) -> int:
            # Not `secrets.randbits`, whose calls are noted as the application's.
            drawn = int.from_bytes(self._kernels_bytes(-(-bits // 8))) >> (-bits % 8)
            frame = sys._getframe(1)
            # `RandomState(7)` draws a seed, and drops it for its own.
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
            self._entropy[drawn] = "" if "RandomState(" in line else self._place(frame)
            return drawn

        setattr(seeding, "randbits", randbits)  # noqa: B010  # numpy's module, not ours

    def find(self) -> None:
        """After the import: find the generators, and leave numpy as it was."""
        if self._randbits is None:
            return
        setattr(_seeding(), "randbits", self._randbits)  # noqa: B010  # as above
        self._kept = {entropy: place for entropy, place in self._entropy.items() if place}
        own = _own()
        for found, sequence in self._without_seed(own):
            self._found.append(found)
            self._kept.pop(getattr(sequence, "entropy", None), None)
            self._drawn = self._drawn or (sequence is not None and not _is_as_seeded(found, sequence))

    def are_drawn_from(self) -> bool:
        """Whether the import drew numbers from one of them."""
        return self._drawn

    def kept(self) -> str:
        """Where the application has seeded one at random that is gone; empty if nowhere.  What it drew may be kept."""
        return next(iter(self._kept.values()), "")

    def renew(self) -> None:
        """In a forked worker: seed them anew."""
        for of in self._found:
            of.state = type(of)().state

    def _without_seed(self, own: Any) -> Iterator[tuple[Any, Any]]:
        """The generators, each with the sequence that seeded it; None where there was none."""
        kind = _seeding().BitGenerator
        for found in gc.get_objects():
            if not issubclass(type(found), kind):  # not isinstance(): that would make a lazy object load
                continue
            sequence = _sequence(found)
            if sequence is not None:
                if found is own or not self._is_entropy_on_purpose(sequence.entropy):
                    yield found, sequence
            elif found is own and self._is_put_back(found):
                yield found, self._first
            elif (seed := _old_seed(found)) is not None and not self._is_on_purpose(seed):
                yield found, None

    def _is_entropy_on_purpose(self, entropy: Any) -> bool:
        parts = entropy if hasattr(entropy, "__iter__") else [entropy]
        return all(int(part) not in self._entropy and self._is_on_purpose(int(part)) for part in parts)

    def _is_put_back(self, own: Any) -> bool:
        """Whether numpy's own generator has a state that it had before it was given a seed."""
        if self._first is None or (state := _words(own)) is None:
            return False
        before = type(own)(self._first)
        for _ in range(_LOOKED_BACK):
            if (_words(before) == state).all():
                return True
            before.random_raw(_WORDS)
        return False


def _seeding() -> Any:
    return sys.modules.get("numpy.random.bit_generator")


def _own() -> Any:
    """The generator behind `numpy.random.random`."""
    own: Any = getattr(sys.modules.get("numpy.random.mtrand"), "_rand", None)
    return getattr(own, "_bit_generator", None)


def _sequence(generator: Any) -> Any:
    """What seeded a generator; None if it was a number of the old kind."""
    return getattr(generator, "seed_seq", None) or getattr(generator, "_seed_seq", None)  # the latter before 1.24


def _words(generator: Any) -> Any:
    """The numbers that MT19937 has made; None if it is another generator."""
    state = generator.state
    return state["state"]["key"] if state.get("bit_generator") == "MT19937" else None


def _old_seed(generator: Any) -> int | None:
    """The number that seeded a generator of the old kind, if nothing was drawn from it."""
    if (words := _words(generator)) is None:
        return None
    again = type(generator)()
    again._legacy_seeding(seed := int(words[0]))
    return seed if (_words(again) == words).all() else None


def _is_as_seeded(generator: Any, sequence: Any) -> bool:
    return repr(type(generator)(sequence).state) == repr(generator.state)
