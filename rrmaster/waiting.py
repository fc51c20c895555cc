"""How does a task of the master wait for a descriptor, and let go of one, whatever the kernel says?

``epoll_ctl`` fails where the kernel has no memory, or the user watches too many (``fs.epoll.max_user_watches``).  Then
a descriptor is looked at again and again, with a pause: `rules.kernel_errors` has the law.
"""

from __future__ import annotations

import os
import select

import trio

from .rules.kernel_errors import CLOSE, WATCH, Cost

LOOK_AGAIN_S = 0.01
"""Seconds between two looks at a descriptor that the kernel cannot watch.  A look costs 2 us."""


async def readable(fd: int) -> None:
    """Wait until it can be read.  Raises OSError for a descriptor that is none."""
    try:
        await trio.lowlevel.wait_readable(fd)
    except OSError as error:
        await _looking(fd, select.POLLIN, error)


async def writable(fd: int) -> None:
    """Wait until it can be written to.  Raises OSError for a descriptor that is none."""
    try:
        await trio.lowlevel.wait_writable(fd)
    except OSError as error:
        await _looking(fd, select.POLLOUT, error)


async def _looking(fd: int, what: int, error: OSError) -> None:
    if WATCH.cost(error.errno) is Cost.MASTER:
        raise error
    poll = select.poll()
    poll.register(fd, what)
    while not poll.poll(0):  # also when it is broken: the caller's next call says how
        await trio.sleep(LOOK_AGAIN_S)


def unwatch(epoll: select.epoll, fd: int) -> None:
    """Watch this descriptor no longer.  If the kernel cannot forget it now, it does when the descriptor is closed."""
    try:
        epoll.unregister(fd)
    except OSError as error:
        if WATCH.cost(error.errno) is Cost.MASTER:
            raise


def close(fd: int) -> None:
    """Close it.  The kernel has released the number whatever it says.  Raises OSError if it never was one."""
    try:
        os.close(fd)
    except OSError as error:
        if CLOSE.cost(error.errno) is Cost.MASTER:
            raise
