"""The live page: what it shows at any size, and its keys.  (The terminal itself was looked at.)"""

from __future__ import annotations

import re

import pytest
from attrs import evolve

from rrmaster.cli.live.columns import LONGEST, SORTABLE, Order, parse_column
from rrmaster.cli.live.history import REFRESHES
from rrmaster.cli.live.view import LiveView
from rrmaster.cli.live.watch import in_place
from rrmaster.events.totals import FleetTotals, SlotTotals
from rrmaster.status.model import PoolStatus
from rrmaster.status.tables import COLUMNS
from tests.status.snapshots import a_snapshot, a_worker

BARS = "▁▂▃▄▅▆▇█"


def a_view(refreshes: int = 5, workers: int = 4) -> LiveView:
    view = LiveView()
    for refresh in range(refreshes):
        rows = [a_worker(slot, open=refresh, cpu_us=refresh * 250_000) for slot in range(workers)]
        view.record(a_snapshot(*rows, time=100.0 + refresh, accepted=10 * refresh))
    return view


def lines(view: LiveView, width: int, height: int = 24) -> list[str]:
    return [text for text, _ in view.screen(width, height)]


@pytest.mark.parametrize("helping", [False, True])
@pytest.mark.parametrize("width", [20, 40, 60, 80, 81, 100, 132, 200, 300])
@pytest.mark.parametrize("height", [3, 24])
def test_nothing_is_wider_or_higher_than_the_terminal(width: int, height: int, helping: bool) -> None:
    view = a_view()
    view.helping = helping
    found = lines(view, width, height)
    assert max(map(len, found)) <= width
    assert len(found) <= height


def test_80_columns_have_sparklines_of_connections_and_lag() -> None:
    head = next(line for line in lines(a_view(), 80) if line.startswith("SLOT"))
    assert "CONNECTIONS" in head
    assert "LAG HISTORY" in head


@pytest.mark.parametrize("width", [30, 60, 80])
def test_no_count_of_the_fleet_is_cut(width: int) -> None:
    shown = "\n".join(lines(a_view(), width))
    for what in ("requests/s", "open", "accepted", "recalled", "suspended", "lost"):
        assert re.search(rf"\b{what} \d+|\d+ {what}", shown), what


def test_a_wider_terminal_has_longer_sparklines() -> None:
    bars = [sum(char in BARS for char in lines(a_view(REFRESHES), width)[-1]) for width in (80, 200)]
    assert 10 < bars[0] < bars[1] <= 2 * LONGEST


def test_rates_are_between_the_last_two_refreshes() -> None:
    view = a_view()
    assert "(10/s)" in "\n".join(lines(view, 100))
    assert view.history.workers[1].cpu == pytest.approx(0.25)


def rows(view: LiveView, width: int = 80, height: int = 24) -> list[str]:
    """The slots, from the top of the table to its end."""
    found = lines(view, width, height)
    head = next(place for place, line in enumerate(found) if line.startswith("SLOT"))
    return [line.split()[0] for line in found[head + 1 :]]


def inverse(view: LiveView) -> list[str]:
    """The rows that are shown inverse: the chosen one."""
    return [text.split()[0] for text, colour in view.screen(80, 24)[1:] if colour.endswith("reverse")]


def test_the_arrows_choose_a_row_and_the_table_scrolls_to_it() -> None:
    view = a_view(workers=50)
    assert inverse(view) == []
    moves = [("KEY_DOWN", "0"), ("KEY_DOWN", "1"), ("j", "2"), ("KEY_PGDOWN", "14"), ("KEY_PGDOWN", "26")]
    for key, chosen in [*moves, ("k", "25"), ("KEY_PGUP", "13"), ("KEY_UP", "12")]:
        assert view.press(key, 24)
        assert inverse(view) == [chosen], key
    for _ in range(9):
        view.press("KEY_PGDOWN", 24)
    assert rows(view)[-1] == "49"
    assert inverse(view) == ["49"]


def test_a_chosen_worker_that_has_gone_leaves_the_table_where_it_was() -> None:
    view = a_view(workers=50)
    for _ in range(3):
        view.press("KEY_PGDOWN", 24)
    before = rows(view)
    assert view.snapshot is not None
    view.record(evolve(view.snapshot, workers=tuple(w for w in view.snapshot.workers if w.id != view.chosen)))
    assert rows(view)[0] == before[0]
    assert inverse(view) == []


def test_rows_are_sorted_by_what_a_column_means_and_the_largest_comes_first() -> None:
    view = LiveView(order=Order("LAG"))
    lags = [900, 1_200_000, None, 80]
    view.record(a_snapshot(*(a_worker(slot, lag_us=lag) for slot, lag in enumerate(lags))))
    assert rows(view) == ["1", "0", "3", "2"], "an unknown value is never first"
    assert "by LAG ↓" in lines(view, 80)[0]
    view.press("r", 24)
    assert rows(view) == ["3", "0", "1", "2"]
    assert "by LAG ↑" in lines(view, 80)[0]


def test_the_keys_sort_by_each_column_that_is_shown_and_come_round_again() -> None:
    view = a_view()
    shown = next(line for line in lines(view, 80) if line.startswith("SLOT")).replace("LAG HISTORY", "").split()
    shown.remove("CONNECTIONS")
    seen = []
    for _ in shown:
        view.press(">", 24)
        seen.append(view.order.by)
    assert seen == [*shown[1:], shown[0]]
    view.press("<", 24)
    assert view.order.by == shown[-1]


