"""What was read ahead of a device that gives random bytes is dropped in a forked worker."""

from __future__ import annotations

import io

import pytest

from rrmaster.worker.preload.anew.read_ahead import ReadAhead
from tests import forked

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""The runner has threads, and the child does nothing but answer."""


def in_two_workers(reader: io.BufferedReader, found: ReadAhead) -> tuple[bytes, bytes]:
    """What each of two forked workers reads."""

    def answer() -> bytes:
        found.drop()
        return reader.read(16)

    return forked.in_two_workers(answer)


def test_random_bytes_that_were_read_ahead_are_read_by_no_worker() -> None:
    with open("/dev/urandom", "rb") as reader:
        reader.read(1)
        found = ReadAhead()
        one, other = in_two_workers(reader, found)
        assert one == other, "it has read ahead"
        found.find()
        one, other = in_two_workers(reader, found)
        assert one != other
        assert len(one) == len(other) == 16


def test_other_readers_are_left_alone() -> None:
    with open("/dev/urandom", "rb") as device, open(__file__, "rb") as file, io.BufferedReader(io.BytesIO()) as memory:  # type: ignore[arg-type]  # fmt: skip
        file.read(1)
        with open("/dev/urandom", "rb") as closed:
            closed.read(1)
        found = ReadAhead()
        found.find()
        assert found._found == [device]
        assert not memory.closed


def test_one_that_the_application_closes_is_no_trouble() -> None:
    found = ReadAhead()
    with open("/dev/urandom", "rb"):
        found.find()
    found.drop()
