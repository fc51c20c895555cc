"""What is logged, and what never happens to the master for it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rrmaster import log
from rrmaster.log import LINE, QUEUE, RATE, Lines, logger, open_pipe, printable, relay, to_descriptor
from tests.fakes import DEADLINE, eventually


class Clock:
    """Stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines() -> tuple[Lines, list[str], Clock]:
    said: list[str] = []
    clock = Clock()
    return Lines(said.append, clock), said, clock


# --- whole lines, bounded, harmless


def test_output_becomes_whole_lines_however_it_is_cut() -> None:
    text = b"one\ntwo\n\nthree, which is longer\n"
    for size in range(1, len(text)):
        into, said, _ = lines()
        for start in range(0, len(text), size):
            into.feed(text[start : start + size])
        assert said == ["one", "two", "", "three, which is longer"]


def test_an_unfinished_line_is_said_at_the_end() -> None:
    into, said, _ = lines()
    into.feed(b"whole\nhalf")
    assert said == ["whole"]
    into.end()
    into.end()
    assert said == ["whole", "half"]


def test_a_line_without_end_is_cut_and_not_kept() -> None:
    into, said, _ = lines()
    for _ in range(100):
        into.feed(b"x" * 1000)
    assert len(into._partial) <= LINE
    into.end()
    assert max(map(len, said)) <= LINE
    assert sum(map(len, said)) == 100_000


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


