"""The log's way out: nobody waits for it, nothing grows, and what is lost is counted and said."""

from __future__ import annotations

import os
import re
import select
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rrmaster.logs import sinks as module
from rrmaster.logs.sinks import WAITING, Descriptor, File, Outlet
from tests.fakes import DEADLINE


def notice(dropped: int, estimated: bool) -> bytes:
    return b"%s%d dropped\n" % (b"about " if estimated else b"", dropped)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, "in vain"
        threading.Event().wait(0.001)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def read_all(fd: int) -> bytes:
    os.set_blocking(fd, False)
    data = b""
    try:
        while piece := os.read(fd, 1 << 20):
            data += piece
    except BlockingIOError:
        pass  # that was all
    return data


def wait_and_read(fd: int) -> bytes:
    """Something, as soon as there is any.  Without asking all the time, or the other thread would hardly get to run."""
    assert select.select([fd], [], [], DEADLINE)[0]
    return os.read(fd, 1 << 20)


def dropped_in(text: bytes) -> int:
    return sum(map(int, re.findall(rb"(\d+) dropped", text)))


# --- the thread


def test_what_is_put_is_written_in_order(pipe: tuple[int, int]) -> None:
    outlet = Outlet(Descriptor(pipe[1]), notice)
    for number in range(100):
        outlet.put(b"%d\n" % number)
    assert outlet.end()
    assert read_all(pipe[0]).split() == [b"%d" % number for number in range(100)]


