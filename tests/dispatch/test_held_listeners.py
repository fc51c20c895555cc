"""`--listen-when ready` on the real kernel: an address that is taken, and refuses connections until a worker serves."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rrmaster.config.addresses import Tcp
from rrmaster.dispatch.listeners import BindError, Listener, open_listeners
from tests.fakes import DEADLINE

HOST = f"127.99.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
"""An address of this process's own, where no other one's client has the port."""


@contextmanager
def held(port: int) -> Iterator[Listener]:
    (listener,) = open_listeners(Tcp(HOST, port), 10, 0o666, held=True)
    try:
        yield listener
    finally:
        listener.close()


def port_of(listener: Listener) -> int:
    return int(listener.socket.getsockname()[1])


def answer(port: int) -> int:
    with socket.socket() as client:
        client.settimeout(DEADLINE)
        return client.connect_ex((HOST, port))


@pytest.mark.parametrize("asked", [0, 8000], ids=["a free port", "a named port"])
def test_a_held_address_refuses_connections_until_it_begins(asked: int) -> None:
    with held(asked) as listener:
        port = port_of(listener)
        assert port == asked or asked == 0 < port
        assert answer(port) == errno.ECONNREFUSED
        listener.begin()
        assert answer(port) == 0
        assert port_of(listener) == port
        listener.begin()  # nothing comes of it
        assert answer(port) == 0


def test_an_address_at_which_another_program_listens_is_refused_at_once() -> None:
    with socket.create_server((HOST, 8000)), pytest.raises(BindError, match="another program listens"):
        open_listeners(Tcp(HOST, 8000), 10, 0o666, held=True)


def test_an_address_that_another_program_has_taken_meanwhile_is_named() -> None:
    complaint = f"cannot listen on {HOST}:8000: another program listens there"
    with held(8000) as listener, socket.create_server((HOST, 8000)), pytest.raises(BindError, match=complaint):
        listener.begin()
