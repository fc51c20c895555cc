"""A trace belongs to the module whose code has left it, and not to those that import that module."""

from __future__ import annotations

import importlib
import importlib._bootstrap
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rrmaster.worker.preload.origins import Origins

OVER = threading.Event()


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to import from; what is imported from it is forgotten."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    OVER.clear()
    yield tmp_path
    OVER.set()
    for name in set(sys.modules) - known:
        del sys.modules[name]


def thread() -> threading.Thread:
    of = threading.Thread(target=OVER.wait, args=(60,), daemon=True)
    of.start()
    return of


def test_each_trace_is_that_of_the_innermost_module(modules: Path) -> None:
    (modules / "outer.py").write_text("file = open(__file__)\nimport inner\nother = open(__file__)\n")
    here = f"from {__name__} import thread"
    (modules / "inner.py").write_text(f"import os\n{here}\none = thread()\nfirst, second = os.pipe()\n")
    origins = Origins()
    with origins.watched():
        outer = importlib.import_module("outer")
        inner = sys.modules["inner"]
        late = thread()
    with outer.file, outer.other:
        assert origins.of(f"thread {inner.one.native_id}") == ("inner", "outer")
        assert origins.of(f"descriptor {inner.first}") == ("inner", "outer")
        assert origins.of(f"descriptor {outer.file.fileno()}") == ("outer",)
        assert origins.of(f"descriptor {outer.other.fileno()}") == ("outer",)
        assert origins.of(f"thread {late.native_id}") == (), "no module was being loaded"
    os.close(inner.first)
    os.close(inner.second)


def test_a_number_that_is_another_files_by_then_belongs_to_its_last_owner(modules: Path) -> None:
    (modules / "first.py").write_text("import os\nnumber = os.open('/dev/zero', os.O_RDONLY)\n")
    (modules / "second.py").write_text(
        "import first, os\nos.close(first.number)\nagain = os.open('/dev/null', 0)\nassert again == first.number\n"
    )
    origins = Origins()
    with origins.watched():
        second = importlib.import_module("second")
    os.close(second.again)
    assert origins.of(f"descriptor {second.again}") == ("second",)


def test_imports_go_their_usual_way_once_it_is_over(modules: Path) -> None:
    (modules / "broken.py").write_text("raise KeyError('x')")
    machinery: Any = importlib._bootstrap
    way = machinery._load_unlocked
    with pytest.raises(KeyError), Origins().watched():
        importlib.import_module("broken")
    assert machinery._load_unlocked is way
