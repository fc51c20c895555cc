"""What is said, and in which form: the one funnel through which all that the master and its workers say goes.

::

    tell ─────────────────────────────────────┬─ subscribers (the control socket's `events` and `logs`)
    logger.info ... ──────────────────────────┤
    a worker's stdout, stderr ─ pipe ─ relay ─┴─ text or JSON ── an `outlet` each: stderr, the log file

Nothing here waits and nothing grows: the outlets have threads and bounds, the relay a rate.

Where it goes.  Without --log-file all goes to stderr, which is what systemd, containers and gunicorn's users expect.
With one, the file gets all, and stderr what the master itself says at warning and above: an operator who asks
``systemctl status`` why it died finds the reason, and neither the daily noise nor what the workers print (whose stderr
carries every line of their ``logging``) is written twice.  gunicorn is silent on stderr then, and so is its journal.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from attrs import define, frozen

from ..config.option import SettingsError
from ..config.settings import Settings
from .capture import Lines, harmless
from .sinks import Descriptor, File, Outlet

logger = logging.getLogger("rrmaster")

OUTPUT = "worker.output"
"""The event of a line that a worker printed."""


# --- what is said


@frozen
class Entry:
    """One thing that was said."""

    time: float
    """Wall clock, seconds since 1970."""
    level: str
    """debug, info, warning or error."""
    event: str
    """What happened, for programs: dotted words.  "log" where nobody gave it a name."""
    text: str
    """What happened, for people.  For a line of a worker's output: the line."""
    fields: Mapping[str, object]


def tell(event: str, text: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Say what happened.  Subscribers hear it at any level, the log from --log-level on.  Never waits or raises."""
    entry = Entry(time.time(), _level_name(level), event, text, fields)
    _publish(entry)
    logger.log(level, "%s", text, extra={_ENTRY: entry}, stacklevel=2)


def subscribe(callback: Callable[[Entry], None]) -> Callable[[], None]:
    """Hear all that is said, in the thread that says it; returns what ends that.

    The callback must not wait.  One that raises is heard of in the log, and stays.
    """
    listener = _Listener(callback)
    _listeners.append(listener)
    if _overhear not in logger.handlers:
        logger.addHandler(_overhear)

    def unsubscribe() -> None:
        with suppress(ValueError):  # twice is as good as once
            _listeners.remove(listener)
        if not _listeners:
            logger.removeHandler(_overhear)

    return unsubscribe


@define(eq=False)
class _Listener:
    callback: Callable[[Entry], None]
    failures: int = 0

    def hear(self, entry: Entry) -> None:
        try:
            self.callback(entry)
        except Exception as error:
            self.failures += 1
            if self.failures & (self.failures - 1) == 0:  # 1, 2, 4, 8, ...: said, but no flood of it
                note = f"a subscriber of the log has failed, {self.failures} times now: {error!r}"
                told = Entry(time.time(), "error", "log.subscriber_failed", note, {"failures": self.failures})
                logger.error("%s", note, extra={_ENTRY: told})


class _Overhear(logging.Handler):
    """Passes to subscribers what came by `logger` and not by `tell`."""

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, _ENTRY):
            _publish(_entry(record))


_ENTRY = "rrmaster_entry"
"""The attribute of a record in which its entry travels."""

_listeners: list[_Listener] = []
_overhear = _Overhear()


def _publish(entry: Entry) -> None:
    for listener in _listeners.copy():  # one may unsubscribe from within
        listener.hear(entry)


def _entry(record: logging.LogRecord) -> Entry:
    told = getattr(record, _ENTRY, None)
    if isinstance(told, Entry):
        return told
    fields = {}
    if record.exc_info and record.exc_info[0] is not None:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return Entry(record.created, _level_name(record.levelno), "log", record.getMessage(), fields)


def _level_name(level: int) -> str:
    return logging.getLevelName(level).lower()


# --- how it looks


class Style(Protocol):
    """How an entry becomes bytes: whole lines, with their newlines."""

    def one(self, entry: Entry) -> bytes:
        """One entry."""

    def printed(self, printer: Printer, lines: list[str], now: float) -> bytes:
        """Lines of a worker's output, all at once: with 10,000 lines a second it matters."""


class Text:
    """For people: time, level, and the text.  Fields are not shown; what matters of them is in the text."""

    def one(self, entry: Entry) -> bytes:
        return (_prefix(entry.time, entry.level) + harmless(as_text(entry)) + "\n").encode(errors="backslashreplace")

    def printed(self, printer: Printer, lines: list[str], now: float) -> bytes:
        prefix = f"{_prefix(now, printer.level_name)}worker {printer.slot} | "
        return (prefix + ("\n" + prefix).join(lines) + "\n").encode(errors="backslashreplace")


def as_text(entry: Entry) -> str:
    """The entry in words, without time and level."""
    if entry.event == OUTPUT:
        return f"worker {entry.fields['slot']} | {entry.text}"
    return f"{entry.text}\n{entry.fields['exception']}" if "exception" in entry.fields else entry.text


def _prefix(now: float, level: str) -> str:
    return f"{_seconds(int(now))}.{int(now * 1000) % 1000:03d} {level:7} "


@functools.lru_cache(maxsize=4)
def _seconds(now: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))


