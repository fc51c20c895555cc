"""Is a connection there when its client has connected, or when it has spoken?

With TCP_DEFER_ACCEPT, tcp(7), the kernel holds a client back that has connected and sent nothing: the connection can be
accepted when its first bytes are there, or after the time of the option.  So a worker is chosen with the request at
hand, and not before it.

**The trap.**  A client that is held back has a connection, and the server has no socket yet.  When the listener is
closed, the kernel resets such a client at its first byte: 20 of 20, where 20 of 20 are served without the option.  The
cure: before the listener is closed the option is taken away (`Deferral.end`), and accepting goes on until the
kernel has sent its next SYN-ACK to each, to which a client answers at once, silent or not.  With the least value, 1,
that is a second at most.

Some are never held back: clients that the kernel gives SYN cookies to (more are silent than the backlog holds), those
that send their request with the SYN (TCP Fast Open), and all of unix sockets.

A socket that the master was started with is shared with the process that passed it, which may give it to the next
master: it keeps what it came with (systemd's DeferAcceptSec=), and gets that back when it is closed here.
"""

from __future__ import annotations

import contextlib
import socket

from attrs import Factory, define

SECONDS = 1
"""The option's value, the least that it can have.  The kernel counts in its SYN-ACKs, which it repeats after 1, 3 and 7
seconds: with 1 a silent client comes with the first, and the cure takes no longer."""

ROUND_TRIP = 0.3
"""Seconds for the way of the SYN-ACK to the client, and of its answer: once around the earth."""


@define(eq=False)
class Deferral:
    """Whether the kernel holds the silent clients of one listening socket back.  It owns the option, not the socket."""

    socket: socket.socket
    shared: bool = False
    """Another process has the socket too."""
    _given: int = Factory(lambda self: seconds_of(self.socket), takes_self=True)
    """The value that the socket came with, in seconds."""
    _over: bool = False

    def set(self, wanted: bool) -> None:
        """Hold silent clients back from now on, or no longer.  No effect where that has no meaning, or is not ours."""
        if self._over or self.shared or self.socket.family == socket.AF_UNIX:
            return
        if wanted != bool(seconds_of(self.socket)):
            _set(self.socket, SECONDS if wanted else 0)

    def end(self) -> float:
        """Hold no client back from now on, for good.  Returns the seconds until each that is held back has come."""
        self._over = True
        value = seconds_of(self.socket)
        if not value:
            return 0.0
        _set(self.socket, 0)
        # The kernel waits 1, 2, 4 ... seconds for an answer; the last of those in `value` is half of it.
        return (value + 1) / 2 + ROUND_TRIP

    def give_back(self) -> None:
        """The socket is about to be closed here: another process may go on with it as it was."""
        if self.shared and self._given:
            _set(self.socket, self._given)


def seconds_of(sock: socket.socket) -> int:
    """For how long silent clients are held back; 0: not at all."""
    if sock.family == socket.AF_UNIX:
        return 0
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT)
    except OSError:
        return 0  # the socket is closed, or of a kind or in a sandbox that has no such option


def _set(sock: socket.socket, seconds: int) -> None:
    with contextlib.suppress(OSError):  # as above: then connections come as they always did
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, seconds)
