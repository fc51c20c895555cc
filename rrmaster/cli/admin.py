"""`rrmaster admin`: the admin server beside a master that was started without one."""

from __future__ import annotations

import argparse
import os
import sys

from ..config.addresses import is_remote, parse_admin, parse_bind
from ..config.readiness import checked_ready_when, parse_ready_when
from ..config.sources import TOKEN_VARIABLE
from ..control.client import Client
from ..dispatch.listeners import BindError, open_listeners
from ..service.admin_process import BACKLOG, UNIX_MODE, check_packages, shown
from ..service.admin_token import read_token
from ..service.cannot_start import CannotStart
from .arguments import argument_type

ERROR, USAGE, CANNOT_BIND = 1, 2, 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("address", metavar="ADDRESS", type=argument_type(parse_admin), help="HOST:PORT or unix:PATH")
    parser.add_argument(
        "--allow-remote",
        action="store_true",
        help="listen where other machines reach it; looking needs no password",
    )
    parser.add_argument(
        "--actions", action="store_true", help="let the page reload, roll back, scale and restart, with a token"
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="its first line is the token for --actions; without it $RRMASTER_ADMIN_TOKEN is",
    )
    parser.add_argument(
        "--ready-when",
        metavar="WHEN",
        type=argument_type(checked_ready_when),
        default="any",
        help="workers that must take connections before /readyz says yes: any (default), all, N or N%%",
    )


def run(client: Client, arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM, whether the master lives or not; returns the exit status."""
    bind = parse_bind(arguments.address)
    if is_remote(bind) and not arguments.allow_remote:
        return _complain(f"{arguments.address} is reached from other machines; add --allow-remote", USAGE)
    if arguments.token_file is not None and not arguments.actions:
        return _complain("--token-file needs --actions: without it nothing can be done with the token", USAGE)
    try:
        token = read_token(arguments.token_file, os.environ, "--actions", "--token-file") if arguments.actions else ""
        os.environ.pop(TOKEN_VARIABLE, None)
        check_packages()
        listeners = open_listeners(bind, BACKLOG, UNIX_MODE, arguments.address)
    except CannotStart as error:
        return _complain(str(error), ERROR)
    except BindError as error:
        return _complain(str(error), CANNOT_BIND)
    from ..admin.secrets import Secrets
    from ..admin.server import serve

    path = os.path.abspath(client.path)
    client.close()
    sys.stdout.write("".join(f"metrics, health and a page on {shown(listener.name)}\n" for listener in listeners))
    sys.stdout.flush()
    try:
        sockets = [listener.socket for listener in listeners]
        serve(
            path,
            sockets,
            arguments.address,
            parse_ready_when(arguments.ready_when),
            None,
            token,
            Secrets(os.environ, own=(token,)),
        )
    finally:
        for listener in listeners:
            listener.close()
    return 0


def _complain(text: str, status: int) -> int:
    sys.stderr.write(f"rrmaster: admin: {text}\n")
    return status
