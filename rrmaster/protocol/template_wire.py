"""The messages between the master and a template, and how each is encoded as one datagram.

::

    master             the template's line        template (one process a generation; see `worker.template`)
      | <--------- Explanation ----------- |  what the import has done, for `rrmaster check --fork` alone
      | <---------- Loaded --------------- |  the application is imported, and this makes a fork unsafe
      | <---------- LoadFailed ----------- |  the application cannot be imported, and this is why
      | ------- ForkRequest + fds -------> |  fork a worker, or another template, that owns these descriptors
      | <--------- Forked + pidfd -------- |  sent by the new process itself: it runs
      | <---------- ForkFailed ----------- |  the fork failed, and this is why
      | <---------- MemoryUse ------------ |  the memory of the template

A message is one datagram of JSON, of bounded size; the line is a socket pair like a worker's.  A forked process does
nothing until it reads a byte from its *leash*, a pipe whose other end the master holds, and exits at the end of that
pipe: so a process that the master has given up waiting for never serves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from attrs import frozen

MAX = 64 * 1024
"""Bytes of one message.  The longest holds a traceback of `REASON` characters."""

REASON = 14_000
"""Characters of a reason.  Longer text loses its middle, as on a worker's line: a traceback ends with what happened."""

OWN_TO_EACH = ("RRMASTER_WORKER_SLOT", "RRMASTER_WORKER_ID", "RRMASTER_WORKER_COUNT")
"""Environment variables that each worker has for itself.  A template has none of them, so an import that reads one must
not be shared."""

WORKER, TEMPLATE = "worker", "template"
"""What a template can fork.  A worker gets line, talk line, stdout, stderr and leash; a template gets line and
leash."""

GOODBYE_S = 1.0
"""Seconds for the exit handlers of a template from which no worker is forked.  They delete files, mostly; the workers
that import the application meanwhile wait for them, because the template may hold a lock that one of them asks for."""

FDS = {WORKER: 6, TEMPLATE: 2}
"""The number of descriptors that come with a request.  The forked process owns them; the template closes its copies."""


def _as_tuple(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(texts)


def _as_mappings(found: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    return tuple(found)


@frozen
class Loaded:
    """The application is imported."""

    hindrances: tuple[str, ...] = attrs.field(default=(), converter=_as_tuple)
    """What the import has left behind that makes a fork unsafe, as phrases of `safety.hindrances`."""


@frozen
class Explanation:
    """All that the import has done and that matters to a fork: sent before `Loaded`, if the template was asked for it.

    Each is a mapping of `what`, `verdict`, `why` and `todo` to texts, and of `origin` to a list of modules.
    """

    findings: tuple[Mapping[str, Any], ...] = attrs.field(default=(), converter=_as_mappings)


@frozen
class LoadFailed:
    """The application cannot be imported."""

    reason: str
    """Why: a traceback, mostly."""
    asked: tuple[str, ...] = attrs.field(default=(), converter=_as_tuple)
    """The variables of `OWN_TO_EACH` that the import read: in a worker, which has them, the import may succeed."""


@frozen
class ForkRequest:
    """Fork a process."""

    number: int
    """Counts requests; the answer repeats it."""
    kind: str = WORKER
    """WORKER or TEMPLATE."""
    environ: Mapping[str, str] = attrs.Factory(dict)
    """Variables that are added to the template's."""
    title: tuple[str, ...] = attrs.field(default=(), converter=_as_tuple)
    """The arguments that `ps` shows."""
    notes: bool = False
    """One more descriptor comes before the leash: the page for a worker's last words."""


@frozen
class Forked:
    """The process was forked and runs.  A pidfd of it comes along, which the master owns."""

    number: int
    pid: int


@frozen
class ForkFailed:
    """The process could not be forked."""

    number: int
    reason: str


@frozen
class MemoryUse:
    """The memory of a template, in bytes."""

    uss: int
    """Its own alone."""
    pss: int
    """Its own, and its part of what it shares."""
    rss: int
    """All that it maps."""


Message = Loaded | Explanation | LoadFailed | ForkRequest | Forked | ForkFailed | MemoryUse

_KINDS: dict[str, type[Any]] = {
    "Loaded": Loaded,
    "Explanation": Explanation,
    "Unloadable": LoadFailed,
    "Order": ForkRequest,
    "Newborn": Forked,
    "Barren": ForkFailed,
    "Weighed": MemoryUse,
}
"""The messages by their names on the line, which stay when a class is renamed."""

_NAMES = {kind: name for name, kind in _KINDS.items()}


def encode(message: Message) -> bytes:
    """One message as one datagram."""
    return json.dumps({"is": _NAMES[type(message)]} | attrs.asdict(message)).encode()


def decode(datagram: bytes) -> Message:
    """The message that `encode` has encoded.  Raises ValueError for anything else."""
    try:
        fields = json.loads(datagram)
        kind = _KINDS[fields.pop("is")]
        message: Message = kind(**fields)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"no message of a template's line: {error}") from None
    if not _fits(message):
        raise ValueError(f"no message of a template's line: {fields}")
    return message


MOST_BYTES = 1 << 63
"""JSON has numbers that no float can hold, and a status is shown as floats."""


def _fits(message: Message) -> bool:
    """Whether the fields have the right types: a template runs an application's code, and is not trusted."""
    match message:
        case MemoryUse(uss, pss, rss):
            return all(type(value) is int and 0 <= value < MOST_BYTES for value in (uss, pss, rss))
        case Forked(number, pid):
            return type(number) is int and type(pid) is int
        case ForkFailed(number, reason):
            return type(number) is int and isinstance(reason, str)
        case LoadFailed(reason, asked):
            return isinstance(reason, str) and all(isinstance(name, str) for name in asked)
        case Explanation(findings):
            return all(isinstance(each, dict) for each in findings)
        case Loaded(hindrances):
            return all(isinstance(text, str) for text in hindrances)
    is_kind = isinstance(message.kind, str) and message.kind in FDS  # a list, say, cannot be looked up
    named = type(message.number) is int and is_kind and isinstance(message.environ, dict)
    return named and type(message.notes) is bool


def bounded(text: str) -> str:
    """The text, or its beginning and end if it is too long for a message."""
    kept, half = text, REASON // 2
    # Both bounds: one character may take twelve bytes of JSON.
    while len(kept) > REASON + len(_CUT) or len(json.dumps(kept)) > MAX - 1024:
        kept, half = text[:half] + _CUT + text[-half:], half // 2
    return kept


_CUT = "\n[...]\n"
