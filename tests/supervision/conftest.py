"""Time stands still here unless a test moves it, so what this machine's processors are short of must not count."""

import pytest

from rrmaster.verdicts import hearing
from rrmaster.verdicts.processor_time import Look


@pytest.fixture(autouse=True)
def no_process_waits_for_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "look", lambda pids: Look())
    monkeypatch.setattr(hearing, "look_here", Look)
