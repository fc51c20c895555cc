"""Which files of metrics a forked worker, its template and a trial have, so that no sum of them falls."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from rrmaster.protocol.forks.safety import Verdict
from rrmaster.worker.preload.anew.value_files import ValueFiles

CONTENT = b"\x28\0\0\0\0\0\0\0a value that the import has set"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ValueFiles]:
    """Those of a process that has made three of its own, and has two others open."""
    monkeypatch.setitem(sys.modules, "prometheus_client", ModuleType("prometheus_client"))
    owned = [tmp_path / f"{kind}_{os.getpid()}.db" for kind in ("gauge_livesum", "gauge_all", "counter")]
    for own in owned:
        own.write_bytes(CONTENT.ljust(4096, b"\0"))
    others = [tmp_path / "gauge_livesum_1.db", tmp_path / f"orders_{os.getpid()}.db"]
    for other in others:
        other.write_bytes(b"x")
    found = ValueFiles()
    opened = [path.open("r+b") for path in (*owned, *others)]
    found.find()
    yield found
    for file in opened:
        file.close()


def test_those_of_the_process_are_known_and_others_are_not(files: ValueFiles, tmp_path: Path) -> None:
    own = f"{tmp_path}/gauge_livesum_{os.getpid()}.db"
    assert files.has(own)
    assert not files.has(f"{tmp_path}/gauge_livesum_1.db")
    assert not files.has(f"{tmp_path}/orders_{os.getpid()}.db")
    found = [(each.what, each.verdict) for each in files.findings()]
    assert len(found) == 3
    assert (f"keeps values of prometheus_client in {own}", Verdict.DOUBT) in found


def test_a_forked_process_has_the_gauges_of_the_import_and_its_template_is_in_no_sum(
    files: ValueFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = os.getpid()
    files.take_out_gauges()
    monkeypatch.setattr(os, "getpid", lambda: 4_000_001)
    files.make_again()
    assert (tmp_path / "gauge_livesum_4000001.db").read_bytes() == CONTENT.ljust(4096, b"\0")
    assert (tmp_path / "gauge_all_4000001.db").read_bytes() == CONTENT.ljust(4096, b"\0")
    assert not (tmp_path / f"gauge_livesum_{template}.db").exists()
    emptied = (tmp_path / f"gauge_all_{template}.db").read_bytes()
    assert int.from_bytes(emptied[:4], sys.byteorder) == 8, "a file that goes while it is read fails a request"


def test_what_the_import_has_counted_stays_with_the_template_and_a_forked_process_begins_at_zero(
    files: ValueFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = os.getpid()
    files.take_out_gauges()
    monkeypatch.setattr(os, "getpid", lambda: 4_000_001)
    files.make_again()
    assert (tmp_path / f"counter_{template}.db").read_bytes() == CONTENT.ljust(4096, b"\0")
    assert (tmp_path / "counter_4000001.db").read_bytes() == bytes(4096)


def test_a_counter_of_an_ended_process_with_the_same_number_is_carried_on(
    files: ValueFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counter_4000001.db").write_bytes(CONTENT)
    (tmp_path / "gauge_all_4000001.db").write_bytes(b"old")
    monkeypatch.setattr(os, "getpid", lambda: 4_000_001)
    files.make_again()
    assert (tmp_path / "counter_4000001.db").read_bytes() == CONTENT
    assert (tmp_path / "gauge_all_4000001.db").read_bytes() == CONTENT.ljust(4096, b"\0")


def test_a_trial_has_its_files_where_no_request_looks_and_they_are_removed(
    files: ValueFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    before = sorted(tmp_path.glob("*.db"))
    tried = copy.deepcopy(files)
    with monkeypatch.context() as trial:
        trial.setattr(os, "getpid", lambda: 4_000_001)
        tried.go_aside()
        tried.make_again()
        aside = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    assert (aside / "gauge_livesum_4000001.db").read_bytes() == CONTENT.ljust(4096, b"\0")
    assert sorted(tmp_path.glob("*.db")) == before
    files.remove_aside(4_000_001)
    files.remove_aside(4_000_001)
    assert not aside.exists()


def test_without_the_library_nothing_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "prometheus_client", raising=False)
    found = ValueFiles()
    with (tmp_path / f"counter_{os.getpid()}.db").open("w"):
        found.find()
    assert found.findings() == ()
