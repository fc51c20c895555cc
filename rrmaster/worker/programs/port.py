"""What is one address that a program has asked for: the request, and the listener that the answer makes?

The listening socket itself is the master's.  The program has a `Port`: a number that its connections carry, a count of
those that wait for one, and a short queue.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import Factory, define

from ...protocol import wire
from ..duty import BATCH, Taken


@define(eq=False)
class Port:
    """A listener of this program, whose listening socket stands in the master."""

    number: int
    """The listener's number on the line: each handoff names it."""
    family: int
    address: Any
    """The address as `getsockname` of a listening socket returns it."""
    on_arrival: Callable[[], None] = lambda: None
    """Called when there is a connection in the queue.  From any thread."""
    on_waiting: Callable[[], None] = lambda: None
    """Called when a connection for this port waits in the letterbox, and no `accept` does.  From any thread."""
    wanted: int = 0
    """How many `accept` calls wait for a connection."""
    queue: deque[Taken] = Factory(deque)
    """Connections taken for this port and not accepted; the port owns their descriptors."""
    attended: bool = True
    """Whether the master has been told that this worker takes connections of the listener."""
    left_until: float = 0.0
    """Until when its connections are left to the master, while it is not attended."""

    def call(self, on_arrival: Callable[[], None], on_waiting: Callable[[], None] | None = None) -> None:
        """Set what is called when a connection arrives, or waits in the letterbox."""
        self.on_arrival, self.on_waiting = on_arrival, on_waiting or self.on_waiting

    def await_one(self, more: int = 1) -> None:
        """One more `accept` waits for a connection; with -1, one fewer."""
        self.wanted += more

    def leave_until(self, when: float) -> None:
        """The master is told that its connections are left to others, until then at least."""
        self.attended, self.left_until = False, when

    def attend(self) -> None:
        """The master is told that this worker takes its connections again."""
        self.attended = True

    def wants(self) -> bool:
        """Whether one more connection should be taken for it."""
        return self.wanted > 0 and len(self.queue) < BATCH


@define(eq=False)
class PortSocket:
    """What programs read of a server's listening socket (``server.sockets[0].getsockname()``), of one in the master."""

    _port: Port
    type: int = int(socket.SOCK_STREAM)
    proto: int = 0

    @property
    def family(self) -> socket.AddressFamily:
        """The family of the address."""
        return socket.AddressFamily(self._port.family)

    def getsockname(self) -> Any:
        """The address; for port 0, with the port that was found."""
        return self._port.address


@define(eq=False)
class AddressRequest:
    """A request for an address, and its answer once the master has given it."""

    wish: wire.Listen
    on_answer: Callable[[], None]
    """Called when there is an answer.  From any thread."""
    abandoned: bool = False
    answer: wire.Listening | None = None
    port: Port | None = None

    def abandon(self) -> None:
        """Its caller was cancelled, and waits for no answer."""
        self.abandoned = True

    def settle(self, answer: wire.Listening) -> None:
        """The master has answered."""
        self.answer = answer

    def result(self) -> Port:
        """The port.  Raises OSError with the errno that the master met."""
        if self.port is not None:
            return self.port
        assert self.answer is not None
        number, wish = self.answer.errno, self.wish
        host = f"[{wish.host}]" if ":" in wish.host else wish.host
        raise OSError(number, f"{os.strerror(number)}: the master cannot open {wish.path or f'{host}:{wish.port}'}")

    def make_port(self, answer: wire.Listening) -> Port:
        """The port that a favourable answer makes."""
        self.port = Port(answer.listener, *_family_and_address(self.wish, answer.port))
        return self.port


def host_and_port(family: int, address: Any) -> tuple[str, int]:
    """Host and port of a resolved address (`getaddrinfo`'s), as the master is asked for it."""
    host, port, *more = address
    # An IPv6 link-local address is one only with its zone: fe80::1%2.
    zone = f"%{more[1]}" if family == socket.AF_INET6 and more[1] and "%" not in host else ""
    return host + zone, port


def _family_and_address(wish: wire.Listen, port: int) -> tuple[int, Any]:
    """The family, and the address as `getsockname` returns it, of what was asked for."""
    if wish.path:
        return int(socket.AF_UNIX), wish.path
    if ":" in wish.host:
        host, _, zone = wish.host.partition("%")
        return int(socket.AF_INET6), (host, port, 0, int(zone) if zone.isdigit() else 0)
    return int(socket.AF_INET), (wish.host, port)
