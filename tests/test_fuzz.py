"""The targets of tests/fuzz.py stand their seeds, pieces of them, and some hundred random inputs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import TARGETS, Target


@pytest.mark.parametrize("name", TARGETS)
def test_what_reads_bytes_of_others_understands_or_refuses_them(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(inputs(target))
    def stands(data: bytes) -> None:
        target(data)

    for seed in target.seeds:
        target.read(seed)
        for end in range(len(seed)):
            target(seed[:end])
    stands()


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Random bytes, and seeds with some of their bytes replaced."""

    def replaced(seed: bytes, start: int, other: bytes) -> bytes:
        return seed[: start % (len(seed) + 1)] + other + seed[start % (len(seed) + 1) + len(other) :]

    changed = st.builds(replaced, st.sampled_from(target.seeds), st.integers(0, 500), st.binary(max_size=8))
    return st.binary(max_size=200) | changed
