"""The deadline of a task that waits for a process, with what the kernel says of that process."""

from __future__ import annotations

import logging

import pytest
import trio
from attrs import Factory, define
from trio.testing import MockClock

from rrmaster.rules.fair_time import BOUND
from rrmaster.verdicts import hearing
from rrmaster.verdicts.hearing import Docket, Overdue, in_fair_time
from rrmaster.verdicts.processor_time import Look, Used

LIMIT = 8.0
ACCUSED = 7


@define(eq=False)
class Kernel:
    """What the kernel says: each share is the part of the passing time."""

    ran: float = 0.0
    waited: float = 0.0
    master_waited: float = 0.0
    runnable: bool = False
    looks: list[float] = Factory(list)

    def look_here(self) -> Look:
        return Look({1: Used(0.0, self.master_waited * trio.current_time())})

    def look(self, pids: object) -> Look:
        now = trio.current_time()
        self.looks.append(now)
        return Look({ACCUSED: Used(self.ran * now, self.waited * now)}, self.runnable)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(hearing, "look", kernel.look)
    monkeypatch.setattr(hearing, "look_here", kernel.look_here)
    monkeypatch.setattr(hearing, "_COMPLAINTS", hearing._Complaints())
    return kernel


async def verdict() -> tuple[float, str]:
    """When a process that never does what it should is found guilty, and the evidence."""
    begun = trio.current_time()
    with pytest.raises(Overdue) as overdue:
        await in_fair_time(LIMIT, lambda: [ACCUSED], "worker 3", trio.sleep_forever)
    return trio.current_time() - begun, str(overdue.value)


async def test_a_process_that_sleeps_is_guilty_at_its_limit(kernel: Kernel, autojump_clock: MockClock) -> None:
    assert await verdict() == (pytest.approx(LIMIT), "")


async def test_a_process_that_waits_for_a_processor_half_of_the_time_has_about_twice_its_limit(
    kernel: Kernel, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.ran, kernel.waited, kernel.runnable = 0.5, 0.5, True
    took, evidence = await verdict()
    assert took == pytest.approx(2 * LIMIT, rel=0.1)
    assert "it ran 6." in evidence
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith("worker 3 is given more time than 8 s: processor time is short, it waited 3.5 s for it")


@pytest.mark.parametrize("whose", ["waited", "master_waited"])
async def test_what_is_starved_for_ever_is_found_at_the_bound(
    whose: str, kernel: Kernel, autojump_clock: MockClock
) -> None:
    setattr(kernel, whose, 1.0)
    took, _ = await verdict()
    assert took == pytest.approx(BOUND * LIMIT)


async def test_work_that_is_done_in_the_first_eighth_of_its_limit_costs_no_look(
    kernel: Kernel, autojump_clock: MockClock
) -> None:
    async def work() -> str:
        await trio.sleep(LIMIT / 9)
        return "done"

    assert await in_fair_time(LIMIT, lambda: [ACCUSED], "worker 3", work) == "done"
    assert kernel.looks == []


async def test_what_the_work_raises_comes_as_it_is(kernel: Kernel) -> None:
    async def work() -> None:
        raise LookupError("no such page")

    with pytest.raises(LookupError, match="no such page"):
        await in_fair_time(LIMIT, lambda: [ACCUSED], "worker 3", work)


async def test_a_cancelled_wait_is_no_verdict(kernel: Kernel, autojump_clock: MockClock) -> None:
    with trio.move_on_after(LIMIT / 2) as scope:
        await verdict()
    assert scope.cancelled_caught


async def test_a_master_that_was_stopped_looks_again(kernel: Kernel, mock_clock: MockClock) -> None:
    docket = Docket()
    assert docket.judge(LIMIT, 0.0, LIMIT / 8, [ACCUSED], "worker 3") is None, "the first look"
    assert docket.judge(LIMIT, 0.0, 3600.0, [ACCUSED], "worker 3") is None
    due = docket.due(LIMIT, 0.0)
    assert 3600 < due <= 3600 + LIMIT
    assert docket.judge(LIMIT, 0.0, due, [ACCUSED], "worker 3") == ""


async def test_a_sign_of_life_opens_another_case(kernel: Kernel, mock_clock: MockClock) -> None:
    docket = Docket()
    docket.judge(LIMIT, 0.0, LIMIT / 8, [ACCUSED], "worker 3")
    assert docket.due(LIMIT, 5.0) == 5.0 + LIMIT / 8
    assert docket.judge(LIMIT, 5.0, LIMIT, [ACCUSED], "worker 3") is None
