"""How the admin server's sockets are set up."""

from __future__ import annotations

import socket

from rrmaster.admin.server import SEND_BUFFER, bound_what_waits


def test_the_kernel_keeps_little_for_a_client_that_does_not_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        bound_what_waits([listener])
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER
