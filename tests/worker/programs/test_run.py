"""How a program is run: with what the worker was told at its start."""

from __future__ import annotations

import pytest

from rrmaster.protocol.launch import Launch
from rrmaster.worker.__main__ import _run_program
from rrmaster.worker.programs import run
from rrmaster.worker.programs.ports import Ports
from tests.fakes import a_line
from tests.launches import a_launch


def test_a_programs_times_are_those_that_the_worker_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no numbers of its own: --recall-after was ignored here once."""
    for name in ("WORKER_ID", "WORKER_SLOT", "GENERATION"):
        monkeypatch.setenv(f"RRMASTER_{name}", "3")
    begun: list[Ports] = []

    def begin(launch: Launch, ports: Ports) -> int:
        begun.append(ports)
        return 0

    monkeypatch.setattr(run, "run", begin)
    with a_line() as (_, letterbox):
        assert _run_program(letterbox, a_launch("server.py", heartbeat=0.19, recall_after=20.0)) == 0
        (ports,) = begun
        assert (ports.heartbeat, ports.recall_after) == (0.19, 20.0)
        ports.letterbox.close()
