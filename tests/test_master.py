"""Every option reaches the object that obeys it: at the start, and again when a reload is committed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from rrmaster.config.quantities import Between
from rrmaster.config.settings import Settings
from rrmaster.dispatch.policies import IpHash, LeastLoaded
from rrmaster.master import RunningMaster
from rrmaster.rules.autoscaler import Scaling, surge_of
from rrmaster.rules.lifecycle import Patience
from rrmaster.rules.recycling import Limits
from rrmaster.rules.rollout import Phase, Trial
from rrmaster.supervision.health_check import HealthCheck, tcp
from rrmaster.supervision.reconfigure import listen

APP = "shop:app"
HERE = ("127.0.0.1:0",)

# All numbers differ, so that no option can be mistaken for another.
CHOSEN: dict[str, Any] = {
    "bind": HERE, "workers": Between(3, 7), "policy": "ip-hash", "window": 5, "recall_after": 0.017,
    "backlog": 99, "unix_mode": 0o600,
    "worker_connections": 77, "ready_timeout": 31.0, "graceful_timeout": 32.0, "hang_timeout": 33.0, "heartbeat": 0.19,
    "surge": 2, "probation": 1.1, "soak": 1.2, "reload_timeout": 601.0, "probe": "tcp", "probe_interval": 11.0,
    "probe_timeout": 2.1, "probe_failures": 4, "probe_successes": 5, "max_requests": 1001, "max_age": 1002.0,
    "max_memory": 1003, "target_busy": 0.6, "scale_up_window": 3.1, "scale_down_window": 301.0,
}  # fmt: skip


@asynccontextmanager
async def a_master(*rereads: Settings, **options: Any) -> AsyncIterator[RunningMaster]:
    """A master that does not run: no process, no task.  A reload reads the last of `rereads`."""
    settings = Settings(APP, **options)
    rereads = rereads or (settings,)
    master = RunningMaster(settings, listen(settings), reread=lambda: rereads[-1])
    try:
        yield master
    finally:
        master.close()


def as_chosen(master: RunningMaster) -> bool:
    """Assert that each option has reached the object that obeys it."""
    supervisor, reload = master.supervisor, master.supervisor.reload
    assert supervisor.runner.patience == Patience(ready=31.0, graceful=32.0, hang=33.0)
    assert (supervisor.starts._window, supervisor.starts._worker_connections) == (5, 77)
    assert supervisor.starts._limits == Limits(requests=1001, age=1002.0, memory=1003)
    assert supervisor.runner.health_check == HealthCheck(tcp, interval=11.0, timeout=2.1, failures=4, successes=5)
    assert supervisor.runner._heartbeat == reload._heartbeat == 0.19
    assert reload._trial == Trial(probation=1.1, soak=1.2, timeout=601.0)
    assert reload._autoscaler is not None
    assert reload._autoscaler.scaling == Scaling(least=3, most=7, target=0.6, up_window=3.1, down_window=301.0)
    assert (reload.goal.size, reload.goal.surge) == (3, 2)
    assert master.dispatcher.recall.stall_detector.recall_after == 0.017
    assert (master.dynamic_listeners.backlog, master.dynamic_listeners.unix_mode) == (99, 0o600)
    assert [type(acceptor.policy) for acceptor in master.dispatcher.acceptors] == [IpHash]
    return True


async def test_every_option_is_where_it_acts() -> None:
    async with a_master(**CHOSEN) as master:
        assert as_chosen(master)


async def decided(master: RunningMaster, phase: Phase) -> None:
    """End the reload under way with this outcome, without any worker."""
    controller = master.supervisor.reload
    assert controller.latest is not None
    controller.latest.rollout.phase = phase
    controller._follow(controller.latest.rollout)
    await controller.latest.ended()


async def test_a_committed_reload_brings_them_all_there() -> None:
    async with a_master(Settings(APP, **CHOSEN), bind=HERE, workers=2) as master:
        master.begin_reload()
        assert master.supervisor.starts._window == 8, "nothing changes before it is decided"
        await decided(master, Phase.COMMITTED)
        master.supervisor.reload.advance(trio.current_time())  # no old worker is left, so the fleet may grow
        assert as_chosen(master)


@pytest.mark.parametrize("phase", [Phase.REFUSED, Phase.ROLLED_BACK, Phase.OUT_OF_TIME])
async def test_a_reload_that_failed_brings_none(phase: Phase) -> None:
    other = Settings(APP, **CHOSEN | {"bind": (*HERE, "127.0.0.2:0")})
    async with a_master(other, bind=HERE, workers=2) as master:
        before, trial = master.supervisor.runner.patience, master.supervisor.reload._trial
        master.begin_reload()
        change = master.reconfigurer._change
        assert change is not None
        (opened,) = change.opened
        await decided(master, phase)
        assert opened.socket.fileno() == -1, "the new address is closed again"
        assert (master.supervisor.runner.patience, master.supervisor.reload._trial) == (before, trial)
        assert [type(acceptor.policy) for acceptor in master.dispatcher.acceptors] == [LeastLoaded]
        assert master.settings == Settings(APP, bind=HERE, workers=2)
        assert master.supervisor.reload.goal.generation == 1


def test_a_surge_is_rounded_up_and_at_least_one() -> None:
    for surge, size, more in [(1.0, 4, 4), (0.25, 4, 1), (0.26, 4, 2), (0.01, 4, 1), (3, 4, 3), (9, 4, 4)]:
        assert surge_of(Settings(APP, surge=surge), size) == more


async def test_the_workers_of_a_reload_and_no_others_get_the_new_environment(tmp_path: Any) -> None:
    file = tmp_path / "env"
    file.write_text("COLOUR=red\n")
    async with a_master(bind=HERE, env_file=str(file)) as master:

        def colours(*generations: int) -> list[str]:
            return [master.reconfigurer.of_generation(generation)[1]["COLOUR"] for generation in generations]

        file.write_text("COLOUR=blue\n")
        refused = master.begin_reload().rollout
        assert colours(refused.before.generation, refused.generation) == ["red", "blue"]
        await decided(master, Phase.REFUSED)
        assert colours(refused.before.generation, refused.generation) == ["red", "red"]
        committed = master.begin_reload().rollout
        await decided(master, Phase.COMMITTED)
        assert colours(committed.generation) == ["blue"], "also for workers that are replaced later"