def test_a_stalled_reader_stops_nobody_and_what_waits_is_bounded(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FAREWELL", 0.01)
    outlet = Outlet(Descriptor(pipe[1]), notice)
    line = b"x" * 1023 + b"\n"
    begun = time.monotonic()
    count = 3 * WAITING // len(line)
    outlet.put(128 * line)
    until(lambda: not select.select([], [pipe[1]], [], 0)[1])  # the pipe is full: the thread takes nothing more
    for _ in range((count - 128) // 4):
        outlet.put(4 * line)
    assert not outlet.room()
    assert outlet.waiting <= WAITING + 4 * len(line)
    assert outlet.dropped >= count // 2
    assert not outlet.end(), "its thread is left behind"
    assert time.monotonic() - begun < DEADLINE
    pieces = []
    while outlet._thread.is_alive():  # the reader is back
        assert time.monotonic() - begun < 2 * DEADLINE
        if select.select([pipe[0]], [], [], 0.01)[0]:
            pieces.append(os.read(pipe[0], 1 << 20))
    text = b"".join(pieces) + read_all(pipe[0])
    assert text.count(line) + dropped_in(text) == count, "each is written or counted"


def test_lines_that_were_never_made_are_counted_too(pipe: tuple[int, int]) -> None:
    outlet = Outlet(Descriptor(pipe[1]), notice)
    outlet.miss(70)
    outlet.miss(30, estimated=True)
    outlet.put(b"line\n")
    outlet.end()
    assert read_all(pipe[0]) == b"line\nabout 100 dropped\n"


def test_a_full_disk_drops_and_says_so_once_there_is_room(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAY_AGAIN", 0.01)
    fd = os.open("/dev/full", os.O_WRONLY)
    said: list[str] = []
    outlet = Outlet(Descriptor(fd), notice, said.append)
    for _ in range(10):
        outlet.put(b"lost\nlost\n")
    until(lambda: outlet.dropped == 20)
    os.dup2(pipe[1], fd)
    # Nothing more is logged, and still it is said.
    until(lambda: outlet._told == 20)
    assert read_all(pipe[0]) == b"20 dropped\n"
    assert said == ["No space left on device"], "once, not twenty times"
    outlet.end()
    os.close(fd)


def test_a_reader_that_has_gone_stops_nobody() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    outlet = Outlet(Descriptor(theirs), notice)
    outlet.put(b"line\n")
    assert outlet.end()
    assert outlet.dropped == 1
    os.close(theirs)


def test_a_shared_descriptor_that_somebody_made_non_blocking_loses_nothing(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    outlet = Outlet(Descriptor(pipe[1]), notice)
    line = b"x" * 1023 + b"\n"
    for _ in range(500):
        outlet.put(line)
    text = b""
    while text.count(b"\n") < 500:
        text += wait_and_read(pipe[0])
    outlet.end()
    assert text == line * 500


@pytest.mark.parametrize(("room", "lost"), [(0, 1), (3, 1), (6, 0)])
def test_a_line_that_was_cut_short_does_not_spoil_the_next(room: int, lost: int) -> None:
    place = Cuts(room)
    outlet = Outlet(place, notice)
    outlet.put(b"first\n")
    until(lambda: outlet._taken == 6)
    place.broken = False
    outlet.put(b"second\n")
    outlet.end()
    lines = bytes(place.written).split(b"\n")
    assert b"second" in lines
    assert outlet.dropped == lost


class Cuts:
    """Takes so many bytes, and then has no room until it is mended."""

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


def log_to(path: Path, **options: int) -> tuple[Outlet, File, list[str]]:
    said: list[str] = []
    file = File(str(path), complain=said.append, **options)
    return Outlet(file, notice, said.append), file, said


def finish(outlet: Outlet, file: File) -> None:
    assert outlet.end()
    file.close()


def test_a_file_is_rotated_by_size_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    outlet, file, said = log_to(path, max_size=100, keep=3)
    lines = [b"%039d\n" % number for number in range(20)]
    for line in lines:
        outlet.put(line)
    finish(outlet, file)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["app.log", "app.log.1", "app.log.2", "app.log.3"]
    kept = [tmp_path / f"app.log.{number}" for number in (3, 2, 1)] + [path]
    assert b"".join(p.read_bytes() for p in kept) == b"".join(lines[-8:])
    assert all(p.stat().st_size <= 100 for p in kept)
    assert said == []


def test_no_old_files_are_kept_if_none_are_wanted(tmp_path: Path) -> None:
    outlet, file, _ = log_to(tmp_path / "app.log", max_size=10, keep=0)
    for number in range(5):
        outlet.put(b"line %d..\n" % number)
    finish(outlet, file)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"line 4..\n"]


def test_a_file_is_appended_to_and_its_size_counts(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_bytes(b"x" * 90 + b"\n")
    outlet, file, _ = log_to(path, max_size=100, keep=1)
    outlet.put(b"more than there is room for\n")
    finish(outlet, file)
    assert (tmp_path / "app.log.1").stat().st_size == 91
    assert path.read_bytes() == b"more than there is room for\n"


@pytest.mark.parametrize("tell", [True, False])
def test_a_file_that_was_moved_away_is_followed_by_its_name_asked_or_not(tmp_path: Path, tell: bool) -> None:
    path = tmp_path / "app.log"
    outlet, file, _ = log_to(path)
    outlet.put(b"before\n")
    until(lambda: outlet._taken == 7)
    path.rename(tmp_path / "moved")
    if tell:
        outlet.reopen()
        until(path.exists)
    outlet.put(b"after\n")
    finish(outlet, file)
    assert ((tmp_path / "moved").read_bytes(), path.read_bytes()) == (b"before\n", b"after\n")


def test_reopening_lets_the_old_file_go(tmp_path: Path) -> None:
    """logrotate compresses it then."""
    path = tmp_path / "app.log"
    outlet, file, _ = log_to(path)
    path.rename(tmp_path / "moved")
    outlet.reopen()
    until(path.exists)
    assert not any(os.readlink(f"/proc/self/fd/{fd}").endswith("moved") for fd in open_descriptors())
    finish(outlet, file)


def open_descriptors() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]


def test_a_file_that_was_emptied_in_place_grows_anew(tmp_path: Path) -> None:
    """logrotate's copytruncate."""
    path = tmp_path / "app.log"
    outlet, file, _ = log_to(path, max_size=100, keep=2)
    for _ in range(5):
        outlet.put(b"x" * 79 + b"\n")
        before = outlet._taken
        until(lambda before=before: outlet.waiting == 0 and outlet._taken >= before)
        os.truncate(path, 0)
    finish(outlet, file)
    assert [p.name for p in tmp_path.iterdir()] == ["app.log"]


def test_a_file_that_cannot_be_rotated_grows_and_it_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    (tmp_path / "app.log.1").mkdir()
    (tmp_path / "app.log.1" / "in the way").touch()
    outlet, file, said = log_to(path, max_size=50, keep=1)
    for _ in range(20):
        outlet.put(b"x" * 39 + b"\n")
    finish(outlet, file)
    assert path.stat().st_size == 800
    assert len(said) == 1
    assert "cannot be rotated" in said[0]


def test_a_directory_that_has_gone_drops_and_counts(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    outlet, file, said = log_to(folder / "app.log")
    (folder / "app.log").unlink()
    folder.rmdir()
    outlet.put(b"lost\n")
    until(lambda: outlet.dropped == 1)
    folder.mkdir()
    outlet.put(b"kept\n")
    finish(outlet, file)
    assert (folder / "app.log").read_bytes() == b"kept\n1 dropped\n"
    assert said == ["No such file or directory"]


def test_the_path_is_what_it_was_at_the_start_whatever_directory_we_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = File("app.log")
    assert file.path == str(tmp_path / "app.log")
    file.close()


def test_a_pipe_that_nobody_reads_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="No such device or address"):
        File(str(tmp_path / "fifo"))


def test_what_is_no_file_is_never_rotated() -> None:
    outlet, file, said = log_to(Path("/dev/null"), max_size=1, keep=1)
    outlet.put(b"much more than a byte\n")
    finish(outlet, file)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert said == []


def test_only_a_file_of_our_making_is_given_away(tmp_path: Path) -> None:
    """Or a link in the user's own directory would give him any file there is."""
    (tmp_path / "other").touch()
    (tmp_path / "link.log").symlink_to(tmp_path / "other")
    linked, made = File(str(tmp_path / "link.log")), File(str(tmp_path / "made.log"))
    assert (linked.created, made.created) == (False, True)
    if os.getuid() == 0:
        for file in (linked, made):
            file.give_to(12345, 12345)
        assert (tmp_path / "other").stat().st_uid == 0
        assert (tmp_path / "made.log").stat().st_uid == 12345
    linked.close()
    made.close()
