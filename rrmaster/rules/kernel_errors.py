"""What an error of the kernel costs: a connection, a worker, a pause, or the master.

The law of each call that serves clients.  An error that belongs to one connection costs that connection; one that
belongs to a worker's line costs that worker; one that belongs to the machine, or is not known, costs a pause, which is
logged.  Only an error that says that the master's own state is wrong ends the master: to go on would serve clients with
descriptors that are not what the master thinks.  Kernels, security modules and file systems return errors that no man
page lists, so the unknown is never fatal.
"""

from __future__ import annotations

import errno
from enum import Enum

from attrs import frozen


class Cost(Enum):
    """What an error costs."""

    NOTHING = "nothing"  # the call has had its effect
    CONNECTION = "the connection"  # it is gone; the next one may succeed at once
    WORKER = "the worker"  # it is killed and replaced; what it had not taken goes to others
    PAUSE = "a pause"  # connections wait in the backlog meanwhile, and nothing is lost
    MASTER = "the master"  # it stops: the workers finish what they have, and it exits with status 1


OWN_STATE = frozenset({errno.EBADF, errno.EFAULT, errno.ENOTSOCK})
"""A descriptor or an address in memory is not what the master's books say."""

CAPACITY_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""They concern the machine: the connection still waits in the backlog, and another try at once fails as well."""

CONNECTION_ERRORS = frozenset(
    {
        # accept(2) asks to treat errors of the network like this, EPERM included (a firewall's refusal); EACCES is that
        # of a security module, the last five what STREAMS, odd protocols and half-dead sockets return.
        errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EACCES, errno.ENETDOWN, errno.ENOPROTOOPT,
        errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.ETIMEDOUT,
        errno.EINTR, errno.ECONNRESET, errno.ENOTCONN, errno.ENOSR, errno.ESOCKTNOSUPPORT, errno.EPROTONOSUPPORT,
    }
)  # fmt: skip

LINE_FULL = frozenset({errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})
"""Errors of sendmsg that are not the worker's fault: its letterbox, this user's descriptors in flight, the memory."""


@frozen
class Law:
    """The cost of one call's errors."""

    otherwise: Cost
    """Of an error that is in none of the sets."""
    costs: tuple[tuple[frozenset[int], Cost], ...] = ((OWN_STATE, Cost.MASTER),)

    def cost(self, number: int | None) -> Cost:
        """What this errno costs."""
        return next((cost for numbers, cost in self.costs if number in numbers), self.otherwise)


_OWN = (OWN_STATE, Cost.MASTER)

LAWS = {
    "accept": Law(Cost.PAUSE, (_OWN, (CONNECTION_ERRORS, Cost.CONNECTION), (CAPACITY_ERRORS, Cost.PAUSE))),
    "sendmsg (hand over)": Law(Cost.WORKER, (_OWN, (LINE_FULL, Cost.PAUSE))),
    "recv (a report)": Law(Cost.WORKER),
    "ioctl (count a letterbox)": Law(Cost.PAUSE),
    "epoll_ctl": Law(Cost.PAUSE),
    # The kernel has released the number by the time it reports EINTR or EIO; only EBADF says that it was not ours.
    "close": Law(Cost.NOTHING, ((frozenset({errno.EBADF}), Cost.MASTER),)),
    "sched_yield": Law(Cost.NOTHING, ()),
}
"""By call.  `docs/architecture.md` shows this table."""

ACCEPT, HAND_OVER, READ, COUNT, WATCH, CLOSE, YIELD = LAWS.values()


def name_of(number: int | None) -> str:
    """``EMFILE``, or the number where it has no name."""
    return errno.errorcode.get(number or 0, str(number))
