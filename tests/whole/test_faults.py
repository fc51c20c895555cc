"""What happens to connections when workers die, stop, lie or block, and when the master does?

The ledger: every connection of a test ends in exactly one count, and the test asserts the sum.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from rrmaster.protocol.channel import _SO_PASSRIGHTS
from tests.whole.harness import BRIEF, PATIENCE, Running, ask, closed, dial, gone, is_free, running


async def crowd(port: int, clients: int, enough: Callable[[], bool], question: bytes = b"?") -> Counter[str]:
    """Clients that send one question per connection until the test has enough."""
    ledger: Counter[str] = Counter()

    async def client() -> None:
        while not enough():
            ledger["opened"] += 1
            await ask(port, question, ledger)

    with trio.fail_after(3 * PATIENCE):  # several reloads may be waited for
        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(client)
    assert ledger.pop("opened") == ledger.total()
    return ledger


def stop_process(pid: int) -> None:
    """SIGSTOP, and wait until it has stopped."""
    os.kill(pid, signal.SIGSTOP)
    give_up = time.monotonic() + PATIENCE
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < give_up


async def in_letterboxes(streams: list[trio.SocketStream], ask_with: bytes = b"?") -> None:
    for stream in streams:
        await stream.send_all(ask_with)


@pytest.mark.parametrize("stopped", [1, 2])
async def test_what_lies_in_the_letterboxes_of_dead_workers_is_answered_by_others(stopped: int):
    async with running("handlers:quick", workers=2) as master:
        victims = list(master.workers)[:stopped]
        for pid in victims:
            stop_process(pid)
        streams = await master.burst(60)
        await in_letterboxes(streams)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        answers = Counter[bool]()
        with trio.fail_after(PATIENCE):
            for stream in streams:
                answers[bool(await stream.receive_some())] += 1
        assert answers == {True: 60}


async def test_no_client_waits_for_a_stopped_worker_and_it_serves_again():
    async with running("handlers:quick", workers=2) as master:
        victim = list(master.workers)[1]
        stop_process(victim)
        ledger: Counter[str] = Counter()
        for _ in range(40):
            await ask(master.port, b"?", ledger)
        assert ledger == {"answered": 40}
        os.kill(victim, signal.SIGCONT)
        with trio.fail_after(PATIENCE):
            while int(await ask(master.port)) != victim:
                pass


async def test_a_blocked_worker_delays_only_what_it_had_taken():
    async with running("handlers:blocks") as master:
        done: list[str] = []

        async def one(name: str, question: bytes) -> None:
            await ask(master.port, question)
            done.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "blocked", b"2000")
            for _ in range(30):
                nursery.start_soon(one, "quick", b"0")
        assert Counter(done) == {"blocked": 1, "quick": 30}
        # It may have had a batch of connections in hand when the question that blocks it came.
        assert done.index("blocked") >= 30 - 8


async def test_a_storm_of_kills_loses_only_what_was_in_hand():
    async with running("handlers:blocks") as master:
        kills, over = 0, False
        dice = random.Random(1)

        async def kill() -> None:
            nonlocal kills, over
            for _ in range(12):
                await master.until(lambda: len(master.workers) >= 2, "two workers serve")
                victim = dice.choice(list(master.workers))
                os.kill(victim, signal.SIGKILL)
                kills += 1
                await master.until(lambda v=victim: v not in master.workers, "its death is known")  # type: ignore[misc]
            over = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            ledger = await crowd(master.port, 8, lambda: over, b"3")
        assert ledger["refused"] == ledger["hung"] == 0
        assert ledger["answered"] > kills
        # A worker has the connection that blocks it, and at most one batch that had begun.  The bench measures the
        # promise of one for each kill, with kills that do not wait until the master has seen the last one.
        assert ledger["cut off"] <= 2 * kills
        assert await master.stop() == 0


async def test_when_the_master_dies_the_workers_finish_and_leave():
    async with running("handlers:slow", workers=2) as master:
        workers, port = list(master.workers), master.port
        async with trio.open_nursery() as nursery:
            ledger: Counter[str] = Counter()
            for stream in await master.burst(8):
                await stream.send_all(b"?")

                async def read(stream: trio.SocketStream = stream) -> None:
                    ledger["answered" if await stream.receive_some() else "cut off"] += 1

                nursery.start_soon(read)
            # Once a later connection is answered, workers or their letterboxes have the first eight.
            await ask(port)
            master.process.kill()
            await master.ended()
        assert ledger == {"answered": 8}
        for pid in workers:
            await gone(pid)
        assert is_free(port)


async def test_a_blocked_worker_does_not_outlive_a_dead_master():
    async with running("handlers:blocks_for_good", "--graceful-timeout", "300ms", workers=2) as master:
        blocked = await master.hold(2)
        assert set(blocked.values()) == set(master.workers)
        master.process.kill()
        for pid in blocked.values():
            await gone(pid)


async def test_a_master_out_of_descriptors_waits_and_loses_nothing():
    async with running("handlers:quick", workers=2) as master:
        victim = next(iter(master.workers))
        stop_process(victim)
        full = (master.free_descriptor(), resource.prlimit(master.pid, resource.RLIMIT_NOFILE)[1])
        old = resource.prlimit(master.pid, resource.RLIMIT_NOFILE, full)
        streams = await master.burst(40)
        await in_letterboxes(streams)
        await master.said("cannot accept: Too many open files")
        os.kill(victim, signal.SIGKILL)
        await master.said("was ended by SIGKILL")
        resource.prlimit(master.pid, resource.RLIMIT_NOFILE, old)
        with trio.fail_after(PATIENCE):
            answers = Counter([bool(await stream.receive_some()) for stream in streams])
        assert answers == {True: 40}
        await master.until(lambda: len(master.workers) == 2, "the fleet is whole again")
        assert await master.stop() == 0


async def test_a_worker_short_of_descriptors_takes_no_more_and_recovers():
    async with running("handlers:quick", "--heartbeat", "50ms", workers=2) as master:
        poor = next(iter(master.workers))
        hard = resource.prlimit(poor, resource.RLIMIT_NOFILE)[1]
        old = resource.prlimit(poor, resource.RLIMIT_NOFILE, (16, hard))
        # It sees this at its next heartbeat.  It has stopped taking when it takes none during ten heartbeats.
        with trio.fail_after(PATIENCE):
            last = trio.current_time()
            while trio.current_time() < last + 0.5:
                if int(await ask(master.port)) == poor:
                    last = trio.current_time()
        resource.prlimit(poor, resource.RLIMIT_NOFILE, old)
        with trio.fail_after(PATIENCE):
            while int(await ask(master.port)) != poor:
                pass


def _knows_passrights() -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
        except OSError:
            return False
    return True


needs_passrights = pytest.mark.skipif(not _knows_passrights(), reason="SO_PASSRIGHTS came with Linux 6.16")


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("r", "claims a body"),
        ("c", "it reports 1000000000 closed"),
        ("f", "messages a second"),
        ("e", "empty message"),
        ("w", "closed its side"),
        ("R", "refuses connections .EPIPE"),
        ("b", "closed its side|refuses connections"),
        ("l", "claims a body"),
        ("a", "the application is no program"),
        pytest.param("p", "refuses connections .EPERM", marks=needs_passrights),
    ],
)
async def test_a_hostile_worker_dies_alone(deed: str, reason: str, tmp_path: Path):
    control = tmp_path / "control"
    async with running("liar:handler", "--control", str(control), workers=2) as master:
        await master.settled(control)
        before = master.descriptors()
        await do(master, deed)
        ledger: Counter[str] = Counter()
        with trio.fail_after(PATIENCE):
            while not (master.text.count(" -> serving") > 2 and len(master.workers) == 2):
                await ask(master.port, b"-", ledger)
        await master.said(reason)
        assert ledger.keys() == {"answered"}
        await master.at_rest(before)
        assert await master.stop() == 0


async def do(master: Running, deed: str) -> None:
    """Have a worker do this, up to its answer or its end: other connections in its hands could end with it."""
    (stream,) = await master.burst(1)
    await stream.send_all(deed.encode())
    with trio.fail_after(PATIENCE):
        try:
            await stream.receive_some()
        except trio.BrokenResourceError:
            pass  # killed with the question half read


async def test_what_a_worker_does_to_its_own_side_costs_no_other_connection_anything(tmp_path: Path):
    control = tmp_path / "control"
    async with running("liar:handler", "--control", str(control), workers=2) as master:
        await master.settled(control)
        before = master.descriptors()
        for deed in "oPd":
            await do(master, deed)
            ledger: Counter[str] = Counter()
            for _ in range(60):
                await ask(master.port, b"-", ledger)
            assert ledger == {"answered": 60}, deed
        await master.at_rest(before)
        assert await master.stop() == 0


@pytest.mark.parametrize(("deed", "end"), [(b"s", "SIGSEGV"), (b"x", "exited with status 7")])
async def test_a_crash_is_named_and_mended(deed: bytes, end: str):
    async with running("handlers:ill", workers=2) as master:
        ledger: Counter[str] = Counter()
        await ask(master.port, deed, ledger)
        assert ledger == {"cut off": 1}
        await master.said(end)
        await master.until(lambda: len(master.workers) == 2, "the fleet is whole again")
        assert await ask(master.port)


async def test_a_handlers_error_stays_in_its_connection():
    async with running("handlers:ill", workers=1) as master:
        ledger: Counter[str] = Counter()
        await ask(master.port, b"r", ledger)
        assert ledger == {"cut off": 1}
        await master.said(r"worker 0 \| ValueError: the handler's own trouble")
        assert int(await ask(master.port)) in master.workers


async def test_a_worker_that_stops_itself_is_killed_for_its_silence():
    async with running("handlers:ill", "--hang-timeout", "300ms", "--heartbeat", "50ms", workers=2) as master:
        ledger: Counter[str] = Counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, master.port, b"z", ledger)
            await master.said("serving -> killed, its loop has not reported")
        assert ledger == {"cut off": 1}
        await master.until(lambda: len(master.workers) == 2, "the fleet is whole again")


@pytest.mark.parametrize("runtime", ["trio", "asyncio", "uvloop"])
async def test_a_worker_that_hangs_while_it_drains_does_not_keep_its_clients_for_the_graceful_timeout(runtime: str):
    application = "handlers:blocks_for_good" if runtime == "trio" else "asgi_apps:hangs"
    options = ("--runtime", runtime, "--hang-timeout", "1s", "--heartbeat", "50ms", "--graceful-timeout", "600s")
    async with running(application, *options, *BRIEF, workers=1) as master:
        (pid,) = master.workers
        client = await dial(master)
        await client.send_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        with trio.fail_after(PATIENCE):
            assert await client.receive_some(), "it has the connection, and hangs from now on"
        master.signal(signal.SIGTERM)
        await master.said(rf"\(pid {pid}\): draining -> killed, its loop has not reported.*clients wait")
        await closed(client)
        assert await master.ended() == 1


async def test_a_blocked_worker_says_where_before_it_is_killed():
    async with running("handlers:blocks", "--hang-timeout", "300ms", "--heartbeat", "50ms", workers=2) as master:
        ledger: Counter[str] = Counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, master.port, b"600000", ledger)
            await master.said(r"worker \d \|\s+File .*handlers.py., line \d+ in blocks")
            await master.said("was ended by SIGKILL")
        assert ledger == {"cut off": 1}


async def test_a_master_that_was_stopped_blames_no_worker():
    async with running("handlers:quick", "--hang-timeout", "300ms", "--heartbeat", "50ms", workers=2) as master:
        before = master.workers
        stop_process(master.pid)
        # Long enough for the deadlines to pass; this wait is the fault itself, and nothing is synchronised by it.
        with trio.move_on_after(1.6):
            await master.process.wait()
        master.signal(signal.SIGCONT)
        for _ in range(20):
            assert int(await ask(master.port)) in before
        assert master.workers == before
