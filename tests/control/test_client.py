"""How a verb finds its master, and what it says when none answers."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from rrmaster.control import client as asking
from rrmaster.control.client import Client, NoMaster, connect_to_master
from rrmaster.control.socket_paths import ControlSocket, claim_by_name, usable_directory
from tests.control.serving import UID


@pytest.fixture
def alone(environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment in which no other master of this machine is found."""
    directories = [tmp_path / "rrmaster"]
    monkeypatch.setattr("rrmaster.control.client.directories_to_search", lambda environ, uid: directories)
    return environ


def test_the_only_master_is_found_without_being_named(alone: dict[str, str]) -> None:
    control_socket = claim_by_name("shop", alone, UID)
    sock, path = connect_to_master(None, None, alone, UID)
    sock.close()
    assert path == control_socket.path.resolve()
    control_socket.close()


def test_among_several_masters_a_name_is_needed(alone: dict[str, str]) -> None:
    sockets = [claim_by_name(name, alone, UID) for name in ("blog", "shop")]
    with pytest.raises(NoMaster, match="several masters run: blog, shop; say which with --name"):
        connect_to_master(None, None, alone, UID)
    sock, path = connect_to_master(None, "shop", alone, UID)
    sock.close()
    assert path.stem == "shop"
    for control_socket in sockets:
        control_socket.close()


def test_a_stale_socket_is_no_master(alone: dict[str, str]) -> None:
    path = usable_directory(alone, UID) / "old.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    with pytest.raises(NoMaster, match="no master listens there; the one that made it has ended"):
        connect_to_master(None, None, alone, UID)
    control_socket = claim_by_name("shop", alone, UID)
    sock, _ = connect_to_master(None, None, alone, UID)
    sock.close()
    control_socket.close()


def test_no_socket_at_all_says_where_it_was_looked_for(alone: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(NoMaster, match=f"no master answers: there is no control socket in {tmp_path}"):
        connect_to_master(None, None, alone, UID)
    with pytest.raises(NoMaster, match="no master named 'shop' answers"):
        connect_to_master(None, "shop", alone, UID)
    with pytest.raises(NoMaster, match="there is no such socket"):
        connect_to_master(os.fspath(tmp_path / "no.sock"), None, alone, UID)


def test_a_master_that_hangs_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    control_socket = ControlSocket.claim(tmp_path / "x.sock")
    client = Client(*connect_to_master(os.fspath(control_socket.path), None, {}, UID))
    with pytest.raises(NoMaster, match=r"has not answered for 0\.1 s"):
        list(client.ask("status", timeout=0.1))
    client.close()
    control_socket.close()


def test_a_master_that_ends_during_a_request_is_reported(tmp_path: Path) -> None:
    control_socket = ControlSocket.claim(tmp_path / "x.sock")
    client = Client(*connect_to_master(os.fspath(control_socket.path), None, {}, UID))
    control_socket.close()
    with pytest.raises(NoMaster, match="the master has ended"):
        list(client.ask("status"))
    client.close()


@contextlib.contextmanager
def answered_by(part: bytes, times: int, pause: float = 0.0) -> Iterator[Client]:
    """A client whose master sends this again and again, and ends long after the client must have given up."""
    ours, its = socket.socketpair()

    def answer() -> None:
        with its, contextlib.suppress(OSError):
            for _ in range(times):
                its.sendall(part)
                time.sleep(pause)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield Client(ours, Path("x"))
    finally:
        ours.close()
        thread.join(10)


@pytest.mark.parametrize(("part", "times"), [(b"{}\n", 200_000), (b'{"line": "%s"}\n' % (b"x" * 1_000_000), 100)])
def test_an_answer_that_does_not_end_is_given_up_where_it_is_no_stream(part: bytes, times: int) -> None:
    with answered_by(part, times) as client, pytest.raises(ValueError, match="none of a master's: it does not end"):
        for _ in client.ask("status"):
            pass


def test_a_line_that_does_not_end_is_given_up_in_a_stream_too() -> None:
    with answered_by(b"x" * 1_000_000, 100) as client, pytest.raises(ValueError, match="has more than 16 MiB"):
        next(client.ask("events", timeout=None))


def test_a_line_that_comes_byte_by_byte_has_no_more_time_than_another() -> None:
    with answered_by(b" ", 1_000, 0.01) as client, pytest.raises(NoMaster, match=r"has not answered for 0\.2 s"):
        next(client.ask("status", timeout=0.2))


def test_an_answer_has_a_time_for_all_its_lines_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_Limits", partial(asking._Limits, left=0.3))
    with answered_by(b"{}\n", 1_000, 0.01) as client, pytest.raises(NoMaster, match="has not ended its answer in 60 s"):
        for _ in client.ask("status", timeout=5.0):
            pass
