"""What can an operator ask of a running master: `rrmaster status`, `rrmaster reload`, ...?

Each verb has its arguments, sends one request to the master, and prints the answer.  The exit status is that of the
answer: 0 done, 1 not done or no master answered, 2 wrong arguments, and for `reload` its result.  People get lines,
programs get JSON (``--json``, and `events` always).

This module knows neither sockets nor supervisors; `control.client` sends the requests.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import frozen

from ..config.option import flag
from ..config.quantities import positive_duration
from ..config.readiness import ReadyWhen, parse_ready_when
from ..config.settings import options
from ..control.client import Client
from ..status.model import as_json_text, to_json
from ..status.readiness import why_not_ready
from ..status.report import report
from ..status.tables import COLUMNS, legend, workers_table
from . import admin, follow, show_config
from .arguments import UsageError, argument_type
from .live.columns import Order, parse_column
from .live.watch import EVERY_S, watch
from .output import complain, print_answer, print_lines, width

HELP_WIDTH = 80
"""Columns of the legends in the help."""


@frozen
class Verb:
    """One verb of the command line."""

    about: str
    """What its --help says first."""
    run: Callable[[Client, argparse.Namespace], int]
    """Sends the request and prints the answer; returns the exit status."""
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    """Adds its own arguments to a parser."""
    explained: Callable[[], str] = lambda: ""
    """What its --help says last."""

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add its own arguments, and those of every verb."""
        self.arguments(parser)
        for option in ("name", "control"):
            metavar = options()[option].metavar
            parser.add_argument(flag(option), metavar=metavar, help="which master, if there are several")


# --- what each verb does


def _status(client: Client, arguments: argparse.Namespace) -> int:
    if arguments.watch is not None:
        if arguments.ready is not None:
            raise UsageError("status: --watch shows what --ready only tests; write one of them")
        return watch(client, arguments.watch, as_json=arguments.json)
    snapshot = client.status()
    if arguments.ready is not None:
        why = why_not_ready(snapshot, arguments.ready)
        print_lines([f"not ready: {why}" if why else "ready"])
        return 1 if why else 0
    print_lines([as_json_text(snapshot)] if arguments.json else report(snapshot, width()))
    # Somewhere this verb is a health check: a fleet that serves no client is not healthy.
    return 1 if why_not_ready(snapshot, ReadyWhen(count=1)) else 0


def _workers(client: Client, arguments: argparse.Namespace) -> int:
    snapshot = client.status()
    as_json = [json.dumps(to_json(snapshot)["workers"], indent=2)] if arguments.json else None
    print_lines(as_json or workers_table(snapshot, width()))
    return 0


def _scale(client: Client, arguments: argparse.Namespace) -> int:
    return print_answer(client.ask("scale", to=arguments.to))


def _restart(client: Client, arguments: argparse.Namespace) -> int:
    return print_answer(client.ask("restart", slot=arguments.slot))


def _retire(client: Client, arguments: argparse.Namespace) -> int:
    return print_answer(client.ask("retire", slot=arguments.slot))


def _reload(client: Client, arguments: argparse.Namespace, verb: str = "reload") -> int:
    answers = client.ask(verb, timeout=None, supersede=arguments.supersede)
    return print_answer(_with_bar(answers) if sys.stdout.isatty() else answers)


def _rollback(client: Client, arguments: argparse.Namespace) -> int:
    return _reload(client, arguments, "rollback")


BAR = 40
"""Characters of the progress bar; with its frame and its number it fits 50 columns."""


