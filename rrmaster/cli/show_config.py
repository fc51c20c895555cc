"""`rrmaster show-config`: what runs now, what the file and the flags say now, and what a difference needs.

The master tells its settings, its arguments, the directory of its start and the variables that are settings.  The rest
is done here, in the verb's own process: it reads the same sources again, as a start in that directory would.  So the
master opens no file for it and waits for nothing.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import asdict, frozen

from ..config.directory import change_directory
from ..config.option import SettingsError
from ..config.presentation import as_json, in_words, spelled, without_secrets
from ..config.settings import options
from ..config.sources import variables_of_settings
from ..control.client import Client
from .arguments import UsageError
from .configuration import configured
from .output import complain, print_lines, width

VALUES, NARROWEST = 3, 8
"""The first column that may be cut to fit the terminal, and the columns that it keeps; --json has all of it."""


@frozen
class Compared:
    """One setting, as it runs and as it is written."""

    name: str
    runs: Any
    says: Any
    origin: str
    """Where the value that is written stands."""
    needs: str
    """What makes the master follow: reload or restart; empty if it runs so already."""


@frozen
class Written:
    """What a start would read now."""

    settings: Mapping[str, Any]
    origins: Mapping[str, str]
    mistakes: tuple[str, ...] = ()
    """Why a start or a reload would refuse it; then there are no settings."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--changed", action="store_true", help="only the settings that differ")


def run(client: Client, arguments: argparse.Namespace) -> int:
    """Print the comparison; returns the exit status: 1 if what is written cannot be used."""
    *_, answer = client.ask("config")
    if answer["status"] != 0:
        return complain(str(answer.get("error")))
    written = read_again(answer["started"])
    rows = list(compare(answer["settings"], written))
    if arguments.changed:
        rows = [row for row in rows if row.needs]
    if arguments.json:
        shown = {"settings": [asdict(row) for row in rows], "size": answer["size"], "mistakes": written.mistakes}
        print_lines([json.dumps(shown, indent=2)])
    else:
        print_lines(_table(rows, width()) if rows else [])
        if answer["started"] is None:
            print_lines(["the settings are those of a program's own code: there is no file, and there are no flags"])
        else:
            workers, size = answer["settings"].get("workers"), answer["size"]
            print_lines(_summary(rows, workers, size, usable=not written.mistakes))
    if written.mistakes:
        return complain("what is written now would be refused:\n" + "\n".join(f"  {m}" for m in written.mistakes))
    return 0


def read_again(started: Mapping[str, Any] | None) -> Written:
    """What a start with the same arguments in the same directory would read.  Changes this process' environment."""
    if started is None:
        return Written({}, {})
    for name in variables_of_settings(os.environ):
        del os.environ[name]
    os.environ.update(started["environment"])
    try:
        change_directory(started["directory"])
        settings, origins, _ = configured(started["argv"])
    except (SettingsError, UsageError) as error:
        return Written({}, {}, tuple(str(error).split("\n")))
    except OSError as error:
        return Written({}, {}, (f"{started['directory']}, where the master was started: {error.strerror}",))
    return Written(as_json(settings), origins)


def compare(runs: Mapping[str, Any], written: Written) -> Iterable[Compared]:
    """Each setting that runs, beside what is written.  What looks like a secret is hidden, after the comparison."""
    known = options()
    for name, value in runs.items():
        says = written.settings.get(name, value)
        needs = ""
        if says != value:
            needs = "restart" if name in known and known[name].needs_restart else "reload"
        origin = written.origins.get(name, "")
        yield Compared(name, without_secrets(value), without_secrets(says), origin, needs)


def _table(rows: Iterable[Compared], columns: int) -> Iterator[str]:
    lines = [("", "OPTION", "NEEDS", "RUNS", "IS WRITTEN", "WHERE")]
    for row in rows:
        says = in_words(row.name, row.says) if row.needs else ""
        runs, mark = in_words(row.name, row.runs), "*" if row.needs else ""
        lines.append((mark, spelled(row.name), row.needs, runs, says, row.origin))
    widths = fitted([max(map(len, cells)) for cells in zip(*lines, strict=True)], columns)
    for line in lines:
        cells = [_end_of(cell, wide).ljust(wide) for cell, wide in zip(line, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def fitted(widths: Sequence[int], columns: int) -> list[int]:
    """Widths of columns that stand in a line of this length two blanks apart: the widest values lose as they must."""
    found = list(widths)
    most = columns - 2 * (len(found) - 1)
    while sum(found) > most and max(found[VALUES:]) > NARROWEST:
        found[found.index(max(found[VALUES:]), VALUES)] -= 1
    return found


def _end_of(text: str, width: int) -> str:
    """The end of a text: of a path it tells more than the beginning."""
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"


def _summary(rows: list[Compared], workers: Any, size: int, *, usable: bool) -> list[str]:
    lines = []
    if isinstance(workers, int) and size not in (0, workers):
        lines.append(f"the fleet has {size} workers now: it was scaled")
    late = [spelled(row.name) for row in rows if row.needs == "restart"]
    soon = [spelled(row.name) for row in rows if row.needs == "reload"]
    if soon:
        lines.append(f"a reload brings {', '.join(soon)}")
    if late:
        lines.append(f"a restart of the master brings {', '.join(late)}")
    return lines or (["what runs is what is written"] if usable else [])
