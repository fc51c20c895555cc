"""The admin server beside a real master: what it tells is true, and whatever happens to it costs no request."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from tests.whole.browser import STAYS, browsing
from tests.whole.harness import BRIEF, PATIENCE, ROOT, Running, ask, gone, rrmaster, running

APP = "handlers:quick"
HTTP = "asgi_apps:plain"


async def base_of(master: Running) -> str:
    """The address of its admin server."""
    return (await master.said(r"page on (http://\S+)/"))[1]


async def get(url: str) -> httpx.Response:
    """Asked until the server answers: it starts beside the workers, and again when it was killed."""
    with trio.fail_after(PATIENCE):
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            return await client.get(url)


async def metrics(base: str) -> dict[str, float]:
    """The sum of each metric over its labels."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families((await get(f"{base}/metrics")).text):
        for sample in family.samples:
            found[sample.name] += sample.value
    return dict(found)


def admin_pid(master: Running) -> int:
    """The process id of its admin server."""
    for file in Path(f"/proc/{master.pid}/task").glob("*/children"):
        for pid in file.read_text().split():
            if b"rrmaster.admin" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    raise AssertionError("there is none")


def ended(counts: dict[str, float]) -> float:
    """Connections that were closed, or cut by the end of a worker that had answered and not closed them yet."""
    return counts["rrmaster_worker_requests_total"] + counts["rrmaster_connections_lost_total"]


async def test_counters_agree_with_clients_and_never_fall_whatever_happens_to_workers() -> None:
    async with running(APP, "--admin", "127.0.0.1:0", *BRIEF, workers=2) as master:
        base, ledger, seen = await base_of(master), Counter[str](), [await metrics(await base_of(master))]
        for round_ in range(4):
            for _ in range(10):
                await ask(master.port, ledger=ledger)
            if round_ == 1:
                master.signal(signal.SIGHUP)
                await master.said("generation 2 serves|reload: committed|committed")
            else:
                victim = next(iter(master.workers))
                os.kill(victim, signal.SIGKILL)
                await master.said(rf"\(pid {victim}\): serving -> gone")
                await master.until(lambda: len(master.workers) == 2, "two workers serve again")
            seen.append(await metrics(base))
        with trio.fail_after(PATIENCE):
            while seen[-1]["rrmaster_worker_connections_total"] < 40 or ended(seen[-1]) < 40:  # within a heartbeat
                seen.append(await metrics(base))
        assert ledger == {"answered": 40}
        last = seen[-1]
        assert last["rrmaster_connections_accepted_total"] == 40
        assert last["rrmaster_worker_connections_total"] == 40
        assert ended(last) == 40
        for before, after in pairwise(seen):
            fallen = {name for name in before if name.endswith("_total") and after[name] < before[name]}
            assert not fallen
        assert last["rrmaster_reloads_total"] == 1
        assert await master.stop() == 0


async def test_the_histograms_count_each_answer_though_workers_are_killed_right_after_it() -> None:
    # A connection that rests is taken again, and waits again.
    async with running(HTTP, "--admin", "127.0.0.1:0", *BRIEF, *STAYS, workers=2) as master:
        base, seen = await base_of(master), []
        for round_ in range(3):
            for _ in range(5):
                async with browsing(master.port) as browser:
                    for _ in range(2):
                        assert (await browser.get("/")).status == 200
            before = set(master.workers)
            if round_ == 1:
                master.signal(signal.SIGHUP)
                await master.until(lambda old=before: not old & set(master.workers), "the old ones drain")  # type: ignore[misc]
            else:
                os.kill(min(before), signal.SIGKILL)
                await master.said(rf"\(pid {min(before)}\): serving -> gone")
            await master.until(lambda: len(master.workers) == 2, "two workers serve")
            seen.append(await metrics(base))
        with trio.fail_after(PATIENCE):
            counted = "rrmaster_request_duration_seconds_count", "rrmaster_worker_requests_total"
            while any(seen[-1].get(name, 0) < 30 for name in counted):  # scrapes share one answer a second
                await trio.sleep(0.1)
                seen.append(await metrics(base))
        assert seen[-1]["rrmaster_request_duration_seconds_count"] == 30
        assert seen[-1]["rrmaster_accept_wait_seconds_count"] == 15
        assert seen[-1]["rrmaster_worker_requests_total"] == 30
        for before, after in pairwise(seen):
            assert not {name for name in before if "_seconds_" in name and after[name] < before[name]}
        assert await master.stop() == 0


