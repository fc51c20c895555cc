"""How does the admin server run: on which socket, and until when?

The master starts it with the listening sockets, which it has bound itself: a mistake in the address is told at the
start, and connections wait in the backlog while a server that was killed is started again.  It ends with the master,
whatever ends that: one end of a socket pair is the master's, and is closed by the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence

import uvicorn

from ..config.addresses import Unix, is_remote, parse_bind
from ..config.readiness import ReadyWhen
from .actions import Actions
from .app import Pages
from .secrets import Secrets
from .source import MasterClient, Source

LONGEST_HEAD = 64 * 1024
"""Bytes of a request's head."""

MOST_CONNECTIONS = 512
"""Connections at once; what comes beyond is answered with 503."""

SEND_BUFFER = 64 * 1024
"""Bytes that wait in the kernel for a client that does not read; twice that with the kernel's own.  By itself it lets
them grow to 4 MB for each connection (tcp_wmem): with 100 open pages, more than a fleet may weigh."""


def serve(
    control: str,
    sockets: Sequence[socket.socket],
    address: str,
    ready_when: ReadyWhen,
    leash: int | None = None,
    token: str = "",
    secrets: Secrets | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until the other end of the `leash` is closed.  It owns the descriptors.

    With a token its pages can also act.
    """
    bind = parse_bind(address)
    bound_what_waits(sockets)
    source = Source(MasterClient(control, secrets or Secrets({})))
    pages = Pages(source, ready_when, Actions(source, token) if token else None)
    app = pages.application(any_host=isinstance(bind, Unix) or is_remote(bind))
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        workers=1,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=LONGEST_HEAD,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    asyncio.run(_serve(server, pages, list(sockets), leash))


def bound_what_waits(sockets: Sequence[socket.socket]) -> None:
    """Bound what the kernel keeps for a client that does not read.  What they accept has it from them."""
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


async def _serve(server: uvicorn.Server, pages: Pages, sockets: list[socket.socket], leash: int | None) -> None:
    watching = asyncio.create_task(_end_with_master(server, pages, leash)) if leash is not None else None
    await server.serve(sockets)
    if watching is not None:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def _end_with_master(server: uvicorn.Server, pages: Pages, leash: int) -> None:
    with socket.socket(fileno=leash) as line:
        line.setblocking(False)
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_recv(line, 1)  # nothing is ever sent: this is its end
    # A probe that is being answered gets its answer: that the master has ended.  Open pages would hold up the end.
    pages.close()
    server.should_exit = True