class Json:
    """For programs: one object a line, in ASCII, so that no character of whatever kind ends a line or an escape."""

    def one(self, entry: Entry) -> bytes:
        head = {"time": rfc3339(entry.time), "level": entry.level, "event": entry.event, "message": entry.text}
        # A field of a taken name is renamed: it neither replaces what every line has, nor is it lost.
        fields = {f"{name}_" if name in head else name: value for name, value in entry.fields.items()}
        return _dump(head | fields).encode() + b"\n"

    def printed(self, printer: Printer, lines: list[str], now: float) -> bytes:
        same = {"time": rfc3339(now), "level": printer.level_name, "event": OUTPUT}
        head = _dump(same)[:-1] + ', "message": '
        tail = ", " + _dump(printer.fields)[1:]
        return "".join([f"{head}{json.dumps(line)}{tail}\n" for line in lines]).encode()


def _dump(values: Mapping[str, object]) -> str:
    try:
        return json.dumps(values, default=str, allow_nan=False)
    except (ValueError, TypeError):  # infinity, a circle, a key that is no text: better in words than not at all
        return json.dumps({str(name): repr(value) for name, value in values.items()})


def rfc3339(now: float) -> str:
    """UTC, to the millisecond: 2026-01-31T23:59:59.999Z."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(int(now)))}.{int(now * 1000) % 1000:03d}Z"


STYLES: dict[str, Callable[[], Style]] = {"text": Text, "json": Json}


# --- where it goes


@define(eq=False)
class _Outlet(logging.Handler):
    """An outlet as a handler of the logger."""

    outlet: Outlet
    style: Style
    level: int = logging.NOTSET
    workers: bool = True
    """Whether it takes what workers print."""

    def __attrs_pre_init__(self) -> None:
        logging.Handler.__init__(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.outlet.put(self.style.one(_entry(record)))


_outlets: list[_Outlet] = []


def begin(settings: Settings, stderr: int = 2) -> Callable[[], object]:
    """Log as the settings say, from now on; returns what ends it.  Raises SettingsError for a file that cannot be."""
    style = STYLES[settings.log_format]()
    if settings.log_file in (None, "-"):
        return to_descriptor(stderr, settings.log_level, settings.log_format)
    try:
        file = File(settings.log_file, settings.log_max_size, settings.log_keep)
    except OSError as error:
        raise SettingsError(f"--log-file: cannot write {settings.log_file!r}: {error.strerror}") from None
    console = _Outlet(Outlet(Descriptor(stderr), _notice(style)), style, logging.WARNING, workers=False)

    def complain(what: str) -> None:
        """In the thread of the file: only stderr is told, and by its queue; what is lost is counted besides."""
        text = f"trouble with the log file {file.path}: {what}"
        entry = Entry(time.time(), "error", "log.trouble", text, {"path": file.path})
        console.outlet.put(style.one(entry))

    file.complain = complain
    end = _attach(settings.log_level, _Outlet(Outlet(file, _notice(style), complain), style), console)

    def end_and_close() -> None:
        if end():
            file.close()

    return end_and_close


def to_descriptor(fd: int, level: str, style: str = "text") -> Callable[[], object]:
    """Write the log to this descriptor from now on; returns what ends it."""
    form = STYLES[style]()
    return _attach(level, _Outlet(Outlet(Descriptor(fd), _notice(form)), form))


def _attach(level: str, *outlets: _Outlet) -> Callable[[], bool]:
    for outlet in outlets:
        logger.addHandler(outlet)
        _outlets.append(outlet)
    logger.setLevel(level.upper())
    logger.propagate = False

    def end() -> bool:
        """Whether all has been written."""
        for outlet in outlets:
            if outlet in _outlets:
                logger.removeHandler(outlet)
                _outlets.remove(outlet)
        done = [outlet.outlet.end() for outlet in outlets]
        return all(done)

    return end


def _notice(style: Style) -> Callable[[int, bool], bytes]:
    def notice(dropped: int, estimated: bool) -> bytes:
        count = f"{'about ' if estimated else ''}{dropped}"
        text = f"{count} log lines were dropped: whoever reads the log was too slow, or its disk was full"
        return style.one(Entry(time.time(), "warning", "log.dropped", text, {"lines": dropped}))

    return notice


def reopen() -> None:
    """Open the log file again, after what was said so far: somebody has moved it away (logrotate; signal USR1)."""
    for outlet in _outlets:
        outlet.outlet.reopen()


def give_to(uid: int, gid: int) -> None:
    """Before root becomes another user: let that user open the log file again, if it is of our making."""
    for outlet in _outlets:
        if isinstance(outlet.outlet.place, File):
            outlet.outlet.place.give_to(uid, gid)


# --- what workers print


@frozen(eq=False)
class Printer:
    """One of a worker's two streams, as a sink for its `relay`."""

    slot: int
    pid: int
    generation: int
    stream: str
    """stdout or stderr; the latter is logged as warnings."""

    @property
    def level(self) -> int:
        return logging.WARNING if self.stream == "stderr" else logging.INFO

    @property
    def level_name(self) -> str:
        return _level_name(self.level)

    @property
    def fields(self) -> dict[str, object]:
        """What is known of each of its lines."""
        return {"slot": self.slot, "pid": self.pid, "generation": self.generation, "stream": self.stream}

    def room(self) -> bool:
        if _listeners or not _outlets:
            return True
        return logger.isEnabledFor(self.level) and any(outlet.outlet.room() for outlet in self._outlets())

    def take(self, lines: list[str]) -> None:
        now = time.time()
        if _listeners or not _outlets:
            level, fields = self.level_name, self.fields
            entries = [Entry(now, level, OUTPUT, line, fields) for line in lines]
            for entry in entries:
                _publish(entry)
                if not _outlets:  # inside somebody else's program: his handlers want records
                    logger.log(self.level, "%s", as_text(entry), extra={_ENTRY: entry})
        if logger.isEnabledFor(self.level):
            for outlet in self._outlets():
                outlet.outlet.put(outlet.style.printed(self, lines, now))

    def miss(self, lines: int, estimated: bool) -> None:
        if logger.isEnabledFor(self.level):  # or nobody misses them
            for outlet in self._outlets():
                outlet.outlet.miss(lines, estimated)

    def _outlets(self) -> list[_Outlet]:
        return [outlet for outlet in _outlets if outlet.workers and self.level >= outlet.level]


def worker_lines(slot: int, pid: int, generation: int, stream: str) -> Lines:
    """For `relay`: what this worker prints on "stdout" or "stderr"."""
    return Lines(Printer(slot, pid, generation, stream))