def test_a_flood_is_dropped_counted_and_said_once_it_is_over() -> None:
    into, said, clock = lines()
    block = b"flood\n" * (RATE // 6)
    into.feed(block)
    kept = len(said)
    assert kept == block.count(b"\n")
    for _ in range(50):
        into.feed(block)
    assert len(said) == kept, "nothing more of this second"
    clock.now += 1.0
    into.feed(b"calm\n")
    assert said[kept].startswith(f"({50 * block.count(bytes([10]))} lines dropped")
    assert said[kept + 1 :] == ["calm"]


def test_the_end_says_what_was_dropped_too() -> None:
    into, said, _ = lines()
    into.feed(b"\n" * RATE)
    into.feed(b"one\ntwo\n")
    said.clear()
    into.end()
    assert said == ["(2 lines dropped: more than 1 MiB a second)"]


def test_after_a_flood_the_first_line_is_a_whole_one() -> None:
    into, said, clock = lines()
    into.feed(b"\n" * RATE)
    into.feed(b"dropped\nthe beginning of a dropped line, ")
    clock.now += 1.0
    said.clear()
    into.feed(b"and its end\nwhole\n")
    assert [line for line in said if "dropped:" not in line] == ["whole"]


def test_an_allowance_grows_back_with_time_and_not_beyond_a_second() -> None:
    into, said, clock = lines()
    into.feed(b"x" * (RATE - 1) + b"\n")
    clock.now += 0.5
    said.clear()
    into.feed(b"y" * (RATE // 2 - 1) + b"\n")
    assert said
    clock.now += 3600
    said.clear()
    into.feed(b"z" * RATE)
    into.feed(b"z" * 10 + b"\n")
    assert sum(map(len, said)) == RATE


# --- the descriptor


@pytest.fixture
def untouched() -> Iterator[None]:
    """The logger as it was."""
    before = logger.propagate, logger.level, list(logger.handlers)
    yield
    logger.propagate, logger.level, logger.handlers[:] = before[0], before[1], before[2]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def read_all(fd: int) -> str:
    os.set_blocking(fd, False)
    data = b""
    try:
        while piece := os.read(fd, 1 << 20):
            data += piece
    except BlockingIOError:
        pass  # that was all
    return data.decode()


@pytest.mark.usefixtures("untouched")
def test_what_is_logged_is_written_with_time_and_level(pipe: tuple[int, int]) -> None:
    end = to_descriptor(pipe[1], "info")
    logger.info("worker %d serves", 3)
    logger.debug("not this")
    logger.error("and this")
    end()
    first, second = read_all(pipe[0]).splitlines()
    assert first.endswith("info    worker 3 serves")
    assert second.endswith("error   and this")


@pytest.mark.usefixtures("untouched")
def test_after_the_end_nothing_is_written(pipe: tuple[int, int]) -> None:
    to_descriptor(pipe[1], "info")()
    logger.propagate = False
    logger.info("too late")
    assert read_all(pipe[0]) == ""


@pytest.mark.usefixtures("untouched")
def test_a_stalled_reader_does_not_stop_who_logs_and_memory_is_bounded(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "FAREWELL", 0.05)
    end = to_descriptor(pipe[1], "info")
    (outlet,) = [handler for handler in logger.handlers if isinstance(handler, log._Outlet)]
    begun = time.monotonic()
    for _ in range(3 * QUEUE):
        logger.info("x" * 200)
    assert time.monotonic() - begun < DEADLINE
    assert outlet._queue.qsize() <= QUEUE
    assert outlet._dropped > 0, "what did not fit is counted"
    end()
    assert time.monotonic() - begun < DEADLINE, "nor does it stop who ends"
    let_it_finish(pipe[0], outlet)


@pytest.mark.usefixtures("untouched")
def test_what_was_dropped_is_said_once_there_is_a_reader(pipe: tuple[int, int]) -> None:
    end = to_descriptor(pipe[1], "info")
    for _ in range(2 * QUEUE):
        logger.info("x" * 500)
    reader = threading.Thread(target=lambda: texts.append(read_to_end(pipe[0])))
    texts: list[str] = []
    reader.start()
    end()
    os.write(pipe[1], b"END\n")
    reader.join(DEADLINE)
    said = [line for line in texts[0].splitlines() if "log lines were dropped" in line]
    written = sum("xxx" in line for line in texts[0].splitlines())
    assert sum(int(line.split()[1]) for line in said) + written == 2 * QUEUE


def read_to_end(fd: int) -> str:
    data = b""
    while not data.endswith(b"END\n"):
        data += os.read(fd, 1 << 20)
    return data.decode()


def let_it_finish(fd: int, outlet: log._Outlet) -> None:
    """Read all that it writes, and tell it the end: or it would write into a later test's descriptor."""
    (writer,) = [thread for thread in threading.enumerate() if thread.name == "rrmaster log"]
    deadline = time.monotonic() + DEADLINE
    told = False
    while writer.is_alive():
        assert time.monotonic() < deadline
        read_all(fd)
        if not told and not outlet._queue.full():
            outlet._queue.put_nowait(None)
            told = True
        writer.join(0.001)


@pytest.mark.usefixtures("untouched")
def test_a_full_disk_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    end = to_descriptor(fd, "info")
    for _ in range(100):
        logger.info("nobody will read this")
    end()
    assert not [thread for thread in threading.enumerate() if thread.name == "rrmaster log"], "its thread has finished"
    os.close(fd)


@pytest.mark.usefixtures("untouched")
async def test_what_a_full_disk_cost_is_said_once_there_is_room(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    while True:  # no room for a single byte
        try:
            os.write(pipe[1], b"x" * 4096)
        except BlockingIOError:
            break
    end = to_descriptor(pipe[1], "info")
    (outlet,) = [handler for handler in logger.handlers if isinstance(handler, log._Outlet)]
    for _ in range(10):
        logger.info("lost")
    await eventually(outlet._queue.empty)
    await eventually(lambda: outlet._dropped >= 1)
    read_all(pipe[0])
    logger.info("kept")
    end()
    text = read_all(pipe[0])
    assert "kept" in text
    dropped = sum(int(line.split()[1]) for line in text.splitlines() if "log lines were dropped" in line)
    assert 9 <= dropped <= 11, "each line that was lost counts, and the last may have found room"


# --- the relay


async def test_a_workers_output_is_relayed_to_its_end(nursery: trio.Nursery) -> None:
    ours, theirs = open_pipe()
    into, said, _ = lines()
    nursery.start_soon(relay, ours, into)
    os.write(theirs, b"hello\nworld")
    await eventually(lambda: said == ["hello"])
    os.close(theirs)
    await eventually(lambda: said == ["hello", "world"])
    await eventually(lambda: not is_open(ours))


async def test_what_is_left_in_the_pipe_is_said_though_the_end_never_comes() -> None:
    ours, theirs = open_pipe()
    into, said, _ = lines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, ours, into)
        await wait_all_tasks_blocked()
        os.write(theirs, b"last words\n")  # a grandchild holds the pipe open; whoever waits cancels
        nursery.cancel_scope.cancel()
    assert said == ["last words"]
    assert not is_open(ours)
    os.close(theirs)


async def test_a_grandchild_that_writes_without_end_does_not_hold_the_relay() -> None:
    ours, theirs = open_pipe()
    os.set_blocking(theirs, False)

    def refill(_: str) -> None:
        try:
            os.write(theirs, b"more\n" * 1000)
        except BlockingIOError:
            pass  # full is what it is to be

    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, ours, Lines(refill))
        await wait_all_tasks_blocked()
        refill("")
        nursery.cancel_scope.cancel()
    assert not is_open(ours)
    os.close(theirs)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_our_end_of_a_pipe_does_not_block_and_neither_end_is_inherited() -> None:
    ours, theirs = open_pipe()
    assert not os.get_blocking(ours)
    assert os.get_blocking(theirs), "the worker's print must not fail"
    assert not os.get_inheritable(ours)
    assert not os.get_inheritable(theirs)
    os.close(ours)
    os.close(theirs)


def test_the_level_is_what_was_asked_for(untouched: None, pipe: tuple[int, int]) -> None:
    end = to_descriptor(pipe[1], "warning")
    assert logger.level == logging.WARNING
    end()
