"""Root makes, changes and removes no file where a link of another user's leads: sockets, pid files, rotated logs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rrmaster.config.addresses import Unix
from rrmaster.config.option import SettingsError
from rrmaster.config.settings import Settings
from rrmaster.control.socket_paths import CannotClaim, ControlSocket
from rrmaster.dispatch.listeners import BindError, open_listeners
from rrmaster.logs.sinks import RotatingFile
from rrmaster.logs.trusted_path import trusted_place
from rrmaster.service.pid_file import CannotStart, pid_file
from rrmaster.supervision.reconfigure import environment_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it is about root")

STRANGER = 54321


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """A directory of root's, with a socket of another program's and files of root's."""
    (tmp_path / "roots").mkdir()
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(tmp_path / "roots" / "door"))
    (tmp_path / "roots" / "door").chmod(0o600)
    (tmp_path / "roots" / "log").write_text("root's")
    (tmp_path / "roots" / "env").write_text("SECRET=root's\n")
    return tmp_path / "roots"


@pytest.fixture
def his(tmp_path: Path) -> Path:
    """A directory of another user's, with a directory in it."""
    for path in (tmp_path / "his", tmp_path / "his" / "run"):
        path.mkdir()
        os.chown(path, STRANGER, STRANGER)
    return tmp_path / "his" / "run"


def bend(his: Path, to: Path) -> None:
    """As the other user: put a link in the place of the directory."""
    his.rename(his.with_name("old"))
    his.symlink_to(to)
    os.chown(his, STRANGER, STRANGER, follow_symlinks=False)


@contextlib.contextmanager
def untouched(directory: Path) -> Iterator[None]:
    def look() -> dict[str, tuple[int, int]]:
        return {path.name: (path.lstat().st_ino, path.lstat().st_mode) for path in directory.iterdir()}

    before = look()
    yield
    assert look() == before


@contextlib.contextmanager
def deadline() -> Iterator[None]:
    """A system call that waits fails after 20 seconds."""

    def late(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def opened(path: Path, mode: int = 0o666) -> Any:
    (listener,) = open_listeners(Unix(str(path)), 16, mode)
    return listener


def test_a_unix_socket_is_not_bound_through_a_link_of_another_users(his: Path, roots: Path) -> None:
    bend(his, roots)
    with untouched(roots):
        for name in ("door", "new"):
            with pytest.raises(BindError, match="link of another user's, which root does not follow"):
                opened(his / name)
            with pytest.raises(CannotClaim, match="link of another user's, which root does not follow"):
                ControlSocket.claim(his / name)
            with pytest.raises(CannotStart, match="link of another user's"), pid_file(str(his / "pid")):
                pass


def test_a_link_at_the_end_of_a_sockets_path_is_never_followed(his: Path, roots: Path) -> None:
    (his / "new").symlink_to(roots / "new")
    (his / "door").symlink_to(roots / "door")
    with untouched(roots):
        for name in ("new", "door"):
            with pytest.raises(BindError, match="no socket"):
                opened(his / name)
            with pytest.raises(CannotClaim, match="no socket"):
                ControlSocket.claim(his / name)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_path_that_bends_while_a_socket_is_bound_leads_root_nowhere_else(
    when: str, his: Path, roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bent(socket.socket):
        def bind(self, address: Any) -> None:
            if when == "before":
                bend(his, roots)
            super().bind(address)
            if when == "after":
                bend(his, roots)

    with untouched(roots):
        monkeypatch.setattr(socket, "socket", Bent)
        listener = opened(his / "door", mode=0o777)
        assert stat.S_IMODE((his.with_name("old") / "door").lstat().st_mode) == 0o777
        listener.close()


def test_where_a_path_may_bend_clients_still_find_the_socket(his: Path) -> None:
    listener = opened(his / "door")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(his / "door"))
    assert listener.name == f"unix:{his / 'door'}"
    listener.close()
    assert not (his / "door").exists()
    opened(his / "door").close()


def test_a_socket_has_its_path_as_its_address_where_the_path_cannot_bend(tmp_path: Path) -> None:
    listener = opened(tmp_path / "door")
    assert listener.socket.getsockname() == str(tmp_path / "door")
    listener.close()


def test_a_dead_servers_socket_is_replaced_also_where_the_path_may_bend(his: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(his / "door"))
    listener = opened(his / "door")
    with pytest.raises(BindError, match="another program listens there"):
        opened(his / "door")
    listener.close()


def test_a_log_is_not_rotated_where_the_path_leads_by_then(his: Path, roots: Path) -> None:
    troubles: list[str] = []
    log = RotatingFile(str(his / "log"), 10, 1, troubles.append)
    log.write(b"0123456789")
    bend(his, roots)
    with untouched(roots):
        log.write(b"0123456789")
        with contextlib.suppress(OSError):
            log._rotate()
    assert (roots / "log").read_text() == "root's"
    assert troubles
    log.close()


def test_an_env_file_is_not_read_through_a_link_of_another_users(his: Path, roots: Path) -> None:
    (his / "env").symlink_to(roots / "env")
    os.chown(his / "env", STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(SettingsError, match=r"--env-file: .*link of another user's"):
        environment_of(Settings("a:b", env_file=str(his / "env")))
    assert environment_of(Settings("a:b", env_file=str(roots / "env"))) == {"SECRET": "root's"}


def test_a_file_of_roots_with_another_name_in_a_users_directory_is_not_written_there(his: Path, roots: Path) -> None:
    for name in ("log", "env"):
        os.link(roots / name, his / name)
    before = len(os.listdir("/proc/self/fd"))
    with untouched(roots):
        with pytest.raises(OSError, match="another name"):
            RotatingFile(str(his / "log"), 0, 0)
        with pytest.raises(SettingsError, match=r"--env-file: .*another name"):
            environment_of(Settings("a:b", env_file=str(his / "env")))
    assert len(os.listdir("/proc/self/fd")) == before
    os.link(roots / "log", roots / "second")
    RotatingFile(str(roots / "log"), 0, 0).close()  # root's own directory: root has given it the name


def test_a_pipe_in_the_place_of_an_env_file_stops_no_master(his: Path) -> None:
    os.mkfifo(his / "env")
    with pytest.raises(SettingsError, match=r"--env-file: .*env is no file, but a pipe"), deadline():
        environment_of(Settings("a:b", env_file=str(his / "env")))


def test_no_descriptor_of_a_place_is_left_open(his: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with trusted_place(str(his / "door")) as place:
        assert place.name == "door"
    with pytest.raises(FileNotFoundError), trusted_place(str(his / "no" / "door")):
        pass
    assert len(os.listdir("/proc/self/fd")) == before
