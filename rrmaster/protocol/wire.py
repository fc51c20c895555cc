"""The messages between master and worker, and how each is encoded as one datagram.

::

    master             the line              worker
      | <----------- Ready -------------- |  I can take connections
      | ------------ Handoff + fd ------> |  here is a connection
      | <----------- Report ------------- |  closed since birth, busy now, taking or not
      | ------------ Nudge -------------> |  report as soon as you read this
      | <----------- Failed ------------- |  I could not start, and this is why
      | <----------- Retiring ----------- |  please replace me
      | <----------- Listen ------------- |  open this address for me, I serve it
      | ------------ Listening ---------> |  it is open, or the errno
      | <----------- Attend ------------- |  I serve that listener no more, or again
      | ------------ Lane + fd ---------> |  park idle connections here (docs/protocol.md, "Parking")
      | ------------ (half-close) ------> |  there will be no more
                       the talk line
      | <----------- Note --------------> |  an application message

One message is one datagram of an ``AF_UNIX`` ``SOCK_SEQPACKET`` socket pair: a header of four bytes (kind, a spare
byte, length of the body), then a fixed struct or JSON, little-endian.  It is never pickle, because neither side trusts
the other, and never empty, because an empty datagram reads as end of stream.  A body longer than its struct is read as
far as it is known, and an unknown kind is skipped: so an old worker works with a new master, and a new worker with an
old master.  docs/protocol.md is the specification for workers in other languages.

All messages to a worker have the same length, ``DOWN_SIZE``, and a Handoff may have a memo behind it: up to
``MAX_DOWN`` the kernel charges the same for each, and the number of unread messages is a division (see `line`).

This module knows bytes and messages, no sockets and no descriptors.  `uplink` decodes what a worker sends.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from attrs import frozen

from .parking.lane import MAX_MEMO

PROTOCOL = 1
"""The version of the protocol, which a worker states in `Ready`."""

MAX_UP = 16 * 1024
"""Bytes of the largest message a worker may send.  A traceback fits; the master reads no more at once."""

MAX_NOTE = 60 * 1024
"""Bytes of JSON in a `Note`, the application's message.  Three of the largest fit a default socket buffer."""

MAX_REASON = 12 * 1024
"""Bytes of a reason as JSON, in `Failed` and `Retiring`.  Longer text loses its middle: a traceback says at its
beginning where, and at its end what happened."""

DOWN_SIZE = 16
"""Bytes of every message to a worker, without a memo."""

MAX_DOWN = DOWN_SIZE + MAX_MEMO
"""Bytes of the longest message to a worker.  The kernel charges the same for up to 192 (768; measured, Linux 6.18)."""

MAX_PATH = 1024
"""Characters of a unix socket's path: ten times what an address holds, and in JSON it still fits `MAX_UP`."""

MAX_LISTENERS = 64
"""Listeners that one worker may serve or have asked for at a time.  A program has two or three."""

READY, REPORT, FAILED, RETIRING, LISTEN, ATTEND = 1, 2, 3, 4, 5, 6
HANDOFF, NUDGE, LISTENING, LANE = 16, 17, 18, 19
NOTE = 32
"""The kind of an application's message: on the talk line alone, both ways."""

REPORT_AFTER = 0.002
"""Seconds over which a worker gathers changes into one report: at most 500 reports a second, and the master's count is
never older than this.  The master suspects a worker that has taken a connection and not reported for longer."""

PROBE, RESUMED = 1, 2
"""Flags of a `Handoff`: the connection is the master's own health check; it was parked, and a memo follows."""

_HEADER = struct.Struct("<BxH")
_HANDOFF = struct.Struct("<HBBBxxxI")
_LISTENING = struct.Struct("<HHHHxxxx")
REPORT_BODY = struct.Struct("<QIBxHIQQQIIBQ")
SHORT_REPORT = struct.Struct("<QIBxHIQQQ")
"""A report of a worker that knows nothing of what comes behind: `Report.orphaned`, `oldest_ms`, `full`, `parked`."""

pack_time = struct.Struct("<I").pack
"""The last bytes of a `Handoff`, its time, alone: the rest is the same for all connections of a listener."""


class ProtocolError(Exception):
    """The other side sent a datagram that this protocol does not allow."""


@frozen
class Ready:
    """The worker can take connections."""

    pid: int
    protocol: int = PROTOCOL
    listeners: tuple[int, ...] | None = None
    """The numbers of the listeners it serves; None: all of them, also those opened later."""
    parks: bool = False
    """It parks idle connections, if it is given a lane."""
    client_first: bool = False
    """Its clients speak first, as in HTTP: it need not have a connection before its first bytes are there."""
    places: int | None = None
    """It has so many places, where they are a limit of requests."""


