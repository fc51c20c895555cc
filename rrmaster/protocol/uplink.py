"""What does a datagram from a worker say?  Every field is checked, because a worker runs an application's code.

Only the master decodes these messages, so a worker does not load this module.  `wire` has the messages themselves.
"""

from __future__ import annotations

import ipaddress
import json
import struct
from typing import Any

from .wire import (
    ATTEND,
    FAILED,
    LISTEN,
    MAX_PATH,
    PROTOCOL,
    READY,
    REPORT,
    REPORT_BODY,
    RETIRING,
    SHORT_REPORT,
    Attend,
    Failed,
    Listen,
    ProtocolError,
    Ready,
    Report,
    Retiring,
    Up,
    unframe,
)


def decode_up(datagram: bytes) -> Up | None:
    """What a worker sent.  None: a kind this version does not know.

    Raises ProtocolError for a malformed datagram; the caller then trusts this worker no further, and kills it.
    """
    kind, body = unframe(datagram)
    try:
        if kind == REPORT:
            if len(body) < SHORT_REPORT.size:
                raise ProtocolError(f"malformed message of kind {kind}: a report of {len(body)} bytes")
            # The last counts may be missing: an older worker, or one of another language, does not tell them.
            fields = REPORT_BODY.unpack_from(body.ljust(REPORT_BODY.size, b"\0"))
            closed, busy, taking, asides, lag, rss, cpu, requests, orphaned, oldest, full, parked = fields
            return Report(
                closed, busy, bool(taking), lag, rss, cpu, asides, requests, orphaned, oldest, bool(full), parked
            )
        if kind == READY:
            return _ready(json.loads(body))
        if kind == FAILED:
            return Failed(_reason(json.loads(body)))
        if kind == RETIRING:
            fields = json.loads(body)
            return Retiring(_reason(fields), fields.get("now") is True)
        if kind == LISTEN:
            return _listen(json.loads(body))
        if kind == ATTEND:
            return _attend(json.loads(body))
    # RecursionError: JSON of a few thousand brackets fits `MAX_UP`.
    except (struct.error, TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"malformed message of kind {kind}: {error}") from None
    return None


def _ready(body: Any) -> Ready:
    if not isinstance(body, dict) or body.get("protocol") != PROTOCOL:
        raise ProtocolError(f"a worker must speak protocol {PROTOCOL}")
    pid, listeners = body.get("pid"), body.get("listeners")
    if type(pid) is not int or not (listeners is None or _are_numbers(listeners)):
        raise ProtocolError("Ready must give its pid, and listeners by number")
    parks, client_first = body.get("parks") is True, body.get("client_first") is True
    places = _number_or_none(body, "places", 0xFFFFFFFF) or None
    return Ready(pid, PROTOCOL, None if listeners is None else tuple(listeners), parks, client_first, places)


def _listen(body: Any) -> Listen:
    fields = dict(body)
    seq, backlog = _number(fields, "seq", 0xFFFF), _number_or_none(fields, "backlog", 0xFFFF)
    if fields.get("path"):
        path = fields["path"]
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path or len(path) > MAX_PATH:
            raise ProtocolError("Listen must give a unix socket by its absolute path")
        return Listen(seq, path=path, backlog=backlog, mode=_number_or_none(fields, "mode", 0o777))
    host = fields.get("host")
    if not isinstance(host, str):
        raise ProtocolError("Listen must give a host or a path")
    ipaddress.ip_address(host)  # raises ValueError for a name: the master resolves none
    return Listen(seq, host, _number(fields, "port", 0xFFFF), _number(fields, "index", 0xFFFF), backlog=backlog)


def _attend(body: Any) -> Attend:
    fields = dict(body)
    return Attend(_number(fields, "listener", 0xFFFF), fields.get("here") is True)


def _number(fields: dict[str, Any], name: str, most: int) -> int:
    value = fields.get(name)
    # Not isinstance: True is an int, and no number in JSON.
    if type(value) is not int or not 0 <= value <= most:
        raise ProtocolError(f"{name} must be a number from 0 to {most}")
    return value


def _number_or_none(fields: dict[str, Any], name: str, most: int) -> int | None:
    return None if fields.get(name) is None else _number(fields, name, most)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _reason(body: Any) -> str:
    if not isinstance(body, dict) or not isinstance(body.get("reason"), str):
        raise ProtocolError("a reason must be text")
    return str(body["reason"])
