"""Which threads does a forked worker start again?  Those of `logging.handlers.QueueListener`.

Such a listener writes what loggers put into a queue; Litestar starts one when an application is made.  A forked process
has the queue without the thread, and would log no line.  The standard library says how to end the thread and to start
it again: the template does the one after the import, by which time all that the import has logged is written, and each
worker the other.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from attrs import define

from ....protocol.forks.safety import Finding, Verdict

WRITTEN_S = 1.0
"""Seconds for what is left in a queue.  A listener that needs longer prevents forking, as any thread does."""

_OWN = ("start", "stop", "enqueue_sentinel", "_monitor")
"""What a subclass must not have made its own: it may mean something else by it."""


@define(eq=False)
class Listeners:
    """Those that ran at the end of the import."""

    _stopped: tuple[tuple[Any, threading.Thread], ...] = ()

    def stop(self) -> None:
        """In the template: write what is queued, and end the threads."""
        self._stopped = tuple(_stopped(_running()))

    def findings(self) -> tuple[Finding, ...]:
        """What was done with them."""
        why = "logging's QueueListener, which each worker starts again"
        return tuple(
            Finding(f"started a thread ({thread.name})", Verdict.HARMLESS, why, f"thread {thread.native_id}")
            for _, thread in self._stopped
        )

    def start_again(self) -> None:
        """In a forked worker, or in a template that runs the exit handlers, which stop them: those need a thread."""
        for listener, _ in self._stopped:
            listener.start()


def _running() -> Iterator[tuple[Any, threading.Thread]]:
    handlers: Any = sys.modules.get("logging.handlers")
    if handlers is None:
        return
    kind = handlers.QueueListener
    for thread in threading.enumerate():
        listener = getattr(getattr(thread, "_target", None), "__self__", None)
        if isinstance(listener, kind) and _is_plain(listener, kind):
            yield listener, thread


def _is_plain(listener: Any, kind: type) -> bool:
    if not isinstance(listener.queue, queue.Queue | queue.SimpleQueue):
        return False  # one between processes has more to it
    return all(getattr(type(listener), of) is getattr(kind, of) for of in _OWN)


def _stopped(running: Iterable[tuple[Any, threading.Thread]]) -> Iterator[tuple[Any, threading.Thread]]:
    """Those of them whose threads have ended."""
    for listener, thread in running:
        try:
            listener.enqueue_sentinel()
        except queue.Full:
            continue
        thread.join(WRITTEN_S)
        if not thread.is_alive():
            listener._thread = None
            yield listener, thread
