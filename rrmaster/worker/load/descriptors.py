"""How many descriptors has this worker left?  One that takes connections up to its limit can open no file."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable

from attrs import Factory, define

RESERVE = 16
"""Descriptors kept free for the application: a worker that takes connections up to its limit can open no file."""

COMPLAINT_S = 60.0
"""Seconds between log lines about a full descriptor table."""


LEAK_S = 10.0
"""Seconds after which a worker that could take no connection, even if it closed all that it has, asks to be replaced.
Nothing that it serves will make room then; a burst of open files is over sooner."""


@define(eq=False)
class Descriptors:
    """The descriptor table of this process."""

    own: Callable[[], int]
    """A descriptor that is open, to find the lowest free one by."""
    _limit: int = Factory(lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    _free: int = 0
    """Descriptors that were free at the last count, less the connections taken since."""
    _complained: float = float("-inf")
    _had_room: bool = False
    """Where it never had, the limit is too low, and a replacement would be no better."""
    _leaks_since: float | None = None

    def took(self, fd: int) -> bool:
        """A connection has come as this descriptor.  Whether the table is nearly full."""
        # The kernel gives the lowest free number: a high one tells of a full table, a low one may be its only hole.
        self._free -= 1
        return fd >= self._limit - RESERVE or (self._free < RESERVE and self._count_free() < RESERVE)

    def gave_back(self) -> None:
        """A connection was closed."""
        self._free += 1

    def has_room(self) -> bool:
        """Look again at the limit, which the application may have changed, and count."""
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        has_room = self._count_free() > RESERVE
        if has_room:
            self._had_room, self._leaks_since = True, None
        return has_room

    def _count_free(self) -> int:
        """Count the descriptors that are free: 2 us, or on kernels before 6.2 some 0.4 us for each that is open."""
        try:  # proc(5): since Linux 6.2 the size of this directory is the number of open descriptors
            used = os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd")) - 1
        except OSError:  # none is free for the listing; or there is no /proc, and the lowest free number must do
            used = self._lowest_free()
        self._free = self._limit - used
        return self._free

    def _lowest_free(self) -> int:
        try:
            fd = os.dup(self.own())
        except OSError:
            return self._limit
        os.close(fd)
        return fd

    def complain(self, connections: int, retire: Callable[[str], None]) -> None:
        """There is no room: say so.  After `LEAK_S`, if connections are not to blame, ask to be replaced, once."""
        now = time.monotonic()
        self._say(connections, now)
        if not self._had_room or self._free + connections > RESERVE:
            self._leaks_since = None
        elif self._leaks_since is None:
            self._leaks_since = now
        elif now - self._leaks_since >= LEAK_S:
            self._had_room, self._leaks_since = False, None
            used = self._limit - self._free
            retire(f"{used - connections} of {self._limit} descriptors are in use, and not by connections")

    def _say(self, connections: int, now: float) -> None:
        """Log that no connections are taken, and what to do: otherwise the clients would wait without a trace."""
        if now - self._complained >= COMPLAINT_S:
            self._complained = now
            print(
                f"no connections are taken: {self._limit - self._free} of {self._limit} descriptors are in use, "
                f"{connections} of them by connections. Raise the limit (ulimit -n, LimitNOFILE=), or find out which "
                "the application does not close",
                file=sys.stderr,
            )
