"""How does a log entry look, as text or as JSON?"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from attrs import frozen

from .capture import harmless
from .log import OUTPUT, Entry, level_name


@frozen(eq=False)
class OutputSource:
    """One of a worker's two output streams."""

    slot: int
    pid: int
    generation: int
    stream: str
    """stdout or stderr; stderr is logged as warnings."""

    @property
    def level(self) -> int:
        return logging.WARNING if self.stream == "stderr" else logging.INFO

    @property
    def level_name(self) -> str:
        return level_name(self.level)

    @property
    def fields(self) -> dict[str, object]:
        """The fields of each entry that is made of its lines."""
        return {"slot": self.slot, "pid": self.pid, "generation": self.generation, "stream": self.stream}


class Format(Protocol):
    """How entries become bytes: whole lines, with their newlines."""

    def entry(self, entry: Entry) -> bytes:
        """One entry."""

    def output(self, source: OutputSource, lines: list[str], now: float) -> bytes:
        """Lines of a worker's output, all at once: for 10,000 lines a second, one call each would cost too much."""


class TextFormat:
    """For people: time, level and text.  Fields are not shown; the text holds what matters of them."""

    def entry(self, entry: Entry) -> bytes:
        return (_prefix(entry.time, entry.level) + harmless(as_text(entry)) + "\n").encode(errors="backslashreplace")

    def output(self, source: OutputSource, lines: list[str], now: float) -> bytes:
        prefix = f"{_prefix(now, source.level_name)}worker {source.slot} | "
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
    # Cached: most entries of a busy log have the second of the one before, and localtime is the dear part.
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))


class JsonFormat:
    """For programs: one object a line.  In ASCII: no character then ends a line or begins a terminal's escape."""

    def entry(self, entry: Entry) -> bytes:
        head = {"time": rfc3339(entry.time), "level": entry.level, "event": entry.event, "message": entry.text}
        # A field with a name of the head gets an underscore: it neither replaces that one, nor is it lost.
        fields = {f"{name}_" if name in head else name: value for name, value in entry.fields.items()}
        return _dump(head | fields).encode() + b"\n"

    def output(self, source: OutputSource, lines: list[str], now: float) -> bytes:
        # Only the message differs from line to line, so all else is encoded once.
        same = {"time": rfc3339(now), "level": source.level_name, "event": OUTPUT}
        head = _dump(same)[:-1] + ', "message": '
        tail = ", " + _dump(source.fields)[1:]
        return "".join([f"{head}{json.dumps(line)}{tail}\n" for line in lines]).encode()


def _dump(values: Mapping[str, object]) -> str:
    try:
        return json.dumps(values, default=str, allow_nan=False)
    except (ValueError, TypeError):  # infinity, a circle, a key that is no text: their `repr` is better than no entry
        return json.dumps({str(name): repr(value) for name, value in values.items()})


def rfc3339(now: float) -> str:
    """UTC, to the millisecond: 2026-01-31T23:59:59.999Z."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(int(now)))}.{int(now * 1000) % 1000:03d}Z"


FORMATS: dict[str, Callable[[], Format]] = {"text": TextFormat, "json": JsonFormat}
"""The words of --log-format."""
