"""A worker's output becomes lines, and a flood of it costs the master little."""

from __future__ import annotations

import os
import re

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rrmaster.logs.capture import CHUNK, LINE, LINE_COST, PIPE, RATE, LineSplitter, capture_output, open_pipe, printable
from tests.fakes import DEADLINE, eventually


class Clock:
    """A clock that stands still until the test moves it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines() -> tuple[LineSplitter, list[str], Clock]:
    said: list[str] = []
    clock = Clock()
    return LineSplitter(said.append, clock), said, clock


# --- whole lines, bounded, harmless


def test_output_becomes_whole_lines_however_it_is_cut() -> None:
    text = b"one\ntwo\n\nthree, which is longer\n"
    for size in range(1, len(text)):
        into, said, _ = lines()
        for start in range(0, len(text), size):
            into.feed(text[start : start + size])
        assert said == ["one", "two", "", "three, which is longer"]


def test_an_unfinished_line_is_logged_at_the_end() -> None:
    into, said, _ = lines()
    into.feed(b"whole\nhalf")
    assert said == ["whole"]
    into.end()
    into.end()
    assert said == ["whole", "half"]


def test_a_line_without_an_end_is_cut_and_not_kept_in_memory() -> None:
    into, said, _ = lines()
    for _ in range(100):
        into.feed(b"x" * 1000)
    assert len(into._partial) <= LINE
    into.end()
    assert max(map(len, said)) <= LINE
    assert sum(map(len, said)) == 100_000 + (len(said) - 1) * len("... ")


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_line_with_the_mark_begins_anew_after_output_without_a_newline(size: int) -> None:
    text = b"KEY|a\nhalf KEY|b\n\nof it\nKEY c\nmore KEY d\nKEY|e\n"
    said: list[str] = []
    into = LineSplitter(said.append, Clock(), b"KEY")
    for start in range(0, len(text), size):
        into.feed(text[start : start + size])
    assert said == ["a", "half ", "b", "", "of it", "KEY c", "more ", "KEY d", "e"]


def test_a_line_with_the_mark_is_whole_after_a_line_that_was_cut() -> None:
    said: list[str] = []
    into = LineSplitter(said.append, Clock(), b"KEY")
    for data in (b"x" * (LINE + 1), b"KEY|one\n", b"y" * LINE, b"KEY two\nyy\n"):
        into.feed(data)
    assert said == ["x" * LINE, "... x", "one", "y" * LINE, "KEY two", "yy"]


@pytest.mark.parametrize("pieces", [[20_000], [5_000, 9_000, 6_000], [20_000, 1], [4096, 1, 1], [3, 20_000]])
def test_what_follows_a_cut_never_looks_like_a_line_of_its_own(pieces: list[int]) -> None:
    into, said, _ = lines()
    text = b"first\n" + b"x" * sum(pieces) + b"\nends\n" + b"y" * 5_000
    into.feed(text[:6])
    place = 6
    for piece in pieces:
        into.feed(text[place : place + piece])
        place += piece
    into.feed(text[place:])
    into.end()
    assert said[0] == "first"
    begins = [line for line in said if not line.startswith("... ")]
    assert [line[0] for line in begins] == ["f", "x", "e", "y"]
    assert begins[2] == "ends"
    assert sum(line.removeprefix("... ").count("x") for line in said) == sum(pieces)
    assert max(map(len, said)) <= LINE


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (b"\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        (b"beep\x07", "beep\\x07"),
        (b"over\rwritten", "over\\x0dwritten"),
        (b"windows\r", "windows"),
        (b"tab\there\x00", "tab\there\\x00"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("Grüße, 世界".encode(), "Grüße, 世界"),
        ("left\u202eright".encode(), "left\\x202eright"),
    ],
)
def test_what_a_client_sent_does_not_drive_the_terminal(printed: bytes, shown: str) -> None:
    assert printable(printed) == shown


# --- a flood


def allowance(line: bytes) -> bytes:
    """As many of these lines as may be logged in one second."""
    return line * (RATE // (len(line) + LINE_COST))


def test_a_flood_is_dropped_and_counted_and_the_number_is_logged_when_it_is_over() -> None:
    into, said, clock = lines()
    block = allowance(b"flood\n")
    into.feed(block)
    kept = len(said)
    assert kept == block.count(b"\n")
    for _ in range(50):
        into.feed(block)
        assert into.flooding
    assert len(said) == kept, "nothing more of this second is logged"
    clock.now += 1.0
    into.feed(b"calm\n")
    assert said[kept].startswith(f"({50 * block.count(bytes([10]))} lines dropped")
    assert said[kept + 1 :] == ["calm"]


def test_the_number_of_dropped_lines_is_logged_at_the_end_of_the_output() -> None:
    into, said, _ = lines()
    into.feed(b"x" * RATE)
    into.feed(b"one\ntwo\n")
    said.clear()
    into.end()
    assert said[0] == "(2 lines dropped: more than 2 MiB a second)"


def test_a_flood_of_empty_lines_is_dropped_too() -> None:
    """Otherwise a megabyte of newlines would be a million lines."""
    into, said, _ = lines()
    for _ in range(10):
        into.feed(b"\n" * CHUNK)
    into.end()
    assert len(said) <= RATE // LINE_COST + 1
    assert said[-1].startswith(f"({10 * CHUNK} lines dropped")


def test_the_lines_of_output_that_was_dropped_unread_are_estimated() -> None:
    into, said, clock = lines()
    into.feed(b"x" * RATE)
    said.clear()
    into.feed(b"123456789\n" * 100)
    into.skip(10_000)
    clock.now += 1.0
    into.feed(b"the end of a line of which nothing is known\ncalm\n")
    assert said == ["(about 1100 lines dropped: more than 2 MiB a second)", "calm"]


def test_while_there_is_no_room_no_lines_are_made_and_all_are_counted() -> None:
    consumer = Full()
    into = LineSplitter(consumer, Clock())
    into.feed(b"one\ntwo\nthr")
    into.feed(b"ee\nfour\n")
    assert into.flooding
    into.skip(800)
    assert (consumer.taken, consumer.missed) == ([], [(3, False), (1, False), (200, True)])
    consumer.full = False
    into.feed(b"the end of a line of which nothing is known\nfive\n")
    assert consumer.taken == ["five"]


class Full:
    """A consumer that has no room until the test gives it some."""

    def __init__(self) -> None:
        self.full, self.taken, self.missed = True, [], []

    def room(self) -> bool:
        return not self.full

    def take(self, lines: list[str]) -> None:
        self.taken += lines

    def count_dropped(self, lines: int, estimated: bool) -> None:
        self.missed.append((lines, estimated))


def test_after_a_flood_the_first_line_is_a_whole_one() -> None:
    into, said, clock = lines()
    into.feed(b"x" * RATE)
    into.feed(b"dropped\nthe beginning of a dropped line, ")
    clock.now += 1.0
    said.clear()
    into.feed(b"and its end\nwhole\n")
    assert [line for line in said if "dropped:" not in line] == ["whole"]


def test_after_a_flood_the_rest_of_a_torn_line_is_dropped_however_it_is_cut() -> None:
    into, said, clock = lines()
    into.feed(b"x" * RATE)
    into.feed(b"the beginning of a dropped line, ")
    clock.now += 1.0
    said.clear()
    for piece in (b"its middle, ", b"and its end", b"\n", b"whole\n"):
        into.feed(piece)
    assert [line for line in said if "dropped:" not in line] == ["whole"]


def test_an_allowance_grows_back_with_time_and_not_beyond_a_second() -> None:
    into, said, clock = lines()
    into.feed(b"x" * (RATE - LINE_COST - 1) + b"\n")
    clock.now += 0.5
    said.clear()
    into.feed(b"y" * (RATE // 2 - LINE_COST - 1) + b"\n")
    assert said
    clock.now += 3600
    said.clear()
    into.feed(b"z" * RATE)
    into.feed(b"z" * 10 + b"\n")
    assert "".join(said).count("z") == RATE


# --- the capture_output


async def test_a_workers_output_is_captured_to_its_end(nursery: trio.Nursery) -> None:
    reading_end, worker_end = open_pipe()
    into, said, _ = lines()
    nursery.start_soon(capture_output, reading_end, into)
    os.write(worker_end, b"hello\nworld")
    await eventually(lambda: said == ["hello"])
    os.close(worker_end)
    await eventually(lambda: said == ["hello", "world"])
    await eventually(lambda: not is_open(reading_end))


async def test_what_is_left_in_the_pipe_is_logged_even_if_the_end_never_comes() -> None:
    reading_end, worker_end = open_pipe()
    into, said, _ = lines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(capture_output, reading_end, into)
        await wait_all_tasks_blocked()
        # A grandchild holds the pipe open, so the task that waits for the worker cancels.
        os.write(worker_end, b"last line\n")
        nursery.cancel_scope.cancel()
    assert said == ["last line"]
    assert not is_open(reading_end)
    os.close(worker_end)


async def test_a_grandchild_that_writes_without_end_does_not_keep_the_capture_from_ending() -> None:
    reading_end, worker_end = open_pipe()
    os.set_blocking(worker_end, False)

    def refill(_: str) -> None:
        try:
            os.write(worker_end, b"more\n" * 1000)
        except BlockingIOError:
            pass  # the pipe is full, as intended

    async with trio.open_nursery() as nursery:
        nursery.start_soon(capture_output, reading_end, LineSplitter(refill))
        await wait_all_tasks_blocked()
        refill("")
        nursery.cancel_scope.cancel()
    assert not is_open(reading_end)
    os.close(worker_end)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_the_masters_end_of_a_pipe_does_not_block_and_neither_end_is_inherited() -> None:
    reading_end, worker_end = open_pipe()
    assert not os.get_blocking(reading_end)
    assert os.get_blocking(worker_end), "the worker's print must not fail"
    assert not os.get_inheritable(reading_end)
    assert not os.get_inheritable(worker_end)
    os.close(reading_end)
    os.close(worker_end)


async def test_a_flood_through_a_pipe_never_blocks_its_writer_and_its_dropped_lines_are_logged() -> None:
    reading_end, worker_end = open_pipe()
    said: list[str] = []
    line = b"x" * 79 + b"\n"
    total = 64 * PIPE // len(line)

    def write() -> None:
        for _ in range(64):
            view = memoryview(line * (PIPE // len(line) + 1))
            while view:
                view = view[os.write(worker_end, view) :]

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(capture_output, reading_end, LineSplitter(said.append))
            await trio.to_thread.run_sync(write)
            os.close(worker_end)
    kept = sum(text == "x" * 79 for text in said)
    dropped = sum(int(number) for number in re.findall(r"\((?:about )?(\d+) lines", "\n".join(said)))
    assert kept >= CHUNK // len(line)
    assert kept + dropped == pytest.approx(total, rel=0.05)
