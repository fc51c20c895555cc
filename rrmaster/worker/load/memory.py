"""How much memory has this process?"""

from __future__ import annotations

import resource


def resident() -> int:
    """Bytes of resident memory of this process; 0 where it cannot be read (no descriptor left, no /proc)."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read(100).split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return 0
