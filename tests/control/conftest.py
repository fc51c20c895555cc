"""A directory for control sockets that belongs to one test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment whose runtime directory is the test's own."""
    tmp_path.chmod(0o700)
    return {"XDG_RUNTIME_DIR": os.fspath(tmp_path)}
