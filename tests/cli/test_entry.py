"""What `python -m rrmaster` imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("module", ["attrs", "trio", "argparse"])
def test_no_module_of_the_working_directory_runs_in_the_master(module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("raise SystemExit('imported from the working directory')")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "rrmaster", "check", "rrmaster.demo:hello"]
    ended = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert "imported from the working directory" not in ended.stdout + ended.stderr.split("would not be served")[0]
    assert "application" in ended.stdout
