"""Metrics: both formats are read back by Prometheus' own parsers, and a counter of a slot never falls."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from rrmaster.admin.metrics import OPENMETRICS, TEXT, LatestMetrics, exposition
from rrmaster.events.totals import SlotTotals, Totals
from rrmaster.protocol.pages.figures import DURATIONS, WAITS, Histogram
from rrmaster.status.model import Snapshot
from tests.status.snapshots import FOUR, a_snapshot, a_worker, some_workers

LAW = settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def values(snapshot: Snapshot | None, accept: str = "") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Each sample by its name and labels."""
    text, kind = exposition(snapshot, accept)
    parse = parse_openmetrics if kind == OPENMETRICS else parse_text
    samples = [sample for family in parse(text.decode()) for sample in family.samples]
    found = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
    assert len(found) == len(samples), "a sample stands twice"
    return found


def test_each_number_of_a_worker_is_there_with_its_slot_and_generation() -> None:
    found = values(a_snapshot(a_worker(0, open=7, lag_us=1500, rss=1000), a_worker(1, busy=None, taking=False)))
    of_the_first = (("generation", "2"), ("slot", "0"))
    assert found["rrmaster_worker_open_connections", of_the_first] == 7
    assert found["rrmaster_worker_event_loop_lag_seconds", of_the_first] == 0.0015
    assert found["rrmaster_worker_resident_memory_bytes", of_the_first] == 1000
    assert found["rrmaster_worker_paused", of_the_first] == 0
    assert found["rrmaster_worker_paused", (("generation", "2"), ("slot", "1"))] == 1
    assert ("rrmaster_worker_busy_requests", (("generation", "2"), ("slot", "1"))) not in found, "it is not known"
    assert found["rrmaster_workers", (("state", "serving"),)] == 2
    assert found["rrmaster_connections_accepted_total", ()] == 1380
    assert found["rrmaster_backlog_connections", (("listener", "127.0.0.1:8000"),)] == 3


def test_a_counter_of_a_slot_is_the_sum_over_all_its_workers() -> None:
    totals = Totals()
    before = values(a_snapshot(a_worker(0, handed=10, unclaimed=1, requests=8, cpu_us=2_000_000)))
    totals.worker_ended(SlotTotals(0, taken=9, requests=8, cpu_us=2_000_000), "fault")
    replaced = a_snapshot(a_worker(0, handed=0, unclaimed=0, requests=None, cpu_us=None), totals=totals.at_present())
    after = values(replaced)
    for name, value in (("connections", 9), ("requests", 8), ("cpu_seconds", 2)):
        key = (f"rrmaster_worker_{name}_total", (("slot", "0"),))
        assert before[key] == after[key] == value
    assert after["rrmaster_worker_ends_total", (("slot", "0"),)] == 1
    assert after["rrmaster_worker_exits_total", (("how", "fault"),)] == 1


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
def test_a_histogram_of_a_slot_is_the_sum_over_all_its_workers(accept: str) -> None:
    took = Histogram((0, 3, 1, *[0] * (len(DURATIONS) - 2)), 0.0025)
    waited = Histogram((2, *[0] * len(WAITS)), 0.0001)
    totals = Totals()
    totals.worker_ended(SlotTotals(0, request_duration=took, accept_wait=waited), "killed")
    alive = [a_worker(0, request_duration=took), a_worker(1, request_duration=None, accept_wait=waited)]
    found = values(a_snapshot(*alive, totals=totals.at_present()), accept)

    def bucket(name: str, slot: int, le: str) -> float | None:
        return found.get((f"rrmaster_{name}_seconds_bucket", (("le", le), ("slot", str(slot)))))

    steps = [bucket("request_duration", 0, le) for le in ("0.00025", "0.0005", "0.001", "60.0", "+Inf")]
    assert steps == [0, 6, 8, 8, 8]
    assert found["rrmaster_request_duration_seconds_count", (("slot", "0"),)] == 8
    assert found["rrmaster_request_duration_seconds_sum", (("slot", "0"),)] == 0.005
    assert bucket("request_duration", 1, "+Inf") is None, "that worker counts nothing"
    assert (bucket("accept_wait", 0, "0.0001"), bucket("accept_wait", 1, "+Inf")) == (2, 2)


