"""A request that kills its worker: the others are served on, and the operator is told which request it is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import trio

from tests.whole.harness import ask, rrmaster, running

GET = "GET {} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
KILLER = GET.format("/boom%1b?token=secret").encode()
DEATHS = 12


@pytest.mark.parametrize(
    "options",
    [
        ("poison:asgi", "--interface", "asgi", "--runtime", "uvloop"),
        ("poison:asgi", "--interface", "asgi", "--runtime", "asyncio"),
        ("poison:asgi", "--interface", "asgi", "--runtime", "trio"),
        ("poison:wsgi", "--interface", "wsgi"),
        ("poison:asgi", "--interface", "asgi", "--preload", "off"),
    ],
    ids=" ".join,
)
async def test_a_request_that_kills_takes_no_slot_away_and_is_named(options: tuple[str, ...], tmp_path: Path):
    application, *others = options
    control = tmp_path / "control.sock"
    async with running(application, *others, "--control", str(control), workers=2) as master:
        for deaths in range(1, DEATHS + 1):
            await ask(master.port, KILLER, Counter())
            await master.said("-> gone, was ended by SIGSEGV", times=deaths)
            # The replacement does not wait, as it would after so many crashes: 1 s, 2 s, 4 s, ...
            await master.until(lambda: len(master.workers) == 2, "both serve")
            assert b"HTTP/1.1 200" in await ask(master.port, GET.format("/shop").encode())
        assert "is started again in" not in master.text
        await master.said(r"died with GET /boom%1b in hand(?: and \d+ more)?: it was in hand at \d+ deaths")
        assert "secret" not in master.text
        done = await trio.to_thread.run_sync(lambda: rrmaster("status", "--json", "--control", str(control)))
        snapshot = json.loads(done.stdout)
        found, *_ = snapshot["deadly_requests"]  # an answered request may not have ended yet, and is in hand then, too
        # The first death of each slot is not noted.
        assert found == {"request": "GET /boom%1b", "deaths": DEATHS - 2} or found["deaths"] == DEATHS - 1
        assert not snapshot["crash_loop"]
        done = await trio.to_thread.run_sync(lambda: rrmaster("status", "--control", str(control)))
        assert "a request kills workers: GET /boom%1b was in hand" in " ".join(done.stdout.split())
        assert await master.stop() == 0
