"""In which directory does this process work, as the user wrote it?"""

from __future__ import annotations

import os
from contextlib import suppress


def working_directory() -> str:
    """The working directory as the user wrote it, if PWD says that of the same one; otherwise without links.

    A deployment that switches ``current -> releases/N`` stays the same directory by its name, and not by its inode.
    """
    here = os.getcwd()
    written = os.environ.get("PWD", "")
    with suppress(OSError):  # PWD names no directory, or one that is gone
        if os.path.isabs(written) and os.path.samefile(written, here):
            return written
    return here
