"""The admin server's process, as the master starts it: ``python -m rrmaster.admin``."""

from __future__ import annotations

import argparse
import os
import socket

from ..config.readiness import parse_ready_when
from .server import serve


def main() -> None:
    """Serve on the descriptors that the master has passed."""
    parser = argparse.ArgumentParser(prog="rrmaster.admin", description="Started by `rrmaster --admin`.")
    parser.add_argument("--control", required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--ready-when", type=parse_ready_when, required=True)
    parser.add_argument("--fd", type=int, action="append", required=True)
    parser.add_argument("--leash", type=int, required=True)
    chosen = parser.parse_args()
    os.chdir("/")
    sockets = [socket.socket(fileno=fd) for fd in chosen.fd]
    serve(chosen.control, sockets, chosen.address, chosen.ready_when, chosen.leash)


if __name__ == "__main__":
    main()
