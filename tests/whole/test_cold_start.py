"""Clients that come back while a server starts are shared by all of its workers."""

from __future__ import annotations

from collections import Counter

import trio

from tests.whole.browser import STAYS
from tests.whole.harness import connect, running
from tests.whole.test_stuck_requests import get

CLIENTS = 120


async def test_the_first_worker_that_serves_does_not_get_all_clients_that_wait():
    async with running("slow_slots:app", "--preload", "on", *STAYS, workers=4, ready=False) as master:
        await master.said("serves slow_slots:app on")
        answered: Counter[str] = Counter()

        async def ask(stream: trio.SocketStream) -> None:
            answered[await get(stream, "/")] += 1

        master.clients += [await connect(master.port) for _ in range(CLIENTS)]
        async with trio.open_nursery() as nursery:
            for stream in master.clients:
                nursery.start_soon(ask, stream)
        assert sum(answered.values()) == CLIENTS
        assert max(answered.values()) <= 1.5 * CLIENTS / 4
