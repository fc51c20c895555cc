"""A host's name stands for several addresses, and those that this machine has are served."""

from __future__ import annotations

import socket

import pytest

from rrmaster.config.addresses import Tcp
from rrmaster.dispatch import listeners
from rrmaster.dispatch.listeners import BindError, open_listeners

HERE, NOT_HERE = (socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET, ("192.0.2.1", 0))


@pytest.mark.parametrize("found", [[HERE, NOT_HERE], [NOT_HERE, HERE]])
def test_an_address_that_the_machine_has_is_served_without_the_other(
    found: list[tuple[int, tuple[object, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "_resolve", lambda host, port: found)
    (listener,) = open_listeners(Tcp("localhost", 0), 8, 0o600)
    assert listener.name.startswith("127.0.0.1:")
    listener.close()


def test_a_name_without_any_address_of_this_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "_resolve", lambda host, port: [NOT_HERE, NOT_HERE])
    with pytest.raises(BindError, match="this machine has no such address"):
        open_listeners(Tcp("localhost", 0), 8, 0o600)
