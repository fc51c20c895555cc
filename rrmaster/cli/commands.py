"""What an operator can ask of a running master, word by word: `rrmaster status`, `rrmaster reload`, ...

Each verb is its arguments, one question to the master, and what is printed of the answer.  The exit status is the
answer's: 0 done, 1 not done or nobody answered, 2 asked wrongly, and for `reload` its result.  People get lines,
programs get JSON (``--json``, and `events` always).

This module knows neither sockets nor supervisors; `client` asks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import frozen

from ..control.client import Client
from ..status.model import as_json_text, plain, report, to_json, workers_table

WIDTH = 132
"""Columns where there is no terminal to ask (a pipe, a file) and COLUMNS is not set."""

OLD_LINES = 20
"""How many past lines `logs` shows, as many as `tail` and some."""


@frozen
class Verb:
    """One word."""

    about: str
    run: Callable[[Client, argparse.Namespace], int]
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None


# --- the words


def _status(client: Client, arguments: argparse.Namespace) -> int:
    snapshot = client.status()
    _print([as_json_text(snapshot)] if arguments.json else report(snapshot, _width()))
    return 0


def _workers(client: Client, arguments: argparse.Namespace) -> int:
    snapshot = client.status()
    as_json = [json.dumps(to_json(snapshot)["workers"], indent=2)] if arguments.json else None
    _print(as_json or workers_table(snapshot, _width()))
    return 0


def _scale(client: Client, arguments: argparse.Namespace) -> int:
    return _say(client.ask("scale", to=arguments.to))


def _restart(client: Client, arguments: argparse.Namespace) -> int:
    return _say(client.ask("restart", slot=arguments.slot))


def _retire(client: Client, arguments: argparse.Namespace) -> int:
    return _say(client.ask("retire", slot=arguments.slot))


def _reload(client: Client, arguments: argparse.Namespace, what: str = "reload") -> int:
    answers = client.ask(what, patience=None, supersede=arguments.supersede)
    return _say(_with_bar(answers) if sys.stdout.isatty() else answers)


def _rollback(client: Client, arguments: argparse.Namespace) -> int:
    return _reload(client, arguments, "rollback")


BAR = 40
"""Characters of the progress bar: with its frame and the number it fits the narrowest terminal anybody has."""


def _with_bar(answers: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Keep a progress bar below what is printed, on a terminal."""
    for answer in answers:
        sys.stdout.write(_CLEAR)
        yield answer
        if "progress" in answer:
            done = float(answer["progress"])
            sys.stdout.write(f"[{'#' * round(BAR * done):<{BAR}}] {done:4.0%}")
            sys.stdout.flush()


_CLEAR = "\r\x1b[K"
"""To the beginning of the line, and erase it (ECMA-48)."""


def _stop(client: Client, arguments: argparse.Namespace) -> int:
    status = _say(client.ask("stop", now=arguments.now))
    if status == 0 and arguments.wait:
        client.until_end()
        _print(["stopped"])
    return status


def _stacks(client: Client, arguments: argparse.Namespace) -> int:
    return _say(client.ask("stacks", slot=arguments.slot))


def _events(client: Client, arguments: argparse.Namespace) -> int:
    status = 0
    for answer in client.ask("events", patience=None, follow=True, lines=arguments.lines):
        if "status" in answer:
            status = _end(answer)
        else:
            _print([json.dumps(answer.get("entry", answer))])
    return status


def _logs(client: Client, arguments: argparse.Namespace) -> int:
    more = {"slot": arguments.slot, "follow": arguments.follow, "lines": arguments.lines}
    return _say(client.ask("logs", patience=None, **more), lambda entry: f"{_clock(entry)} {_who(entry)} | ")


def _top(client: Client, arguments: argparse.Namespace) -> int:
    try:
        from .top import show
    except ModuleNotFoundError as error:
        return complain(f"top needs the package {error.name}; install it with: pip install 'rrmaster[top]'")
    show(client, arguments.interval)
    return 0


