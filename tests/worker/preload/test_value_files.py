"""The files of metrics that a forked worker has are its own, and begin as the import has left them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from rrmaster.protocol.forks.safety import Verdict
from rrmaster.worker.preload.value_files import ValueFiles

CONTENT = b"\x28\0\0\0\0\0\0\0a value that the import has set"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ValueFiles]:
    """Those of a process that has made one of its own, and has two others open."""
    monkeypatch.setitem(sys.modules, "prometheus_client", ModuleType("prometheus_client"))
    own = tmp_path / f"gauge_livesum_{os.getpid()}.db"
    own.write_bytes(CONTENT.ljust(4096, b"\0"))
    others = [tmp_path / "gauge_livesum_1.db", tmp_path / f"orders_{os.getpid()}.db"]
    for other in others:
        other.write_bytes(b"x")
    found = ValueFiles()
    opened = [path.open("r+b") for path in (own, *others)]
    found.find()
    yield found
    for file in opened:
        file.close()


def test_those_of_the_process_are_known_and_others_are_not(files: ValueFiles, tmp_path: Path) -> None:
    own = f"{tmp_path}/gauge_livesum_{os.getpid()}.db"
    assert files.has(own)
    assert not files.has(f"{tmp_path}/gauge_livesum_1.db")
    assert not files.has(f"{tmp_path}/orders_{os.getpid()}.db")
    (found,) = files.findings()
    assert (found.what, found.verdict) == (f"keeps values of prometheus_client in {own}", Verdict.DOUBT)


def test_a_forked_process_has_what_the_import_has_set_and_its_template_is_in_no_sum(
    files: ValueFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = os.getpid()
    files.remove()
    monkeypatch.setattr(os, "getpid", lambda: 4_000_001)
    files.make_again()
    made = tmp_path / "gauge_livesum_4000001.db"
    assert made.read_bytes() == CONTENT.ljust(4096, b"\0")
    assert not (tmp_path / f"gauge_livesum_{template}.db").exists()
    files.remove_of(4_000_001)
    files.remove_of(4_000_001)
    assert not made.exists()


def test_without_the_library_nothing_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "prometheus_client", raising=False)
    found = ValueFiles()
    with (tmp_path / f"counter_{os.getpid()}.db").open("w"):
        found.find()
    assert found.findings() == ()
