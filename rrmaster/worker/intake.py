"""What does a client's connection pass before the application gets it?

::

    letterbox ── PROXY header ── TLS handshake ── application

Both are passed in the worker and have a deadline, so a slow client holds its place for some seconds at most, and a
client that fails costs its own connection alone.  The master's probes pass neither.  Where neither is configured there
is no `Intake`, and the application gets the connection at once.

This module knows no async library: its callers bring their own way to wait.
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
from .duty import Duty, Taken
from .loading import CannotLoad

HEADER_S = 5.0
"""Seconds for the PROXY header.  A proxy sends it with its first packet; the specification asks for at least 3, so that
one lost packet may be sent again."""

HANDSHAKE_S = 10.0
"""Seconds for the TLS handshake: two round trips, and some packets sent again on a bad mobile network.  nginx and
asyncio allow 60, in which a silent client holds a descriptor."""

CLOSE_NOTIFY_S = 1.0
"""Seconds for sending close_notify at the end of a TLS connection.  RFC 8446 does not ask to wait for the other side's,
and asyncio's 30 would hold a drain for a client that has gone."""

FIRST_BYTE_S = 2.0
"""Seconds that a connection without a first byte is kept in a drain: many times a round trip to the other end of the
world, and gunicorn's linger.  A browser's connection made in advance would hold the worker for ever."""

NEXT_REQUEST_S = 5.0
"""Seconds that an idle connection is kept in a drain for its next request: uvicorn's keep-alive time.  Longer, and each
reload waits for clients that have nothing to ask."""

LOG_EVERY_S = 10.0
"""Seconds between two lines about refused connections, for a scan of the port refuses thousands."""

_PEEK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
_TAKE = int(socket.MSG_DONTWAIT)


class Refused(Exception):
    """The connection must be closed; the message is the reason."""


@define(eq=False)
class RefusalLog:
    """Writes one line about a refused connection, and then at most one in `LOG_EVERY_S` seconds, with a count."""

    write: Callable[[str], object] = sys.stderr.write
    clock: Callable[[], float] = time.monotonic
    _silent_until: float = float("-inf")
    _unwritten: int = 0

    def add(self, why: str, peer: object) -> None:
        """Write a line about this refusal, or count it for the next line."""
        now = self.clock()
        if now < self._silent_until:
            self._unwritten += 1
            return
        more = f" (and {self._unwritten} before it)" if self._unwritten else ""
        self._silent_until, self._unwritten = now + LOG_EVERY_S, 0
        self.write(f"a connection from {_written(peer)} was closed: {why}{more}\n")


def _written(peer: object) -> str:
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "a unix socket"


@define(eq=False)
class Intake:
    """What connections pass between the letterbox and the application, and the log of those that fail."""

    duty: Duty
    context: ssl.SSLContext | None
    """None: no TLS."""
    versions: tuple[int, ...]
    """Of the PROXY protocol that are accepted.  Empty: it is off."""
    senders: proxy_header.TrustedSenders
    refusals: RefusalLog = field(default=Factory(RefusalLog))

    @classmethod
    def of(cls, duty: Duty, launch: Launch, protocols: Sequence[str] = ()) -> Intake | None:
        """The intake that the launch asks for, or None if there is nothing to pass.

        `protocols` are offered in ALPN.  Raises CannotLoad for a certificate that cannot be used.
        """
        try:
            context = tls.context(launch, protocols)
        except tls.CannotSpeakTLS as error:
            raise CannotLoad(str(error)) from None
        versions = proxy_header.MODES[launch.proxy_protocol]
        if context is None and not versions:
            return None
        return cls(duty, context, versions, proxy_header.TrustedSenders.named(launch.proxy_allow_from))

    async def read_header(
        self, sock: socket.socket, peer: object, taken: Taken, readable: Callable[[], Awaitable[object]]
    ) -> None:
        """Read the PROXY header, and note the client's address.  Raises Refused, OSError; the caller sets a deadline.

        Not a byte beyond the header is consumed: a TLS handshake may follow, which OpenSSL reads from the socket.
        """
        if not self.senders.include(peer[0] if isinstance(peer, tuple) else None):
            raise Refused("its address may not send a PROXY header (--proxy-allow-from)")
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
        """Peek, and consume what belongs to the header: all of the header so far, and whether it is complete.

        The part of an incomplete header is consumed too, or the socket would stay readable and the loop would spin.
        """
        seen = sock.recv(proxy_header.LONGEST - len(have), _PEEK)
        if not seen:
            raise Refused("it ended before its PROXY header did" if have else "")
        length = proxy_header.size(have + seen, self.versions)
        count = len(seen) if length is None else length - len(have)
        have += sock.recv(min(count, len(seen)), _TAKE)
        return have, length == len(have)

    def report_refusal(self, error: BaseException, taken: Taken, peer: object) -> None:
        """Log why a connection is closed, unless the client has merely disconnected."""
        why = reason(error)
        if why:
            _, header = self.duty.clients.get(taken.fd, (taken, None))
            self.refusals.add(why, peer if header is None or header.source is None else header.source)


def reason(error: BaseException) -> str:
    """The reason to log.  Empty if the client has disconnected, or the network has cut the connection."""
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, TimeoutError):
        return f"no PROXY header in {HEADER_S:g} s"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return ""
    if isinstance(error, ssl.SSLError):
        return f"no TLS handshake: {tls.openssl_reason(error)}"
    if isinstance(error, ConnectionAbortedError):
        return f"no TLS handshake in {HANDSHAKE_S:g} s"  # the error that asyncio raises for it
    return ""
