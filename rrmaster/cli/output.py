"""How is an answer printed: its lines on stdout, its error on stderr, and nothing that would drive the terminal?"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from ..status.formatting import plain

WIDTH = 132
"""Columns of the output where it is no terminal (a pipe, a file) and COLUMNS is not set."""


def print_answer(answers: Iterable[dict[str, Any]], before: Callable[[dict[str, Any]], str] = lambda entry: "") -> int:
    """Print the lines of an answer as they come, and return its status."""
    for answer in answers:
        if "status" in answer:
            return print_result(answer)
        entry = answer.get("entry")
        if entry is not None:
            print_lines([before(entry) + plain(str(entry.get("text", "")))])
        elif "missed" in answer:
            print_lines([f"({answer['missed']} lines missed: this terminal was too slow)"])
        else:
            print_lines([plain(str(answer.get("line", "")))])
    return 1


def print_result(answer: dict[str, Any]) -> int:
    """Print the last line of an answer, and return its status."""
    if answer.get("error"):
        complain("\n".join(plain(line) for line in str(answer["error"]).splitlines()))
    elif answer.get("text"):
        print_lines([plain(str(answer["text"]))])
    return int(answer["status"])


def clock(entry: dict[str, Any]) -> str:
    """The local time of a log entry."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(float(entry["time"])))
    except (KeyError, TypeError, ValueError):
        return "-"


def worker_of(entry: dict[str, Any]) -> str:
    """The worker that printed a log entry."""
    return plain(f"worker {entry.get('slot', '-')} (pid {entry.get('pid', '-')})")


def print_lines(lines: Iterable[str]) -> None:
    """Print lines.  Whatever an answer holds, nothing but printable text reaches the terminal."""
    text = "".join(f"{plain(line)}\n" for part in lines for line in part.split("\n"))
    sys.stdout.write(text.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding))
    sys.stdout.flush()


def complain(message: str) -> int:
    """Print an error to stderr; returns 1, the exit status for it."""
    sys.stderr.write(f"rrmaster: {message}\n")
    return 1


def width() -> int:
    """Columns of the output."""
    return shutil.get_terminal_size((WIDTH, 24)).columns


def let_stdout_go() -> None:
    """Write to nothing from now on: at exit, Python would complain of the failed flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
