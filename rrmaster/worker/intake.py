"""What does a client's connection have to pass before it is the application's?

::

    letterbox ── PROXY header ── TLS handshake ── application

Both are passed in the worker and have a deadline, so a client that is slow at them holds its place for some seconds at
most, and one that fails costs its connection alone.  The master's own probes pass neither.  Where neither is asked for
there is no `Arrival`, and the way is as short as it was.

This room knows no async library: whoever awaits brings its own way to wait.
"""

from __future__ import annotations

import socket
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

from attrs import Factory, define, field

from ..protocol import proxy_header, tls
from ..protocol.launch import Launch
from . import Duty, Taken
from .loading import CannotLoad

HEADER_S = 5.0
"""Seconds for the PROXY header.  A proxy sends it with its first packet; the specification asks for at least 3, so that
one lost packet may be sent again."""

HANDSHAKE_S = 10.0
"""Seconds for the TLS handshake: two round trips, and some packets sent again on a bad mobile network.  nginx and
asyncio have 60, in which whoever says nothing holds a descriptor."""

GOODBYE_S = 1.0
"""Seconds for saying goodbye in TLS (close_notify) at the end.  RFC 8446 does not ask to wait for the other side's, and
asyncio's 30 would hold a drain for a client that is not there."""

VIRGIN = 2.0
"""Seconds that a connection without a first byte is kept in a drain: many times a round trip to the other end of the
world, and gunicorn's linger.  A browser's connection made in advance would hold the worker for ever."""

COMPLAIN_EVERY = 10.0
"""Seconds between two lines about connections that were refused: a scan of the port is no news."""

_PEEK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
_TAKE = int(socket.MSG_DONTWAIT)


class Refused(Exception):
    """The connection is to be closed, and why."""


@define(eq=False)
class Complaints:
    """What is said of connections refused: a line, and then one in so many seconds."""

    say: Callable[[str], object] = sys.stderr.write
    clock: Callable[[], float] = time.monotonic
    _silent_until: float = float("-inf")
    _unsaid: int = 0

    def add(self, why: str, who: object) -> None:
        """Another one."""
        now = self.clock()
        if now < self._silent_until:
            self._unsaid += 1
            return
        more = f" (and {self._unsaid} before it)" if self._unsaid else ""
        self._silent_until, self._unsaid = now + COMPLAIN_EVERY, 0
        self.say(f"a connection from {_written(who)} was closed: {why}{more}\n")


def _written(who: object) -> str:
    return f"{who[0]}:{who[1]}" if isinstance(who, tuple) else "a unix socket"


@define(eq=False)
class Arrival:
    """The way from the letterbox to the application."""

    duty: Duty
    context: ssl.SSLContext | None
    versions: tuple[int, ...]
    """Of the PROXY protocol; none: it is off."""
    senders: proxy_header.TrustedSenders
    complaints: Complaints = field(default=Factory(Complaints))

    @classmethod
    def of(cls, duty: Duty, launch: Launch, protocols: Sequence[str] = ()) -> Arrival | None:
        """As the launch says; None: nothing is to be passed.  `protocols` are offered in ALPN.  Raises CannotLoad."""
        try:
            context = tls.context(launch, protocols)
        except tls.CannotSpeakTLS as error:
            raise CannotLoad(str(error)) from None
        versions = proxy_header.MODES[launch.proxy_protocol]
        if context is None and not versions:
            return None
        return cls(duty, context, versions, proxy_header.TrustedSenders.named(launch.proxy_allow_from))

    async def announce(
        self, sock: socket.socket, peer: object, taken: Taken, readable: Callable[[], Awaitable[object]]
    ) -> None:
        """Read the PROXY header, and remember whom it names.  Raises Refused, OSError; the deadline is the caller's.

        Not a byte beyond it is consumed: what follows may be a TLS handshake.
        """
        if not self.senders.include(peer[0] if isinstance(peer, tuple) else None):
            raise Refused("it is not among those who may send a PROXY header (--proxy-allow-from)")
        have, whole = b"", False
        try:
            while not whole:
                try:
                    have, whole = self._look(sock, have)
                except BlockingIOError:
                    await readable()
            self.duty.clients[taken.fd] = (taken, proxy_header.parse(have))
        except proxy_header.MalformedHeader as error:
            raise Refused(str(error)) from None

    def _look(self, sock: socket.socket, have: bytes) -> tuple[bytes, bool]:
        """See what is there, and take what is the header's: all of that so far, and whether that was the whole."""
        seen = sock.recv(proxy_header.LONGEST - len(have), _PEEK)
        if not seen:
            raise Refused("it ended before its PROXY header did" if have else "")
        length = proxy_header.size(have + seen, self.versions)
        count = len(seen) if length is None else length - len(have)
        have += sock.recv(min(count, len(seen)), _TAKE)
        return have, length == len(have)

    def refuse(self, error: BaseException, taken: Taken, peer: object) -> None:
        """Say why a connection is closed, if that is worth a line: to leave in the middle is a client's right."""
        why = reason(error)
        if why:
            _, header = self.duty.clients.get(taken.fd, (taken, None))
            self.complaints.add(why, peer if header is None or header.source is None else header.source)


def reason(error: BaseException) -> str:
    """What to say of it; nothing: the client has just left, or the network has taken it."""
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, TimeoutError):
        return f"no PROXY header in {HEADER_S:g} s"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return ""
    if isinstance(error, ssl.SSLError):
        return f"no TLS handshake: {tls.openssl_reason(error)}"
    if isinstance(error, ConnectionAbortedError):
        return f"no TLS handshake in {HANDSHAKE_S:g} s"  # asyncio's word for it
    return ""
