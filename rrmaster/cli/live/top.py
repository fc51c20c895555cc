"""How is a running master doing, live in the terminal: `rrmaster top`.

A table of workers with sparklines of their connections and of their loop's lag; q quits, ? explains the columns, the
arrows scroll.  The lines are those of `status`, so a library has only the terminal left to do: full screen and back in
every case, keys, colours, sizes.  Weighed in November 2026 (last release; installed; import and resident memory on
Python 3.11):

=============  ==============  ======  =================  ===================================================
blessed 1.52   October 2026      8 MB   77 ms, 17 MiB     does exactly this, without a layout engine; chosen
rich 15.0      April 2026       14 MB   49 ms,  7 MiB     no keys: they would be termios by hand
textual 8.2    June 2026        24 MB  141 ms, 24 MiB     an application framework around one table
curses         with Python       -       2 ms,  1 MiB     no Unicode widths, few colours, resizing by hand
=============  ==============  ======  =================  ===================================================

Each refresh is one `status` request on the control socket, once a second, which costs the master a fraction of a
millisecond.
"""

from __future__ import annotations

import contextlib
import sys
import time

import blessed

from ...control.client import Client
from ...status.formatting import number
from ...status.model import WorkerStatus
from .columns import Order
from .view import LiveView

KEY_S = 0.2
"""Seconds to wait for a key before the size of the terminal is compared again."""

FASTEST = 0.1
"""The least number of seconds between refreshes."""


STACKS_S = 8.0
"""Seconds to wait for a worker's stacks.  The master answers after 3 s at most; its worker needs milliseconds."""


def show(client: Client, interval: float, order: Order) -> None:
    """Run until q is pressed.  Raises NoMaster when the master ends, ValueError if this is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ValueError("top needs a terminal; `rrmaster status` does not")
    terminal = blessed.Terminal()
    encoding = (sys.stdout.encoding or "").lower()
    view = LiveView(ascii_only=not encoding.startswith("utf"), order=order)
    # Ctrl-C quits as q does.
    with contextlib.suppress(KeyboardInterrupt), terminal.fullscreen(), terminal.cbreak(), terminal.hidden_cursor():
        _loop(terminal, view, client, max(interval, FASTEST))


def _loop(terminal: blessed.Terminal, view: LiveView, client: Client, interval: float) -> None:
    due, size = 0.0, (0, 0)
    while True:
        now = time.monotonic()
        if now >= due:
            view.record(client.status())
            due, size = now + interval, (0, 0)
        if size != (terminal.width, terminal.height):
            size = terminal.width, terminal.height
            _draw(terminal, view.screen(*size))
        key = terminal.inkey(timeout=min(KEY_S, max(due - time.monotonic(), 0.0)))
        if key:
            if not view.press(key.name or str(key), terminal.height):
                return
            if view.wanted is not None:
                _draw(terminal, [(f" asking worker {view.wanted.slot} for its stacks", "reverse")])
                view.answer(*_stacks(client, view.wanted))
            size = (0, 0)


def _stacks(client: Client, worker: WorkerStatus) -> tuple[str, list[str]]:
    """A title, and the stacks of a worker, or why there are none.

    The worker writes them from a signal handler in C, so that it does even while its loop is blocked.
    """
    *lines, end = client.ask("stacks", slot=worker.slot, timeout=STACKS_S)
    found = [str(line["entry"].get("text", "")) for line in lines if "entry" in line]
    title = f"stacks of worker {worker.slot} (pid {number(worker.pid)}) at {time.strftime('%H:%M:%S')}"
    return title, found if end["status"] == 0 else [str(end.get("error"))]


def _draw(terminal: blessed.Terminal, lines: list[tuple[str, str]]) -> None:
    """Write all lines at once, each to its end, so that nothing flickers and no old text remains."""
    shown = [getattr(terminal, colour)(text) if colour != "normal" else text for text, colour in lines]
    text = (terminal.clear_eol + "\r\n").join(shown)
    sys.stdout.write(terminal.home + text + terminal.clear_eos)
    sys.stdout.flush()
