"""The thread of a QueueListener ends in the template, and each forked worker has one of its own."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from typing import Any

import pytest

from rrmaster.protocol.forks.safety import Verdict, phrases
from rrmaster.worker.preload.anew import listeners
from rrmaster.worker.preload.traces import findings_of, traces_now
from rrmaster.worker.preload.watch import ImportWatch
from tests.forked import in_two_workers
from tests.launches import a_launch

DEADLINE_S = 20


class Written(logging.Handler):
    """Keeps what it was to write."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.put(record.getMessage())

    def all(self) -> list[str]:
        return [self.lines.get() for _ in range(self.lines.qsize())]


class OwnStart(QueueListener):
    def start(self) -> None:
        super().start()


class Another:
    """Stands in for a queue between processes."""

    def __init__(self) -> None:
        of: queue.Queue[Any] = queue.Queue()
        self.get, self.put_nowait = of.get, of.put_nowait


@contextmanager
def begun(of: Any, handler: logging.Handler, kind: type[QueueListener] = QueueListener) -> Iterator[QueueListener]:
    """A listener that an import has started, and stopped at the end whatever became of it."""
    listener = kind(of, handler)
    listener.start()
    try:
        yield listener
    finally:
        if listener._thread is not None:
            listener.stop()


def logger_of(of: Any) -> logging.Logger:
    logger = logging.Logger("shop")
    logger.addHandler(QueueHandler(of))
    return logger


@pytest.mark.parametrize("make", [queue.Queue, queue.SimpleQueue])
def test_what_the_import_logs_is_written_once_and_each_worker_writes_its_own(make: Callable[[], Any]) -> None:
    before, watch, written, of = traces_now(), ImportWatch(a_launch()), Written(), make()
    with begun(of, written) as listener:
        with watch.watched():
            logger_of(of).warning("up")
        assert written.all() == ["up"]
        assert phrases(findings_of(before, traces_now(watch)), Verdict.HINDRANCE) == ()

        def answer() -> bytes:
            watch.listeners.start_again()
            logger_of(of).warning("an order")
            return written.lines.get(timeout=DEADLINE_S).encode()

        assert in_two_workers(answer) == (b"an order", b"an order")
        assert listener._thread is None
        assert [each.verdict for each in watch.listeners.findings()] == [Verdict.HARMLESS]


@pytest.mark.parametrize("limit", [0.0, DEADLINE_S])
def test_one_that_takes_too_long_to_write_prevents_forking(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "WRITTEN_S", limit)
    may_write, found = threading.Event(), listeners.Listeners()

    class Slow(Written):
        def emit(self, record: logging.LogRecord) -> None:
            assert may_write.wait(DEADLINE_S)

    of: queue.Queue[Any] = queue.Queue()
    with begun(of, Slow()):
        logger_of(of).warning("up")
        if limit:
            may_write.set()
        found.stop()
        may_write.set()
    assert len(found.findings()) == (1 if limit else 0)


@pytest.mark.parametrize(("of", "kind"), [(queue.Queue(), OwnStart), (Another(), QueueListener)])
def test_a_start_or_a_queue_of_another_kind_is_left_alone(of: Any, kind: type[QueueListener]) -> None:
    found = listeners.Listeners()
    with begun(of, Written(), kind) as listener:
        found.stop()
        assert listener._thread is not None
        assert listener._thread.is_alive()
    assert found.findings() == ()


def test_a_full_queue_is_left_alone() -> None:
    may_write, found = threading.Event(), listeners.Listeners()

    class Slow(Written):
        def emit(self, record: logging.LogRecord) -> None:
            taken.set()
            assert may_write.wait(DEADLINE_S)

    of: queue.Queue[Any] = queue.Queue(1)
    taken = threading.Event()
    with begun(of, Slow()) as listener:
        logger_of(of).warning("up")
        assert taken.wait(DEADLINE_S)
        logger_of(of).warning("full")
        found.stop()
        assert found.findings() == ()
        may_write.set()
        of.join()
        assert listener._thread is not None
