"""A master of rrmaster with the workers of worker.c; prints its port when all of them serve, ends at SIGTERM.

``python -m bench.foreign WORKERS POLICY``
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import trio

import rrmaster

from .servers import compiled


async def serve(workers: int, policy: str) -> None:
    """Until the signal."""
    options: dict[str, Any] = {"bind": "127.0.0.1:0", "workers": workers, "policy": policy, "log_level": "warning"}
    settings = rrmaster.Settings("worker:c", **options)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with rrmaster.open_master(settings, worker_command=[str(compiled("worker"))]) as master:
            await master.scale(workers)
            print(master.addresses[0].rpartition(":")[2], flush=True)
            await anext(signals)


if __name__ == "__main__":
    trio.run(serve, int(sys.argv[1]), sys.argv[2])
