"""A crashed worker is replaced at once the first time, seldom in a loop, and never by several masters in step."""

import signal
from collections.abc import Callable
from itertools import pairwise

import pytest
from attrs import Factory, define
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.rules.backoff import (
    ALONE_CAP_S,
    CAP_S,
    DEADLY_S,
    JITTER,
    KEPT,
    LOOP,
    MOST_DEADLY,
    STABLE_S,
    STARTS_PER_S,
    WINDOW_S,
    Backoff,
    DeadlyRequests,
    Exit,
    counts_as_crash,
)

ROUNDING = 1e-6
"""Seconds.  The clock is a float with a large value, so differences are not exact."""

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)
jitters = st.floats(0, 1)

BOOT = 0.125
"""Seconds that a simulated worker needs to be ready, or to fail."""

TICK = 1 / 64
"""Seconds, the clock of the simulation; a power of two adds up exactly."""


@define(eq=False)
class Fleet:
    """Uses `Backoff` the way the supervisor does, with a clock of its own."""

    size: int
    life: Callable[[int, float], float]
    """The life of a worker started in this slot at this time, in seconds; below `BOOT` it never serves."""
    jitter: float = 0.5
    backoff: Backoff = Factory(Backoff)
    now: float = 0.0
    born: dict[int, float] = Factory(dict)
    dies: dict[int, float] = Factory(dict)
    crashed: set[int] = Factory(set)
    retries: set[int] = Factory(set)
    starts: list[tuple[float, int]] = Factory(list)

    def run(self, until: float) -> None:
        while self.now < until:
            for slot, when in list(self.dies.items()):
                if when <= self.now:
                    self.bury(slot)
            for slot in list(self.retries):
                if self.now - self.born[slot] - BOOT >= STABLE_S:
                    self.retries.discard(slot)
                    self.backoff.reset()
            for slot in range(self.size):
                if slot not in self.dies and self.may_start(slot):
                    self.start(slot)
            self.now += TICK

    def bury(self, slot: int) -> None:
        del self.dies[slot]
        served = max(self.now - self.born.pop(slot) - BOOT, 0.0)
        self.retries.discard(slot)
        self.backoff.crashed(self.now, served, self.jitter)
        self.crashed.add(slot)

    def may_start(self, slot: int) -> bool:
        serves = any(self.now - born >= BOOT for born in self.born.values())
        if slot in self.crashed and self.backoff.wait(self.now, serves) > 0:
            return False
        return self.backoff.pace(self.now) <= 0

    def start(self, slot: int) -> None:
        self.backoff.started(self.now)
        if slot in self.crashed:
            self.crashed.discard(slot)
            self.retries.add(slot)
            self.backoff.retried(self.now)
        self.born[slot] = self.now
        self.dies[slot] = self.now + self.life(slot, self.now)
        self.starts.append((self.now, slot))

    def tries(self, since: float, until: float) -> int:
        return sum(since < when <= until for when, _ in self.starts)


# --- back-off


def test_the_first_replacement_comes_at_once():
    backoff = Backoff()
    assert backoff.crashed(100.0, 0.0, 0.5) == 0
    assert backoff.wait(100.0, any_serves=True) == 0


