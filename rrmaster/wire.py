"""What is said on the line, and how it is spelled.

::

    master             the line              worker
      | <----------- Ready -------------- |  I can take connections
      | ------------ Handoff + fd ------> |  here is one
      | <----------- Report ------------- |  closed since birth, busy now, taking or not
      | ------------ Nudge -------------> |  report as soon as you read this
      | <----------- Failed ------------- |  I could not start, and this is why
      | <----------- Retiring ----------- |  please replace me
      | ------------ (half-close) ------> |  there will be no more

One message is one datagram of an ``AF_UNIX`` ``SOCK_SEQPACKET`` socket pair: a header of four bytes (kind, a
spare byte, length of the body), then a fixed struct or JSON, little-endian, never pickle, never empty (an empty
datagram reads as end of stream).  A body longer than its struct is read as far as it is known, and an unknown
kind is skipped: so an old worker survives a new master, and the other way round.

Everything the master sends down a line has the same length, ``DOWN_SIZE``: the kernel then charges the same for
each, and the number of unread messages is a division (see `channel`).

This module knows bytes and messages.  It does not know sockets, descriptors or who is speaking.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from attrs import frozen

PROTOCOL = 1
"""The version a worker states in `Ready`."""

MAX_UP = 16 * 1024
"""Bytes, the largest message a worker may send: a traceback has room, a flood does not."""

MAX_REASON = 12 * 1024
"""Bytes of text in `Failed` and `Retiring`.  Longer text loses its middle; a traceback ends with what happened."""

DOWN_SIZE = 16
"""Bytes of every message to a worker.  Up to some 200 bytes weigh the same in the kernel; 16 are enough."""

READY, REPORT, FAILED, RETIRING = 1, 2, 3, 4
HANDOFF, NUDGE = 16, 17
# Reserved, so that the numbers are not given away: a worker that asks for an address of its own, and messages
# between the applications on either side, which travel on a line of their own.
LISTEN, LISTENING, NOTE = 5, 18, 32

PROBE = 1
"""Flag of a `Handoff`: this connection is the master's own question, not a client."""

_HEADER = struct.Struct("<BxH")
_HANDOFF = struct.Struct("<HBBBxxxxxxx")
_REPORT = struct.Struct("<QIBxHIQQQ")


class ProtocolError(Exception):
    """The other side sent what nobody who keeps to this module would send."""


@frozen
class Ready:
    """The worker can take connections, for these listeners (None: for all of them)."""

    pid: int
    protocol: int = PROTOCOL
    listeners: tuple[int, ...] | None = None


@frozen
class Report:
    """The worker's state, said by the loop that serves.  Counts are since birth, so the newest says all."""

    closed: int
    """Connections taken and finished since birth."""
    busy: int = 0
    """Requests in progress now; for a stream handler, connections in progress."""
    taking: bool = True
    """False: hand me nothing (descriptors short, or told to pause)."""
    lag_us: int = 0
    """Microseconds by which the loop was late at worst since the last report."""
    rss: int = 0
    """Bytes of resident memory."""
    cpu_us: int = 0
    """Microseconds of processor time since birth."""
    asides: int = 0
    """How many messages it has read that were no clients (asides and probes), modulo 65536: the master tells by it
    how many of them still lie in the letterbox."""
    requests: int = 0
    """Requests finished since birth, over however many connections; for a stream handler, connections finished."""


@frozen
class Failed:
    """The worker could not start, and this is why."""

    reason: str


@frozen
class Retiring:
    """The worker asks to be replaced, and drained once it is."""

    reason: str


@frozen
class Handoff:
    """One connection.  A descriptor comes with it, and belongs to whoever received it."""

    listener: int = 0
    """The number of the listener it was accepted from."""
    recalled: int = 0
    """How often it was taken back from a late worker before."""
    probe: bool = False
    family: int = 0
    """The address family of the socket (AF_INET ...); 0: ask the socket."""


@frozen
class Nudge:
    """Report at once.  Sent to a worker that was late: its answer is the proof that it serves again."""


Up = Ready | Report | Failed | Retiring
Down = Handoff | Nudge


