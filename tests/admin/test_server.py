"""How the admin server's sockets are set up."""

from __future__ import annotations

import socket

import pytest

from rrmaster.admin import server
from rrmaster.admin.server import SEND_BUFFER, bound_what_waits, serve
from rrmaster.config.readiness import ReadyWhen


def test_the_kernel_keeps_little_for_a_client_that_does_not_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        bound_what_waits([listener])
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER


def test_a_server_bounds_what_waits_on_each_of_its_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    bounded = []

    async def look(server: object, pages: object, sockets: list[socket.socket], leash: int | None) -> None:
        bounded.extend(sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * SEND_BUFFER for sock in sockets)

    monkeypatch.setattr(server, "_serve", look)
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        serve("control", [first, second], "127.0.0.1:0", ReadyWhen(count=1))
    assert bounded == [True, True]
