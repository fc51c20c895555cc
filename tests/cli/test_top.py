"""The live page: what it shows at any size, and its keys.  (The terminal itself was looked at.)"""

from __future__ import annotations

import pytest
from attrs import evolve

from rrmaster.status.tables import COLUMNS
from tests.status.snapshots import a_snapshot, a_worker

pytest.importorskip("blessed")

from rrmaster.cli.live.view import HISTORY, LONGEST, LiveView

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


def test_a_wider_terminal_has_longer_sparklines() -> None:
    bars = [sum(char in BARS for char in lines(a_view(HISTORY), width)[-1]) for width in (80, 200)]
    assert 10 < bars[0] < bars[1] <= 2 * LONGEST


def test_rates_are_between_the_last_two_refreshes() -> None:
    view = a_view()
    assert "(10/s)" in "\n".join(lines(view, 100))
    assert view.histories[1].cpu == pytest.approx(0.25)


def test_more_workers_than_lines_can_be_scrolled_to() -> None:
    view = a_view(workers=50)
    view.scroll = 1000
    assert lines(view, 80)[-1].split()[0] == "49"
    view.scroll = -5
    lines(view, 80)
    assert view.scroll == 0


def test_the_arrows_scroll_by_a_line_and_the_page_keys_by_half_a_screen() -> None:
    view = a_view(workers=50)
    for key, scrolled in (("KEY_DOWN", 1), ("j", 2), ("KEY_PGDOWN", 14), ("KEY_PGUP", 2), ("k", 1), ("KEY_UP", 0)):
        assert view.press(key, 24)
        lines(view, 80)
        assert view.scroll == scrolled, key


@pytest.mark.parametrize("key", ["?", "h"])
def test_the_help_screen_explains_every_column_that_may_be_shown(key: str) -> None:
    view = a_view()
    assert "? help" in lines(view, 80)[0]
    view.press(key, 24)
    titles = [line.strip() for line in lines(view, 80, height=100)]
    shown = {column.title for column in COLUMNS} - {"LAST EXIT", "HANDED", "CPU"}
    for title in shown | {"CPU%", "CONNECTIONS", "LAG HISTORY"}:
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
    assert set(view.histories) == {1}


def test_without_unicode_bars_are_ascii() -> None:
    view = a_view()
    view.ascii_only = True
    assert all(line.isascii() for line in lines(view, 200))
