"""What is said on the line, and how it is spelled.

::

    master             the line              worker
      | <----------- Ready -------------- |  I can take connections
      | ------------ Handoff + fd ------> |  here is one
      | <----------- Report ------------- |  closed since birth, busy now, taking or not
      | ------------ Nudge -------------> |  report as soon as you read this
      | <----------- Failed ------------- |  I could not start, and this is why
      | <----------- Retiring ----------- |  please replace me
      | <----------- Listen ------------- |  open this address for me, I serve it
      | ------------ Listening ---------> |  it is open, or the errno
      | <----------- Attend ------------- |  I serve that listener no more, or again
      | ------------ (half-close) ------> |  there will be no more
                       the talk line
      | <----------- Note --------------> |  an application message

One message is one datagram of an ``AF_UNIX`` ``SOCK_SEQPACKET`` socket pair: a header of four bytes (kind, a
spare byte, length of the body), then a fixed struct or JSON, little-endian, never pickle, never empty (an empty
datagram reads as end of stream).  A body longer than its struct is read as far as it is known, and an unknown
kind is skipped: so an old worker survives a new master, and the other way round.

Everything the master sends down a line has the same length, ``DOWN_SIZE``: the kernel then charges the same for
each, and the number of unread messages is a division (see `channel`).

This module knows bytes and messages.  It does not know sockets, descriptors or who is speaking.
"""

from __future__ import annotations

import ipaddress
import json
import struct
from typing import Any

from attrs import frozen

PROTOCOL = 1
"""The version a worker states in `Ready`."""

MAX_UP = 16 * 1024
"""Bytes, the largest message a worker may send: a traceback has room, a flood does not."""

MAX_NOTE = 60 * 1024
"""Bytes of JSON in a `Note`.  One message is one datagram, and three of the largest fit a default socket buffer."""

MAX_REASON = 12 * 1024
"""Bytes of text in `Failed` and `Retiring`.  Longer text loses its middle; a traceback ends with what happened."""

DOWN_SIZE = 16
"""Bytes of every message to a worker.  Up to some 200 bytes weigh the same in the kernel; 16 are enough."""

MAX_PATH = 1024
"""Characters of a unix socket's path, ten times what an address holds; each may take twelve bytes of JSON."""

MAX_LISTENERS = 64
"""Listeners that one worker may have asked for and not left.  A program has two or three."""

READY, REPORT, FAILED, RETIRING, LISTEN, ATTEND = 1, 2, 3, 4, 5, 6
HANDOFF, NUDGE, LISTENING = 16, 17, 18
NOTE = 32
"""Travels on the talk line alone, both ways."""

REPORT_AFTER = 0.002
"""Seconds over which a worker gathers its news into one report: 500 a second at most, and load is never older than
this.  So long after it has taken something the master expects to hear of it."""

PROBE = 1
"""Flag of a `Handoff`: this connection is the master's own question, not a client."""

_HEADER = struct.Struct("<BxH")
_HANDOFF = struct.Struct("<HBBBxxxxxxx")
_LISTENING = struct.Struct("<HHHHxxxx")
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


class NoteRefused(ValueError):
    """The value cannot be sent as a message: it is no JSON value, or too large.  The sender's fault."""


@frozen
class Failed:
    """The worker could not start, and this is why."""

    reason: str


@frozen
class Retiring:
    """The worker asks to be replaced, and drained once it is."""

    reason: str
    now: bool = False
    """Drained at once, replaced or not."""


@frozen
class Listen:
    """The worker asks for an address, and will serve it.  The master opens each once, and answers with `Listening`."""

    seq: int
    """0 to 65535, the worker's own; the answer repeats it."""
    host: str = ""
    """An IP address, no name: whoever resolves it waits, and the master waits for nobody."""
    port: int = 0
    """0: any free one."""
    index: int = 0
    """With port 0, the how-manieth of them this worker asks for at this host, from 0: the same for all workers."""
    path: str = ""
    """Instead of host and port, the absolute path of a unix socket."""
    backlog: int | None = None
    """None: the master's own."""
    mode: int | None = None
    """Permissions of the unix socket; None: the master's own."""


