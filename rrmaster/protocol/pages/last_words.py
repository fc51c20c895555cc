"""A page of memory in which a worker notes its requests in progress, for the master to read after its death.

A request that kills its worker kills it at once: no message is sent, and a handler of SIGSEGV can run no Python.  So
each request is noted before the application sees it, in memory that outlives the worker: a memfd, whose descriptor the
master keeps.  That costs 1.5 us for a request, a tenth of what a small one takes, so only a worker that replaces one
which died with something in hand does so.

::

    a header: 1 once the worker notes requests, else 0
    `PLACES` notes, each: number, length, method and path

The notes are a ring: with more requests in progress the newest stay.  The page is the worker's to write, so for the
master it holds bytes and no more: it is read with a copy, not mapped, and what is no plain text is escaped.  A path is
noted without its query, which may hold secrets.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct

from attrs import define, frozen

PLACES = 64
"""Requests that are noted at a time: more than most workers have in progress."""

MOST = 200
"""Bytes of method and path that are kept of one request."""

_NOTE = struct.Struct(f"=I{MOST + 1}p")
"""A pascal string: its length, and what fits."""

_SIZE = _NOTE.size * (PLACES + 1)


@define(eq=False)
class LastWords:
    """The worker's side of the page."""

    _page: mmap.mmap
    _last: int = 0
    """The number of requests so far."""

    @classmethod
    def inherit(cls, fd: int) -> LastWords:
        """The page behind an inherited descriptor, which is closed.  Raises OSError, ValueError."""
        try:
            return cls(mmap.mmap(fd, _SIZE))
        finally:
            os.close(fd)

    def open(self) -> None:
        """All requests are noted from now on.  A server without requests never says so."""
        _NOTE.pack_into(self._page, 0, 1, b"")

    def begin(self, request: bytes) -> int:
        """Note a request; returns its number."""
        self._last = number = self._last + 1
        _NOTE.pack_into(self._page, (number % PLACES + 1) * _NOTE.size, number & 0xFFFFFFFF, request)
        return number

    def end(self, number: int) -> None:
        """A request has ended; another one may have its place by now."""
        if self._last - number < PLACES:
            self._page[(number % PLACES + 1) * _NOTE.size + 4] = 0


@frozen
class Heard:
    """What a dead worker has left."""

    noted: bool
    """Whether the worker noted its requests; then `requests` are all that it had, or the newest of many."""
    requests: tuple[str, ...] = ()
    """Method and path of each request in progress, the newest first."""


def open_page() -> int:
    """A new page: a descriptor, which the caller owns.  Raises OSError."""
    fd = os.memfd_create("rrmaster: last words")
    try:
        os.ftruncate(fd, _SIZE)
    except OSError:
        os.close(fd)
        raise
    return fd


def read_page(fd: int) -> Heard:
    """What a dead worker's page says.  Whatever the worker has done to it, this reads no more than its size."""
    data = b""
    with contextlib.suppress(OSError):  # a page that cannot be read says nothing
        data = os.pread(fd, _SIZE, 0)
    if len(data) < _SIZE or not any(data[:4]):
        return Heard(noted=False)
    notes = [_NOTE.unpack_from(data, place * _NOTE.size) for place in range(1, PLACES + 1)]
    return Heard(True, tuple(_plain(request) for _, request in sorted(notes, reverse=True) if request))


def _plain(request: bytes) -> str:
    """Printable ASCII as it is, and all else escaped: it goes into the log, and to a terminal."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in request)