def _with_bar(answers: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same answers; while each is printed, a progress bar is kept below the text."""
    for answer in answers:
        sys.stdout.write(_CLEAR)
        yield answer
        if "progress" in answer:
            done = float(answer["progress"])
            sys.stdout.write(f"[{'#' * round(BAR * done):<{BAR}}] {done:4.0%}")
            sys.stdout.flush()


_CLEAR = "\r\x1b[K"
"""Move to the beginning of the line, and erase it (ECMA-48)."""


def _stop(client: Client, arguments: argparse.Namespace) -> int:
    status = print_answer(client.ask("stop", now=arguments.now))
    if status == 0 and arguments.wait:
        client.until_end()
        print_lines(["stopped"])
    return status


def _reopen(client: Client, arguments: argparse.Namespace) -> int:
    return print_answer(client.ask("reopen"))


def _stacks(client: Client, arguments: argparse.Namespace) -> int:
    return print_answer(client.ask("stacks", slot=arguments.slot))


def _top(client: Client, arguments: argparse.Namespace) -> int:
    try:
        from .live.top import show
    except ModuleNotFoundError as error:
        return complain(f"top needs the package {error.name}; install it with: pip install 'rrmaster[top]'")
    show(client, arguments.interval, Order(arguments.sort, arguments.reverse))
    return 0


def _slot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("slot", metavar="SLOT", type=int, help="the worker's slot, as in `rrmaster workers`")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _for_status(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    parser.add_argument(
        "--ready",
        metavar="WHEN",
        nargs="?",
        type=argument_type(parse_ready_when),
        const=ReadyWhen(count=1),
        help="for a health check: print one line, and end with 0 if this many workers take connections, otherwise "
        "with 1; any (default), all, N or N%%",
    )

    parser.add_argument(
        "-w",
        "--watch",
        metavar="TIME",
        nargs="?",
        type=argument_type(positive_duration),
        const=EVERY_S,
        help=f"again every TIME (default: {EVERY_S:g}s), until Ctrl-C; with --json one line each time",
    )


def _size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "to",
        metavar="N|+N|-N|auto",
        help="the number of workers, or by how many more or fewer; auto: one for each processor",
    )


def _for_reload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--supersede", action="store_true", help="if another reload is running, abandon it for this one"
    )


def _for_stop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--now", action="store_true", help="cut connections instead of finishing them")
    parser.add_argument("--no-wait", dest="wait", action="store_false", help="do not wait until the master has ended")


def _for_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i",
        "--interval",
        metavar="TIME",
        type=argument_type(positive_duration),
        default=1.0,
        help="time between refreshes (default: 1s)",
    )
    parser.add_argument(
        "--sort",
        metavar="COLUMN",
        type=argument_type(parse_column),
        default="SLOT",
        help="sort by this column (default: SLOT); in the view < and > choose another one",
    )
    parser.add_argument("--reverse", action="store_true", help="sort the other way round")


def _columns_explained() -> str:
    return "\n".join(["columns (as many as the terminal has room for):", *_indented(legend(COLUMNS, HELP_WIDTH - 2))])


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


_REPLACES = (
    "The new worker starts first.  Once it serves, the old one gets no more connections, finishes those it has within "
    "--graceful-timeout, and ends.  The verb returns as soon as this has begun; `rrmaster status` shows how it goes."
)

COMMANDS: dict[str, Verb] = {
    "status": Verb(
        "Show how the master is doing: its listeners, its counters, the last reload and every worker.\n\n"
        "The exit status is 0 if a worker takes connections, and 1 if none does or no master answers.",
        _status,
        _for_status,
        _columns_explained,
    ),
    "workers": Verb("Show the table of workers alone.", _workers, _json, _columns_explained),
    "scale": Verb("Change the number of workers.  If it falls, the highest slots go first.", _scale, _size),
    "reload": Verb(
        "Replace all workers by new ones with the code on disk, if that is good.  Blocks until the result is known.  "
        "The exit status is the result:\n\n"
        "  0   committed\n"
        "  10  refused before any traffic\n"
        "  11  rolled back after traffic\n"
        "  12  out of time\n"
        "  13  not begun, another reload is running",
        _reload,
        _for_reload,
    ),
    "rollback": Verb(
        "Bring back the code that served before the last reload, as it was in memory, whatever is on disk by now.  "
        "Proceeds like a reload, with the same exit status; 1 if that code is no longer kept (--rollback-window).",
        _rollback,
        _for_reload,
    ),
    "restart": Verb(f"Replace the worker in one slot.  {_REPLACES}", _restart, _slot),
    "retire": Verb(
        f"Replace the worker in one slot, as if it had asked for it (`current_worker().retire()`).  {_REPLACES}\n\n"
        "In this version `retire` and `restart` do exactly the same: both replace the worker, and the fleet keeps its "
        "size.  To have one worker fewer, use `rrmaster scale -1`.",
        _retire,
        _slot,
    ),
    "stop": Verb("Finish all connections, then end.  Blocks until the master has ended.", _stop, _for_stop),
    "top": Verb("Show the workers live in the terminal; q quits, ? explains the columns.", _top, _for_top),
    "events": Verb(
        "Print what happens, as one JSON object per line; follows until Ctrl-C, over reloads too.\n\n"
        "When the master ends, the last object has the key 'ended'.  The exit status is 0 after a stop, and 1 if it "
        "ended in another way.",
        follow.events,
        follow.for_events,
    ),
    "logs": Verb(
        "Print what the workers write to stdout and stderr.  With --follow over reloads too; the exit status is 0 "
        "after a stop of the master, and 1 if it ended in another way.",
        follow.logs,
        follow.for_logs,
    ),
    "stacks": Verb("Print the stacks of a worker's threads: what it is doing now.", _stacks, _slot),
    "show-config": Verb(
        "Show each setting that runs, and beside it what the configuration file, the environment and the flags of the "
        "start say now, if that differs; and whether a reload or a restart brings it.\n\n"
        "What looks like a secret is shown as ***, and what an --env-file holds is not shown.  The exit status is 1 if "
        "what is written now would be refused.",
        show_config.run,
        show_config.add_arguments,
    ),
    "reopen": Verb("Open the log files again, after they were moved away.  The same as the signal USR1.", _reopen),
    "admin": Verb(
        "Serve metrics, health and a page for people, beside a master that was started without --admin.",
        admin.run,
        admin.add_arguments,
    ),
}
"""The verbs that need a running master.  `check` and `systemd-unit` need none (see `main`)."""