def encode(message: Up | Down) -> bytes:
    """Spell one message as one datagram."""
    match message:
        case Report():
            return _frame(REPORT, _pack_report(message))
        case Handoff():
            flag = PROBE if message.probe else 0
            return _frame(HANDOFF, _HANDOFF.pack(message.listener, message.recalled, flag, message.family))
        case Nudge():
            return _frame(NUDGE, bytes(DOWN_SIZE - _HEADER.size))
        case Ready():
            body = {"protocol": message.protocol, "pid": message.pid, "listeners": message.listeners}
            return _frame(READY, _json(body))
        case Failed():
            return _frame(FAILED, _json({"reason": _bounded(message.reason)}))
        case Retiring():
            return _frame(RETIRING, _json({"reason": _bounded(message.reason)}))


def decode_up(datagram: bytes) -> Up | None:
    """Read what a worker sent.  None: a kind this version does not know.

    Raises ProtocolError for anything malformed: the worker is then not to be believed in anything else either.
    """
    kind, body = _unframe(datagram)
    try:
        if kind == REPORT:
            closed, busy, taking, asides, lag, rss, cpu, requests = _REPORT.unpack_from(body)
            return Report(closed, busy, bool(taking), lag, rss, cpu, asides, requests)
        if kind == READY:
            return _ready(json.loads(body))
        if kind == FAILED:
            return Failed(_reason(json.loads(body)))
        if kind == RETIRING:
            return Retiring(_reason(json.loads(body)))
    # RecursionError: JSON of a few thousand brackets fits the bound.
    except (struct.error, ValueError, RecursionError) as error:
        raise ProtocolError(f"malformed message of kind {kind}: {error}") from None
    return None


def decode_down(datagram: bytes) -> Down | None:
    """Read what the master sent.  None: a kind this version does not know.  Raises ProtocolError."""
    kind, body = _unframe(datagram)
    if kind == HANDOFF:
        try:
            listener, recalled, flags, family = _HANDOFF.unpack_from(body)
        except struct.error as error:
            raise ProtocolError(f"malformed handoff: {error}") from None
        return Handoff(listener, recalled, bool(flags & PROBE), family)
    return Nudge() if kind == NUDGE else None


def _frame(kind: int, body: bytes) -> bytes:
    return _HEADER.pack(kind, len(body)) + body


def _unframe(datagram: bytes) -> tuple[int, bytes]:
    if len(datagram) < _HEADER.size:
        raise ProtocolError(f"a message of {len(datagram)} bytes has no header")
    kind, length = _HEADER.unpack_from(datagram)
    if length != len(datagram) - _HEADER.size:
        raise ProtocolError(f"a message of {len(datagram)} bytes claims a body of {length}")
    return kind, datagram[_HEADER.size :]


def _pack_report(r: Report) -> bytes:
    lag = min(r.lag_us, 2**32 - 1)
    return _REPORT.pack(r.closed, r.busy, r.taking, r.asides % 65536, lag, r.rss, r.cpu_us, r.requests)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _ready(body: Any) -> Ready:
    if not isinstance(body, dict) or body.get("protocol") != PROTOCOL:
        raise ProtocolError(f"a worker must speak protocol {PROTOCOL}")
    pid, listeners = body.get("pid"), body.get("listeners")
    if type(pid) is not int or not (listeners is None or _are_numbers(listeners)):
        raise ProtocolError("Ready names its pid, and listeners by number")
    return Ready(pid, PROTOCOL, None if listeners is None else tuple(listeners))


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _reason(body: Any) -> str:
    if not isinstance(body, dict) or not isinstance(body.get("reason"), str):
        raise ProtocolError("a reason must be text")
    return str(body["reason"])


def _bounded(text: str) -> str:
    """The beginning and the end of the text, as far as they fit: JSON may spell one character in twelve bytes."""
    keep = len(text)
    while len(json.dumps(text)) > MAX_REASON:
        keep -= keep // 8 + 1
        text = f"{text[: keep // 4]} [...] {text[-(keep - keep // 4) :]}"
    return text
