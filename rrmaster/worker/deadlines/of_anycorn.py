"""The deadlines of anycorn's connections (see `law`).  What one waits for, and how it is closed, is its own to tell."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import trio
from anycorn.protocol.h2 import H2Protocol
from anycorn.protocol.http_stream import HTTPStream
from h2.stream import StreamState

from ..duty import Duty
from .full import FullLog
from .law import Deadlines
from .requests import ASGI, RequestTimeout, timed_by_scopes


async def keep_deadlines(connections: Collection[Any], deadlines: Deadlines, duty: Duty, timed: RequestTimeout) -> None:
    """Look at the connections, and close those whose time is over, until cancelled."""
    log = FullLog()
    async with trio.open_nursery() as nursery:  # in tasks: a client that does not read must delay no other
        while True:
            await trio.sleep(deadlines.period)
            now, full = trio.current_time(), log.is_full(duty, deadlines)
            overdue = deadlines.look(connections, now, full)
            log.looked(full, duty, deadlines, len(overdue), now)
            for client, waiting in overdue:
                nursery.start_soon(client.expire, waiting)
            timed.look()


def awaits_a_body(protocol: H2Protocol) -> bool:
    """Whether a request of this connection of HTTP/2 has an incomplete body and no end of its answer.

    Websockets are streams of another class: their client may be silent.
    """
    states = protocol.connection.streams
    return any(
        isinstance(stream, HTTPStream) and number in states and states[number].state_machine.state is StreamState.OPEN
        for number, stream in protocol.streams.items()
    )


def timed_on_trio(app: ASGI, timed: RequestTimeout) -> ASGI:
    """The application, each of whose requests `timed` can cancel."""
    return timed_by_scopes(app, timed, trio.CancelScope)
