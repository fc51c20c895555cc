"""Where do all log entries pass?  `tell` and the logger ``rrmaster``, which everything in the master logs with.

::

    tell ─────────────────────────────────────────────┬─ subscribers (the control socket's `events` and `logs`)
    logger.info ... ──────────────────────────────────┤
    a worker's stdout, stderr ─ pipe ─ capture_output ┴─ text or JSON ── a `Sink` each: stderr, the log file

Nothing here waits and nothing grows without a bound: sinks have a thread and a bounded queue, captured output has a
rate.  `setup` attaches the sinks, `formats` makes lines of entries, and `worker_output` logs what workers print.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from attrs import define, frozen

logger = logging.getLogger("rrmaster")

OUTPUT = "worker.output"
"""The event of a line that a worker printed."""

ENTRY = "rrmaster_entry"
"""The attribute of a log record that holds its entry."""


@frozen
class Entry:
    """One log entry."""

    time: float
    """Wall clock, seconds since 1970."""
    level: str
    """debug, info, warning or error."""
    event: str
    """What happened, for programs: dotted words.  "log" for an entry without a name."""
    text: str
    """What happened, for people.  For a line of a worker's output: the line."""
    fields: Mapping[str, object]


def tell(event: str, text: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log an event.  Subscribers receive it at any level, the log from --log-level on.  Never waits, never raises."""
    entry = Entry(time.time(), level_name(level), event, text, fields)
    publish(entry)
    # "%s" with the text as its argument: the text may hold a percent sign.
    logger.log(level, "%s", text, extra={ENTRY: entry}, stacklevel=2)


def subscribe(callback: Callable[[Entry], None]) -> Callable[[], None]:
    """Call `callback` with each entry, in the thread that logs it; returns a function that ends the subscription.

    The callback must not wait.  A callback that raises stays subscribed, and its failure is logged.
    """
    subscriber = _Subscriber(callback)
    subscribers.append(subscriber)
    if _forwarding not in logger.handlers:
        logger.addHandler(_forwarding)

    def unsubscribe() -> None:
        with suppress(ValueError):  # a second call changes nothing
            subscribers.remove(subscriber)
        if not subscribers:
            logger.removeHandler(_forwarding)

    return unsubscribe


@define(eq=False)
class _Subscriber:
    callback: Callable[[Entry], None]
    failures: int = 0

    def notify(self, entry: Entry) -> None:
        try:
            self.callback(entry)
        except Exception as error:
            self.failures += 1
            if self.failures & (self.failures - 1) == 0:  # 1, 2, 4, 8, ...: logged, but not as a flood
                note = f"a subscriber of the log has failed, {self.failures} times now: {error!r}"
                told = Entry(time.time(), "error", "log.subscriber_failed", note, {"failures": self.failures})
                # Not published: it would reach the subscriber that has just failed.
                logger.error("%s", note, extra={ENTRY: told})


class _Forwarding(logging.Handler):
    """Passes to subscribers what was logged with `logger` directly; `tell` has published its entries itself."""

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, ENTRY):
            publish(entry_of(record))


subscribers: list[_Subscriber] = []
_forwarding = _Forwarding()


def publish(entry: Entry) -> None:
    """Call every subscriber with the entry."""
    for subscriber in subscribers.copy():  # a copy, because a subscriber may unsubscribe from within its callback
        subscriber.notify(entry)


def entry_of(record: logging.LogRecord) -> Entry:
    """The entry that a log record carries, or one made of the record."""
    told = getattr(record, ENTRY, None)
    if isinstance(told, Entry):
        return told
    fields = {}
    if record.exc_info and record.exc_info[0] is not None:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return Entry(record.created, level_name(record.levelno), "log", record.getMessage(), fields)


def level_name(level: int) -> str:
    """info for ``logging.INFO``."""
    return logging.getLevelName(level).lower()
