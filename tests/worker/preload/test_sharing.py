"""A file that is opened again is the same file at the same place, and moves no other process's offset."""

from __future__ import annotations

import fcntl
import mmap
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrmaster.protocol.forks.safety import OpenDescriptor
from rrmaster.worker.loading import CannotLoad
from rrmaster.worker.preload import sharing
from rrmaster.worker.preload.notes import Notes, taking_notes
from rrmaster.worker.preload.sharing import SharedFile, open_again, open_descriptors, shared_files, shared_memory

WORDS = b"0123456789abcdefghij"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[ExitStack]:
    """Closes what a test opens."""
    (tmp_path / "words").write_bytes(WORDS)
    with ExitStack() as stack:
        yield stack


def descriptor(opened: ExitStack, path: Path, flags: int = os.O_RDONLY) -> int:
    number = os.open(path, flags)
    opened.callback(os.close, number)
    return number


def copy(opened: ExitStack, number: int) -> int:
    """The same description, as another process has it."""
    other = os.dup(number)
    opened.callback(os.close, other)
    return other


def found(*numbers: int) -> tuple[SharedFile, ...]:
    return shared_files(held for held in open_descriptors() if held.number in numbers)


@given(place=st.integers(0, len(WORDS)), piece=st.integers(0, len(WORDS)))
def test_reading_goes_on_from_the_same_place_and_moves_no_other(place: int, piece: int) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        (Path(folder) / "words").write_bytes(WORDS)
        number = descriptor(opened, Path(folder) / "words")
        os.lseek(number, place, os.SEEK_SET)
        template = copy(opened, number)
        open_again(found(number))
        assert os.read(number, piece) == WORDS[place : place + piece]
        assert os.lseek(template, 0, os.SEEK_CUR) == place


def test_descriptors_of_one_description_stay_so_and_others_do_not_become_so(opened: ExitStack, tmp_path: Path) -> None:
    one = descriptor(opened, tmp_path / "words")
    other, alone = copy(opened, one), descriptor(opened, tmp_path / "words")
    files = found(one, other, alone)
    assert [file.numbers for file in files] == [(one, other), (alone,)]
    open_again(files)
    assert [os.read(number, 4) for number in (one, other, alone)] == [b"0123", b"4567", b"0123"]


def test_flags_and_what_a_program_inherits_stay(opened: ExitStack, tmp_path: Path) -> None:
    number = descriptor(opened, tmp_path / "words", os.O_RDONLY | os.O_NONBLOCK)
    os.set_inheritable(number, True)
    before = fcntl.fcntl(number, fcntl.F_GETFL)
    open_again(found(number))
    assert fcntl.fcntl(number, fcntl.F_GETFL) == before
    assert os.get_inheritable(number)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_whose_name_is_gone_or_another_files_is_the_same_file(
    replaced: bool, opened: ExitStack, tmp_path: Path
) -> None:
    number = descriptor(opened, tmp_path / "words")
    files = found(number)
    (tmp_path / "words").unlink()
    if replaced:
        (tmp_path / "words").write_bytes(b"another")
    open_again(files)
    assert os.read(number, 4) == b"0123"


def test_a_file_that_was_opened_only_if_it_is_no_link_is_opened_again(opened: ExitStack, tmp_path: Path) -> None:
    """As SQLite opens its files."""
    number = descriptor(opened, tmp_path / "words", os.O_RDONLY | os.O_NOFOLLOW)
    template = copy(opened, number)
    open_again(found(number))
    assert os.read(number, 4) == os.read(template, 4) == b"0123"


