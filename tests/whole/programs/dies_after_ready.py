"""Every worker but the one in slot 0 dies soon after it is ready."""

import os
import threading

if os.environ.get("RRMASTER_WORKER_SLOT") not in (None, "0"):  # None: a template, which lives on
    threading.Timer(0.3, os._exit, (9,)).start()


async def handler(stream):
    await stream.receive_some()
    await stream.send_all(b"%d\n" % os.getpid())
