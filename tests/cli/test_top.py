"""The live page: what stands on it, at any size.  (The terminal itself was looked at.)"""

from __future__ import annotations

import pytest
from attrs import evolve

from tests.status.test_model import a_snapshot, a_worker

pytest.importorskip("blessed")

from rrmaster.cli.top import HISTORY, LONGEST, Watch

BARS = "▁▂▃▄▅▆▇█"


def watched(looks: int = 5, workers: int = 4) -> Watch:
    watch = Watch()
    for look in range(looks):
        rows = [a_worker(slot, open=look, cpu_us=look * 250_000) for slot in range(workers)]
        watch.note(a_snapshot(*rows, time=100.0 + look, accepted=10 * look))
    return watch


def lines(watch: Watch, width: int, height: int = 24) -> list[str]:
    return [text for text, _ in watch.screen(width, height)]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 81, 100, 132, 200, 300])
@pytest.mark.parametrize("height", [3, 24])
def test_nothing_is_wider_or_higher_than_the_terminal(width: int, height: int) -> None:
    found = lines(watched(), width, height)
    assert max(map(len, found)) <= width
    assert len(found) <= height


def test_80_columns_have_sparklines_of_connections_and_lag() -> None:
    head = next(line for line in lines(watched(), 80) if line.startswith("SLOT"))
    assert "CONNECTIONS" in head
    assert "LAG HISTORY" in head


def test_a_wider_terminal_has_longer_sparklines() -> None:
    bars = [sum(char in BARS for char in lines(watched(HISTORY), width)[-1]) for width in (80, 200)]
    assert 10 < bars[0] < bars[1] <= 2 * LONGEST


def test_rates_are_between_the_last_two_looks() -> None:
    watch = watched()
    assert "(10/s)" in "\n".join(lines(watch, 100))
    assert watch.pasts[1].cpu == pytest.approx(0.25)


def test_more_workers_than_lines_can_be_scrolled_to() -> None:
    watch = watched(workers=50)
    watch.scroll = 1000
    assert lines(watch, 80)[-1].split()[0] == "49"
    watch.scroll = -5
    lines(watch, 80)
    assert watch.scroll == 0


def test_who_has_gone_is_forgotten() -> None:
    watch = watched()
    assert watch.snapshot is not None
    watch.note(evolve(watch.snapshot, workers=watch.snapshot.workers[:1]))
    assert set(watch.pasts) == {1}


def test_without_unicode_bars_are_ascii() -> None:
    watch = watched()
    watch.ascii_only = True
    assert all(line.isascii() for line in lines(watch, 200))
