"""`rrmaster events` and `rrmaster logs`: what happens, and what workers print, for as long as the master lives.

A reload changes nothing for a follower: it follows the master, which stays.  The end of the master is the last line
that is printed; whether it was in order, the exit status says: 0 after a stop, 1 after any other end.  With --retry the
verb waits for the next master at the same socket and goes on with all that it has logged so far.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..config.quantities import from_to
from ..control.client import ANSWER_S, Client, NoMaster, connect_to_master
from ..status.formatting import plain
from .arguments import UsageError, argument_type
from .output import clock, complain, print_lines, print_result, worker_of

RETRY_S = 0.2
"""Seconds between two looks for the next master."""

ALL = 1_000
"""Lines to ask the next master for: all that it keeps."""

OF_A_LINE = ("slot", "pid", "generation", "stream")
"""Fields of each line that a worker has printed, besides those that all entries have."""

LEVELS = {"missed": "warning", "ended": "info"}
"""Of what the verb itself says."""

PAST_LINES = 20
"""Past lines that `logs` shows; `tail` shows 10."""


def for_events(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `events`."""
    parser.add_argument("--json", action="store_true", help="print JSON, which is what it does anyway")
    _common(parser, 0)


def for_logs(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `logs`."""
    parser.add_argument("slot", metavar="SLOT", type=int, nargs="?", help="show only the workers of this slot")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new lines, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print each line as a JSON object, for programs")
    _common(parser, PAST_LINES)


def _common(parser: argparse.ArgumentParser, lines: int) -> None:
    text = f"show the last N ones first (default: {lines})"
    count = argument_type(from_to(0, 1_000_000))
    parser.add_argument("-n", "--lines", metavar="N", type=count, default=lines, help=text)
    parser.add_argument("--retry", action="store_true", help="when the master ends, wait for the next one, and go on")


def events(client: Client, arguments: argparse.Namespace) -> int:
    """Print what happens."""
    answers = _answers(client, "events", {"follow": True}, arguments, as_json=True)
    return _print_all(answers, as_json=True, fields=())


def logs(client: Client, arguments: argparse.Namespace) -> int:
    """Print what the workers print."""
    if arguments.retry and not arguments.follow:
        raise UsageError("logs: --retry goes with --follow")
    more = {"slot": arguments.slot, "follow": arguments.follow}
    answers = _answers(client, "logs", more, arguments, as_json=arguments.json)
    return _print_all(answers, as_json=arguments.json, fields=OF_A_LINE)


def _print_all(answers: Iterable[dict[str, Any]], *, as_json: bool, fields: Sequence[str]) -> int:
    for answer in answers:
        if answer.get("status"):
            return print_result(answer)
        if answer.keys() & {"entry", "missed", "ended"}:
            print_lines([json.dumps(_record(answer, fields)) if as_json else _as_text(answer)])
    return 0


def _record(answer: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """The entry; what the verb itself says is made like one, or a program that reads each line fails at the last."""
    if "entry" in answer:
        entry: dict[str, Any] = answer["entry"]
        return entry
    what = "missed" if "missed" in answer else "ended"
    head = {"time": time.time(), "level": LEVELS[what], "event": f"follow.{what}", "text": _as_text(answer).strip("()")}
    return head | dict.fromkeys(fields) | {what: answer[what]}


def _as_text(answer: dict[str, Any]) -> str:
    if "missed" in answer:
        return f"({answer['missed']} lines missed: this terminal was too slow)"
    if "ended" in answer:
        return f"({answer['ended']})"
    entry = answer["entry"]
    return f"{clock(entry)} {worker_of(entry)} | {plain(str(entry.get('text', '')))}"


def _answers(
    client: Client, verb: str, more: dict[str, Any], arguments: argparse.Namespace, *, as_json: bool
) -> Iterator[dict[str, Any]]:
    """The answers of this master, and with --retry of the next ones at the same path.

    Raises NoMaster if a master ends in another way than by a stop.
    """
    path, lines = os.path.abspath(client.path), arguments.lines
    timeout = None if more["follow"] else ANSWER_S
    while True:
        try:
            for answer in client.ask(verb, timeout=timeout, lines=lines, **more):
                yield answer
                if answer.get("status") == 0 and "text" in answer:
                    yield {"ended": answer["text"]}
        except NoMaster as error:
            ended = _why(path, error)
            if as_json or arguments.retry:
                yield {"ended": str(ended)}
            if not arguments.retry:
                raise ended from None
        if not arguments.retry:
            return
        client.until_end()  # a master that has said goodbye would say it again
        client, lines = _next_master(path), ALL


def _why(path: str, error: NoMaster) -> NoMaster:
    """The error, or a better one if it is this reader that was dropped."""
    try:
        _answering(path).close()
    except NoMaster:
        return error
    return NoMaster(f"{path}: the master lives, and has dropped this reader, which was too slow")


def _next_master(path: str) -> Client:
    """A connection to the next master at this path, as soon as there is one."""
    complain("waiting for the next master")
    while True:
        try:
            return _answering(path)
        except NoMaster:
            time.sleep(RETRY_S)  # it is not there yet


def _answering(path: str) -> Client:
    """A connection to the master at this path, which answers: one that ends may still be connected to.

    Raises NoMaster.
    """
    client = Client(*connect_to_master(path, None, os.environ, os.geteuid()))
    try:
        client.status()
    except BaseException:
        client.close()
        raise
    return client
