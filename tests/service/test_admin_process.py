"""What the admin server needs is found missing before anything is started."""

import pytest

from rrmaster.config.settings import Settings
from rrmaster.service import admin_process
from rrmaster.service.cannot_start import CannotStart


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_process, "PACKAGES", ("uvicorn", "no_such_package"))
    with pytest.raises(CannotStart, match=r"needs no_such_package, .*pip install 'rrmaster\[admin\]'"):
        admin_process.check_packages(Settings("a:b", admin="127.0.0.1:9000"))
    admin_process.check_packages(Settings("a:b"))


def test_a_listener_is_shown_as_a_terminal_opens_it() -> None:
    assert admin_process.shown("127.0.0.1:9000") == "http://127.0.0.1:9000/"
    assert admin_process.shown("unix:/run/admin.sock") == "unix:/run/admin.sock"
