"""`rrmaster status --watch`: the same report again and again, in place on a terminal, one after the other elsewhere.

For people who want one table to stay on the screen, and for programs that want a line of JSON every few seconds; `top`
is for looking around.  It needs no library: the report has the terminal's width, and no line wraps.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable

from ...control.client import Client
from ...status.formatting import plain, shortened
from ...status.model import Snapshot, to_json
from ...status.report import report
from ..output import print_lines, width

EVERY_S = 2.0
"""Seconds between two reports, as watch(1) has them."""

_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
"""The upper left corner; erase to the end of the line, of the screen (ECMA-48).  Nothing flickers: what stays the same
is written over itself."""


def watch(client: Client, every: float, *, as_json: bool) -> int:
    """Print a report every so many seconds, until Ctrl-C.  Raises NoMaster when the master ends."""
    show = _print_json if as_json else _draw if sys.stdout.isatty() else _print
    try:
        return _forever(client, every, show)
    finally:
        if show is _draw:
            sys.stdout.write("\n")  # the prompt of the shell comes below the report


def _forever(client: Client, every: float, show: Callable[[Snapshot], None]) -> int:
    due = time.monotonic()
    while True:
        show(client.status())
        due = max(due + every, time.monotonic())  # a pause of this process is not made up for
        time.sleep(max(due - time.monotonic(), 0.0))


def _print_json(snapshot: Snapshot) -> None:
    print_lines([json.dumps(to_json(snapshot), separators=(",", ":"))])


def _print(snapshot: Snapshot) -> None:
    print_lines([_when(snapshot), *report(snapshot, width()), ""])


def _draw(snapshot: Snapshot) -> None:
    columns, height = shutil.get_terminal_size()
    sys.stdout.write(in_place([_when(snapshot), *report(snapshot, columns)], columns, height))
    sys.stdout.flush()


def in_place(lines: Iterable[str], columns: int, height: int) -> str:
    """What draws these lines over the ones before, as many as the terminal has."""
    shown = [shortened(plain(line), columns) + _REST_OF_LINE for line in lines]
    if len(shown) > height:
        shown = [*shown[: height - 1], f"... {len(shown) - height + 1} more lines{_REST_OF_LINE}"]
    return _HOME + "\r\n".join(shown) + _REST_OF_SCREEN


def _when(snapshot: Snapshot) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot.time))
