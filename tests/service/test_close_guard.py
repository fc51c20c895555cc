"""A `close` that waits for a client is interrupted, and said; nothing else changes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import struct
import threading
import time

import pytest
import trio

from rrmaster.service.close_guard import LOOK_S, SIGNAL, guarding

LINGERS_S = 60
"""As long as a close waits that nothing interrupts."""


def lingering() -> tuple[socket.socket, int]:
    """A client that never reads, and the last copy of its connection, on which much waits to be sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGERS_S))
    with contextlib.suppress(BlockingIOError):
        while True:
            connection.send(bytes(1 << 16))
    return client, connection.detach()


async def test_a_close_that_waits_for_a_client_ends(caplog: pytest.LogCaptureFixture) -> None:
    with guarding() as guard:
        await trio.lowlevel.checkpoint()  # from the next turn on it is watched
        client, fd = lingering()
        began = time.monotonic()
        os.close(fd)
        assert time.monotonic() - began < LINGERS_S / 2
        assert guard.interrupted == 1
        await trio.lowlevel.checkpoint()
    client.close()
    (said,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "SO_LINGER" in said.getMessage()


async def test_a_loop_that_rests_or_computes_has_nothing_said_of_it(caplog: pytest.LogCaptureFixture) -> None:
    calls = []
    with guarding() as guard:
        guarded = signal.getsignal(SIGNAL)
        signal.signal(SIGNAL, lambda *call: calls.append(call))
        await trio.sleep(3 * LOOK_S)
        assert not calls, "it rests"
        with trio.fail_after(60):
            while not calls:  # it is interrupted, which is no harm
                end = time.monotonic() + 3 * LOOK_S
                while time.monotonic() < end:
                    pass
        signal.signal(SIGNAL, guarded)
        assert not guard.interrupted
        await trio.lowlevel.checkpoint()
    assert not caplog.records


async def test_it_leaves_nothing_behind() -> None:
    before = signal.getsignal(SIGNAL)
    threads = threading.active_count()
    with guarding():
        assert threading.active_count() == threads + 1
    assert signal.getsignal(SIGNAL) is before
    assert threading.active_count() == threads
