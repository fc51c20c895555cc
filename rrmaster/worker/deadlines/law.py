"""For how long does a worker wait for a client?  One law, for uvicorn's and for anycorn's protocols.

::

    waiting      what the worker waits for            it ends
    ----------   ----------------------------------   ----------------------------------------------------------------
    FIRST_BYTE   a connection's first byte            `--header-timeout` after the accept: closed without a word
    HEAD         the rest of a request's head         `--header-timeout` after the accept, or after the first byte that
                                                      follows an answer: 408 and closed, however often bytes drip
    BODY         the rest of a request's body         when less than `ENOUGH` bytes come in `--body-timeout`: 408, if no
                                                      answer has begun, and closed
    READING      that it reads what is sent           when it takes less than `ENOUGH` bytes in `--send-timeout`: reset
    NOTHING      its own application, or the client   by deadlines of its own (`--keep-alive`, `--request-timeout`)
                 that rests between two requests

What comes of a body after the end of its answer is no progress: it is read only to be dropped.

READING begins when the kernel takes no more, which is a megabyte or several after the last byte that the client has
read.  Until then nothing waits in the worker, and its application goes on.

No request pays for a timer.  All connections are looked at every `LOOK_S`, from outside, so a deadline passes up to one
look late.  While the application does not read a body, the client has nothing to answer for, and its time stands still;
so does everyone's while the loop is blocked, for then the bytes wait in the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import formatdate
from enum import IntEnum
from typing import Protocol, TypeVar

from attrs import Factory, define

from ...protocol.launch import Launch

LOOK_S = 1.0
"""Seconds between two looks.  A look costs about half a microsecond for each connection."""

LOOKS = 8
"""A deadline is looked at so often before it is over at least; only deadlines under `LOOKS` seconds need it."""

ENOUGH = 1024
"""Bytes of a body that must come in each `--body-timeout`, or be read in each `--send-timeout`.  With the defaults that
is 34 bytes a second, or 17; Kestrel asks for 240 and Apache for 500.  An idle deadline alone is met by a byte a minute,
with a WSGI thread held for each."""

SPARED_S = 2.0
"""Seconds that a connection without a request is left alone though every place is taken: its head may be on the way."""

REASON = b"The request did not come in time.\n"


class Waiting(IntEnum):
    """What a connection waits for.  A number, because ten thousand are counted in each look."""

    FIRST_BYTE = 0
    HEAD = 1
    BODY = 2
    READING = 3
    NOTHING = 4


WORDS = {
    Waiting.FIRST_BYTE: "have sent nothing",
    Waiting.HEAD: "have sent a part of a request's head",
    Waiting.BODY: "have sent a part of a request's body",
    Waiting.READING: "do not read what is sent to them",
    Waiting.NOTHING: "are being answered, or rest between two requests",
}
"""What connections that wait so have done."""


class Client(Protocol):
    """A connection, as a server shows it."""

    heard: int
    """Bytes that count as progress of a body."""

    def has_read(self) -> int:
        """A number that grows by the bytes that it reads; asked only while it does not."""

    def waits_for(self) -> tuple[Waiting, object]:
        """What it waits for, and an object that stands for the request: it is another one for the next request."""


Kind = TypeVar("Kind", bound=Client)


@define(eq=False)
class _Wait:
    """One connection's wait, as the looks have seen it."""

    waiting: Waiting
    request: object
    since: float
    moved: int
    """Bytes so far, of what it waits for."""

    def is_still(self, waiting: Waiting, request: object, moved: int) -> bool:
        """Whether it is the same wait as at an earlier look.  The first byte of a head gives no more time for it."""
        same = self.waiting is waiting or max(self.waiting, waiting) <= Waiting.HEAD
        return same and self.request is request and moved - self.moved < ENOUGH


@define(eq=False)
class Deadlines:
    """The waits of all connections of a worker.  It decides; a server closes what it names."""

    header: float
    """Seconds; 0: no deadline."""
    body: float
    """Seconds; 0: no deadline."""
    send: float
    """Seconds; 0: no deadline."""
    places: int
    """Connections that a worker has at once."""
    waits: dict[Client, _Wait] = Factory(dict)
    """Those that wait for their client."""
    counts: list[int] = Factory(lambda: [0] * len(Waiting))
    """How many connections waited for what at the last look."""
    _now: float = 0.0
    """The time that clients had: it stands still while the loop is blocked."""
    _looked: float | None = None

    @classmethod
    def of(cls, launch: Launch) -> Deadlines:
        """The deadlines that the options set."""
        return cls(launch.header_timeout, launch.body_timeout, launch.send_timeout, launch.places)

    @property
    def period(self) -> float:
        """Seconds between two looks."""
        return min([LOOK_S, *(seconds / LOOKS for seconds in (self.header, self.body, self.send) if seconds)])

    def look(self, clients: Iterable[Kind], now: float, full: bool = False) -> list[tuple[Kind, Waiting]]:
        """The connections that must go now, and what each has been waited for.

        With `full`, because no place is left, those go too that have sent no whole head in `SPARED_S`: a tenth of the
        places at a look, those that have said least first, and of these the oldest.
        """
        if self._looked is not None:
            self._now += min(now - self._looked, 2 * self.period)
        self._looked = now
        overdue: list[tuple[Kind, Waiting]] = []
        spare: list[tuple[bool, float, Kind, Waiting]] = []
        before, self.waits, self.counts = self.waits, {}, [0] * len(Waiting)
        counts, nothing = self.counts, Waiting.NOTHING
        for client in clients:
            waiting, request = client.waits_for()
            counts[waiting] += 1
            if waiting is nothing:
                continue
            wait = self._wait(client, waiting, request, before.get(client))
            limit, waited = self._limit(waiting), self._now - wait.since
            if limit and waited >= limit:
                overdue.append((client, waiting))
            elif full and waiting <= Waiting.HEAD and waited >= SPARED_S:
                spare.append((waiting is Waiting.HEAD, wait.since, client, waiting))
        spare.sort(key=lambda one: one[:2])
        room = max(1, self.places // 10) - len(overdue)
        return overdue + [(client, waiting) for _, _, client, waiting in spare[: max(0, room)]]

    def _wait(self, client: Client, waiting: Waiting, request: object, before: _Wait | None) -> _Wait:
        moved = client.has_read() if waiting is Waiting.READING else client.heard if waiting is Waiting.BODY else 0
        if before is None or not before.is_still(waiting, request, moved):
            before = _Wait(waiting, request, self._now, moved)
        self.waits[client] = before
        return before

    def _limit(self, waiting: Waiting) -> float:
        if waiting is Waiting.READING:
            return self.send
        return self.body if waiting is Waiting.BODY else self.header


def too_late() -> bytes:
    """An answer in HTTP/1.1 that closes the connection: 408, and the reason."""
    date = formatdate(usegmt=True).encode()
    return (
        b"HTTP/1.1 408 Request Timeout\r\ndate: %b\r\ncontent-type: text/plain; charset=utf-8\r\n"
        b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (date, len(REASON), REASON)
    )
