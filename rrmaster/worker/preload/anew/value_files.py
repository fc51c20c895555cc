"""Which files of metrics does a forked worker make for itself, as an import would have?

With PROMETHEUS_MULTIPROC_DIR prometheus_client (0.26) keeps the values of a process in files with its number in their
names, from the import on.  In a forked process it notices another number and begins other files.  A sum of all files
may never fall, and a request that sums them up fails if a file goes meanwhile, unless it is of a gauge that lives::

    template   counter_4711.db         stays: what the import has counted, it has counted once
               gauge_all_4711.db       stays, emptied: a template serves no client, and is in no sum
               gauge_livesum_4711.db   read, and removed
    worker     counter_4720.db         begins at 0
               gauge_all_4720.db       begins as the import has left the template's
    trial      .trial-4715/            has its own, in a directory that no request looks into
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys

from attrs import Factory, define

from ....protocol.forks.safety import Finding, Verdict
from ..sharing import targets

_WHY = "each worker has such files of its own, whose gauges begin as the import has left them"

_EMPTY = (8).to_bytes(4, sys.byteorder)
"""How a file begins that holds no value: with the number of bytes in use."""


@define(eq=False)
class ValueFiles:
    """The files of this process, a template."""

    _contents: dict[str, tuple[bytes, int]] = Factory(dict)
    """By the path without the process's number: what is in it, without the zeros at its end, and its size."""
    _held: dict[int, str] = Factory(dict)
    """The descriptors, and where each leads."""

    def find(self) -> None:
        """Look for them."""
        if "prometheus_client" not in sys.modules:
            return
        for number, path in targets().items():
            if found := re.fullmatch(rf"(/.*/(?:counter|histogram|summary|gauge_\w+)_){os.getpid()}\.db", path):
                size = os.fstat(number).st_size
                content = os.pread(number, size, 0).rstrip(b"\0") if _of_gauges(found[1]) else b""
                self._held[number] = path
                self._contents[found[1]] = content, size

    def has(self, path: str) -> bool:
        """Whether it is one of them."""
        return path in self._held.values()

    def findings(self) -> tuple[Finding, ...]:
        """They are no hindrance, if that is tried."""
        return tuple(
            Finding(f"keeps values of prometheus_client in {path}", Verdict.DOUBT, _WHY, f"descriptor {number}")
            for number, path in self._held.items()
        )

    def take_out_gauges(self) -> None:
        """In the template: have no gauge of this process in a sum.  None is written from now on."""
        for beginning in self._contents:
            path = f"{beginning}{os.getpid()}.db"
            with contextlib.suppress(OSError):  # it is gone already
                if os.path.basename(path).startswith("gauge_live"):
                    os.unlink(path)
                elif _of_gauges(beginning):
                    with open(path, "r+b") as file:
                        file.write(_EMPTY)

    def go_aside(self) -> None:
        """In a trial, before it makes its own: keep them where they are in no sum.  Raises OSError."""
        for folder in self._folders():
            aside = _aside(folder, os.getpid())
            os.makedirs(aside, exist_ok=True)
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = aside
        self._contents = {
            f"{_aside(os.path.dirname(beginning), os.getpid())}/{os.path.basename(beginning)}": kept
            for beginning, kept in self._contents.items()
        }

    def remove_aside(self, pid: int) -> None:
        """Remove those of a trial that has ended."""
        for folder in self._folders():
            shutil.rmtree(_aside(folder, pid), ignore_errors=True)

    def make_again(self) -> None:
        """In a forked worker: make its own, before it looks for them.  Raises OSError.

        Each appears whole: a request that reads an empty file fails.  A counter of an ended worker that had the same
        number is carried on.
        """
        for beginning, (content, size) in self._contents.items():
            path = f"{beginning}{os.getpid()}.db"
            if not _of_gauges(beginning) and os.path.exists(path):
                continue
            folder, name = os.path.split(path)
            with open(f"{folder}/.{name}", "wb") as file:
                file.write(content)
                file.truncate(size)
            os.rename(f"{folder}/.{name}", path)

    def _folders(self) -> set[str]:
        return {os.path.dirname(beginning) for beginning in self._contents}


def _of_gauges(beginning: str) -> bool:
    return os.path.basename(beginning).startswith("gauge_")


def _aside(folder: str, pid: int) -> str:
    return f"{folder}/.trial-{pid}"