def _slot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("slot", metavar="SLOT", type=int, help="the worker's slot, as in `rrmaster workers`")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def _size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("to", metavar="N|+N|-N|auto", help="how many workers, or how many more or less")


def _for_reload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--supersede", action="store_true", help="if another reload runs, give that one up")


def _for_stop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--now", action="store_true", help="cut connections instead of finishing them")
    parser.add_argument("--no-wait", dest="wait", action="store_false", help="do not wait until it has ended")


def _lines(default: int) -> Callable[[argparse.ArgumentParser], None]:
    def add(parser: argparse.ArgumentParser) -> None:
        text = f"how many past ones to show first (default: {default})"
        parser.add_argument("-n", "--lines", metavar="N", type=int, default=default, help=text)

    return add


def _for_logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    parser.add_argument("slot", metavar="SLOT", type=int, nargs="?", help="only the workers of this slot")
    _lines(OLD_LINES)(parser)


def _for_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i", "--interval", metavar="SECONDS", type=float, default=1.0, help="between looks (default: 1)"
    )


VERBS: dict[str, Verb] = {
    "status": Verb("how everything is: listeners, counts, the last reload, every worker", _status, _json),
    "workers": Verb("the table of workers alone", _workers, _json),
    "scale": Verb("have another number of workers; those of the highest slots go first", _scale, _size),
    "reload": Verb(
        "replace all workers, if the new code is good; blocks, and the exit status is the result:\n"
        "0 committed, 10 refused before any traffic, 11 rolled back after traffic, 12 out of time,\n"
        "13 another reload runs",
        _reload,
        _for_reload,
    ),
    "rollback": Verb(
        "bring the code before the last reload back, as it was in memory, whatever the disk has by now;\n"
        "like a reload, with the same exit status; 1 if it is not kept any more (--rollback-window)",
        _rollback,
        _for_reload,
    ),
    "restart": Verb("replace one worker: the new one serves before the old one is drained", _restart, _slot),
    "retire": Verb("the same, as if the worker had asked for it", _retire, _slot),
    "stop": Verb("finish what is in hand, and end", _stop, _for_stop),
    "top": Verb("live in the terminal; q quits", _top, _for_top),
    "events": Verb("what happens, as one JSON object per line; follows until Ctrl-C", _events, _lines(0)),
    "logs": Verb("what workers print", _logs, _for_logs),
    "stacks": Verb("where a worker is just now: the stacks of its threads", _stacks, _slot),
}
"""Those that ask a running master.  `check` and `systemd-unit` need none (see `cli`)."""


# --- printing


def _say(answers: Iterable[dict[str, Any]], before: Callable[[dict[str, Any]], str] = lambda entry: "") -> int:
    """Print an answer as it comes, and return its status."""
    for answer in answers:
        if "status" in answer:
            return _end(answer)
        entry = answer.get("entry")
        if entry is not None:
            _print([before(entry) + plain(str(entry.get("text", "")))])
        elif "missed" in answer:
            _print([f"({answer['missed']} lines missed: this terminal was too slow)"])
        else:
            _print([plain(str(answer.get("line", "")))])
    return 1


def _end(answer: dict[str, Any]) -> int:
    if answer.get("error"):
        complain("\n".join(plain(line) for line in str(answer["error"]).splitlines()))
    elif answer.get("text"):
        _print([plain(str(answer["text"]))])
    return int(answer["status"])


def _clock(entry: dict[str, Any]) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(float(entry["time"])))
    except (KeyError, TypeError, ValueError):
        return "-"


def _who(entry: dict[str, Any]) -> str:
    return plain(f"worker {entry.get('slot', '-')} (pid {entry.get('pid', '-')})")


def _print(lines: Iterable[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    sys.stdout.write(text.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding))
    sys.stdout.flush()


def complain(message: str) -> int:
    """One line to stderr; returns 1."""
    sys.stderr.write(f"rrmaster: {message}\n")
    return 1


def _width() -> int:
    return shutil.get_terminal_size((WIDTH, 24)).columns
