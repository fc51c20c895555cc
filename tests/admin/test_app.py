"""The admin server's pages, asked as a client does, with a master that a test invents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from attrs import evolve
from starlette.applications import Starlette

from rrmaster.admin import app
from rrmaster.admin.app import Pages
from rrmaster.admin.page.glance import Glance, content
from rrmaster.admin.page.history import History
from rrmaster.admin.source import PACE_S, Source, Unreachable
from rrmaster.config.readiness import ReadyWhen, parse_ready_when
from rrmaster.events.totals import FleetTotals
from rrmaster.status.model import PoolStatus, ReloadStatus, Snapshot, from_json
from tests.admin.fake_master import FakeMaster
from tests.status.snapshots import FOUR, a_snapshot, a_worker


def app_of(master: FakeMaster, ready_when: str = "any", any_host: bool = False) -> Starlette:
    return Pages(Source(master), parse_ready_when(ready_when)).application(any_host)  # type: ignore[arg-type]


def get(path: str, master: FakeMaster, host: str = "localhost:9000", **more: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app_of(master, **more))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.get(path)

    return asyncio.run(ask())


STOPS = evolve(FOUR, size=0)
ONE_OF_TWO = a_snapshot(a_worker(0), a_worker(1, state="booting"), size=2)


@pytest.mark.parametrize(
    ("path", "snapshot", "ready_when", "status"),
    [
        ("/readyz", FOUR, "any", 200),
        ("/readyz", FOUR, "all", 200),
        ("/readyz", STOPS, "any", 503),
        ("/readyz", ONE_OF_TWO, "any", 200),
        ("/readyz", ONE_OF_TWO, "50%", 200),
        ("/readyz", ONE_OF_TWO, "all", 503),
        ("/readyz", None, "any", 503),
        ("/livez", FOUR, "any", 200),
        ("/livez", STOPS, "any", 200),
        ("/livez", None, "any", 503),
    ],
)
def test_a_probe_is_answered_by_the_state_of_the_master(
    path: str, snapshot: Snapshot | None, ready_when: str, status: int
) -> None:
    answer = get(path, FakeMaster(snapshot), ready_when=ready_when)
    assert answer.status_code == status
    assert answer.text == "ok\n" if status == 200 else ": " in answer.text, "it says why"


def test_a_verbose_probe_lists_its_checks() -> None:
    answer = get("/readyz?verbose", FakeMaster(ONE_OF_TWO), ready_when="all")
    assert answer.text.splitlines() == [
        "[+]master ok",
        "[-]workers failed: 1 of 2 workers take connections, and 2 must",
        "check failed",
    ]


def test_the_status_is_the_snapshot() -> None:
    assert from_json(get("/status", FakeMaster(FOUR)).json()) == FOUR
    assert get("/status", FakeMaster(None)).status_code == 503


@pytest.mark.parametrize("path", ["/", "/metrics", "/livez", "/readyz", "/status", "/live", "/page.js"])
def test_another_sites_name_gets_nothing_from_a_loopback_address(path: str) -> None:
    assert get(path, FakeMaster(FOUR), host="shop.example").status_code == 400
    if path != "/live":  # which never ends
        assert get(path, FakeMaster(FOUR), host="shop.example", any_host=True).status_code == 200


@pytest.mark.parametrize("path", ["/", "/metrics", "/readyz", "/status", "/live"])
def test_nothing_can_be_changed(path: str) -> None:
    async def ask() -> set[int]:
        transport = httpx.ASGITransport(app_of(FakeMaster(FOUR)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return {(await client.request(method, path)).status_code for method in ("POST", "PUT", "DELETE")}

    assert asyncio.run(ask()) == {405}


HOSTILE = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    ("snapshot", "log"),
    [
        (evolve(FOUR, application=HOSTILE), []),
        (a_snapshot(a_worker(0, last_exit=HOSTILE, state=HOSTILE)), []),
        (FOUR, [{"time": 1.75e9, "level": HOSTILE, "text": f"x\n{HOSTILE}", "slot": HOSTILE}]),
    ],
)
def test_no_text_becomes_markup(snapshot: Snapshot, log: list[dict[str, Any]]) -> None:
    answer = get("/", FakeMaster(snapshot, log))
    assert answer.status_code == 200
    assert HOSTILE not in answer.text
    assert "&lt;script&gt;" in answer.text
    assert "script-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        (a_worker(0, oldest_ms=12_000), "a request has been in progress for 12s"),
        (a_worker(0, lag_us=4_500_000), "its loop was late by 4.5s"),
        (a_worker(0, overdue_ms=4_500, lag_us=4_500_000), "stuck: blocked for 4s"),
        (a_worker(7, overdue_ms=4_500), "worker 7 is stuck: its loop has been blocked for 4s"),
        (
            a_worker(0, last_exit=f"Traceback (most recent call last):\n{'x' * 200}\nKeyError: 1"),
            "KeyError: 1</summary>",
        ),
    ],
)
def test_a_stuck_worker_is_pointed_out(worker: Any, said: str) -> None:
    assert said in get("/", FakeMaster(a_snapshot(worker))).text
    assert said not in get("/", FakeMaster(FOUR)).text


@pytest.mark.parametrize(
    ("reload", "said"),
    [
        (
            ReloadStatus("soaking", 3, phases={"starting": 1.5, "probation": 2.0, "soaking": 0.25}),
            ["This reload, to generation 3", "starting 1.5s", "probation 2.0s", "step: soaking 250ms"],
        ),
        (
            ReloadStatus("committed", 3, 0, "", False, {"starting": 1.5, "probation": 2.0, "soaking": 2.0}, 60.0),
            ["Last reload, to generation 3, 1m00s ago", "starting 1.5s", "soaking 2.0s", "committed"],
        ),
        (
            ReloadStatus("refused", 3, 10, "Traceback:\nValueError: no", True, {"starting": 1.5}, 5.0),
            ["Last rollback, to generation 3, 5s ago", "refused before any traffic", "ValueError: no", "serves on"],
        ),
    ],
)
def test_the_last_reload_is_told_by_its_phases(reload: ReloadStatus, said: list[str]) -> None:
    text = get("/", FakeMaster(evolve(FOUR, reload=reload))).text
    shown = text.replace('aria-current="step"><strong>', ">step: ").replace("<strong>", "").replace("</strong>", "")
    assert [part for part in said if part not in shown] == []
    assert ("probation" in shown.split("Workers")[0]) is (len(reload.phases) > 1)


def test_workers_that_crash_are_told_at_the_top() -> None:
    async def act(pages: Pages, master: FakeMaster) -> None:
        while not pages.history.samples:
            await asyncio.sleep(0)
        totals = FleetTotals(exits={"exit": 3, "asked": 5, "killed": 7})
        died = a_worker(0, restarts=3, last_exit="exited with status 7")
        master.answer = evolve(FOUR, uptime_s=FOUR.uptime_s + 1, totals=totals, workers=(died,))
        while len(pages.history.samples) < 2:
            await asyncio.sleep(0.01)
        glance = Glance(master.answer, pages.history, [], [], ReadyWhen(count=1))
        assert "3 workers ended without being asked in the last minute; one of them exited with status 7" in content(
            glance
        )

    run_live(act)


def test_the_lines_of_latency_are_there_if_it_is_measured() -> None:
    history = History()
    for second in range(3):
        history.add(evolve(FOUR, uptime_s=float(second), latency_p50_s=0.01, latency_p99_s=0.02 * second))
    text = content(Glance(FOUR, history, [], [], ReadyWhen(count=1)))
    assert "40ms</span> latency, p99 (dashed: p50)" in text
    assert '<polyline points="597,60.0 598,30.0 599,0.0"/><polyline points="597,45.0 598,45.0 599,45.0"/>' in text
    assert "latency, p99" not in content(Glance(FOUR, History(), [], [], ReadyWhen(count=1)))


def test_an_empty_slot_is_shown() -> None:
    assert "no worker" in get("/", FakeMaster(evolve(ONE_OF_TWO, size=3))).text
    assert "no worker<" not in get("/", FakeMaster(FOUR)).text


def test_connections_that_rest_in_no_workers_hands_are_on_the_page() -> None:
    assert "Between two requests" not in get("/", FakeMaster(a_snapshot(a_worker()))).text
    pool = PoolStatus(pid=4712, held=1, parked=340, parked_per_s=3.2, resumed=330)
    page = get("/", FakeMaster(a_snapshot(a_worker(), pool=pool))).text
    assert "1 connection rests in the idle pool (pid 4712), parked 340 (3/s), resumed 330" in page


def test_a_traceback_is_one_click_away() -> None:
    trace = "the application failed\nTraceback (most recent call last):\nValueError: no"
    text = get("/", FakeMaster(FOUR, [{"time": 1.75e9, "level": "error", "text": trace}])).text
    assert "<summary>the application failed ValueError: no</summary>" in text
    assert trace in text


def test_the_page_says_that_the_master_does_not_answer() -> None:
    assert "does not answer" in get("/", FakeMaster(None)).text


def test_clients_that_ask_at_once_cost_the_master_one_answer() -> None:
    async def act() -> None:
        master = FakeMaster(FOUR)
        source = Source(master)  # type: ignore[arg-type]
        found = await asyncio.gather(*(source.snapshot() for _ in range(100)))
        assert master.asked == 1
        assert set(map(id, found)) == {id(FOUR)}
        await source.snapshot(max_age=60.0)
        assert master.asked == 1
        await source.snapshot()
        assert master.asked == 2

    asyncio.run(act())


def test_a_flood_of_probes_is_paced_and_each_answer_is_younger_than_its_probe() -> None:
    async def act() -> None:
        master = FakeMaster(FOUR)
        source = Source(master)  # type: ignore[arg-type]
        began = asyncio.get_running_loop().time()
        for asked in range(1, 6):
            await source.snapshot()
            assert master.asked == asked
        assert asyncio.get_running_loop().time() - began >= 3 * PACE_S

    asyncio.run(act())


def test_pages_that_are_asked_for_at_once_read_the_log_once() -> None:
    async def act() -> None:
        master = FakeMaster(FOUR, [{"time": 1.75e9, "text": "x"}])
        source = Source(master)  # type: ignore[arg-type]
        found = await asyncio.gather(*(source.entries("events", 60.0) for _ in range(100)))
        found.append(await source.entries("events", 60.0))
        assert master.read == 1
        assert found == [master.log] * 101

    asyncio.run(act())


def test_a_failure_is_not_kept() -> None:
    async def act() -> None:
        master = FakeMaster(None)
        source = Source(master)  # type: ignore[arg-type]
        with pytest.raises(Unreachable):
            await source.snapshot()
        master.answer = FOUR
        assert await source.snapshot(max_age=60.0) is FOUR

    asyncio.run(act())


def run_live(act: Callable[[Pages, FakeMaster], Any]) -> None:
    """Run a test with the sampling that the server's lifespan starts."""

    async def run() -> None:
        master = FakeMaster(FOUR)
        pages = Pages(Source(master), ReadyWhen(count=1))  # type: ignore[arg-type]
        served = pages.application(any_host=True)
        async with served.router.lifespan_context(app):
            await asyncio.wait_for(act(pages, master), 20)

    asyncio.run(run())


