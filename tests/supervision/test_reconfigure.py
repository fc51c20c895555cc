"""What a reload changes besides the code, and what it cannot change."""

from __future__ import annotations

import pytest

from rrmaster.config.settings import Settings
from rrmaster.supervision.reconfigure import prepare

APP = "shop.main:app"


def test_a_changed_option_that_needs_a_restart_is_named_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    current = Settings(APP, log_level="info", window=4, user="shop")
    prepare(current, Settings(APP, log_level="debug", window=5, user="shop"), environ={})
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "reload: log_level has changed; it takes a restart of the master to follow")
    ]


def test_what_a_reload_can_follow_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    prepare(Settings(APP, window=4), Settings(APP, window=5, policy="ip-hash", soak="1s"), environ={})
    assert caplog.records == []


def test_what_needs_a_restart_stays_as_it_acts_so_each_reload_says_it_again(caplog: pytest.LogCaptureFixture) -> None:
    current, written = Settings(APP, log_level="info", window=4), Settings(APP, log_level="debug", window=5)
    for _ in range(2):
        current = prepare(current, written, environ={}).settings
    assert (current.log_level, current.window) == ("info", 5)
    assert len(caplog.records) == 2
