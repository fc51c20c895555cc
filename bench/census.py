"""Which workers of a server answer?

A busy worker (``/busy``, see apps) accepts nothing, so several clients that ask at once reach several workers, however
unevenly the server spreads connections that come one by one.
"""

from __future__ import annotations

import http.client
import selectors
import socket
import time
from collections.abc import Collection
from contextlib import ExitStack

HURRY = 0.2
"""Seconds for clients that ask at once: workers that are busy for 20 ms answer within 100 ms, a dead worker never.  A
longer wait for a connection that a dead worker has would count as the server's delay."""

BUSY = b"GET /busy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def ask(port: int, path: str, patience: float = 2.0) -> bytes | None:
    """The body of an answer over a new connection; None if there was no good answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return None  # it does not serve, or not yet
    finally:
        connection.close()
    return body if response.status == 200 else None


def meet(port: int, clients: int, enough: int | None = None, known: Collection[int] = ()) -> set[int]:
    """The workers that answer when `clients` ask at once; returns early when enough workers not in `known` have."""
    met: set[int] = set()
    deadline = time.monotonic() + HURRY
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(clients):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            selector.register(sock, selectors.EVENT_WRITE, b"")
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            if enough is not None and len(met.difference(known)) >= enough:
                break
            for key, events in selector.select(left):
                worker = _ask_or_hear(selector, key, events)
                if worker is not None:
                    met.add(worker)
    return met


def _ask_or_hear(selector: selectors.BaseSelector, key: selectors.SelectorKey, events: int) -> int | None:
    """The process id of the worker that has answered."""
    sock = key.fileobj
    assert isinstance(sock, socket.socket)
    try:
        if events & selectors.EVENT_WRITE:
            sock.sendall(BUSY)
            selector.modify(sock, selectors.EVENT_READ, b"")
            return None
        more = sock.recv(4096)
    except OSError:  # refused or reset: no worker serves, or it has just ended
        selector.unregister(sock)
        return None
    if more:
        selector.modify(sock, selectors.EVENT_READ, key.data + more)
        return None
    selector.unregister(sock)
    head, _, body = key.data.partition(b"\r\n\r\n")
    return int(body) if head.startswith(b"HTTP/1.1 200") and body else None
