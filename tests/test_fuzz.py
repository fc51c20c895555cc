"""The targets of tests/fuzz.py stand their seeds, pieces of them, and some hundred random inputs."""

from __future__ import annotations

import json
import struct

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
    """Random bytes, seeds with some of their bytes replaced, and seeds of JSON with another value in one field."""

    def replaced(seed: bytes, start: int, other: bytes) -> bytes:
        return seed[: start % (len(seed) + 1)] + other + seed[start % (len(seed) + 1) + len(other) :]

    changed = st.builds(replaced, st.sampled_from(target.seeds), st.integers(0, 500), st.binary(max_size=8))
    found = st.binary(max_size=200) | changed
    if objects := [(seed, head) for seed in target.seeds for head in (0, 4) if is_object(seed[head:])]:
        found |= st.builds(with_another_value, st.sampled_from(objects), st.integers(0, 100), VALUES)
    return found


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
"""Of JSON, and NaN and infinity, which Python reads too."""


def is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def with_another_value(seed: tuple[bytes, int], field: int, value: object) -> bytes:
    text, head = seed
    fields = json.loads(text[head:])
    fields[sorted(fields)[field % len(fields)]] = value
    body = json.dumps(fields).encode()
    return struct.pack("<BxH", text[0], len(body)) + body if head and len(body) < 65536 else body
