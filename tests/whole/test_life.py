"""Start, reload, scale and stop of a real fleet, and its exit status."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import trio

from tests.whole.harness import BRIEF, ask, gone, running
from tests.whole.test_faults import crowd


async def test_term_finishes_what_is_in_hand_and_ends_with_0():
    # Two of the twenty are in hand when the signal comes, and the others in the backlog, for there is no room.
    async with running("handlers:brief", "--worker-connections", "1", workers=2) as master:
        streams = await master.burst(20)
        for stream in streams:
            await stream.send_all(b"?")
        assert await master.stop() == 0
        answers = Counter([bool(await stream.receive_some()) for stream in streams])
        assert answers == {True: 20}
        assert not any("SIGKILL" in line for line in master.lines)


async def test_a_worker_that_ignores_everything_is_killed_and_the_status_is_1():
    async with running("handlers:ignores_term", "--graceful-timeout", "200ms", workers=2) as master:
        await master.hold(2)
        master.signal(signal.SIGTERM)
        await master.said("draining -> stopping, not done in time", 2)
        master.signal(signal.SIGTERM)  # the second: the five seconds after SIGTERM are cut short
        assert await master.ended() == 1


async def test_a_second_signal_ends_it_now():
    async with running("handlers:ident", workers=2) as master:
        await master.hold(4)
        master.signal(signal.SIGINT)
        await master.said("-> draining", 2)
        master.signal(signal.SIGINT)
        assert await master.ended() in (0, 1)


async def test_quit_cuts_connections_and_ends():
    async with running("handlers:ident", workers=2) as master:
        held = await master.hold(4)
        master.signal(signal.SIGQUIT)
        assert await master.ended() == 0
        for stream in held:
            with pytest.raises((trio.BrokenResourceError, AssertionError)):  # reset, or the end
                assert await stream.receive_some()


async def test_a_reload_under_load_loses_nothing():
    async with running("handlers:quick", *BRIEF, workers=3) as master:
        before = set(master.workers)
        over = False

        async def reload() -> None:
            nonlocal over
            for generation in (2, 3):
                master.signal(signal.SIGHUP)
                await master.said(f"committed: generation {generation} serves alone")
                await master.said("draining -> gone, exited with status 0", 3 * (generation - 1))
            over = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload)
            ledger = await crowd(master.port, 4, lambda: over)
        assert ledger.keys() == {"answered"}
        assert not before & set(master.workers)
        assert sorted(master.workers.values()) == [0, 1, 2]


async def test_ten_hups_are_two_reloads_at_most():
    async with running("handlers:quick", *BRIEF, workers=1) as master:
        for _ in range(10):
            master.signal(signal.SIGHUP)
        await master.said("received SIGHUP")
        await master.said("committed")
        await master.said("draining -> gone")
        assert await master.stop() == 0
        assert master.text.count("committed") <= 2


async def test_ttin_adds_a_worker_and_ttou_takes_the_highest_slot():
    async with running("handlers:quick", workers=2) as master:
        master.signal(signal.SIGTTIN)
        await master.until(lambda: sorted(master.workers.values()) == [0, 1, 2], "three serve")
        master.signal(signal.SIGTTOU)
        await master.said(r"worker 2 \(pid \d+\): draining -> gone")
        assert sorted(master.workers.values()) == [0, 1]


async def test_a_killed_worker_is_replaced_in_its_slot():
    async with running("handlers:quick", workers=3) as master:
        victim, slot = next(iter(master.workers.items()))
        os.kill(victim, signal.SIGKILL)
        await master.until(
            lambda: victim not in master.workers and sorted(master.workers.values()) == [0, 1, 2], "it is replaced"
        )
        assert slot in master.workers.values()


@pytest.mark.parametrize("how", ["signal", "itself"])
async def test_a_worker_that_asks_to_retire_is_replaced_first_and_then_drained(how: str):
    async with running("handlers:ill", workers=1) as master:
        old = next(iter(master.workers))
        if how == "signal":
            os.kill(old, signal.SIGTERM)
        else:
            await ask(master.port, b"R")
        await master.said(f"pid {old}.: serving -> draining, its replacement serves")
        before, _, _ = master.text.partition("serving -> draining")
        assert before.count("proving -> serving") == 2
        await gone(old)


async def test_a_worker_that_is_not_ready_gets_no_connection():
    async with running("handlers:ill", workers=2) as master:
        paused = int(await ask(master.port, b"p"))
        answers = set()
        # It reports before it answers another client: only connections right after the first may race with the report.
        for _ in range(10):
            answers.add(int(await ask(master.port)))
        last = {int(await ask(master.port)) for _ in range(6)}
        assert paused not in last


async def test_what_workers_print_is_logged_in_whole_lines_and_drives_no_terminal():
    async with running("handlers:prints", workers=2) as master:
        for number in range(10):
            await ask(master.port, b"%d" % number)
        await master.until(lambda: master.text.count("| out ") == 10 and master.text.count("| err ") == 10, "all lines")
        assert all(f"| out {number}" in master.text and f"| err {number}" in master.text for number in range(10))
        await ask(master.port, b"\x1b[31mred")
        await master.said(r"\| out \\x1b\[31mred")


async def test_a_flood_of_output_is_read_and_thrown_away():
    async with running("handlers:floods", workers=1) as master:
        for _ in range(2):
            assert await ask(master.port)
        await master.said("lines dropped")
        assert len(master.text) < 30_000_000


async def test_a_crash_loop_is_slowed_down_and_the_others_serve():
    async with running("dies_after_ready:handler", workers=2, ready=False) as master:
        await master.said(r"started again in \d\.\d s", 2)
        assert int(await ask(master.port)) > 0
        assert await master.stop() == 0


ANSWERS_AT_ONCE = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
"""

NEVER_ANSWERS = """
import asyncio, time, trio

async def app(scope, receive, send):
    if scope["type"] == "http":
        SLEEP
"""


@pytest.mark.parametrize(
    ("runtime", "sleep"),
    [
        ("asyncio", "await asyncio.sleep(600)"),
        ("asyncio", "time.sleep(600)"),
        ("uvloop", "await asyncio.sleep(600)"),
        ("trio", "await trio.sleep(600)"),
    ],
)
async def test_new_code_that_never_answers_is_rolled_back(tmp_path: Path, runtime: str, sleep: str) -> None:
    (tmp_path / "shop.py").write_text(ANSWERS_AT_ONCE)
    options = ("--app-dir", str(tmp_path), "--runtime", runtime, "--probation", "100ms", "--graceful-timeout", "100ms")
    async with running("shop:app", *options, workers=2) as master, trio.open_nursery() as nursery:
        nursery.start_soon(visit_for_ever, master.port)
        (tmp_path / "shop.py").write_text(NEVER_ANSWERS.replace("SLEEP", sleep))
        master.signal(signal.SIGHUP)
        await master.said("reload rolled back: the new code had connections for .* s and finished nothing")
        nursery.cancel_scope.cancel()
        assert "committed" not in master.text


async def visit_for_ever(port: int) -> None:
    """A visitor every 20 ms, each with one request and the patience of half a second."""

    async def visit() -> None:
        with trio.move_on_after(0.5):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                await stream.receive_some()

    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(visit)
            await trio.sleep(0.02)


async def test_a_reload_without_traffic_says_that_it_shows_nothing_of_the_answers() -> None:
    async with running("handlers:quick", *BRIEF, workers=1) as master:
        master.signal(signal.SIGHUP)
        await master.said("no connection came in the soak: how the new code answers is not known")
        await master.said("committed: generation 2 serves alone")
