"""Snapshots to test with."""

from __future__ import annotations

from hypothesis import strategies as st

from rrmaster.protocol.pages.figures import DURATIONS, WAITS, Histogram
from rrmaster.status.model import ListenerStatus, Snapshot, WorkerStatus

STATES = ("booting", "proving", "serving", "draining", "stopping", "killed")


def a_worker(slot: int = 0, **more: object) -> WorkerStatus:
    known = dict(  # noqa: C408  # as the constructor would read
        slot=slot, id=slot + 1, pid=4_000_000 + slot, generation=2, state="serving", state_s=61.0, uptime_s=61.0,
        open=12, unclaimed=1, handed=345, closed=333, busy=3, requests=340, lag_us=850, rss=26 << 20, cpu_us=12_300_000,
    )  # fmt: skip
    return WorkerStatus(**(known | more))  # type: ignore[arg-type]


def a_snapshot(*workers: WorkerStatus, **more: object) -> Snapshot:
    known = dict(  # noqa: C408  # as above
        name="shop", pid=4711, version="0.1.0", application="shop.main:app", policy="least-loaded", time=1.75e9,
        uptime_s=7300.0, size=max(len(workers), 1), generation=2, accepted=1380, recalled_from_late=4,
        recalled_from_dead=2, suspensions=3, breaches=0, lost=1, workers=workers,
        listeners=(ListenerStatus("127.0.0.1:8000", 3, 2048), ListenerStatus("unix:/run/shop.sock", None, 2048)),
    )  # fmt: skip
    return Snapshot(**(known | more))  # type: ignore[arg-type]


FOUR = a_snapshot(*(a_worker(slot) for slot in range(4)))

counts = st.integers(0, 10**6)


def histograms(bounds: tuple[float, ...]) -> st.SearchStrategy[Histogram]:
    each = st.lists(counts, min_size=len(bounds) + 1, max_size=len(bounds) + 1).map(tuple)
    return st.builds(Histogram, each, st.floats(0, 1e9))


some_workers = st.lists(
    st.builds(
        WorkerStatus,
        slot=st.integers(0, 1023), id=counts, pid=st.none() | st.integers(1, 4_194_304), generation=st.integers(1, 999),
        state=st.sampled_from(STATES), state_s=st.floats(0, 1e8), uptime_s=st.none() | st.floats(0, 1e8),
        open=st.integers(0, 99_999), unclaimed=st.integers(0, 250), handed=counts, closed=counts,
        busy=st.none() | st.integers(0, 9999), lag_us=st.none() | st.integers(0, 2**32), last_exit=st.text(max_size=60),
        rss=st.none() | st.integers(0, 2**40), cpu_us=st.none() | st.integers(0, 2**48), restarts=st.integers(0, 999),
        latency_p50_s=st.none() | st.floats(0, 60), latency_p99_s=st.none() | st.floats(0, 60),
        request_duration=st.none() | histograms(DURATIONS), accept_wait=st.none() | histograms(WAITS),
    ),
    max_size=6,
)  # fmt: skip