@frozen
class Attend:
    """The worker takes no more connections of a listener, or takes them again.

    Those of it that lie in its letterbox are taken back, as far as others serve it.
    """

    listener: int
    here: bool


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


@frozen
class Listening:
    """The answer to a `Listen`."""

    seq: int
    errno: int = 0
    """0: it is open."""
    listener: int = 0
    """Its number."""
    port: int = 0


Up = Ready | Report | Failed | Retiring | Listen | Attend
Down = Handoff | Nudge | Listening


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
            return _frame(RETIRING, _json({"reason": _bounded(message.reason), "now": message.now}))
        case Listen():
            return _frame(LISTEN, _json(_what_to_open(message)))
        case Attend():
            return _frame(ATTEND, _json({"listener": message.listener, "here": message.here}))
        case Listening():
            return _frame(LISTENING, _LISTENING.pack(message.seq, message.errno, message.listener, message.port))


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
            said = json.loads(body)
            return Retiring(_reason(said), said.get("now") is True)
        if kind == LISTEN:
            return _listen(json.loads(body))
        if kind == ATTEND:
            return _attend(json.loads(body))
    # RecursionError: JSON of a few thousand brackets fits the bound.
    except (struct.error, TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"malformed message of kind {kind}: {error}") from None
    return None


def decode_down(datagram: bytes) -> Down | None:
    """Read what the master sent.  None: a kind this version does not know.  Raises ProtocolError."""
    kind, body = _unframe(datagram)
    try:
        if kind == HANDOFF:
            listener, recalled, flags, family = _HANDOFF.unpack_from(body)
            return Handoff(listener, recalled, bool(flags & PROBE), family)
        if kind == LISTENING:
            return Listening(*_LISTENING.unpack_from(body))
    except struct.error as error:
        raise ProtocolError(f"malformed message of kind {kind}: {error}") from None
    return Nudge() if kind == NUDGE else None


_spell = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
"""Made once: `json.dumps` makes an encoder for each message."""


def encode_note(value: Any) -> bytes:
    """Spell an application's message as one datagram of the talk line.

    Raises NoteRefused for what is no JSON value (NaN is none), or takes more than `MAX_NOTE` bytes.
    """
    try:
        body = _spell(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise NoteRefused(f"a message is a JSON value, and this is none: {error}") from None
    if len(body) > MAX_NOTE:
        raise NoteRefused(f"a message has at most {MAX_NOTE} bytes of JSON, and this has {len(body)}; send it in parts")
    return _frame(NOTE, body)


def decode_note(datagram: bytes) -> tuple[Any] | None:
    """The message in a datagram of the talk line.  None: a kind this version does not know.  Raises ProtocolError."""
    kind, body = _unframe(datagram)
    if kind != NOTE:
        return None
    try:
        return (json.loads(body),)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"malformed message of the application: {error}") from None


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


def _what_to_open(message: Listen) -> dict[str, Any]:
    said: dict[str, Any] = {"seq": message.seq, "backlog": message.backlog}
    if message.path:
        return said | {"path": message.path, "mode": message.mode}
    return said | {"host": message.host, "port": message.port, "index": message.index}


def _listen(body: Any) -> Listen:
    said = dict(body)
    seq, backlog = _number(said, "seq", 0xFFFF), _number_or_none(said, "backlog", 0xFFFF)
    if said.get("path"):
        path = said["path"]
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path or len(path) > MAX_PATH:
            raise ProtocolError("Listen names a unix socket by its absolute path")
        return Listen(seq, path=path, backlog=backlog, mode=_number_or_none(said, "mode", 0o777))
    host = said.get("host")
    if not isinstance(host, str):
        raise ProtocolError("Listen names a host or a path")
    ipaddress.ip_address(host)
    return Listen(seq, host, _number(said, "port", 0xFFFF), _number(said, "index", 0xFFFF), backlog=backlog)


def _attend(body: Any) -> Attend:
    said = dict(body)
    return Attend(_number(said, "listener", 0xFFFF), said.get("here") is True)


def _number(said: dict[str, Any], name: str, most: int) -> int:
    value = said.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise ProtocolError(f"{name} must be a number from 0 to {most}")
    return value


def _number_or_none(said: dict[str, Any], name: str, most: int) -> int | None:
    return None if said.get(name) is None else _number(said, name, most)


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
