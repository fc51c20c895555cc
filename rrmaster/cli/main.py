"""What does the command `rrmaster` do: start a master, or ask one that is running?

The first argument decides: one of `VERBS` is a verb, everything else serves an application.  trio and the master are
imported as late as possible, so that --help, mistakes and verbs answer quickly.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..config.directory import change_directory, logical_directory
from ..config.names import suggestion
from ..config.option import SettingsError
from ..config.presentation import CommandLine
from ..config.settings import Settings
from ..config.sources import variables_of_settings
from ..protocol.launch import is_program
from ..status.formatting import plain
from .arguments import CHECK_WORDS, VERBS, Parser, UsageError, parse_arguments, split_words
from .configuration import configured, project_here, socket_named
from .output import let_stdout_go

if TYPE_CHECKING:
    from ..control.client import Client

OK, ERROR, USAGE, NEVER_READY, CANNOT_BIND = 0, 1, 2, 3, 4
"""Exit statuses: part of the interface, see the README."""

INTERRUPTED = 130
"""The exit status of a verb after Ctrl-C, as shells have it (128 + SIGINT)."""

HELP_WIDTH = 80
"""Columns of a verb's description."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command `rrmaster`; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _run_verb(argv[0], argv[1:]) if argv and argv[0] in VERBS else _start_master(argv)
    except (UsageError, SettingsError) as error:
        return _complain(f"{error}".replace("\n", "\nrrmaster: "), USAGE)
    except KeyboardInterrupt:
        return _complain("interrupted before anything was served", ERROR)


def _complain(message: str, status: int) -> int:
    try:
        sys.stderr.write(f"rrmaster: {message}\n")
        sys.stderr.flush()
    except OSError:
        pass  # nothing reads stderr any longer; the exit status still says it
    return status


# --- start a master


def _start_master(argv: Sequence[str]) -> int:
    if not sys.platform.startswith("linux"):
        return _complain(f"it needs Linux (SIOCOUTQ, pidfd, epoll); this is {sys.platform}", ERROR)
    first = argv[0] if argv else "-"
    if not first.startswith("-") and ":" not in first and not is_program(first) and (meant := suggestion(first, VERBS)):
        raise UsageError(f"{first}: neither a verb nor an application{meant}")
    start = logical_directory()
    settings, origins = _configured_with_warnings(argv)
    if settings.umask is not None:
        os.umask(settings.umask)

    def reread() -> Settings:
        # Relative paths on the command line begin there.  By its links: they may lead to another release by now.
        change_directory(start)
        return configured(argv)[0]

    given = CommandLine(tuple(argv), start, variables_of_settings(os.environ))
    return _serve(settings, origins["bind"] != "default", reread, given)


def _configured_with_warnings(argv: Sequence[str]) -> tuple[Settings, dict[str, str]]:
    settings, origins, warnings = configured(argv)
    for warning in warnings:
        _complain(warning, OK)
    return settings, origins


def _serve(settings: Settings, explicit_bind: bool, reread: Callable[[], Settings], command_line: CommandLine) -> int:
    import trio

    from ..logs.access import close_access_log, open_access_log
    from ..logs.setup import start_logging
    from ..processes.process import raise_descriptor_limit
    from ..service.run import BindError, CannotStart, NoWorkerReady, run_with_signals

    raise_descriptor_limit()
    try:
        end_log = start_logging(settings)
    except OSError as error:  # each log has a thread, and none can be started
        return _complain(f"the log cannot be written: {error.strerror}", ERROR)
    try:
        open_access_log(settings)
    except SettingsError:
        end_log()
        raise
    try:
        start = partial(run_with_signals, settings, explicit_bind, reread, command_line)
        return trio.run(start, strict_exception_groups=True)
    except BindError as error:
        end_log()
        return _complain(f"{error}", CANNOT_BIND)
    except CannotStart as error:
        end_log()
        return _complain(f"{error}", ERROR)
    except NoWorkerReady as error:
        end_log()
        return _complain(f"no worker became ready; {settings.application} says:\n{error}", NEVER_READY)
    finally:
        close_access_log()
        end_log()


# --- verbs