def test_connections_are_as_the_worker_counts_them_and_do_not_fall_while_some_are_recalled() -> None:
    """One that a recall has read, and not handed over yet, is no longer unclaimed, and not taken either."""
    counted = Histogram((0,) * len(WAITS) + (9,), 0.5)
    found = values(
        a_snapshot(a_worker(0, handed=12, unclaimed=0, accept_wait=counted), a_worker(1, handed=12, unclaimed=2))
    )
    assert found["rrmaster_worker_connections_total", (("slot", "0"),)] == 9
    assert found["rrmaster_worker_connections_total", (("slot", "1"),)] == 10, "a worker that does not count"


def test_a_counter_by_kind_has_each_kind_from_the_start() -> None:
    """Of a counter whose first value is 1 Prometheus sees no increase: the first crash would be missed."""
    found = values(a_snapshot(a_worker(0)))
    ends = {labels[0][1]: value for (name, labels), value in found.items() if name == "rrmaster_worker_exits_total"}
    assert ends == {"asked": 0, "failed": 0, "exit": 0, "fault": 0, "killed": 0}
    reloads = {labels[0][1]: value for (name, labels), value in found.items() if name == "rrmaster_reloads_total"}
    assert reloads == {"committed": 0, "refused": 0, "rolled back": 0, "out of time": 0, "superseded": 0}


@LAW
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=6))
def test_no_counter_falls_by_a_last_digit_when_a_worker_ends(cpu: list[int]) -> None:
    """Prometheus takes any fall for a new beginning, and adds the whole counter to the increase."""
    totals, before = Totals(), 0.0
    for used in cpu:
        living = a_snapshot(a_worker(0, cpu_us=used), totals=totals.at_present())
        now = values(living)["rrmaster_worker_cpu_seconds_total", (("slot", "0"),)]
        totals.worker_ended(SlotTotals(0, cpu_us=used), "killed")
        after = values(a_snapshot(a_worker(0, cpu_us=0), totals=totals.at_present()))
        assert before <= now == after["rrmaster_worker_cpu_seconds_total", (("slot", "0"),)]
        before = now


def test_the_counts_of_a_slot_without_a_worker_stay() -> None:
    totals = Totals()
    totals.worker_ended(SlotTotals(3, taken=9), "exit")
    found = values(a_snapshot(a_worker(0), totals=totals.at_present()))
    assert found["rrmaster_worker_connections_total", (("slot", "3"),)] == 9


def test_a_master_that_does_not_answer_is_a_metric() -> None:
    assert values(None) == {("rrmaster_up", ()): 0.0}
    assert values(FOUR)["rrmaster_up", ()] == 1.0


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html,*/*;q=0.1", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text; version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", OPENMETRICS),
        ("application/openmetrics-text;q=0.3,text/plain;q=0.5", TEXT),
        ("application/openmetrics-text;q=0,*/*", TEXT),
        ("application/openmetrics-text;q=soon,*/*;q=0.1", TEXT),
    ],
)
def test_a_scraper_gets_the_format_that_it_prefers(accept: str, kind: str) -> None:
    assert exposition(FOUR, accept)[1] == kind


@LAW
@given(some_workers, st.sampled_from(["", "application/openmetrics-text"]))
def test_every_snapshot_makes_metrics_that_are_read_back(workers: list, accept: str) -> None:  # type: ignore[type-arg]
    found = values(a_snapshot(*workers), accept)
    assert found["rrmaster_connections_accepted_total", ()] == 1380


def test_a_name_cannot_break_out_of_its_label() -> None:
    odd = evolve(FOUR, application='a"b\\c\nrrmaster_up 7')
    assert values(odd)["rrmaster_up", ()] == 1.0


def test_scrapes_of_one_snapshot_share_its_text_and_the_next_snapshot_has_its_own() -> None:
    latest, first, second = LatestMetrics(), a_snapshot(a_worker(0, open=7)), a_snapshot(a_worker(0, open=8))
    for accept in ("", "application/openmetrics-text"):
        assert latest.of(first, accept) == exposition(first, accept)
        assert latest.of(first, accept)[0] is latest.of(first, accept)[0]
    assert latest.of(second, "") == exposition(second, "")
    assert latest.of(None, "") == exposition(None, "")


def test_each_metric_that_the_security_page_names_is_there() -> None:
    page = (Path(__file__).parents[2] / "SECURITY.md").read_text()
    named = set(re.findall(r"`(rrmaster_\w+)`", page))
    there = {name for name, _ in values(a_snapshot(a_worker(0, oldest_ms=5)))}
    assert named, "the page names its metrics"
    assert named <= there, named - there
