"""Which files tell a process what each worker should have for itself?"""

from __future__ import annotations

import os
import re
from enum import Enum
from typing import Any


class Told(Enum):
    """What a file tells."""

    PROCESS = "the process id"
    RANDOM = "random bytes"


_RANDOM = frozenset({"/dev/random", "/dev/urandom", "/proc/sys/kernel/random/uuid"})

_OF_THE_PROCESS = re.compile(r"/proc/(self(/(stat|status|sched))?|thread-self(/(stat|status|sched))?)/?")
"""Not so others, which tell of a limit, a mount or a control group."""


def told_by(path: Any) -> Told | None:
    """What the file at this path tells, if it is one of these.  `path`: as `open` has it, so it may be a descriptor."""
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    name = os.fsdecode(path)
    if name in _RANDOM:
        return Told.RANDOM
    return Told.PROCESS if _OF_THE_PROCESS.fullmatch(name) else None
