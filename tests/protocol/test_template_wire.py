"""The template's line: every message survives encoding and decoding, and anything else is refused."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.protocol.template_wire import (
    FDS,
    MAX,
    TEMPLATE,
    WORKER,
    Explanation,
    Forked,
    ForkFailed,
    ForkRequest,
    Loaded,
    LoadFailed,
    MemoryUse,
    Message,
    bounded,
    decode,
    encode,
)

MESSAGES: list[Message] = [
    Loaded(),
    Loaded(("started a thread (x)", "ä")),
    Explanation([{"what": "started a thread (x)", "origin": ["a", "b"]}]),
    LoadFailed("Traceback\n  ...", ("RRMASTER_WORKER_SLOT",)),
    ForkRequest(3, WORKER, {"NAME": "välue"}, ("--slot", "0", "shop:app")),
    ForkRequest(4, TEMPLATE),
    Forked(3, 4711),
    ForkFailed(3, "Cannot allocate memory"),
    MemoryUse(1, 2, 3),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_encoding_and_decoding(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    ("message", "begin"),
    [
        (Loaded(), b'{"is": "Loaded"'),
        (LoadFailed("why"), b'{"is": "Unloadable"'),
        (ForkRequest(3), b'{"is": "Order"'),
        (Forked(3, 4711), b'{"is": "Newborn"'),
        (ForkFailed(3, "why"), b'{"is": "Barren"'),
        (MemoryUse(1, 2, 3), b'{"is": "Weighed"'),
    ],
)
def test_the_names_on_the_line_do_not_change(message: Message, begin: bytes) -> None:
    """So that to rename a class changes no format."""
    assert encode(message).startswith(begin)


@given(st.binary(max_size=200))
def test_noise_raises_value_error_and_no_other_error(noise: bytes) -> None:
    with pytest.raises(ValueError, match="no message"):
        decode(noise)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        [],
        3,
        {"is": "Nonsense"},
        {"is": []},
        {"is": "Weighed", "uss": 1, "pss": -1, "rss": 1},
        {"is": "Weighed", "uss": 1, "pss": "1", "rss": 1},
        {"is": "Weighed", "uss": 10**400, "pss": 1, "rss": 1},
        {"is": "Weighed", "uss": 1},
        {"is": "Newborn", "number": True, "pid": 1},
        {"is": "Newborn", "number": 1, "pid": "1"},
        {"is": "Newborn", "number": 1, "pid": 1, "more": 1},
        {"is": "Barren", "number": 1, "reason": None},
        {"is": "Unloadable", "reason": 3},
        {"is": "Unloadable", "reason": "x", "asked": [3]},
        {"is": "Loaded", "hindrances": 3},
        {"is": "Loaded", "hindrances": [3]},
        {"is": "Order", "number": 1, "kind": "king"},
        {"is": "Order", "number": 1, "kind": ["king"]},
        {"is": "Order", "number": 1, "kind": {}},
        {"is": "Order", "number": "1"},
        {"is": "Order", "number": 1, "environ": []},
    ],
)
def test_a_message_of_the_wrong_shape_is_refused(fields: object) -> None:
    with pytest.raises(ValueError, match="no message"):
        decode(json.dumps(fields).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=1000)
@given(st.data())
def test_a_message_with_any_value_in_a_field_is_understood_or_refused(data: st.DataObject) -> None:
    fields = json.loads(encode(data.draw(st.sampled_from(MESSAGES))))
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(JSON)
    with contextlib.suppress(ValueError):
        decode(json.dumps(fields).encode())


@given(st.text(max_size=300) | st.characters(), st.integers(0, 30_000))
def test_the_longest_reason_fits_and_keeps_its_end(text: str, times: int) -> None:
    long = text * times
    assert len(encode(LoadFailed(bounded(long)))) <= MAX
    assert bounded(long).endswith(long[-1000:])
    assert bounded(text) == text


def test_a_deep_nest_is_refused() -> None:
    with pytest.raises(ValueError, match="no message"):
        decode(b"[" * 100_000)


def test_every_kind_has_a_number_of_descriptors() -> None:
    assert FDS.keys() == {WORKER, TEMPLATE}