def test_then_the_back_off_doubles_up_to_a_cap():
    backoff, now, delays = Backoff(), 0.0, []
    for _ in range(9):
        delays.append(backoff.crashed(now, 0.0, 0.5))
        now += delays[-1]
    assert delays == [0, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_stable_worker_that_crashes_during_a_loop_of_others_does_not_end_it():
    backoff, now = Backoff(), 0.0
    for _ in range(4):
        now += backoff.crashed(now, 0.0, 0.5)
    assert backoff.crashed(now, 10 * STABLE_S, 0.5) == 8


@LAW
@given(st.lists(jitters, min_size=2, max_size=40))
def test_the_jitter_is_a_share_of_the_back_off(chances):
    backoff, now = Backoff(), 0.0
    backoff.crashed(now, 0.0, 0.5)
    for n, jitter in enumerate(chances):
        delay = backoff.crashed(now, 0.0, jitter)
        middle = min(2.0**n, CAP_S)
        assert delay == pytest.approx(middle * (1 - JITTER + 2 * JITTER * jitter))
        assert backoff.wait(now, any_serves=True) == pytest.approx(delay)
        now += delay


def test_several_masters_do_not_come_back_in_step():
    delays = set()
    for jitter in (0.0, 0.3, 1.0):
        backoff = Backoff()
        backoff.crashed(0.0, 0.0, jitter)
        delays.add(backoff.crashed(0.0, 0.0, jitter))
    assert len(delays) == 3


def test_after_a_long_pause_the_first_replacement_is_at_once_again():
    backoff, now = Backoff(), 0.0
    for _ in range(6):
        now += backoff.crashed(now, 0.0, 0.5)
    now += WINDOW_S + CAP_S + 1
    assert backoff.crashed(now, 0.0, 0.5) == 0


def test_new_code_is_not_blamed_for_the_old():
    backoff = Backoff()
    for _ in range(6):
        backoff.crashed(0.0, 0.0, 0.5)
    backoff.reset()
    assert backoff.wait(0.0, any_serves=True) == 0
    assert backoff.crashed(1.0, 0.0, 0.5) == 0


@LAW
@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 20), jitters), max_size=30), st.floats(0, 100))
def test_while_no_worker_serves_the_next_try_is_at_most_a_second_away(crashes, later):
    backoff, now = Backoff(), 0.0
    for gap, served, jitter in crashes:
        now += gap
        backoff.crashed(now, served, jitter)
        backoff.retried(now)
    assert 0 <= backoff.wait(now + later, any_serves=False) <= ALONE_CAP_S + ROUNDING
    assert backoff.wait(now + later, any_serves=False) <= backoff.wait(now + later, any_serves=True)


@LAW
@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 20), jitters), max_size=30))
def test_no_slot_is_ever_given_up(crashes):
    backoff, now = Backoff(), 0.0
    for gap, served, jitter in crashes:
        now += gap
        backoff.crashed(now, served, jitter)
        assert backoff.wait(now, any_serves=True) <= CAP_S * (1 + JITTER) + ROUNDING
        assert backoff.wait(now + CAP_S * (1 + JITTER) + ROUNDING, any_serves=True) == 0


# --- a whole fleet


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("failing", [1, 2, 4, 7])
def test_a_crash_loop_beside_serving_workers_is_tried_seldom(failing, jitter):
    """Ten times in the first minute, two a minute later: eight slots do not try eight times as often."""
    breaks = 100.0

    def life(slot: int, now: float) -> float:
        if slot >= failing:
            return 10_000.0
        return breaks if now < breaks else BOOT / 2

    fleet = Fleet(8, life, jitter)
    fleet.run(breaks + 600)
    assert 2 <= fleet.tries(breaks - 1, breaks + 60) <= 10
    for minute in range(1, 10):
        assert 1 <= fleet.tries(breaks + 60 * minute, breaks + 60 * minute + 60) <= 2


def test_a_crash_loop_of_all_is_tried_every_second():
    fleet = Fleet(1, lambda slot, now: 50.0 if now < 1 else BOOT / 2)
    fleet.run(110)
    starts = [when for when, _ in fleet.starts if when >= 50]
    assert max(b - a for a, b in pairwise(starts)) <= 1.0 + BOOT
    assert len(starts) <= 65, "and not much more often"


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_eight_healthy_workers_that_crash_together_all_come_back_at_once(jitter):
    """Also the second time, and the third."""
    fleet = Fleet(8, lambda slot, now: 20.0, jitter)
    fleet.run(65)
    assert [when for when, _ in fleet.starts] == [0.0] * 8 + [20.0] * 8 + [40.0] * 8 + [60.0] * 8


def test_a_replacement_that_lasts_ends_the_loop():
    """Three bad tries, then a good one: the next crash is the first one again."""
    lives = iter([1.0, 0.1, 0.1, 0.1, 60.0, 10_000.0])
    fleet = Fleet(2, lambda slot, now: next(lives) if slot == 0 else 10_000.0)
    fleet.run(200)
    starts = [when for when, slot in fleet.starts if slot == 0]
    assert starts[5] - starts[4] == 60.0


# --- pace


@LAW
@given(st.lists(st.floats(0, 0.5), max_size=120))
def test_no_more_than_twenty_are_started_in_any_second(gaps):
    backoff, now, starts = Backoff(), 0.0, []
    for gap in gaps:
        now += gap
        if backoff.pace(now) <= 0:
            backoff.started(now)
            starts.append(now)
    for first, last in zip(starts, starts[STARTS_PER_S:], strict=False):
        assert last - first >= 1.0 - 1e-9


