"""What `python -m rrmaster` imports."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rrmaster.cli.main import main


@pytest.mark.parametrize("module", ["attrs", "trio", "argparse"])
def test_no_module_of_the_working_directory_runs_in_the_master(module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("raise SystemExit('imported from the working directory')")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "rrmaster", "check", "rrmaster.demo:hello"]
    ended = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert "imported from the working directory" not in ended.stdout + ended.stderr.split("would not be served")[0]
    assert "application" in ended.stdout


def test_a_limit_of_processes_that_allows_no_thread_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr("rrmaster.processes.process.raise_descriptor_limit", lambda: None)
    assert main(["rrmaster.demo:hello"]) == 1
    said = capsys.readouterr().err
    assert said == (
        "rrmaster: the log cannot be written: can't start new thread; allow more processes (ulimit -u, TasksMax=)\n"
    )
