"""Every option reaches the room in which it acts: at the start, and again when a reload is committed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rrmaster.config.parsing import Between
from rrmaster.config.settings import Settings
from rrmaster.dispatch.policies import IpHash, LeastLoaded
from rrmaster.master import Master, fleet_size, surge_of
from rrmaster.rules.autoscaler import Scaling
from rrmaster.rules.lifecycle import Patience
from rrmaster.rules.recycling import Limits
from rrmaster.rules.rollout import Phase, Trial
from rrmaster.supervision.health_check import Probing
from rrmaster.supervision.reconfigure import listen
from rrmaster.supervision.worker_record import Birth

APP = "shop:app"
HERE = ("127.0.0.1:0",)

# Each number is another one, so that none can be mistaken for its neighbour.
CHOSEN: dict[str, Any] = {
    "bind": HERE, "workers": Between(3, 7), "policy": "ip-hash", "window": 5, "recall_after": 0.017,
    "worker_connections": 77, "ready_timeout": 31.0, "graceful_timeout": 32.0, "hang_timeout": 33.0, "heartbeat": 0.19,
    "surge": 2, "probation": 1.1, "soak": 1.2, "reload_timeout": 601.0, "probe": "tcp", "probe_interval": 11.0,
    "probe_timeout": 2.1, "probe_failures": 4, "probe_successes": 5, "max_requests": 1001, "max_age": 1002.0,
    "max_memory": 1003, "target_busy": 0.6, "scale_up_window": 3.1, "scale_down_window": 301.0,
}  # fmt: skip


@asynccontextmanager
async def a_master(**options: Any) -> AsyncIterator[Master]:
    """One that nobody runs: no process, no task."""
    settings = Settings(APP, **options)
    master = Master(settings, fleet_size(settings), listen(settings))
    try:
        yield master
    finally:
        master.close()


def as_chosen(master: Master) -> bool:
    """Asserts that all of it is where it acts."""
    supervisor, renewal = master.supervisor, master.supervisor.renewal
    assert supervisor.patience == Patience(ready=31.0, graceful=32.0, hang=33.0)
    assert (supervisor.window, supervisor.limit) == (5, 77)
    assert supervisor.limits == Limits(requests=1001, age=1002.0, memory=1003)
    assert supervisor.question is not None
    assert supervisor.probing == Probing(interval=11.0, timeout=2.1, failures=4, successes=5)
    assert renewal.trial == Trial(probation=1.1, soak=1.2, timeout=601.0)
    assert renewal.heartbeat == 0.19
    assert renewal.surge(6) == 2
    assert renewal.autoscaler is not None
    assert renewal.autoscaler.scaling == Scaling(least=3, most=7, target=0.6, up_window=3.1, down_window=301.0)
    assert (supervisor.goal.size, supervisor.goal.surge) == (3, 2)
    assert master.dispatcher.recall.stall_detector.recall_after == 0.017
    assert [type(acceptor.policy) for acceptor in master.dispatcher.acceptors] == [IpHash]
    return True


async def test_every_option_is_where_it_acts() -> None:
    async with a_master(**CHOSEN) as master:
        assert as_chosen(master)


async def test_a_committed_reload_brings_them_all_there() -> None:
    async with a_master(bind=HERE, workers=2) as master:
        master.reread = lambda: Settings(APP, **CHOSEN)
        rollout = master.begin_reload()
        assert master.supervisor.window == 8, "nothing changes before it is decided"
        rollout.phase = Phase.COMMITTED
        master._decided(rollout)
        assert as_chosen(master)


@pytest.mark.parametrize("phase", [Phase.REFUSED, Phase.ROLLED_BACK, Phase.OUT_OF_TIME])
async def test_a_reload_that_failed_brings_none(phase: Phase) -> None:
    async with a_master(bind=HERE, workers=2) as master:
        before, trial = master.supervisor.patience, master.supervisor.renewal.trial
        master.reread = lambda: Settings(APP, **CHOSEN | {"bind": (*HERE, "127.0.0.2:0")})
        rollout = master.begin_reload()
        change = master._change
        assert change is not None
        (opened,) = change.opened
        rollout.phase = phase
        master._decided(rollout)
        assert opened.socket.fileno() == -1, "the new address is closed again"
        assert (master.supervisor.patience, master.supervisor.renewal.trial) == (before, trial)
        assert [type(acceptor.policy) for acceptor in master.dispatcher.acceptors] == [LeastLoaded]
        assert master.settings == Settings(APP, bind=HERE, workers=2)


def test_a_surge_is_rounded_up_and_at_least_one() -> None:
    for surge, size, more in [(1.0, 4, 4), (0.25, 4, 1), (0.26, 4, 2), (0.01, 4, 1), (3, 4, 3), (9, 4, 4)]:
        assert surge_of(Settings(APP, surge=surge), size) == more


async def test_the_workers_of_a_reload_and_no_others_get_the_new_environment(tmp_path: Any) -> None:
    file = tmp_path / "env"
    file.write_text("COLOUR=red\n")
    async with a_master(bind=HERE, env_file=str(file)) as master:
        file.write_text("COLOUR=blue\n")
        rollout = master.begin_reload()
        born = [_birth(generation) for generation in (rollout.before.generation, rollout.generation)]
        assert [master._for(birth)[1]["COLOUR"] for birth in born] == ["red", "blue"]
        rollout.phase = Phase.REFUSED
        master._decided(rollout)
        assert {master._for(birth)[1]["COLOUR"] for birth in born} == {"red"}
        rollout = master.begin_reload()
        rollout.phase = Phase.COMMITTED
        master._decided(rollout)
        assert master._for(_birth(rollout.generation))[1]["COLOUR"] == "blue", "also who replaces one of them later"


def _birth(generation: int) -> Birth:
    return Birth(1, 0, generation, -1, -1)
