"""Holds silent connections until its stdin ends; prints their number when all are open.

``python -m bench.holder PORT COUNT``
"""

from __future__ import annotations

import os
import resource
import socket
import sys

PATIENCE = 10.0
"""Seconds for one connection."""


def hold(port: int, count: int) -> None:
    """Hold the connections, from an address of 127.0.0.0/8 that no other holder uses, so that its ports are its own."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    own = os.getpid() % 65_000
    address = f"127.1.{own // 256}.{own % 256}"
    held = [socket.create_connection(("127.0.0.1", port), PATIENCE, (address, 0)) for _ in range(count)]
    print(len(held), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    hold(int(sys.argv[1]), int(sys.argv[2]))
