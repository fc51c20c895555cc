"""Which libraries can be forked?  Tries real ones, each as an application uses it; not a part of the tests or of CI.

    python -m tests.libraries                     in a new environment, with the versions of libraries.txt: some minutes
    python -m tests.libraries --python PYTHON     in an environment that has them
    python -m tests.libraries redis numpy         only the rows with one of these words

Each row of libraries.toml is an application, and `rrmaster check` says whether it is served and forked.  The status is
the number of rows that are not as written there.  The table in docs/howto/preload.md tells of the same rows.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parent.parent

PACKAGES = ROOT / "tests" / "libraries.txt"
"""The libraries, with versions."""


@frozen
class Row:
    """A library, and an application that uses it in the usual way."""

    name: str
    code: str
    expected: str
    """``forked``, or a regular expression for what `rrmaster check` says instead."""


ASGI = "async def app(scope, receive, send): ...\n"
"""What an application has whose code makes none."""


def rows() -> list[Row]:
    """The rows of libraries.toml."""
    found = tomllib.loads((ROOT / "tests" / "libraries.toml").read_text())["row"]
    return [Row(**row) for row in found]


def tried(row: Row, python: str) -> str:
    """What `rrmaster check` says of it: ``forked``, or its reason, or its error."""
    with tempfile.TemporaryDirectory() as folder:
        makes_one = re.search(r"^app\b", row.code, re.MULTILINE)
        Path(folder, "shop.py").write_text(row.code + ("" if makes_one else ASGI))
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": folder}
        command = [python, "-m", "rrmaster", "check", "shop:app"]
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    found = re.search(r"while it was imported, it (.*?); to fork them", said)
    if found:
        return found[1]
    return "forked" if done.returncode == 0 else f"{done.returncode}: {said[-300:]}"


def environment(folder: str) -> str:
    """A new environment with the libraries, in this folder; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([f"{folder}/bin/pip", "install", "-q", "--disable-pip-version-check", "-r", PACKAGES], check=True)
    return f"{folder}/bin/python"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python")
    parser.add_argument("words", nargs="*")
    given = parser.parse_args()
    chosen = [row for row in rows() if not given.words or any(word in row.name for word in given.words)]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        python = given.python or environment(folder)
        for row in chosen:
            found = tried(row, python)
            right = found == row.expected or (row.expected != "forked" and re.search(row.expected, found) is not None)
            wrong += not right
            print(f"{'as written' if right else 'DIFFERENT '}  {row.name}: {found}", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
