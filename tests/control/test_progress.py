"""A client that follows a reload gets its lines, and its result."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrmaster.rules.rollout import Phase
from tests.control.serving import serving


@pytest.mark.parametrize(
    ("phase", "status"),
    [(Phase.COMMITTED, 0), (Phase.REFUSED, 10), (Phase.ROLLED_BACK, 11), (Phase.OUT_OF_TIME, 12)],
)
async def test_a_reload_sends_its_progress_and_ends_with_its_result(tmp_path: Path, phase: Phase, status: int) -> None:
    async with serving(tmp_path) as served:
        rollout = served.operator.rollout
        rollout.say("starting")
        client = await served.connect(do="reload")
        assert (await client.line())["line"] == "starting"
        rollout.say("half way")
        assert (await client.line())["line"] == "half way"
        rollout.phase, rollout.reason = phase, "because" if status else ""
        rollout.say("over")
        assert (await client.line())["line"] == "over"
        (last,) = await client.answer()
        assert last["status"] == status
        assert last.get("error") == ("because" if status else None)


async def test_a_second_reload_is_told_that_another_runs_unless_it_supersedes(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.operator.busy = True
        served.operator.rollout.phase = Phase.COMMITTED
        assert await served.end_of(do="reload") == {"status": 13, "error": "a reload runs already: soaking"}
        assert (await served.end_of(do="reload", supersede=True))["status"] == 0


async def test_a_client_that_leaves_during_a_reload_is_forgotten(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.connect(do="reload")
        await served.until(lambda: served.server.log.followers == 1)
        await client.stream.aclose()
        await served.until(lambda: served.server.log.followers == 0 and not served.server.sessions)
