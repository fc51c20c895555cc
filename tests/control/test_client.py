"""How a verb finds its master, and what it says when none answers."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

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