async def open_page(pages: Pages, sent: asyncio.Queue[str]) -> int:
    """Keep a page open as a browser does; returns the status of the answer, if it ends."""
    answer: list[int] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(3600)
        raise AssertionError("the test is over")

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.append(message["status"])
        elif message.get("body") and answer == [200]:
            sent.put_nowait(message["body"].decode())

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/live",
        "headers": [(b"host", b"localhost")],
        "query_string": b"",
    }
    await pages.application(any_host=True)(scope, receive, send)  # type: ignore[arg-type]
    return answer[0]


def test_the_number_of_open_pages_is_bounded_even_if_all_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "MOST_LIVE", 3)

    async def act(pages: Pages, master: FakeMaster) -> None:
        opened = [asyncio.create_task(open_page(pages, asyncio.Queue())) for _ in range(10)]
        refused, _ = await asyncio.wait(opened, timeout=0.5)
        assert [each.result() for each in refused] == [503] * 7
        assert pages.open_pages == 3
        for each in opened:
            each.cancel()
        await asyncio.wait(opened)

    run_live(act)


def test_an_open_page_gets_the_content_anew_and_leaves_nothing_when_it_closes() -> None:
    async def act(pages: Pages, master: FakeMaster) -> None:
        sent: asyncio.Queue[str] = asyncio.Queue()
        page = asyncio.create_task(open_page(pages, sent))
        first = await sent.get()
        assert "data: <header>" in first
        assert first.endswith("\n\n")
        master.answer = a_snapshot(a_worker(0, lag_us=9_000_000))
        while "late by 9.0s" not in await sent.get():
            pass
        assert pages.open_pages == 1
        page.cancel()
        await asyncio.wait([page])
        assert pages.open_pages == 0

    run_live(act)


def test_open_pages_end_with_the_master() -> None:
    async def act(pages: Pages, master: FakeMaster) -> None:
        sent: asyncio.Queue[str] = asyncio.Queue()
        page = asyncio.create_task(open_page(pages, sent))
        await sent.get()
        pages.close()
        assert await page == 200
        assert master.has_ended

    run_live(act)


def test_the_history_becomes_rates() -> None:
    async def act(pages: Pages, master: FakeMaster) -> None:
        while not pages.history.samples:
            await asyncio.sleep(0)
        master.answer = evolve(FOUR, uptime_s=FOUR.uptime_s + 2, accepted=FOUR.accepted + 100)
        while len(pages.history.samples) < 2:
            await asyncio.sleep(0.01)
        assert pages.history.rates(lambda sample: sample.accepted)[0] == 50.0
        master.answer = evolve(FOUR, uptime_s=1.0, accepted=1)
        while pages.history.samples[-1].time != 1.0:
            await asyncio.sleep(0.01)
        assert len(pages.history.samples) == 1, "another master has another history"

    run_live(act)


def test_the_status_is_valid_json_for_any_program() -> None:
    assert json.loads(get("/status", FakeMaster(FOUR)).text)["size"] == 4