@frozen
class Report:
    """The worker's state, sent by the loop that serves.  Counts run since the process started: the newest is enough."""

    closed: int
    """Connections taken and closed since the process started."""
    busy: int = 0
    """Requests in progress now; for a stream handler, connections in progress."""
    taking: bool = True
    """False: the worker wants no connections (descriptors are short, or the application has paused it)."""
    lag_us: int = 0
    """Microseconds by which the loop was late at worst since the last report: bounded to 32 bits."""
    rss: int = 0
    """Bytes of resident memory."""
    cpu_us: int = 0
    """Microseconds of processor time since the process started."""
    asides: int = 0
    """Messages it has read that were no clients (nudges, answers, probes), modulo 65536: the others lie there still."""
    requests: int = 0
    """Requests finished since the process started; for a stream handler, connections finished."""
    orphaned: int = 0
    """How many of `busy` have no connection: its client has left, or it has its answer, and the work goes on."""
    oldest_ms: int = 0
    """Milliseconds for which the oldest request has been in progress, websockets not counted; 0: there is none."""
    full: bool = False
    """What requests wait for is all taken (threads, say): connections should go to others that have some left."""
    parked: int = 0
    """How many of `closed` were parked, and not closed."""


class NoteRefused(ValueError):
    """The value cannot be sent as a message: it is no JSON value (NaN is none), or takes more than 60 KiB as JSON."""


@frozen
class Failed:
    """The worker could not start, and the reason why, mostly a traceback.  The worker then exits."""

    reason: str


@frozen
class Retiring:
    """The worker asks to be replaced, and drained when its replacement serves."""

    reason: str
    now: bool = False
    """True: drained at once, whether a replacement serves or not."""

    @property
    def line(self) -> str:
        """The reason as a part of one line of the log; it may hold what a client sent."""
        return " ".join(self.reason.split())


@frozen
class Listen:
    """The worker asks for an address, and will serve it.  The master opens it, once for all, and answers
    `Listening`."""

    seq: int
    """0 to 65535, chosen by the worker; the answer repeats it."""
    host: str = ""
    """An IP address, no name: to resolve a name takes time, and the master never waits."""
    port: int = 0
    """0: a free port."""
    index: int = 0
    """With port 0: the number of this request among the worker's requests for port 0 at this host, from 0.  The same
    index is the same port for all workers."""
    path: str = ""
    """The absolute path of a unix socket, instead of host and port."""
    backlog: int | None = None
    """Connections that may wait in the kernel; None: the master's own setting."""
    mode: int | None = None
    """Permissions of the unix socket; None: the master's own setting."""


@frozen
class Attend:
    """The worker takes no more connections of a listener, or takes them again.

    The master recalls the listener's connections from the letterbox if other workers serve it.
    """

    listener: int
    here: bool
    """False: no more of them."""


@frozen
class Handoff:
    """One connection.  A descriptor comes with it, and the process that receives it owns it."""

    listener: int = 0
    """The number of the listener it was accepted from."""
    recalled: int = 0
    """How often it was recalled from a late worker before."""
    probe: bool = False
    """Whether it is the master's own health check."""
    family: int = 0
    """The address family of the socket (AF_INET ...); 0: ask the socket."""
    accepted_at: int = 0
    """When it was accepted, as `figures.clock_us` tells the time; 0: not known."""
    memo: bytes | None = None
    """What the worker that has parked it wants the next one to know; None: it was never parked."""


@frozen
class Nudge:
    """A request to report at once.  Sent to a late worker: its answer proves that its loop runs again."""


@frozen
class Listening:
    """The answer to a `Listen`."""

    seq: int
    errno: int = 0
    """0: the address is open; otherwise why it could not be opened."""
    listener: int = 0
    """The number of the listener."""
    port: int = 0
    """The port that it listens on; for port 0 the one that was found."""


@frozen
class Lane:
    """The lane through which this worker parks connections from now on.  A descriptor comes with it."""


Up = Ready | Report | Failed | Retiring | Listen | Attend
Down = Handoff | Nudge | Listening | Lane
"""What a worker sends, and what the master sends."""


