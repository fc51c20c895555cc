"""Which objects of psutil stand for the process that imports, and for which process do they stand in a worker?

``psutil.Process()`` is this process, by its id.  Libraries keep such an object to report its memory and its processor
time (OpenTelemetry's system metrics): in each forked worker it would go on to report the template.  So it is made anew
there, in place, as `psutil.Process.__init__` makes it.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Any


class OwnProcesses:
    """The objects of psutil that stand for this process."""

    def __init__(self) -> None:
        self._found: list[Any] = []

    def find(self) -> None:
        """Find them, after the import."""
        kind = getattr(sys.modules.get("psutil"), "Process", None)
        if kind is not None:
            # The type itself: psutil.Popen, which derives from it, stands for another process.
            self._found = [found for found in gc.get_objects() if type(found) is kind and found.pid == os.getpid()]

    def renew(self) -> None:
        """In a forked worker: let them stand for it."""
        for found in self._found:
            type(found).__init__(found)
