"""The PID file: which one is a master's, which one may be replaced, and which one is left as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rrmaster.service.cannot_start import CannotStart
from rrmaster.service.pid_file import pid_file


def test_the_file_has_the_number_while_the_block_runs(tmp_path: Path) -> None:
    with pid_file(f"{tmp_path}/pid"):
        assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / "pid").exists()


def test_a_link_is_refused_and_its_target_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("1")
    (tmp_path / "pid").symlink_to("precious")
    with pytest.raises(CannotStart, match="it is a link"), pid_file(f"{tmp_path}/pid"):
        pass
    assert (tmp_path / "precious").read_text() == "1"


@pytest.mark.parametrize("text", ["[tool]\n", "12 34", "-5", "9" * 33, "x"])
def test_a_file_that_holds_something_else_stays_as_it_was(text: str, tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(text)
    with pytest.raises(CannotStart, match="something other than a process id"), pid_file(f"{tmp_path}/pid"):
        pass
    assert (tmp_path / "pid").read_text() == text


@pytest.mark.parametrize("text", ["", "\n", "99999999999", "2147483648", "0"])
def test_a_number_that_no_process_has_is_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(text)
    with pid_file(f"{tmp_path}/pid"):
        assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"


def test_a_number_that_a_younger_process_has_by_now_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(f"{os.getppid()}\n")
    os.utime(tmp_path / "pid", (1, 1))
    with pid_file(f"{tmp_path}/pid"):
        assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"


def test_a_living_process_that_is_older_than_the_file_is_respected(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(f"{os.getppid()}\n")
    with pytest.raises(CannotStart, match=f"process {os.getppid()} is running"), pid_file(f"{tmp_path}/pid"):
        pass


def test_one_of_two_masters_that_begin_at_once_has_the_file(tmp_path: Path) -> None:
    path = f"{tmp_path}/pid"
    with pid_file(path):
        with pytest.raises(CannotStart, match="is running"), pid_file(path):
            pass
        assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"


def test_a_fifo_and_a_directory_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "."):
        with pytest.raises(CannotStart, match="cannot write --pid"), pid_file(f"{tmp_path}/{name}"):
            pass