@pytest.mark.parametrize("title", SORTABLE)
def test_every_column_can_be_sorted_by_from_the_start(title: str) -> None:
    view = a_view()
    view.order = Order(parse_column(title.lower()))
    assert sorted(rows(view, 200)) == ["0", "1", "2", "3"]


def test_a_column_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"'LAGS' is not a valid column; write SLOT, .*; did you mean LAG"):
        parse_column("lags")


def test_requests_a_second_count_those_of_workers_that_have_ended_since() -> None:
    view = LiveView()
    view.record(a_snapshot(a_worker(0, requests=100), a_worker(1, requests=50), time=10.0))
    totals = FleetTotals(slots=(SlotTotals(1, requests=54),))
    view.record(a_snapshot(a_worker(0, requests=120), a_worker(1, id=9, requests=2), time=12.0, totals=totals))
    assert "13 requests/s" in "\n".join(lines(view, 100)), "20 and 4 and 2 in two seconds"


def test_the_times_of_requests_are_shown_where_they_are_measured() -> None:
    view = LiveView(order=Order("P99"))
    times = [0.2, None, 1.5]
    workers = [a_worker(slot, latency_p50_s=0.003, latency_p99_s=time) for slot, time in enumerate(times)]
    view.record(a_snapshot(*workers, latency_p50_s=0.003, latency_p99_s=1.5))
    found = lines(view, 80)
    assert "p50 3.0ms p99 1.5s" in "\n".join(found)
    assert rows(view) == ["2", "0", "1"]
    assert "200ms" in found[-2]
    view.record(a_snapshot(a_worker(0)))
    assert "p99" not in "\n".join(lines(view, 200)[:4]), "a program's requests are not measured"


def test_parked_connections_are_counted_where_there_is_an_idle_pool() -> None:
    view = a_view()
    assert "parked" not in "\n".join(lines(view, 120))
    assert view.snapshot is not None
    view.record(evolve(view.snapshot, pool=PoolStatus(pid=7, held=12, parked=400, parked_per_s=31.4, resumed=388)))
    assert "open 16   parked 12 (31/s)   accepted" in "\n".join(lines(view, 120))


def test_one_key_asks_for_the_stacks_of_the_chosen_worker_and_shows_them() -> None:
    view = a_view()
    for key in ("KEY_DOWN", "KEY_DOWN", "s"):
        view.press(key, 24)
    assert view.wanted is not None
    assert view.wanted.slot == 1
    path = f"/srv/{'deep/' * 30}shop.py"
    view.answer("stacks of worker 1", ["Thread 0x1:", f'  File "{path}", line 3 in app', *map(str, range(60))])
    assert view.wanted is None
    top, *page = lines(view, 80)
    assert "stacks of worker 1" in top
    assert page[0] == "Thread 0x1:"
    assert page[1].endswith('/shop.py", line 3 in app'), "the end of a path tells more than its beginning"
    view.press("KEY_PGDOWN", 24)
    assert lines(view, 80)[1] == "10"
    view.press("s", 24)
    assert view.wanted is not None
    assert view.wanted.slot == 1
    view.answer("stacks of worker 1", ["again"])
    assert lines(view, 80)[1] == "again"
    view.press("KEY_ESCAPE", 24)
    assert rows(view) == ["0", "1", "2", "3"]


def test_without_a_chosen_row_the_stacks_are_those_of_the_first() -> None:
    view = LiveView(order=Order("LAG"))
    view.record(a_snapshot(a_worker(0, lag_us=5), a_worker(1, lag_us=5_000_000)))
    view.press("s", 24)
    assert view.wanted is not None
    assert view.wanted.slot == 1


def test_a_watched_report_is_written_over_the_one_before_and_cut_to_the_terminal() -> None:
    drawn = in_place(["a" * 100, "b\x1b[2J", "c", "d"], 10, 3)
    assert drawn == "\x1b[Haaaaaaaaa…\x1b[K\r\nb\\x1b[2J\x1b[K\r\n... 2 more lines\x1b[K\x1b[J"


def test_no_line_of_the_help_is_cut_in_a_terminal_of_80_columns() -> None:
    view = a_view()
    view.helping = True
    assert [line for line in lines(view, 80, 200)[1:] if "…" in line] == []


@pytest.mark.parametrize("key", ["?", "h"])
def test_the_help_screen_explains_every_column_that_may_be_shown(key: str) -> None:
    view = a_view()
    assert "? help" in lines(view, 80)[0]
    view.press(key, 24)
    titles = [line.strip() for line in lines(view, 80, height=100)]
    shown = {column.title for column in COLUMNS} - {"LAST EXIT", "HANDED", "CPU", "REQS"}
    for title in shown | {"CPU%", "REQ/S", "CONNECTIONS", "LAG HISTORY"}:
        assert any(line.startswith(f"{title} ") for line in titles), title


def test_the_help_screen_is_left_by_the_same_key_or_escape_and_the_view_by_q() -> None:
    view = a_view()
    for leave in ("?", "h", "KEY_ESCAPE"):
        assert view.press("?", 24)
        assert view.helping
        assert view.press(leave, 24)
        assert not view.helping
    view.press("?", 24)
    assert not view.press("q", 24)
    view.press("?", 24)
    assert not view.press("KEY_ESCAPE", 24)


def test_a_worker_that_has_gone_is_forgotten() -> None:
    view = a_view()
    assert view.snapshot is not None
    view.record(evolve(view.snapshot, workers=view.snapshot.workers[:1]))
    assert set(view.history.workers) == {1}


def test_without_unicode_bars_are_ascii() -> None:
    view = a_view()
    view.ascii_only = True
    assert all(line.isascii() for line in lines(view, 200))
