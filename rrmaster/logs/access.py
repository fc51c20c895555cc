"""Where do the lines of the access log go?  Into a file of their own, to stdout, or as fields into a log in JSON.

::

    a worker's stdout ── a line with `MARK` ──┬── a `Sink`: the file of --access-log, or stdout
                      │                       └── JSON log: an entry whose fields are the atoms
                      └─ any other line ── the log, as what the worker has printed

A line in a log for people is an ordinary line of the worker's output: its mark says where it begins, and is left out.
The mark is drawn at the start of the master: what a client sends may reach a worker's output, and must not become a
line of the access log.

A sink has a thread, a bounded queue, and counts what did not fit, so neither a full disk nor a stalled reader delays
anything; the file is opened again at USR1, and when it was moved away, as the log file is.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Sequence
from logging import INFO

from attrs import define

from ..config.option import SettingsError
from ..config.settings import Settings
from .formats import OutputSource
from .log import Entry, logger, tell
from .setup import attached, reopen_files
from .sinks import Descriptor, RotatingFile, Sink

MARK = f"{secrets.token_hex(8)} "
"""What a line begins with that is one of the access log."""

STDOUT = 1


@define(eq=False)
class Access:
    """Where the lines go at present."""

    sink: Sink | None = None
    """None: into the log."""
    path: str = ""
    """As the settings name it."""

    def use(self, sink: Sink | None, path: str = "") -> Sink | None:
        """Write to this sink from now on; returns the one before."""
        before, self.sink, self.path = self.sink, sink, path
        return before

    def write(self, lines: Sequence[str], source: OutputSource) -> None:
        """Write lines, which have lost their mark."""
        if self.sink is not None:
            self.sink.put(("\n".join(lines) + "\n").encode(errors="backslashreplace"))
            return
        for line in lines:
            _log(line, source)


access = Access()
"""The access log of this process."""


def split(lines: list[str]) -> tuple[list[str], list[str]]:
    """The lines of the access log, without their mark, and the others."""
    own = [line[len(MARK) :] for line in lines if line.startswith(MARK)]
    return own, [line for line in lines if not line.startswith(MARK)] if own else lines


def _log(line: str, source: OutputSource) -> None:
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    known = fields if isinstance(fields, dict) else {}
    text = str(known.get("request") or line)
    tell("worker.access", text, level=INFO, **(known | source.fields))


def open_access_log(settings: Settings) -> None:
    """Write the access log as the settings say.  Raises SettingsError if its file cannot be written."""
    path = "" if settings.access_log == "on" else settings.access_log
    if not path:
        return
    try:
        access.use(_sink(settings), path)
    except OSError as error:
        raise SettingsError(f"--access-log: cannot write {path!r}: {error.strerror}") from None


def follow(settings: Settings) -> None:
    """A reload has changed the settings.  A file that cannot be opened is told, and the one before is kept."""
    path = "" if settings.access_log == "on" else settings.access_log
    if path == access.path or not attached:  # inside another program everything goes to its log
        return
    try:
        before = access.use(_sink(settings) if path else None, path)
    except OSError as error:
        logger.error("reload: the access log %s cannot be written: %s", path, error.strerror)
        return
    if before is None:
        return
    try:  # in a thread, which may have to wait for a slow disk
        threading.Thread(target=_end, args=(before,), name="rrmaster access log", daemon=True).start()
    except RuntimeError:
        _end(before)  # no thread can be started


def close_access_log() -> None:
    """Write what waits, for a second at most, and end."""
    if (sink := access.use(None)) is not None:
        _end(sink)


def _end(sink: Sink) -> None:
    if sink.end() and isinstance(sink.destination, RotatingFile):
        sink.destination.close()


def _sink(settings: Settings) -> Sink:
    path = settings.access_log

    def on_error(what: str) -> None:
        _complain(f"trouble with the access log {path}: {what}", path)

    def notice(dropped: int, estimated: bool) -> bytes:
        _complain(f"{dropped} lines of the access log were dropped: its reader was slow, or its disk full", path)
        return b""

    if path == "-":
        return Sink(Descriptor(STDOUT), notice, on_error)
    return Sink(RotatingFile(path, settings.log_max_size, settings.log_keep, on_error), notice, on_error)


def reopen_all() -> list[str]:
    """Open the log file and the access log again after what was logged so far, because logrotate has moved them away.

    Returns what is opened.
    """
    files = reopen_files()
    if access.sink is not None:
        access.sink.reopen()
        if isinstance(access.sink.destination, RotatingFile):
            files.append(access.sink.destination.path)
    return files


def give_ownership(uid: int, gid: int) -> None:
    """Let the user that root is about to become open the file again, if this process has created it."""
    if access.sink is not None and isinstance(access.sink.destination, RotatingFile):
        access.sink.destination.give_ownership(uid, gid)


def _complain(text: str, path: str) -> None:
    """In the thread of the sink: straight to the log's sinks, because subscribers belong to another thread."""
    entry = Entry(time.time(), "warning", "access.trouble", text, {"path": path})
    for handler in attached:
        handler.sink.put(handler.format.entry(entry))
