"""The messages that carry parked connections, and the page on which the idle pool counts them.

::

    worker ── Park + descriptors ──► idle pool ── Return + a descriptor ──► master ── Handoff + a descriptor ──► worker
              the worker's lane                   the pool's line                     the worker's line
    master ── Lane + a descriptor ──► idle pool   a worker has a lane from now on
           ── Limit ────────────────►             at most so many are parked from now on
           ── End ──────────────────►             hand over what has spoken, close the rest, and go
           ◄── Ended ────────────────             a lane is read to its end, and so many have come through it

Lane and line are ``AF_UNIX`` ``SOCK_SEQPACKET`` socket pairs, and a message is a datagram, as everywhere in this house.
A *memo* is what the worker that parks a connection wants the next one to know.  Neither the pool nor the master looks
into it.

The idle pool has the interpreter and the standard library alone, so this module imports no more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

PARK = struct.Struct("<H")
"""The head of a Park: how many connections come with it, as descriptors."""

_RECORD = struct.Struct("<dHBB")
"""One of them: when it must be closed, listener, the bytes that wake it, and the length of its memo, which follows."""

MOST = 60
"""Connections in one message.  60 descriptors in one message cost a twentieth of what 60 messages cost; the kernel
takes 253."""

MAX_MEMO = 128
"""Bytes of a memo.  A Handoff with a memo has at most 144 bytes: up to 192 the kernel charges the same for a message
(measured, Linux 6.18), and the master counts letterboxes by that."""

MAX_PARK = PARK.size + MOST * (_RECORD.size + MAX_MEMO)
"""Bytes of the largest Park."""

RETURN = struct.Struct("<HBx")
"""A Return: listener, and address family; the memo follows."""

MAX_RETURN = RETURN.size + MAX_MEMO

LANE, LIMIT, END = 1, 2, 3
ORDER = struct.Struct("<BxxxI")
"""What the master tells the pool: one of these kinds, and the lane's number, or the new limit."""

ENDED = struct.Struct("<IQ")
"""An Ended: the lane's number, and the connections that were taken.  No descriptor comes with it."""

CRLF = 2
"""Bytes of a blank line.  Old clients send one after the body of a POST, which is no request."""


class Malformed(ValueError):
    """The bytes are no such message."""


def record(until: float, listener: int, wakes: int, memo: bytes) -> bytes:
    """One connection of a Park.  `until`: when it must be closed, on CLOCK_MONOTONIC; `wakes`: fewer bytes wait."""
    return _RECORD.pack(until, listener, wakes, len(memo)) + memo


def records(datagram: bytes) -> Iterator[tuple[float, int, int, bytes]]:
    """The connections of a Park, as `record` has written them.  Raises Malformed."""
    try:
        (count,) = PARK.unpack_from(datagram)
        at = PARK.size
        for _ in range(count):
            until, listener, wakes, length = _RECORD.unpack_from(datagram, at)
            at += _RECORD.size + length
            if length > MAX_MEMO or at > len(datagram) or not 0 < wakes <= CRLF + 1:
                raise Malformed("a parked connection with a memo that is not there, or woken by no bytes")
            yield until, listener, wakes, datagram[at - length : at]
    except struct.error as error:
        raise Malformed(str(error)) from None


# --- what is counted

COUNTS = ("taken", "returned", "left", "expired", "evicted", "refused", "lost", "held", "beat")
"""What the idle pool counts, each in eight bytes of a page (a memfd) that the master reads, so that what a pool held
when it was killed is known to one.

========  ==========================================================================================================
taken     connections that workers have parked; each is then counted once more, as one of the next four, or held
returned  sent to the master, because their client has spoken
left      closed, because their client has closed or reset them
expired   closed, because the keep-alive time was over, or the pool was told to end
evicted   closed, because there were too many: the one that has rested longest goes
refused   descriptors that were no connection, or came twice; what they were is closed here
lost      connections that the kernel closed on their way, because the pool had no place for a descriptor
held      parked now
beat      the loop's turns: a pool whose number stands still does not work
========  ==========================================================================================================
"""

PAGE = 8 * len(COUNTS)
"""Bytes of the page."""
