"""A handler that leaves an orphan behind."""

import os
import subprocess


async def leaves(stream):
    """Start a process that outlives its parent and is not waited for."""
    await stream.receive_some()
    subprocess.run(["/bin/sh", "-c", "sleep 0.05 & exit 0"], check=True)
    await stream.send_all(b"%d\n" % os.getpid())
