"""Where does the log go?

Without --log-file everything goes to stderr, where systemd, containers and gunicorn's users expect it.  With a file,
the file gets everything, and stderr the master's own entries at warning and above.  So ``systemctl status`` shows an
operator why the master died, and neither the routine entries nor the workers' output (whose stderr carries every line
of their ``logging``) are written twice.  gunicorn writes nothing to stderr then, and its journal is empty.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from attrs import define

from ..config.option import SettingsError
from ..config.settings import Settings
from .formats import FORMATS, Format
from .log import Entry, entry_of, logger
from .sinks import Descriptor, RotatingFile, Sink


@define(eq=False)
class SinkHandler(logging.Handler):
    """A sink as a handler of the logger."""

    sink: Sink
    format: Format  # type: ignore[assignment]  # not the method of logging.Handler, which nothing here calls
    level: int = logging.NOTSET
    workers: bool = True
    """Whether it receives what workers print."""

    def __attrs_pre_init__(self) -> None:
        logging.Handler.__init__(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.sink.put(self.format.entry(entry_of(record)))


attached: list[SinkHandler] = []
"""The handlers in use; empty inside a program that has set up logging itself."""


def start_logging(settings: Settings, stderr: int = 2) -> Callable[[], object]:
    """Log as the settings say from now on; returns a function that ends it, and waits a second at most.

    Raises SettingsError if the log file cannot be written.  The descriptor `stderr` stays the caller's.
    """
    format_ = FORMATS[settings.log_format]()
    if settings.log_file in (None, "-"):
        return to_descriptor(stderr, settings.log_level, settings.log_format)
    try:
        file = RotatingFile(settings.log_file, settings.log_max_size, settings.log_keep)
    except OSError as error:
        raise SettingsError(f"--log-file: cannot write {settings.log_file!r}: {error.strerror}") from None
    console = SinkHandler(Sink(Descriptor(stderr), _notice(format_)), format_, logging.WARNING, workers=False)

    def on_error(what: str) -> None:
        # In the file's thread.  It must not log, or the entry would go to the file that cannot be written: it goes to
        # the queue of stderr alone.  What is lost is counted besides.
        text = f"trouble with the log file {file.path}: {what}"
        entry = Entry(time.time(), "error", "log.trouble", text, {"path": file.path})
        console.sink.put(format_.entry(entry))

    file.on_error = on_error
    end = _attach(settings.log_level, SinkHandler(Sink(file, _notice(format_), on_error), format_), console)

    def end_and_close() -> None:
        if end():  # otherwise the thread still writes to the file
            file.close()

    return end_and_close


def to_descriptor(fd: int, level: str, style: str) -> Callable[[], object]:
    """Write the log to this descriptor from now on, as "text" or "json"; returns a function that ends it."""
    format_ = FORMATS[style]()
    return _attach(level, SinkHandler(Sink(Descriptor(fd), _notice(format_)), format_))


def _attach(level: str, *handlers: SinkHandler) -> Callable[[], bool]:
    for handler in handlers:
        logger.addHandler(handler)
        attached.append(handler)
    logger.setLevel(level.upper())
    logger.propagate = False

    def end() -> bool:
        """Whether everything has been written."""
        for handler in handlers:
            if handler in attached:
                logger.removeHandler(handler)
                attached.remove(handler)
        # A list, not a generator: `all` would stop at the first sink that is stuck.
        ended = [handler.sink.end() for handler in handlers]
        return all(ended)

    return end


def _notice(format_: Format) -> Callable[[int, bool], bytes]:
    def notice(dropped: int, estimated: bool) -> bytes:
        count = f"{'about ' if estimated else ''}{dropped}"
        text = f"{count} log lines were dropped: the reader of the log was too slow, or its disk was full"
        return format_.entry(Entry(time.time(), "warning", "log.dropped", text, {"lines": dropped}))

    return notice


def reopen_files() -> list[str]:
    """Open the log file again after what was logged so far: logrotate has moved it away.  Returns what is opened."""
    for handler in attached:
        handler.sink.reopen()
    destinations = [handler.sink.destination for handler in attached]
    return [destination.path for destination in destinations if isinstance(destination, RotatingFile)]


def give_ownership(uid: int, gid: int) -> None:
    """Let the user that root is about to become open the log file again, if this process has created it."""
    for handler in attached:
        if isinstance(handler.sink.destination, RotatingFile):
            handler.sink.destination.give_ownership(uid, gid)