async def test_a_drain_is_not_ready_and_says_why() -> None:
    async with running("handlers:ident", "--admin", "127.0.0.1:0", "--graceful-timeout", "20s", workers=1) as master:
        base = await base_of(master)
        assert (await get(f"{base}/readyz")).text == "ok\n"
        await master.hold(1)
        master.signal(signal.SIGTERM)
        await master.said("serving -> draining")
        answer = await get(f"{base}/readyz")
        assert (answer.status_code, answer.text) == (503, "workers: the master is stopping\n")
        assert (await get(f"{base}/livez")).status_code == 200
        master.clients.pop().socket.close()
        assert await master.ended() == 0
        assert "admin server was ended" not in master.text, "it is no orphan of a worker's"


async def until_ready(base: str, ready: bool) -> str:
    """Wait until /readyz says so; returns its text."""
    with trio.fail_after(PATIENCE):
        while True:
            answer = await get(f"{base}/readyz")
            if (answer.status_code == 200) is ready:
                return answer.text
            await trio.sleep(0.05)


async def test_a_blocked_fleet_is_not_ready_though_no_connection_has_met_it() -> None:
    """The connection that blocks the worker was the last one: none is late, and the next one would wait."""
    async with running("handlers:blocks", "--admin", "127.0.0.1:0", workers=1) as master:
        base = await base_of(master)
        await until_ready(base, True)
        [client] = await master.burst(1)
        await client.send_all(b"4000")
        assert await until_ready(base, False) == "workers: 0 of 1 workers take connections, and 1 must\n"
        with trio.fail_after(PATIENCE):
            assert await client.receive_some()
        await until_ready(base, True)
        assert await master.stop() == 0


async def test_a_probe_at_the_end_of_the_master_gets_an_answer_and_no_error() -> None:
    async with running(APP, "--admin", "127.0.0.1:0", workers=1) as master:
        base, seen = await base_of(master), Counter[int]()
        await until_ready(base, True)

        async def probe() -> None:
            with suppress(httpx.TransportError):  # the server has ended
                async with httpx.AsyncClient(timeout=PATIENCE) as client:
                    while True:
                        seen[(await client.get(f"{base}/readyz")).status_code] += 1

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(probe)
            assert await master.stop() == 0
        assert set(seen) <= {200, 503}, seen


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_server_that_has_ended_comes_back_and_costs_no_request(number: int) -> None:
    async with running(APP, "--admin", "127.0.0.1:0", workers=1) as master:
        base, ledger = await base_of(master), Counter[str]()
        assert (await get(f"{base}/livez")).status_code == 200
        first = admin_pid(master)
        os.kill(first, number)
        for _ in range(20):
            await ask(master.port, ledger=ledger)
        await master.said("the admin server .*; it is started again in")
        assert (await get(f"{base}/livez")).status_code == 200, "its clients waited in the backlog"
        assert admin_pid(master) != first
        assert ledger == {"answered": 20}
        assert await master.stop() == 0


async def test_a_server_that_is_stopped_delays_neither_the_master_nor_its_end() -> None:
    async with running(APP, "--admin", "127.0.0.1:0", workers=1) as master:
        base = await base_of(master)
        assert (await get(f"{base}/livez")).status_code == 200
        pid = admin_pid(master)
        os.kill(pid, signal.SIGSTOP)
        assert await ask(master.port)
        assert await master.stop() == 0
        await gone(pid)


async def test_a_server_ends_with_a_master_that_is_killed() -> None:
    async with running(APP, "--admin", "127.0.0.1:0", workers=1) as master:
        assert (await get(f"{await base_of(master)}/livez")).status_code == 200
        pid = admin_pid(master)
        master.signal(signal.SIGKILL)
        await master.ended()
        await gone(pid)


async def test_a_master_that_is_stopped_is_not_alive() -> None:
    async with running(APP, "--admin", "127.0.0.1:0", workers=1) as master:
        base = await base_of(master)
        assert (await get(f"{base}/livez")).status_code == 200
        master.signal(signal.SIGSTOP)
        answer = await get(f"{base}/livez")
        master.signal(signal.SIGCONT)
        assert answer.status_code == 503
        assert "has not answered" in answer.text
        assert (await get(f"{base}/livez")).status_code == 200
        assert await master.stop() == 0


