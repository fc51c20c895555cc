"""Would workers be forked, and if not, what in the application's import prevents it?

A template imports the application as a master's does, and says what it has found.  `rrmaster check` prints one line of
that; `rrmaster check --fork` explains each trace: whose it is, why it does harm or none, and what to change.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...config.settings import Settings
from ...processes.orphans import Orphans
from ...processes.worker_environment import generation_environment
from ...protocol import template_wire
from ...protocol.forks.safety import Verdict, asked_for, describe_hindrances, is_drawn
from ...protocol.launch import is_program
from ...protocol.template_wire import Explanation, Loaded, LoadFailed, Message
from ...status.formatting import plain
from ...supervision.reconfigure import environment_of
from .advice import advice_on
from .start import application_process, until_ended


def start_of_workers(settings: Settings) -> tuple[str, str]:
    """How workers would start: a line that says whether they are forked, and if not, why; and an error.

    One of the two is empty.  The application is known to start without a template.
    """
    alone = f"workers import {settings.application} one by one"
    if is_program(settings.application):
        return "each worker runs it by itself: a program is not forked", ""
    if settings.preload == "off":
        return f"{alone}: --preload is off", ""
    match list(_template_says(settings, {})):
        case [Loaded(found)] if found:
            return describe_hindrances(settings.application, found, settings.preload == "on"), ""
        case [LoadFailed(_, names)] if names:
            return describe_hindrances(settings.application, asked_for(names), False), ""
        case [LoadFailed(reason)]:
            return "", reason
        case [Loaded()]:
            return f"workers are forked: {settings.application} is imported once, and nothing is in the way of that", ""
    return f"{alone}: the template that they would be forked from ends before it has it, or hangs", ""


def explained(settings: Settings, as_json: bool) -> tuple[str, str]:
    """Each trace of the import, as text or as JSON; and an error.  One of the two is empty."""
    if is_program(settings.application):
        return "", "a program that opens its own addresses is not forked: each worker runs it by itself"
    found: list[dict[str, Any]] = []
    hindrances: tuple[str, ...] | None = None
    for message in _template_says(settings, {"RRMASTER_EXPLAIN": "1"}):
        match message:
            case Explanation(told):
                found = [_with_advice(each) for each in told]
            case LoadFailed(_, names) if names:
                found = [_with_advice({"what": what, "verdict": Verdict.HINDRANCE.value}) for what in asked_for(names)]
                hindrances = asked_for(names)
            case LoadFailed(reason):
                return "", reason
            case Loaded(hindrances):
                pass
    if hindrances is None:
        return "", "the template ends before it has imported the application, or hangs"
    forked = settings.preload == "on" or (settings.preload == "auto" and not hindrances)
    if as_json:
        facts = {"application": settings.application, "preload": settings.preload, "forked": forked, "traces": found}
        return json.dumps(facts, indent=2) + "\n", ""
    return "".join(f"{line}\n" for line in _report(settings, forked, found)), ""


def _with_advice(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a template has told, checked: it runs an application's code."""
    what, why = (plain(str(told.get(name, ""))) for name in ("what", "why"))
    verdict = str(told.get("verdict"))
    origin = told.get("origin", ())
    modules = [plain(str(module)) for module in origin] if isinstance(origin, list) else []
    harm = verdict == Verdict.HINDRANCE.value
    known, todo = advice_on(what, modules) if harm else ("", "")
    return {"trace": what, "verdict": plain(verdict), "modules": modules, "why": why or known, "change": todo}


def _report(settings: Settings, forked: bool, found: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    how = "forked" if forked else "not forked"
    by = f" (--preload {settings.preload})" if settings.preload != "auto" else ""
    yield f"workers of {settings.application} are {how}{by}"
    for trace, times in _alike(sorted(found, key=lambda trace: trace["verdict"] != Verdict.HINDRANCE.value)):
        yield ""
        yield f"{trace['verdict']}: it {trace['trace']}{f', {times} times' if times > 1 else ''}"
        yield f"  by      {_by(trace, settings.application)}"
        if trace["why"]:
            yield f"  why     {trace['why']}"
        if trace["change"]:
            yield f"  change  {trace['change']}"


def _alike(found: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Each trace once, and how many there are of it: a library's pool has many threads, all of one name."""
    left = list(found)
    while left:
        first = left[0]
        times = left.count(first)
        left = [each for each in left if each != first]
        yield first, times


def _by(trace: Mapping[str, Any], application: str) -> str:
    """Whose it is: the module, and by which way the application came to load it."""
    modules = trace["modules"]
    if is_drawn(trace["trace"]):
        return f"{application}, or a library: calls of compiled code cannot be seen"
    if not modules:
        return _found_afterwards(trace["trace"], application)
    own, *outer = modules
    return f"{own}, imported by {' < '.join(outer)}" if outer else f"{own} itself"


def _found_afterwards(what: str, application: str) -> str:
    """Whose it is where no module was being loaded when it was found."""
    if place := re.search(r"\((\S+:\d+)\)", what):
        return place[1]
    if what.startswith("took "):
        return f"{application}, or a library: who draws from such a generator cannot be seen"
    if what.startswith("asked for "):
        return f"{application}, or a module of it: its source names the variable, or searches the environment for it"
    return f"{application}, after its import (a factory, or the server)"


def _template_says(settings: Settings, more: Mapping[str, str]) -> Iterator[Message]:
    """The messages of a template up to the result of its import; fewer if it ends or hangs before."""
    line, templates_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = templates_end.fileno()
    environ = generation_environment(settings, os.getcwd(), 1, Orphans().mark(), environment_of(settings))
    environ |= {"RRMASTER_TEMPLATE": str(fd), **more}
    with line, templates_end, application_process(settings, environ, (fd,)) as (_, pidfd):
        message = _next_message(line, pidfd, settings.ready_timeout)
        while isinstance(message, Explanation):
            yield message
            message = _next_message(line, pidfd, settings.ready_timeout)
        line.shutdown(socket.SHUT_WR)
        until_ended(pidfd, template_wire.GOODBYE_S if message else 0)
        if message is not None:
            yield message


def _next_message(line: socket.socket, pidfd: int, timeout: float) -> Message | None:
    """The next message of a template.  None if there is none."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(line.fileno(), select.POLLIN)
    try:
        return (
            template_wire.decode(line.recv(template_wire.MAX))
            if line.fileno() in dict(poll.poll(timeout * 1000))
            else None
        )
    except (OSError, ValueError):
        return None  # the template has ended without a message, or the application has written to the line itself
