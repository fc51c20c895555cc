"""A master of rrmaster with workers of another program; prints its port when all of them serve, ends at SIGTERM.

``python -m bench.foreign WORKERS POLICY PORT PROGRAM``
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import trio

import rrmaster


async def serve(workers: int, policy: str, port: int, program: str) -> None:
    """Serve until the signal."""
    options: dict[str, Any] = {"workers": workers, "policy": policy, "log_level": "warning"}
    settings = rrmaster.Settings("worker:c", **options, bind=(f"127.0.0.1:{port}",))
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with rrmaster.open_master(settings, worker_command=[program]) as master:
            await master.scale(workers)
            print(port, flush=True)
            await anext(signals)


if __name__ == "__main__":
    trio.run(serve, int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])
