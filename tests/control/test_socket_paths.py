"""Where the control socket is, that only its owner can connect, and what happens to a file that is there already."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from rrmaster.control.socket_paths import (
    CannotClaim,
    ControlSocket,
    SocketInUse,
    claim_by_name,
    directories_to_search,
    usable_directory,
)
from tests.control.serving import UID


def test_the_socket_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        control_socket = ControlSocket.claim(tmp_path / "x.sock")
    finally:
        os.umask(before)
    found = os.lstat(control_socket.path).st_mode
    control_socket.close()
    assert stat.S_ISSOCK(found)
    assert stat.S_IMODE(found) == 0o600


def test_there_is_no_moment_in_which_its_file_has_another_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    class Watched(socket.socket):
        def bind(self, address: Any) -> None:
            super().bind(address)
            modes.append(stat.S_IMODE(os.lstat(address).st_mode))

    monkeypatch.setattr(socket, "socket", Watched)
    before = os.umask(0)
    try:
        ControlSocket.claim(tmp_path / "x.sock").close()
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_a_stale_file_is_replaced_and_a_running_masters_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    control_socket = ControlSocket.claim(path)
    with pytest.raises(SocketInUse, match=f"pid {os.getpid()} listens"):
        ControlSocket.claim(path)
    control_socket.close()
    assert not path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.sock").write_text("precious")
    with pytest.raises(CannotClaim, match="no socket"):
        ControlSocket.claim(tmp_path / "x.sock")
    assert (tmp_path / "x.sock").read_text() == "precious"


def test_at_the_end_the_file_of_another_socket_is_not_removed(tmp_path: Path) -> None:
    first = ControlSocket.claim(tmp_path / "x.sock")
    os.unlink(first.path)
    second = ControlSocket.claim(tmp_path / "x.sock")
    first.close()
    assert second.path.exists()
    second.close()
    assert not second.path.exists()


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotClaim, match="longer than"):
        ControlSocket.claim(tmp_path / ("x" * 120))


def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CannotClaim, match="No such file"):
        ControlSocket.claim(tmp_path / "nowhere" / "x.sock")


def test_a_second_master_without_a_name_gets_the_next_default_one(environ: dict[str, str]) -> None:
    sockets = [claim_by_name(None, environ, UID) for _ in range(3)]
    assert [control_socket.path.stem for control_socket in sockets] == ["default", "default-2", "default-3"]
    for control_socket in sockets:
        control_socket.close()


def test_a_name_that_is_taken_is_refused(environ: dict[str, str]) -> None:
    control_socket = claim_by_name("shop", environ, UID)
    with pytest.raises(SocketInUse):
        claim_by_name("shop", environ, UID)
    control_socket.close()


def test_the_directory_is_made_closed_to_others(environ: dict[str, str], tmp_path: Path) -> None:
    directory = usable_directory(environ, UID)
    assert directory == tmp_path / "rrmaster"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_directory_that_others_may_write_to_is_not_used(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "rrmaster").mkdir()
    (tmp_path / "rrmaster").chmod(0o777)
    with pytest.raises(CannotClaim, match="closed to others"):
        usable_directory(environ, UID)


def test_a_link_in_place_of_the_directory_is_not_followed(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "rrmaster").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotClaim):
        usable_directory(environ, UID)


def test_root_finds_the_masters_of_all_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", os.fspath(tmp_path))
    named = tmp_path / f"rrmaster-{UID}"
    named.mkdir(mode=0o700)
    (tmp_path / "rrmaster-99999").mkdir(mode=0o700)  # it does not belong to that user
    (tmp_path / "rrmaster-x").mkdir(mode=0o700)
    found = directories_to_search({}, 0)
    assert named in found
    assert not {tmp_path / "rrmaster-99999", tmp_path / "rrmaster-x"} & set(found)


def test_without_any_writable_directory_one_line_says_so_and_verbs_still_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    monkeypatch.setattr("rrmaster.control.socket_paths.SYSTEM_DIRECTORY", Path("/proc/rrmaster"))
    with pytest.raises(CannotClaim, match="choose a path with --control PATH"):
        usable_directory({}, UID)
    assert Path(f"/tmp/rrmaster-{UID}") in directories_to_search({}, UID)