@LAW
@given(st.floats(0, 1e6))
def test_a_start_is_allowed_after_the_wait_that_was_returned(now):
    backoff = Backoff()
    for _ in range(STARTS_PER_S):
        assert backoff.pace(now) == 0
        backoff.started(now)
    wait = backoff.pace(now)
    assert wait == pytest.approx(1.0)
    assert backoff.pace(now + wait) <= 0


# --- is it a loop?


def test_five_crashes_in_a_minute_are_a_loop():
    backoff = Backoff()
    for n in range(LOOP):
        assert not backoff.is_loop(n)
        backoff.crashed(float(n), 0.0, 0.5)
    assert backoff.is_loop(LOOP)
    assert not backoff.is_loop(LOOP + WINDOW_S + CAP_S)


def test_crashes_far_apart_are_no_loop():
    backoff = Backoff()
    for n in range(50):
        backoff.crashed(n * 100.0, 0.0, 0.5)
        assert not backoff.is_loop(n * 100.0)


def test_a_loop_that_is_slowed_down_is_still_a_loop():
    backoff, now = Backoff(), 0.0
    for _ in range(20):
        now += backoff.crashed(now, 0.0, 0.5) + 0.3
    assert backoff.is_loop(now)


@LAW
@given(st.lists(st.floats(0, 30), max_size=100))
def test_no_crash_is_remembered_for_more_than_a_minute(gaps):
    backoff, now = Backoff(), 0.0
    for gap in gaps:
        now += gap
        backoff.crashed(now, 0.0, 0.5)
        assert all(now - crash <= WINDOW_S for crash in backoff.crashes)


# --- what is a crash?

FAULTS = ["SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT"]


@pytest.mark.parametrize("how", [Exit(code=0), Exit(code=1), Exit(signal=signal.SIGKILL), Exit(signal=signal.SIGSEGV)])
def test_any_end_before_ready_is_a_crash(how):
    assert counts_as_crash(how, was_ready=False)


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_an_exit_that_the_master_did_not_ask_for_is_a_crash(code):
    assert counts_as_crash(Exit(code=code), was_ready=True)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_a_crash(name):
    assert counts_as_crash(Exit(signal=signal.Signals[name]), was_ready=True)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"])
def test_a_worker_killed_from_outside_has_not_crashed_unless_memory_ran_out(name):
    assert not counts_as_crash(Exit(signal=signal.Signals[name]), was_ready=True)
    assert counts_as_crash(Exit(signal=signal.Signals[name], out_of_memory=True), was_ready=True)


def test_an_end_is_described_by_its_status_or_signal():
    assert str(Exit(code=3)) == "exited with status 3"
    assert str(Exit(signal=9)) == "was ended by SIGKILL"
    assert str(Exit(signal=9, out_of_memory=True)) == "was ended by the kernel's SIGKILL: out of memory"
    assert str(Exit(signal=40)) == "was ended by signal 40"


# --- requests that kill


def test_the_request_that_was_in_hand_at_most_deaths_is_named():
    deadly = DeadlyRequests()
    assert deadly.died(("GET /a", "GET /boom"), 0) == "GET /a", "at the first death the newest is as good as any"
    assert deadly.died(("GET /b", "GET /boom"), 1) == "GET /boom"
    assert deadly.died(("GET /b", "GET /boom", "GET /boom"), 2) == "GET /boom"
    assert deadly.known(2) == [("GET /boom", 3), ("GET /b", 2), ("GET /a", 1)]
    assert deadly.deaths("GET /boom") == 3


def test_requests_that_killed_long_ago_are_forgotten():
    deadly = DeadlyRequests()
    deadly.died(("GET /boom",), 0)
    assert deadly.known(DEADLY_S - 1) == [("GET /boom", 1)]
    assert deadly.known(DEADLY_S) == []


@LAW
@given(st.integers(2, 40), st.integers(0, 63), st.integers(0, 63))
def test_clients_that_make_up_paths_fill_no_memory_and_hide_no_killer(deaths, others, place):
    deadly = DeadlyRequests()
    for death in range(deaths):
        made_up = [f"GET /{death}/{number}" for number in range(others)]
        worst = deadly.died((*made_up[:place], "GET /boom", *made_up[place:]), death)
    assert worst == "GET /boom"
    assert deadly.known(deaths)[0] == ("GET /boom", deaths)
    assert len(deadly.known(deaths)) <= MOST_DEADLY
    assert len(deadly._found) <= KEPT