def test_a_directory_is_listed_to_its_end_by_each(opened: ExitStack, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).touch()
    number = descriptor(opened, tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    template = copy(opened, number)
    open_again(found(number))
    assert sorted(os.listdir(number)) == sorted(os.listdir(template)) == ["a", "b", "c", "words"]


def test_a_number_that_is_closed_or_another_files_by_now_is_left_alone(opened: ExitStack, tmp_path: Path) -> None:
    """A handler of `os.register_at_fork` may have done that."""
    (tmp_path / "another").write_bytes(b"another")
    one, number = descriptor(opened, tmp_path / "words"), os.open(tmp_path / "words", os.O_RDONLY)
    files = found(one, number)
    os.close(number)
    os.dup2(another := descriptor(opened, tmp_path / "another"), one)
    open_again(files)
    assert os.path.sameopenfile(one, another)
    os.read(one, 3)
    assert os.lseek(another, 0, os.SEEK_CUR) == 3, "still one description"


def test_a_file_that_may_not_be_opened_again_prevents_the_fork_or_fails_the_worker(
    opened: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was opened with more rights, before the process gave them up.  The tests may run as root."""
    files = found(descriptor(opened, tmp_path / "words"))
    assert sharing.cannot_be_opened_again(files) == ()

    def refuse(number: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sharing, "_own_description", refuse)
    phrase = f"opened {tmp_path}/words, which may not be opened again (Permission denied)"
    assert [each.what for each in sharing.cannot_be_opened_again(files)] == [phrase]
    with pytest.raises(CannotLoad, match="words cannot be opened again in a forked worker: Permission denied"):
        open_again(files)


def test_what_is_open_is_told_with_its_kind_and_its_locks(opened: ExitStack, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    read, fifo, urandom, own, flocked, posix = numbers = [
        descriptor(opened, tmp_path / "words"),
        descriptor(opened, tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK),
        descriptor(opened, Path("/dev/urandom")),
        descriptor(opened, Path("/proc/self/stat")),
        descriptor(opened, tmp_path / "words"),
        descriptor(opened, tmp_path, os.O_TMPFILE | os.O_RDWR),
    ]
    fcntl.flock(flocked, fcntl.LOCK_EX)
    fcntl.lockf(posix, fcntl.LOCK_EX)
    told = {held.number: held for held in open_descriptors() if held.number in numbers}
    assert told[read] == OpenDescriptor(read, f"{tmp_path}/words", False)
    assert not told[fifo].plain
    assert not told[urandom].plain
    assert not told[own].plain, "it tells of one process"
    assert [number for number in numbers if told[number].locked] == [flocked, posix]
    assert told[posix].writable


def test_memory_between_processes_is_told_and_private_memory_is_not() -> None:
    before = shared_memory()
    lock = multiprocessing.get_context("fork").Lock()
    with mmap.mmap(-1, 1), mmap.mmap(-1, 1, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
        after = sorted(shared_memory()[:])
    for name in before:
        after.remove(name)
    assert len(after) == 2, after
    assert after[0].startswith("/dev/shm/sem.")
    assert after[1] == "/dev/zero (deleted)"
    del lock


# --- notes of an import


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = bytes(tmp_path) + b"/map\xff"
    with open(path, "wb") as made:
        made.write(b"x")
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 1):
        assert os.fsdecode(path) in shared_memory()


def test_what_an_import_has_made_and_still_has_is_noted(tmp_path: Path) -> None:
    notes = Notes()
    with taking_notes(notes):
        os.rmdir(tempfile.mkdtemp(dir=tmp_path))
        kept = tempfile.TemporaryDirectory(dir=tmp_path)
        number, file = tempfile.mkstemp(dir=tmp_path)
        os.close(number)
        asbytes = tempfile.mkdtemp(dir=os.fsencode(tmp_path))
        with pytest.raises(FileNotFoundError):
            tempfile.mkdtemp(dir=tmp_path / "nowhere")
    later = tempfile.mkdtemp(dir=tmp_path)
    assert notes.temporary() == [kept.name, file, os.fsdecode(asbytes)]
    assert later not in notes.temporary()
    assert notes.findings()[0].what == f"made {kept.name}, a temporary name that each worker has for itself"
    kept.cleanup()
    assert kept.name not in notes.temporary()


def test_a_lock_that_an_import_wants_is_noted_until_it_is_given_back(opened: ExitStack, tmp_path: Path) -> None:
    holder, given_back = (descriptor(opened, tmp_path / "words") for _ in range(2))
    ranges = descriptor(opened, tmp_path / "words", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    notes = Notes()
    with taking_notes(notes), open(tmp_path / "words") as wanted:
        with pytest.raises(BlockingIOError):
            fcntl.flock(wanted, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(ranges, fcntl.LOCK_EX)
        fcntl.flock(given_back, fcntl.LOCK_UN)
        assert notes.findings()[0].what == f"locked {tmp_path}/words (descriptor {wanted.fileno()})"
        assert len(notes.findings()) == 2
    (left,) = notes.findings()
    assert left.what == f"locked {tmp_path}/words (descriptor {ranges})", "the other file is closed"


def test_a_lock_that_others_may_have_too_is_taken_again(opened: ExitStack, tmp_path: Path) -> None:
    number, other = descriptor(opened, tmp_path / "words"), descriptor(opened, tmp_path / "words")
    notes = Notes()
    with taking_notes(notes):
        fcntl.flock(number, fcntl.LOCK_SH)
    assert notes.findings() == ()
    assert [held.locked for held in open_descriptors() if held.number == number] == [False]
    template = copy(opened, number)
    open_again(found(number))
    fcntl.flock(template, fcntl.LOCK_UN)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(number, fcntl.LOCK_UN)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert [held.locked for held in open_descriptors() if held.number == other] == [True]


def test_the_library_is_as_before_once_the_import_is_over() -> None:
    functions = [tempfile.mkdtemp, tempfile.mkstemp, fcntl.flock, fcntl.lockf]
    notes = Notes()
    with taking_notes(notes):
        taken = tempfile.mkdtemp
        assert taken is not functions[0]
    assert [tempfile.mkdtemp, tempfile.mkstemp, fcntl.flock, fcntl.lockf] == functions
    os.rmdir(made := taken())
    assert made not in notes._made
