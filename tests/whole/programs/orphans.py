"""A handler that leaves somebody behind."""

import os
import subprocess


async def leaves(stream):
    """Start a process that nobody here waits for, and that dies after its parent."""
    await stream.receive_some()
    subprocess.run(["/bin/sh", "-c", "sleep 0.05 & exit 0"], check=True)
    await stream.send_all(b"%d\n" % os.getpid())
