"""What master and template say to each other, and how it is spelled.

::

    master             the template's line        template (one process a generation; see `worker.template`)
      | <---------- Loaded --------------- |  the application is imported, and this was in the way of a fork
      | <---------- LoadFailed ----------- |  it cannot be, and this is why
      | ----------- ForkRequest + fds ---------> |  fork a worker, or another template, that owns these
      | <---------- Forked + pidfd ------ |  said by the new process itself: here I am
      | <---------- ForkFailed --------------- |  nobody could be forked, and this is why
      | <---------- MemoryUse -------------- |  so much memory is mine

One message is one datagram of JSON, a line each way like a worker's, and bounded.  A newborn does nothing before a byte
comes through its *leash*, a pipe; at the end of that it ends: so who was given up for lost never serves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from attrs import frozen

MAX = 64 * 1024
"""Bytes of one message.  The longest is a traceback, of which `REASON` is kept."""

REASON = 14_000
"""Characters of a reason; longer text loses its middle, for a traceback ends with what happened.  As on a worker's
line."""

OWN_TO_EACH = ("RRMASTER_WORKER_SLOT", "RRMASTER_WORKER_ID", "RRMASTER_WORKER_COUNT")
"""Environment that each worker has for itself.  A template has none of it, so an import that asks for it is not to be
shared."""

WORKER, TEMPLATE = "worker", "template"
"""What may be forked.  A worker is given line, talk line, stdout, stderr and leash; a template line and leash."""

FDS = {WORKER: 5, TEMPLATE: 2}
"""How many descriptors come with an order."""


def _words(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(texts)


@frozen
class Loaded:
    """The application is imported."""

    hindrances: tuple[str, ...] = attrs.field(default=(), converter=_words)
    """What it has left behind that makes a fork unsafe, in words."""


@frozen
class LoadFailed:
    """It cannot be imported, and this is why."""

    reason: str
    asked: tuple[str, ...] = attrs.field(default=(), converter=_words)
    """Those of `OWN_TO_EACH` that it asked for: a worker might have more luck."""


@frozen
class ForkRequest:
    """Fork."""

    number: int
    kind: str = WORKER
    environ: Mapping[str, str] = attrs.Factory(dict)
    """What is added to the template's."""
    title: tuple[str, ...] = attrs.field(default=(), converter=_words)
    """For `ps`."""


@frozen
class Forked:
    """The order has been carried out; a pidfd comes with it."""

    number: int
    pid: int


@frozen
class ForkFailed:
    """It could not be."""

    number: int
    reason: str


@frozen
class MemoryUse:
    """The memory of a template, in bytes: its own alone, its share of what is shared, all that is mapped."""

    uss: int
    pss: int
    rss: int


Message = Loaded | LoadFailed | ForkRequest | Forked | ForkFailed | MemoryUse

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Loaded, LoadFailed, ForkRequest, Forked, ForkFailed, MemoryUse)
}


def encode(message: Message) -> bytes:
    """As one datagram."""
    return json.dumps({"is": type(message).__name__} | attrs.asdict(message)).encode()


def decode(datagram: bytes) -> Message:
    """What `encode` has spelled.  Raises ValueError for anything else."""
    try:
        fields = json.loads(datagram)
        kind = _KINDS[fields.pop("is")]
        message: Message = kind(**fields)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"no message of a template's line: {error}") from None
    if not _fits(message):
        raise ValueError(f"no message of a template's line: {fields}")
    return message


def _fits(message: Message) -> bool:
    """Whether its fields are what they should be: a template runs an application's code, and is not believed."""
    match message:
        case MemoryUse(uss, pss, rss):
            return all(type(value) is int and value >= 0 for value in (uss, pss, rss))
        case Forked(number, pid):
            return type(number) is int and type(pid) is int
        case ForkFailed(number, reason):
            return type(number) is int and isinstance(reason, str)
        case LoadFailed(reason, asked):
            return isinstance(reason, str) and all(isinstance(name, str) for name in asked)
        case Loaded(hindrances):
            return all(isinstance(text, str) for text in hindrances)
    return type(message.number) is int and message.kind in FDS and isinstance(message.environ, dict)


def bounded(text: str) -> str:
    """Not too long for a message, however it has to be spelled."""
    kept, half = text, REASON // 2
    while len(kept) > REASON + len(_CUT) or len(json.dumps(kept)) > MAX - 1024:
        kept, half = text[:half] + _CUT + text[-half:], half // 2
    return kept


_CUT = "\n[...]\n"
