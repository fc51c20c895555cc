"""Which files of metrics does a forked worker make for itself, as an import would have?

With PROMETHEUS_MULTIPROC_DIR prometheus_client (0.26) keeps the values of a process in files with its number in their
names, from the import on.  In a forked process it notices another number and begins other files.  Two things are left
to do: what the import has set has to be in them, and a template, which serves no client, has to be in no sum::

    template   gauge_all_4711.db ── read, and removed
    worker     gauge_all_4720.db ── begins as the import has left the template's
"""

from __future__ import annotations

import os
import re
import sys

from attrs import Factory, define

from ...protocol.forks.safety import Finding, Verdict

_WHY = "each worker has such files of its own, which begin as the import has left them"


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
        for name in os.listdir("/proc/self/fd"):
            path = _target(name)
            if found := re.fullmatch(rf"(/.*/(?:counter|histogram|summary|gauge_\w+)_){os.getpid()}\.db", path):
                size = os.fstat(int(name)).st_size
                self._held[int(name)] = path
                self._contents[found[1]] = os.pread(int(name), size, 0).rstrip(b"\0"), size

    def has(self, path: str) -> bool:
        """Whether it is one of them."""
        return path in self._held.values()

    def findings(self) -> tuple[Finding, ...]:
        """They are no hindrance, if that is tried."""
        return tuple(
            Finding(f"keeps values of prometheus_client in {path}", Verdict.DOUBT, _WHY, f"descriptor {number}")
            for number, path in self._held.items()
        )

    def remove(self) -> None:
        """In the template: remove those of this process.  Nothing is written to them from now on."""
        self.remove_of(os.getpid())

    def remove_of(self, pid: int) -> None:
        """Remove those of a process that has ended and was no worker."""
        for beginning in self._contents:
            try:
                os.unlink(f"{beginning}{pid}.db")
            except OSError:
                pass  # it is gone already, or was never made

    def make_again(self) -> None:
        """In a forked worker: make its own, before it looks for them.  Raises OSError."""
        for beginning, (content, size) in self._contents.items():
            with open(f"{beginning}{os.getpid()}.db", "wb") as file:
                file.write(content)
                file.truncate(size)


def _target(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""  # the descriptor of the listing itself
