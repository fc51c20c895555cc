"""How much memory does a template take?  It tells the master after its import and after each fork."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from ...protocol import template_wire
from ...protocol.template_wire import MemoryUse


def report_memory(master: socket.socket) -> None:
    """Tell the master how much memory this process has for itself alone."""
    found: dict[str, int] = {}
    for line in _smaps_rollup().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.split()[0]) * 1024
    try:
        master.send(template_wire.encode(_weighed(found)), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        pass  # the line is full, and the figures after the next order are newer


def _weighed(found: Mapping[str, int]) -> MemoryUse:
    own = found.get("Private_Clean", 0) + found.get("Private_Dirty", 0)
    return MemoryUse(own, found.get("Pss", 0), found.get("Rss", 0))


def _smaps_rollup() -> str:
    try:
        with open("/proc/self/smaps_rollup") as file:
            return file.read()
    except OSError:
        return ""  # a kernel that does not tell
