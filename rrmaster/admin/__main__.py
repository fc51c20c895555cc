"""The admin server's process, as the master starts it: ``python -m rrmaster.admin``."""

from __future__ import annotations

import argparse
import os
import socket

from ..config.readiness import parse_ready_when
from ..config.sources import TOKEN_VARIABLE
from .secrets import Secrets
from .server import serve


def main() -> None:
    """Serve on the descriptors that the master has passed."""
    parser = argparse.ArgumentParser(prog="rrmaster.admin", description="Started by `rrmaster --admin`.")
    parser.add_argument("--control", required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--ready-when", type=parse_ready_when, required=True)
    parser.add_argument("--fd", type=int, action="append", required=True)
    parser.add_argument("--env-file")
    parser.add_argument("--leash", type=int, required=True)
    chosen = parser.parse_args()
    env_file = os.path.abspath(chosen.env_file) if chosen.env_file else None
    os.chdir("/")
    sockets = [socket.socket(fileno=fd) for fd in chosen.fd]
    token = os.environ.pop(TOKEN_VARIABLE, "")
    serve(
        chosen.control,
        sockets,
        chosen.address,
        chosen.ready_when,
        chosen.leash,
        token,
        Secrets(os.environ, env_file, (token,)),
    )


if __name__ == "__main__":
    main()
