"""Sinks of the log: the caller never waits, nothing grows without a bound, and lost lines are counted and reported."""

from __future__ import annotations

import os
import re
import select
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rrmaster.logs import sinks as module
from rrmaster.logs.sinks import MAX_QUEUED, Descriptor, RotatingFile, Sink
from tests.fakes import DEADLINE
from tests.logs.reading import read_all


def notice(dropped: int, estimated: bool) -> bytes:
    return b"%s%d dropped\n" % (b"about " if estimated else b"", dropped)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, "in vain"
        threading.Event().wait(0.001)


def wait_and_read(fd: int) -> bytes:
    """The next output.  It waits with select: a busy loop would hardly let the other thread run."""
    assert select.select([fd], [], [], DEADLINE)[0]
    return os.read(fd, 1 << 20)


def dropped_in(text: bytes) -> int:
    return sum(map(int, re.findall(rb"(\d+) dropped", text)))


# --- the thread


def test_what_is_put_is_written_in_order(pipe: tuple[int, int]) -> None:
    sink = Sink(Descriptor(pipe[1]), notice)
    for number in range(100):
        sink.put(b"%d\n" % number)
    assert sink.end()
    assert read_all(pipe[0]).split() == [b"%d" % number for number in range(100)]


def test_a_stalled_reader_blocks_no_caller_and_the_queue_is_bounded(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "END_S", 0.01)
    sink = Sink(Descriptor(pipe[1]), notice)
    line = b"x" * 1023 + b"\n"
    begun = time.monotonic()
    count = 3 * MAX_QUEUED // len(line)
    sink.put(128 * line)
    until(lambda: not select.select([], [pipe[1]], [], 0)[1])  # the pipe is full: the thread takes nothing more
    for _ in range((count - 128) // 4):
        sink.put(4 * line)
    assert not sink.room()
    assert sink.queued <= MAX_QUEUED + 4 * len(line)
    assert sink.dropped >= count // 2
    assert not sink.end(), "its thread still runs"
    assert time.monotonic() - begun < DEADLINE
    pieces = []
    while sink._thread.is_alive():  # the reader is back
        assert time.monotonic() - begun < 2 * DEADLINE
        if select.select([pipe[0]], [], [], 0.01)[0]:
            pieces.append(os.read(pipe[0], 1 << 20))
    text = b"".join(pieces) + read_all(pipe[0])
    assert text.count(line) + dropped_in(text) == count, "each is written or counted"


def test_lines_that_were_never_made_are_counted_too(pipe: tuple[int, int]) -> None:
    sink = Sink(Descriptor(pipe[1]), notice)
    sink.count_dropped(70)
    sink.count_dropped(30, estimated=True)
    sink.put(b"line\n")
    sink.end()
    assert read_all(pipe[0]) == b"line\nabout 100 dropped\n"


def test_lines_dropped_on_a_full_disk_are_reported_when_there_is_room(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NOTICE_EVERY", 0.01)
    fd = os.open("/dev/full", os.O_WRONLY)
    said: list[str] = []
    sink = Sink(Descriptor(fd), notice, said.append)
    for _ in range(10):
        sink.put(b"lost\nlost\n")
    until(lambda: sink.dropped == 20)
    os.dup2(pipe[1], fd)
    # Nothing more is logged, and the notice comes all the same.
    until(lambda: sink._reported == 20)
    assert read_all(pipe[0]) == b"20 dropped\n"
    assert said == ["No space left on device"], "once, not twenty times"
    sink.end()
    os.close(fd)


def test_a_reader_that_has_gone_blocks_no_caller() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    sink = Sink(Descriptor(theirs), notice)
    sink.put(b"line\n")
    assert sink.end()
    assert sink.dropped == 1
    os.close(theirs)


def test_a_shared_descriptor_that_another_process_made_non_blocking_loses_nothing(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    sink = Sink(Descriptor(pipe[1]), notice)
    line = b"x" * 1023 + b"\n"
    for _ in range(500):
        sink.put(line)
    text = b""
    while text.count(b"\n") < 500:
        text += wait_and_read(pipe[0])
    sink.end()
    assert text == line * 500


@pytest.mark.parametrize(("room", "lost"), [(0, 1), (3, 1), (6, 0)])
def test_a_line_that_was_cut_short_does_not_spoil_the_next(room: int, lost: int) -> None:
    destination = Cuts(room)
    sink = Sink(destination, notice)
    sink.put(b"first\n")
    until(lambda: sink._taken == 6)
    destination.broken = False
    sink.put(b"second\n")
    sink.end()
    lines = bytes(destination.written).split(b"\n")
    assert b"second" in lines
    assert sink.dropped == lost


class Cuts:
    """A destination that takes `room` bytes and then has no room until `broken` is false."""

    def __init__(self, room: int) -> None:
        self.room, self.written, self.broken = room, bytearray(), True

    def write(self, data: bytes) -> int:
        if self.broken and not self.room:
            raise OSError(28, "No space left on device")
        taken = data[: self.room] if self.broken else data
        self.room -= len(taken) if self.broken else 0
        self.written += taken
        return len(taken)

    def reopen(self) -> None:
        """Nothing."""


# --- the file


def a_file(path: str, max_size: int = 0, keep: int = 5, **options: Any) -> RotatingFile:
    return RotatingFile(path, max_size, keep, **options)


def log_to(path: Path, **options: int) -> tuple[Sink, RotatingFile, list[str]]:
    said: list[str] = []
    file = a_file(str(path), on_error=said.append, **options)
    return Sink(file, notice, said.append), file, said


def finish(sink: Sink, file: RotatingFile) -> None:
    assert sink.end()
    file.close()


def test_a_file_is_rotated_by_size_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    sink, file, said = log_to(path, max_size=100, keep=3)
    lines = [b"%039d\n" % number for number in range(20)]
    for line in lines:
        sink.put(line)
    finish(sink, file)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["app.log", "app.log.1", "app.log.2", "app.log.3"]
    kept = [tmp_path / f"app.log.{number}" for number in (3, 2, 1)] + [path]
    assert b"".join(p.read_bytes() for p in kept) == b"".join(lines[-8:])
    assert all(p.stat().st_size <= 100 for p in kept)
    assert said == []


def test_no_old_files_are_kept_if_none_are_wanted(tmp_path: Path) -> None:
    sink, file, _ = log_to(tmp_path / "app.log", max_size=10, keep=0)
    for number in range(5):
        sink.put(b"line %d..\n" % number)
    finish(sink, file)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"line 4..\n"]


def test_a_file_is_appended_to_and_its_size_counts(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_bytes(b"x" * 90 + b"\n")
    sink, file, _ = log_to(path, max_size=100, keep=1)
    sink.put(b"more than there is room for\n")
    finish(sink, file)
    assert (tmp_path / "app.log.1").stat().st_size == 91
    assert path.read_bytes() == b"more than there is room for\n"


@pytest.mark.parametrize("tell", [True, False])
def test_a_file_that_was_moved_away_is_created_again_with_or_without_a_request(tmp_path: Path, tell: bool) -> None:
    path = tmp_path / "app.log"
    sink, file, _ = log_to(path)
    sink.put(b"before\n")
    until(lambda: sink._taken == 7)
    path.rename(tmp_path / "moved")
    if tell:
        sink.reopen()
        until(path.exists)
    sink.put(b"after\n")
    finish(sink, file)
    assert ((tmp_path / "moved").read_bytes(), path.read_bytes()) == (b"before\n", b"after\n")


def test_reopening_lets_the_old_file_go(tmp_path: Path) -> None:
    """So logrotate can compress it."""
    path = tmp_path / "app.log"
    sink, file, _ = log_to(path)
    path.rename(tmp_path / "moved")
    sink.reopen()
    until(lambda: not any(file.endswith("moved") for file in open_files()))
    assert path.exists()
    finish(sink, file)


def open_files() -> list[str]:
    """The files behind the open descriptors; one may be closed by another thread while it is looked at."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


def test_a_file_that_was_emptied_in_place_grows_anew(tmp_path: Path) -> None:
    """logrotate's copytruncate."""
    path = tmp_path / "app.log"
    sink, file, _ = log_to(path, max_size=100, keep=2)
    for _ in range(5):
        sink.put(b"x" * 79 + b"\n")
        before = sink._taken
        until(lambda before=before: sink.queued == 0 and sink._taken >= before)
        os.truncate(path, 0)
    finish(sink, file)
    assert [p.name for p in tmp_path.iterdir()] == ["app.log"]


def test_a_file_that_cannot_be_rotated_grows_and_it_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    (tmp_path / "app.log.1").mkdir()
    (tmp_path / "app.log.1" / "in the way").touch()
    sink, file, said = log_to(path, max_size=50, keep=1)
    for _ in range(20):
        sink.put(b"x" * 39 + b"\n")
    finish(sink, file)
    assert path.stat().st_size == 800
    assert len(said) == 1
    assert "cannot be rotated" in said[0]


def test_a_directory_that_has_gone_drops_and_counts(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    sink, file, said = log_to(folder / "app.log")
    (folder / "app.log").unlink()
    folder.rmdir()
    sink.put(b"lost\n")
    until(lambda: sink.dropped == 1)
    folder.mkdir()
    sink.put(b"kept\n")
    finish(sink, file)
    assert (folder / "app.log").read_bytes() == b"kept\n1 dropped\n"
    assert said == ["No such file or directory"]


def test_a_relative_path_is_resolved_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = a_file("app.log")
    assert file.path == str(tmp_path / "app.log")
    file.close()


def test_a_pipe_without_a_reader_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="No such device or address"):
        a_file(str(tmp_path / "fifo"))


def test_what_is_no_file_is_never_rotated() -> None:
    sink, file, said = log_to(Path("/dev/null"), max_size=1, keep=1)
    sink.put(b"much more than a byte\n")
    finish(sink, file)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert said == []


def test_only_a_file_that_this_process_created_is_given_away(tmp_path: Path) -> None:
    """Otherwise a link in the user's own directory would give the user any file of the system."""
    (tmp_path / "other").touch()
    (tmp_path / "link.log").symlink_to(tmp_path / "other")
    linked, made = a_file(str(tmp_path / "link.log")), a_file(str(tmp_path / "made.log"))
    assert (linked.created, made.created) == (False, True)
    if os.getuid() == 0:
        for file in (linked, made):
            file.give_ownership(12345, 12345)
        assert (tmp_path / "other").stat().st_uid == 0
        assert (tmp_path / "made.log").stat().st_uid == 12345
    linked.close()
    made.close()
