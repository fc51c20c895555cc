"""Which clients are admitted, and at what pace they are served."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from rrmaster.control.client import NoMaster, connect_to_master
from rrmaster.control.requests import MAX_FOLLOWERS
from rrmaster.control.server import MAX_CLIENTS, PACE_S, ControlServer
from rrmaster.status.model import Snapshot
from tests.control.serving import EMPTY, UID, FakeOperator, serving
from tests.fakes import DEADLINE


async def test_when_all_places_are_taken_the_client_that_is_silent_longest_makes_room(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        clients = [await served.connect() for _ in range(MAX_CLIENTS)]
        assert (await served.end_of(do="status"))["status"] == 0
        assert await clients[0].line() is None
        await clients[1].send(do="status")
        assert (await clients[1].answer())[-1]["status"] == 0


async def test_when_all_clients_are_being_answered_another_one_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for _ in range(MAX_CLIENTS):
            await served.connect(do="reload")
        await served.until(lambda: all(session.answering for session in served.server.sessions))
        client = await served.connect()
        assert await client.answer() == [
            {"status": 1, "error": f"{MAX_CLIENTS} clients are being answered; try again later"}
        ]


async def test_followers_leave_places_for_verbs_that_act(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for _ in range(MAX_FOLLOWERS):
            await served.follow(do="events")
        refused = [await served.connect(do="logs", follow=True) for _ in range(MAX_CLIENTS)]
        assert "clients follow already" in (await refused[-1].answer())[-1]["error"]
        assert (await served.end_of(do="scale", to="2"))["status"] == 0


async def test_the_logs_of_a_slot_without_a_worker_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        answer = await served.end_of(do="logs", slot=55, lines=20)
        assert (answer["status"], answer["error"]) == (
            1,
            "there is no worker in slot 55, and none has printed anything",
        )
        served.prints(55, "last words")
        assert (await served.end_of(do="logs", slot=55, lines=20))["status"] == 0


async def test_a_flood_of_requests_is_paced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    asked = 0

    def count() -> Snapshot:
        nonlocal asked
        asked += 1
        return EMPTY

    async with serving(tmp_path) as served:
        monkeypatch.setattr(served.operator, "status", count)
        clients = [await served.connect() for _ in range(4)]
        before = trio.current_time()
        for client in clients:
            await client.stream.send_all(b'{"do": "status"}\n' * 200)
        await trio.sleep(1)
        assert 0 < asked <= (trio.current_time() - before) / PACE_S + 1


@pytest.mark.skipif(UID != 0, reason="only root can become another user")
async def test_another_user_is_refused_even_if_the_mode_of_the_file_admits_it() -> None:
    # Not pytest's directory, which is closed to other users.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        async with serving(Path(directory)) as served:
            served.control_socket.path.chmod(0o666)
            answer = await trio.to_thread.run_sync(_ask_as_another_user, served.control_socket.path)
    assert answer["status"] == 1
    assert answer["error"] == "this master obeys user 0 and root; you are user 65534"


async def test_a_user_that_is_neither_root_nor_the_masters_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, uid=UID + 1) as served:
        answer = await served.end_of(do="status")
        assert (answer["status"] == 0) == (UID == 0)


def _ask_as_another_user(path: Path) -> dict[str, Any]:
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        's.sendall(b\'{"do": "status"}\\n\'); print(s.makefile().readline())'
    )
    done = subprocess.run(
        ["/usr/bin/env", "python3", "-c", program, path],
        capture_output=True, text=True, timeout=DEADLINE, user=65534, check=True,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


async def test_a_server_that_has_ended_refuses_clients_though_its_socket_is_not_closed_yet(tmp_path: Path) -> None:
    """Its master closes it last, and a client that connects meanwhile would wait for its answer in vain."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener, trio.fail_after(DEADLINE):
        listener.bind(str(path))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ControlServer(FakeOperator(), listener).serve)
            await (await trio.open_unix_socket(path)).aclose()
            nursery.cancel_scope.cancel()
        with pytest.raises(NoMaster, match="no master listens there"):
            connect_to_master(str(path), None, {}, UID)
