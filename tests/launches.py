"""What a worker is told at its start, for tests: the settings' defaults, and what the test chooses."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from rrmaster.config.settings import Settings
from rrmaster.processes.worker_environment import launch_of
from rrmaster.protocol.launch import Launch


def a_launch(application: str = "shop:app", **chosen: Any) -> Launch:
    """The launch of an application in the working directory."""
    return evolve(launch_of(Settings(application), "."), **chosen)
