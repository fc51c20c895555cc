"""What has a reader of /dev/urandom read ahead?  Bytes that all forked workers would hand out.

``open("/dev/urandom", "rb").read(16)`` reads thousands, and keeps the rest for the next call.  The device has no state,
and can be shared; what was read ahead has to go.  (What was read ahead of a file is a worker's own: it has a copy, and
a place in the file of its own.)
"""

from __future__ import annotations

import gc
import io
from typing import Any

from ..sharing import targets

_DEVICES = frozenset({"/dev/random", "/dev/urandom"})

_READERS = (io.BufferedReader, io.BufferedRandom)


class ReadAhead:
    """The readers of such a device that the import has left open."""

    def __init__(self) -> None:
        self._found: list[Any] = []

    def find(self) -> None:
        """Find them, after the import."""
        numbers = {number for number, path in targets().items() if path in _DEVICES}
        if numbers:
            readers = (found for found in gc.get_objects() if type(found) in _READERS)
            self._found = [found for found in readers if _number(found) in numbers]

    def drop(self) -> None:
        """In a forked worker: drop what they have read ahead."""
        for reader in self._found:
            if not reader.closed:
                reader.read(len(reader.peek()))


def _number(reader: Any) -> int:
    """The descriptor of a reader of a file; none for what else one may read."""
    try:
        return reader.raw.fileno() if type(reader.raw) is io.FileIO else -1
    except ValueError:
        return -1  # it is closed, or detached