async def test_a_server_on_a_unix_socket_is_its_owners_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with running(APP, "--admin", f"unix:{path}", workers=1) as master:
        assert path.stat().st_mode & 0o777 == 0o600
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://any.name", timeout=PATIENCE) as client:
            assert (await client.get("/readyz")).text == "ok\n"
        assert await master.stop() == 0
        assert not path.exists()


async def test_the_verb_serves_beside_a_master_that_has_no_server(tmp_path: Path) -> None:
    control = tmp_path / "control.sock"
    async with running(APP, "--control", str(control), workers=1) as master:
        command = [sys.executable, "-m", "rrmaster", "admin", "127.0.0.1:0", "--control", str(control)]
        server = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert server.stdout is not None
        try:
            with trio.fail_after(PATIENCE):
                said = bytes(await server.stdout.receive_some()).decode()
                base = said.rstrip("/\n").split(" on ")[1]
                assert (await get(f"{base}/readyz")).text == "ok\n"
                assert await master.stop() == 0
                answer = await get(f"{base}/livez")
                assert answer.status_code == 503
                assert "there is no such socket" in answer.text
                server.send_signal(signal.SIGINT)
                assert await server.wait() == 130
        finally:
            server.kill()


TOKEN = "correct-horse-battery-staple"


async def test_the_page_acts_with_the_token_which_no_worker_and_no_argument_has(tmp_path: Path) -> None:
    options = ("--admin", "127.0.0.1:0", "--admin-actions")
    async with running(APP, *options, workers=1, environ={"RRMASTER_ADMIN_TOKEN": TOKEN}) as master:
        base, bearer = await base_of(master), {"authorization": f"Bearer {TOKEN}"}
        await until_ready(base, True)
        [first] = master.workers
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            assert (await client.post(f"{base}/do/restart", data={"slot": "0"})).status_code == 403
            assert (await client.post(f"{base}/do/scale", data={"to": "2"}, headers=bearer)).status_code == 200
            await master.until(lambda: len(master.workers) == 2, "there are two")
            answer = await client.post(f"{base}/do/restart", data={"slot": "0"}, headers=bearer)
            assert answer.json() == {
                "text": "worker 0 is being replaced: the new one serves first, then the old one is drained"
            }
            await master.until(lambda: first not in master.workers and len(master.workers) == 2, "it is replaced")
            assert (await client.post(f"{base}/do/rollback", headers=bearer)).status_code == 409
            answer = await client.post(f"{base}/do/reload", headers=bearer)
            assert answer.json()["text"].startswith("starting generation 2 beside generation 1")
        await master.said("starting generation 2")
        told = "admin server: a wrong token|admin server: restart 0, asked by|admin server: a token"
        await master.said(told)
        assert TOKEN not in master.text
        for pid in (*master.workers, admin_pid(master)):
            assert TOKEN.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in master.workers:
            assert TOKEN.encode() not in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--admin", "0.0.0.0:0"], 2, "--admin-allow-remote"),
        (["--admin", "9000"], 2, "such as 127.0.0.1:9000"),
        (["--admin", "localhost"], 2, "such as 127.0.0.1:9000"),
        (["--admin", "fd://3"], 2, "such as 127.0.0.1:9000"),
        (["--admin-allow-remote"], 2, "--admin-allow-remote needs --admin"),
        (["--admin-actions"], 2, "--admin-actions needs --admin"),
        (["--admin", "127.0.0.1:0", "--admin-token-file", "x"], 2, "--admin-token-file needs --admin-actions"),
        (["--admin", "127.0.0.1:0", "--admin-actions"], 1, "--admin-actions needs a token"),
        (["--ready-when", "all"], 2, "--ready-when needs --admin"),
        (["--ready-when", "most"], 2, "write all, any, N or N%"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_in_one_line(options: list[str], status: int, said: str) -> None:
    done = rrmaster("--bind", "127.0.0.1:0", *options, "rrmaster.demo:hello")
    assert (done.returncode, said in done.stderr, done.stderr.count("\n")) == (status, True, 1), done.stderr


def test_an_address_in_use_is_told_at_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = rrmaster("--bind", "127.0.0.1:0", "--admin", address, "rrmaster.demo:hello")
        assert done.returncode == 4
        assert address in done.stderr
