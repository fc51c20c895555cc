"""How many connections can rest in the idle pool?  `--max-parked`, but no more than there may be descriptors."""

from __future__ import annotations

import resource
import sys

SPARE = 64
"""Descriptors that are not for connections."""

MANY = 100_000
"""Connections that may rest where nothing is said, if the limit of descriptors is no lower.  One costs a kilobyte here,
and more in the kernel."""


def places(wanted: int) -> int:
    """The number of connections that may rest where this number is wanted.  Where it is less, a line says so.

    0: `MANY`, or as many as there may be.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(min(wanted or MANY, limit - SPARE), 1)
    if most < wanted:
        text = f"{most} connections may rest, and not {wanted} (--max-parked): the limit of descriptors is {limit}\n"
        sys.stderr.write(text)
        sys.stderr.flush()
    return most