def encode(message: Up | Down) -> bytes:
    """One message as one datagram."""
    match message:  # the two of the hot path first, for the cases are tried in order
        case Report():
            return _frame(REPORT, _pack_report(message))
        case Handoff():
            return _frame(HANDOFF, _pack_handoff(message))
        case Nudge() | Lane():
            return _frame(NUDGE if isinstance(message, Nudge) else LANE, bytes(DOWN_SIZE - _HEADER.size))
        case Ready():
            return _frame(READY, _json({name: getattr(message, name) for name in Ready.__match_args__}))
        case Failed():
            return _frame(FAILED, _json({"reason": _bounded(message.reason)}))
        case Retiring():
            return _frame(RETIRING, _json({"reason": _bounded(message.reason), "now": message.now}))
        case Listen():
            return _frame(LISTEN, _json(_listen_body(message)))
        case Attend():
            return _frame(ATTEND, _json({"listener": message.listener, "here": message.here}))
        case Listening():
            return _frame(LISTENING, _LISTENING.pack(message.seq, message.errno, message.listener, message.port))


def decode_down(datagram: bytes) -> Down | None:
    """What the master sent.  None: a kind this version does not know.  Raises ProtocolError."""
    kind, body = unframe(datagram)
    try:
        if kind == HANDOFF:
            listener, recalled, flags, family, accepted_at = _HANDOFF.unpack_from(body)
            memo = body[_HANDOFF.size :] if flags & RESUMED else None
            return Handoff(listener, recalled, bool(flags & PROBE), family, accepted_at, memo)
        if kind == LISTENING:
            return Listening(*_LISTENING.unpack_from(body))
    except struct.error as error:
        raise ProtocolError(f"malformed message of kind {kind}: {error}") from None
    return Nudge() if kind == NUDGE else Lane() if kind == LANE else None


_spell = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode  # once: `json.dumps` makes one each time


def _json(value: Any) -> bytes:
    return _spell(value).encode()


def encode_note(value: Any) -> bytes:
    """An application's message as one datagram of the talk line.  Raises NoteRefused."""
    try:
        body = _spell(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise NoteRefused(f"a message is a JSON value, and this is none: {error}") from None
    if len(body) > MAX_NOTE:
        raise NoteRefused(f"a message has at most {MAX_NOTE} bytes of JSON, and this has {len(body)}; send it in parts")
    return _frame(NOTE, body)


def decode_note(datagram: bytes) -> tuple[Any] | None:
    """The message of a datagram, in a tuple, for it may be None; None: an unknown kind.  Raises ProtocolError."""
    kind, body = unframe(datagram)
    if kind != NOTE:
        return None
    try:
        return (json.loads(body),)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"malformed message of the application: {error}") from None


def _frame(kind: int, body: bytes) -> bytes:
    return _HEADER.pack(kind, len(body)) + body


def unframe(datagram: bytes) -> tuple[int, bytes]:
    """The kind and the body of a datagram.  Raises ProtocolError."""
    if len(datagram) < _HEADER.size:
        raise ProtocolError(f"a message of {len(datagram)} bytes has no header")
    kind, length = _HEADER.unpack_from(datagram)
    if length != len(datagram) - _HEADER.size:
        raise ProtocolError(f"a message of {len(datagram)} bytes claims a body of {length}")
    return kind, datagram[_HEADER.size :]


def _pack_handoff(h: Handoff) -> bytes:
    flag = PROBE if h.probe else 0 if h.memo is None else RESUMED
    return _HANDOFF.pack(h.listener, h.recalled, flag, h.family, h.accepted_at) + (h.memo or b"")


def _pack_report(r: Report) -> bytes:
    lag, oldest = min(r.lag_us, 2**32 - 1), min(r.oldest_ms, 2**32 - 1)  # a loop was stuck for more than 71 minutes
    counts = (r.closed, r.busy, r.taking, r.asides % 65536, lag, r.rss, r.cpu_us, r.requests, r.orphaned, oldest)
    return REPORT_BODY.pack(*counts, r.full, r.parked)


def _listen_body(message: Listen) -> dict[str, Any]:
    body: dict[str, Any] = {"seq": message.seq, "backlog": message.backlog}
    if message.path:
        return body | {"path": message.path, "mode": message.mode}
    return body | {"host": message.host, "port": message.port, "index": message.index}


def _bounded(text: str) -> str:
    """The beginning and the end of the text, as far as they fit: one character may take twelve bytes of JSON."""
    keep = len(text)
    while len(json.dumps(text)) > MAX_REASON:
        keep -= keep // 8 + 1
        text = f"{text[: keep // 4]} [...] {text[-(keep - keep // 4) :]}"
    return text
