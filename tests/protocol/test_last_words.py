"""What a worker notes of its requests, as the master reads it after its death."""

from __future__ import annotations

import os
import string
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.protocol.pages.last_words import _SIZE, MOST, PLACES, Heard, LastWords, open_page, read_page

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@contextmanager
def a_page() -> Iterator[tuple[int, LastWords]]:
    """The master's descriptor, and the worker's side of the page."""
    fd = open_page()
    try:
        words = LastWords.inherit(os.dup(fd))
        assert read_page(fd) == Heard(noted=False), "a server without requests notes none"
        words.open()
        yield fd, words
    finally:
        os.close(fd)


def test_a_page_that_no_worker_has_opened_says_that_nothing_was_noted():
    fd = open_page()
    assert read_page(fd) == Heard(noted=False)
    os.close(fd)


def test_what_has_ended_is_forgotten_and_what_is_in_progress_comes_newest_first():
    with a_page() as (fd, words):
        assert read_page(fd) == Heard(noted=True)
        first = words.begin(b"GET /one")
        words.begin(b"GET /two")
        words.begin(b"GET /three")
        assert read_page(fd).requests == ("GET /three", "GET /two", "GET /one")
        words.end(first)
        assert read_page(fd).requests == ("GET /three", "GET /two")


def test_of_more_requests_than_have_a_place_the_newest_stay():
    with a_page() as (fd, words):
        numbers = [words.begin(b"GET /%d" % number) for number in range(PLACES + 10)]
        assert read_page(fd).requests == tuple(f"GET /{number}" for number in reversed(range(10, PLACES + 10)))
        words.end(numbers[0])
        assert len(read_page(fd).requests) == PLACES, "its place is another's by now"
        for number in numbers:
            words.end(number)
        assert read_page(fd) == Heard(noted=True)


@LAW
@given(st.binary(min_size=1, max_size=3 * MOST))
def test_whatever_a_client_sends_is_bounded_and_printable(request_line):
    with a_page() as (fd, words):
        words.begin(request_line)
        (found,) = read_page(fd).requests
        assert set(found) <= set(string.printable) - set("\t\n\r\x0b\x0c")
        assert found.encode().decode("unicode_escape").encode("latin-1") == request_line[:MOST]


@LAW
@given(st.binary(max_size=_SIZE))
def test_a_page_that_a_worker_has_filled_with_anything_is_read(data):
    with a_page() as (fd, _):
        os.pwrite(fd, data, 0)
        heard = read_page(fd)
        assert len(heard.requests) <= PLACES
        assert all(len(request) <= 4 * MOST for request in heard.requests)


@pytest.mark.parametrize("size", [0, 1, _SIZE - 1, 1 << 40])
def test_a_page_that_a_worker_has_cut_or_stretched_harms_no_master(size: int):
    with a_page() as (fd, words):
        words.begin(b"GET /")
        os.ftruncate(fd, size)
        assert read_page(fd) == (Heard(True, ("GET /",)) if size > _SIZE else Heard(noted=False))