def _run_verb(verb: str, argv: Sequence[str]) -> int:
    try:
        match verb:
            case "check":
                return _check(argv)
            case "systemd-unit":
                return _systemd_unit(argv)
            case "completion":
                return _completion(argv)
        return _ask(verb, argv)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has closed the pipe (`| head`).  At exit, Python would complain of a failed flush.
        let_stdout_go()
        return OK
    except OSError as error:
        let_stdout_go()
        return _complain(f"{verb}: cannot write the output: {error.strerror or error}", ERROR)


def _ask(verb: str, argv: Sequence[str]) -> int:
    from ..control.client import Client, NoMaster, connect_to_master
    from .commands import COMMANDS

    command = COMMANDS[verb]
    parser = _parser_of(verb, command.about, command.explained())
    command.add_to(parser)
    arguments = parser.parse_args(list(argv))
    control, name = socket_named(arguments)
    try:
        client = Client(*connect_to_master(control, name, os.environ, os.geteuid()))
        try:
            if control is None and name is None:
                _refuse_another_project(client)
            return command.run(client, arguments)
        finally:
            client.close()
    except (NoMaster, ValueError) as error:
        return _complain("\n".join(map(plain, str(error).split("\n"))), ERROR)
    except (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        # A verb formats what it is told, and what is told has another form than a master's.
        return _complain(f"the answer is none of a master's: {plain(f'{type(error).__name__}: {error}')}", ERROR)


def _parser_of(verb: str, about: str, explained: str = "") -> Parser:
    return Parser(
        prog=f"rrmaster {verb}",
        description=_filled(about),
        epilog=explained,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _refuse_another_project(client: Client) -> None:
    """In the directory of one project, the only master that runs may be another's.  Raises NoMaster then."""
    from ..control.client import NoMaster

    project = project_here()
    if project is None or project.is_served_by(found := client.status()):
        return
    where = f" in {plain(found.directory)}" if found.directory else ""
    raise NoMaster(
        f"no master of this project runs ({project.file} is here); the one that runs serves "
        f"{plain(found.application)}{where}: to ask it, write --name {plain(found.name)}"
    )


def _filled(text: str) -> str:
    """Each paragraph wrapped; an indented one, such as a list, stays as it is."""
    width = min(shutil.get_terminal_size().columns, HELP_WIDTH)
    return "\n\n".join(
        part if part.startswith(" ") else textwrap.fill(part, width, break_on_hyphens=False)
        for part in text.split("\n\n")
    )


def _check(argv: Sequence[str]) -> int:
    from ..service.admin_process import check_packages
    from ..service.admin_token import token_of
    from ..service.cannot_start import CannotStart
    from .checks.forks import start_of_workers
    from .checks.start import length_of_a_stop, settings_table, start_application

    argv, words = split_words(argv, CHECK_WORDS)
    if words == {"--json"}:
        raise UsageError("--json: it goes with --fork, which explains whether workers are forked")
    settings, origins = _configured_with_warnings(argv)
    if words:
        return _explain_forks(settings, "--json" in words)
    sys.stdout.write("".join(f"{line}\n" for line in settings_table(settings, origins)))
    sys.stdout.flush()
    try:
        check_packages(settings)
        token_of(settings, os.environ)
    except CannotStart as error:
        return _complain(f"{error}", ERROR)
    trouble, how = start_application(settings), ""
    if not trouble:
        how, trouble = start_of_workers(settings)
    if trouble:
        return _complain(f"{settings.application} would not be served:\n{trouble}", NEVER_READY)
    sys.stdout.write(f"{how}\n{length_of_a_stop(settings)}{settings.application} would be served\n")
    return OK


def _explain_forks(settings: Settings, as_json: bool) -> int:
    from .checks.forks import explained

    text, trouble = explained(settings, as_json)
    if trouble:
        return _complain(f"{settings.application}: {trouble}", NEVER_READY)
    sys.stdout.write(text)
    return OK


def _completion(argv: Sequence[str]) -> int:
    from . import completion

    parser = _parser_of("completion", completion.ABOUT)
    completion.add_arguments(parser)
    return completion.run(parser.parse_args(list(argv)))


def _systemd_unit(argv: Sequence[str]) -> int:
    from ..service.systemd_unit import unit

    config = parse_arguments(argv).config
    settings, origins = _configured_with_warnings(argv)
    sys.stdout.write(unit(settings, config=config, origins=origins))
    return OK
