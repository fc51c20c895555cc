"""`rrmaster check` says how long a stop may take, because the platform that kills has to wait longer."""

from __future__ import annotations

import pytest

from rrmaster.cli.checks.start import length_of_a_stop
from rrmaster.config.sources import from_table, read
from rrmaster.rules.lifecycle import TERM_S
from tests.whole.harness import rrmaster


def said(**options: str) -> str:
    return length_of_a_stop(read([from_table({"application": "rrmaster.demo:hello"} | options, "rrmaster.toml")])[0])


@pytest.mark.parametrize(("delay", "graceful", "both"), [("10s", "25s", 35), ("1m", "90s", 150), ("500ms", "1s", 1.5)])
def test_it_is_the_sum_of_the_delay_the_drain_and_the_time_for_sigterm(delay: str, graceful: str, both: float) -> None:
    text = said(shutdown_delay=delay, graceful_timeout=graceful)
    assert text.startswith(f"a stop takes up to {both + TERM_S:g} s (")
    for name in ("TimeoutStopSec", "terminationGracePeriodSeconds", "stop_grace_period"):
        assert name in text


def test_without_a_delay_nothing_is_said() -> None:
    assert said(graceful_timeout="90s") == ""


def test_check_says_it_before_its_verdict() -> None:
    done = rrmaster("check", "--shutdown-delay", "70s", "rrmaster.demo:hello")
    *_, stop, verdict = done.stdout.splitlines()
    assert stop.startswith("a stop takes up to 105 s")
    assert verdict == "rrmaster.demo:hello would be served"
