"""A reload as its watchers see it: each line once, in order, and the end at the moment it comes."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from rrmaster.rules.plan import Goal
from rrmaster.rules.rollout import Phase, Rollout, Trial
from rrmaster.supervision.reload_progress import Reload


def a_reload() -> Reload:
    return Reload(Rollout(2, Goal(2, surge=2), Trial(2.0, 2.0, 600.0), 0.0, 2))


async def test_every_watcher_gets_every_line_once_whenever_it_begins() -> None:
    reload, seen = a_reload(), [list[str]() for _ in range(3)]

    async def watch(lines: list[str]) -> None:
        async for line, _ in reload.progress():
            lines.append(line)

    async with trio.open_nursery() as nursery:
        for number, lines in enumerate(seen):
            reload.rollout.say(f"line {number}")
            reload.wake()
            nursery.start_soon(watch, lines)
            await wait_all_tasks_blocked()
        reload.rollout.say("over")
        reload.rollout.phase = Phase.COMMITTED
        reload.wake()
    assert seen == [["line 0", "line 1", "line 2", "over"]] * 3


async def test_the_end_is_told_at_once_and_stays_told() -> None:
    reload, ended = a_reload(), []

    async def wait() -> None:
        ended.append((await reload.ended()).phase)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        reload.rollout.say("half way")
        reload.wake()
        await wait_all_tasks_blocked()
        assert ended == []
        reload.rollout.fail("no", 1.0)
        reload.wake()
    await wait()
    assert ended == [Phase.REFUSED, Phase.REFUSED]


async def test_how_far_it_is_goes_with_the_line() -> None:
    reload = a_reload()
    reload.rollout.worker_ready("worker 0")
    reload.rollout.phase = Phase.COMMITTED
    reload.rollout.approved = 2
    assert [progress async for _, progress in reload.progress()] == [1.0]
