"""What has an import asked of the kernel for its process that a forked process does not have?

fork(2): no timers, no locks on memory, no signal at the death of its parent.  None of that fails in a worker that lacks
it, so nothing tells; a worker that imports the application for itself has it.
"""

from __future__ import annotations

import re

from .sharing import read

_TIMERS = "set a timer (timer_create)"
_MEMORY = "locked memory (mlock)"
_SIGNAL = "asked for a signal at the death of its parent (PR_SET_PDEATHSIG)"

_PR_GET_PDEATHSIG = 2


def lost_by_a_fork() -> tuple[str, ...]:
    """What this process has of that, as phrases that follow "it"."""
    locked = re.search(r"^VmLck:\s+([1-9]\d*)", read("/proc/self/status"), re.MULTILINE)
    found = ((_TIMERS, bool(read("/proc/self/timers"))), (_MEMORY, bool(locked)), (_SIGNAL, _signal_at_death() != 0))
    return tuple(what for what, there in found if there)


def _signal_at_death() -> int:
    try:
        import ctypes  # each forked worker needs it, too: to load it here spares them that
    except ImportError:  # an interpreter without it
        return 0
    found = ctypes.c_int()
    ctypes.CDLL(None).prctl(_PR_GET_PDEATHSIG, ctypes.byref(found), 0, 0, 0)
    return found.value
