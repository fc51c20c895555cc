"""The command line.

argparse, and not cyclopts or click: the options are declared once, in `settings`, so what is left for a library is to
split the arguments and to print the help, and both others cost what they add.  Measured on Python 3.11 (import time,
resident memory): argparse 6 ms, 1.6 MiB; click 8.5 24 ms, 4.9 MiB, without option groups in its help; cyclopts 5.4
57 ms, 7.7 MiB, and 110 to 160 ms with rich once it prints, and its errors would have to be put into our words again.
The master keeps that memory for life.  Workers import none of this.
"""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .._version import __version__
from ..config.addresses import parse_port
from ..config.names import suggestion
from ..config.option import Option, SettingsError, flag
from ..config.settings import Settings, options
from ..config.sources import Source, conventions, from_environment, from_table, read
from ..protocol.launch import MODULE, is_program

OK, ERROR, USAGE, NEVER_READY, CANNOT_BIND = 0, 1, 2, 3, 4
"""Exit statuses: part of the interface, see the README."""

INTERRUPTED = 130
"""After Ctrl-C in a verb, as shells have it (128 + SIGINT)."""

VERBS = (
    "status", "workers", "scale", "reload", "rollback", "restart", "retire", "stop", "top", "events", "logs", "stacks",
    "check", "systemd-unit",
)  # fmt: skip
"""The first argument, if it is one of these, is an order and no application: those have a colon."""

_EPILOG = """\
To a master that runs (rrmaster VERB --help says more; --name or --control say which master, if there are several):
  rrmaster status | workers | top                  how it is doing, once or live
  rrmaster reload                                  new code, if it is good; the exit status is the result
  rrmaster rollback                                the code before the last reload again
  rrmaster scale N|+N|-N|auto                      more workers or fewer
  rrmaster restart SLOT | retire SLOT | stop       replace one worker; end
  rrmaster events | logs [-f] [SLOT] | stacks SLOT what happens, what workers print, where one is just now
Without one:
  rrmaster check [OPTIONS] module:attribute        would this be served, and with which settings?
  rrmaster systemd-unit [OPTIONS] module:attribute a unit for systemd

Every option is also an environment variable (RRMASTER_WORKERS for --workers) and a key of rrmaster.toml or of
[tool.rrmaster] in pyproject.toml.  Flags win over the environment, the environment over the file.
Durations are written 500ms, 30s, 2m.

signals:
  TERM, INT   finish what is in hand, then end; a second one ends now
  QUIT        end fast: connections are cut
  HUP         reload: replace all workers by new ones, if those are good
  USR1        open the log file again
  TTIN, TTOU  one worker more, one less

exit status:
  0 stopped as asked    1 error, or something had to be killed    2 usage
  3 no worker ever became ready    4 an address could not be bound

example:
  rrmaster --workers 4 --bind 127.0.0.1:8000 rrmaster.demo:hello
  rrmaster --workers 4 server.py --verbose         the program runs in each worker, --verbose is its own
"""


class _Usage(Exception):
    """The arguments are wrong, and why."""


class _Parser(argparse.ArgumentParser):
    """Says one line where argparse prints the whole usage."""

    def error(self, message: str) -> NoReturn:
        raise _Usage(message)


class _RefuseDaemon(argparse.Action):
    def __call__(self, *_: Any, **__: Any) -> None:
        raise _Usage(
            "--daemon: rrmaster stays in the foreground; let systemd, a container or `nohup` put it into the background"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The command `rrmaster`; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _order(argv[0], argv[1:]) if argv and argv[0] in VERBS else _main(argv)
    except (_Usage, SettingsError) as error:
        return _complain(f"{error}", USAGE)
    except KeyboardInterrupt:
        return _complain("interrupted before anything was served", ERROR)


def _main(argv: Sequence[str]) -> int:
    if not sys.platform.startswith("linux"):
        return _complain(f"it needs Linux (SIOCOUTQ, pidfd, epoll); this is {sys.platform}", ERROR)
    first = argv[0] if argv else "-"
    if not first.startswith("-") and ":" not in first and not is_program(first) and (meant := suggestion(first, VERBS)):
        raise _Usage(f"{first}: neither a verb nor an application{meant}")
    start = os.getcwd()
    settings, origins, warnings = _configured(argv)
    for warning in warnings:
        _complain(warning, OK)
    if settings.umask is not None:
        os.umask(settings.umask)

    def reread() -> Settings:
        os.chdir(start)  # where relative paths were meant to begin
        return _configured(argv)[0]

    return _serve(settings, origins["bind"] != "default", reread)


def _configured(argv: Sequence[str]) -> tuple[Settings, dict[str, str], list[str]]:
    """The settings, where each came from, and warnings; the working directory is changed as they say."""
    arguments = _parse(argv)
    if arguments.chdir is not None:
        _change_directory(arguments.chdir)
    settings, origins, warnings = _settings(arguments)
    if arguments.chdir is None and settings.chdir is not None:
        _change_directory(settings.chdir)
    if settings.app_dir is not None and not os.path.isdir(settings.app_dir):
        raise SettingsError(f"--app-dir: {settings.app_dir!r} is no directory")
    for name in ("reload_dir", "reload_include", "reload_exclude"):
        # In a file they may stand for whoever says --reload; said here they are a mistake.
        if origins[name] == "command line" and not settings.reload:
            raise SettingsError(f"{flag(name)} says what --reload watches, and there is no --reload")
    return settings, origins, warnings


def _serve(settings: Settings, explicit_bind: bool, reread: Callable[[], Settings]) -> int:
    # Here, so that --help and mistakes answer before trio is loaded.
    import trio

    from ..logs.log import begin
    from ..processes.process import raise_descriptor_limit
    from ..service.run import BindError, CannotStart, NoWorkerReady, run_with_signals

    raise_descriptor_limit()
    end_log = begin(settings)
    try:
        return trio.run(run_with_signals, settings, explicit_bind, reread, strict_exception_groups=True)
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
        end_log()


def _complain(message: str, status: int) -> int:
    try:
        sys.stderr.write(f"rrmaster: {message}\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody listens there any more; the status says it too
    return status


# --- orders


def _order(verb: str, argv: Sequence[str]) -> int:
    try:
        match verb:
            case "check":
                return _check(argv)
            case "systemd-unit":
                return _systemd_unit(argv)
        return _ask(verb, argv)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough (`| head`).  What is left must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OK


def _ask(verb: str, argv: Sequence[str]) -> int:
    from ..control.client import Client, NoMaster, reach
    from .commands import VERBS as WORDS

    word = WORDS[verb]
    parser = _Parser(
        prog=f"rrmaster {verb}",
        description=word.about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    word.arguments(parser)
    for option in ("name", "control"):
        parser.add_argument(flag(option), metavar=options()[option].metavar, help="which master, if there are several")
    arguments = parser.parse_args(list(argv))
    control, name = _which(arguments)
    try:
        client = Client(*reach(control, name, os.environ, os.geteuid()))
        try:
            return word.run(client, arguments)
        finally:
            client.close()
    except (NoMaster, ValueError) as error:
        return _complain(f"{error}", ERROR)


def _which(arguments: argparse.Namespace) -> tuple[str | None, str | None]:
    """Path and name of the master that is meant: as said here, in the environment, or in the file it was started by."""
    try:
        files = _file(None)
    except SettingsError:
        files = []  # a master must be reachable also while its file is broken
    for source in (_from_arguments(arguments), from_environment(os.environ)[0], *files):
        control, name = source.values.get("control"), source.values.get("name")
        if control is not None or name is not None:
            return control if control is None else str(control), name if name is None else str(name)
    return None, None


def _check(argv: Sequence[str]) -> int:
    from .check import effective, how_workers_begin, start_application

    settings, origins, warnings = _configured(argv)
    for warning in warnings:
        _complain(warning, OK)
    sys.stdout.write("".join(f"{line}\n" for line in effective(settings, origins)))
    sys.stdout.flush()
    trouble, how = start_application(settings), ""
    if not trouble:
        how, trouble = how_workers_begin(settings)
    if trouble:
        return _complain(f"{settings.application} would not be served:\n{trouble}", NEVER_READY)
    sys.stdout.write(f"{how}\n{settings.application} would be served\n")
    return OK


def _systemd_unit(argv: Sequence[str]) -> int:
    from ..service.systemd import unit

    config = _parse(argv).config
    settings, origins, warnings = _configured(argv)
    for warning in warnings:
        _complain(warning, OK)
    sys.stdout.write(unit(settings, config=config, origins=origins))
    return OK


# --- arguments


def _parser() -> _Parser:
    parser = _Parser(
        prog="rrmaster",
        usage="rrmaster [OPTIONS] module:attribute\n       rrmaster [OPTIONS] FILE.py [ARGUMENTS]\n"
        "       rrmaster [OPTIONS] -m MODULE [ARGUMENTS]\n       rrmaster VERB ...",
        description="Serve an application with one master that accepts every connection and passes it to the least\n"
        "loaded of N workers.",
        epilog=_EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=32, width=100),
        allow_abbrev=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "application",
        nargs="?",
        help="what to serve, by its import name: an ASGI or WSGI application, or an `async def handler(stream)`; or a "
        "program, FILE.py, that opens its own addresses (rrmaster.open_tcp_listeners); what follows it is its own",
    )
    parser.add_argument("-m", dest="module", metavar="MODULE", help="a program by the name of its module or package")
    groups: dict[str, Any] = {}
    for name, option in options().items():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        _add(groups[option.group], name, option)
        if name == "bind":
            _add_aliases(groups[option.group])
    other = groups["configuration and output"]
    other.add_argument(
        "-c", "--config", metavar="FILE", help="read this TOML file (default: rrmaster.toml, pyproject.toml)"
    )
    other.add_argument("-h", "--help", action="help", help="show this and exit")
    other.add_argument(
        "--version", action="version", version=f"rrmaster {__version__}", help="show the version and exit"
    )
    other.add_argument("--daemon", action=_RefuseDaemon, nargs=0, help=argparse.SUPPRESS)
    return parser


def _add(group: Any, name: str, option: Option) -> None:
    default = option.shown or _default(name)
    notes = "; ".join(filter(None, (default and f"default: {default}", option.note)))
    text = (f"{option.help} ({notes})" if notes else option.help).replace("%", "%%")
    if option.is_switch:
        # Its own help would name the default as True or False.
        group.add_argument(*option.flags, flag(name), dest=name, action=argparse.BooleanOptionalAction, help=text)
        return
    action = "append" if option.repeatable else "store"
    group.add_argument(*option.flags, flag(name), dest=name, metavar=option.metavar, action=action, help=text)


def _default(name: str) -> str:
    value = getattr(Settings("shop:app"), name)
    if value in (None, "", ()):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}s" if isinstance(value, float) else str(value)


def _add_aliases(group: Any) -> None:
    group.add_argument("--host", metavar="HOST", help="with --port, another way to write --bind (uvicorn's)")
    group.add_argument("--port", metavar="PORT", help="see --host")
    group.add_argument("--uds", metavar="PATH", help="the same as --bind unix:PATH")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    ours, own = _split(argv, parser)
    arguments, unknown = parser.parse_known_args(ours)
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        word = unknown[0].partition("=")[0]
        if not word.startswith("-"):
            raise _Usage(f"{word}: one application is served, and {arguments.application} is already named")
        raise _Usage(f"{word}: there is no such option{suggestion(word, known)} (see rrmaster --help)")
    for name in ("chdir", "config", "application"):
        setattr(arguments, name, getattr(arguments, name, None))
    if "module" in arguments:
        if arguments.application is not None:
            raise _Usage(f"-m: one program is served, and {arguments.application} is already named")
        arguments.application = f"{MODULE}{arguments.module}"
    if arguments.application is not None:
        arguments.arguments = own
    return arguments


def _split(argv: Sequence[str], parser: _Parser) -> tuple[list[str], list[str]]:
    """What is for us, and after a program's name what is for the program, however it looks."""
    values = {name for action in parser._actions if action.nargs is None for name in action.option_strings}
    place = 0
    while place < len(argv):
        word = argv[place]
        if word.startswith("-m") or is_program(word):
            end = place + (2 if word == "-m" else 1)
            return list(argv[:end]), list(argv[end:])
        if not word.startswith("-"):
            break  # an application; options may follow it
        place += 2 if word in values else 1
    return list(argv), []


def _from_arguments(arguments: argparse.Namespace) -> Source:
    given = vars(arguments)
    values = {name: given[name] for name in ("application", "arguments", *options()) if given.get(name) is not None}
    binds = list(values.get("bind", []))
    if "host" in given or "port" in given:
        binds.append(_join(given.get("host", "127.0.0.1"), given.get("port", "8000")))
    if "uds" in given:
        binds.append(f"unix:{given['uds']}")
    if binds:
        values["bind"] = binds
    return Source("command line", values, lambda name: name if name in ("application", "arguments") else flag(name))


def _join(host: str, port: str) -> str:
    try:
        parse_port(port)
    except ValueError as error:
        raise SettingsError(f"--port: {error}") from None
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _settings(arguments: argparse.Namespace) -> tuple[Settings, dict[str, str], list[str]]:
    environment, warnings = from_environment(os.environ)
    sources = [_from_arguments(arguments), environment, *_file(arguments.config), conventions(os.environ)]
    settings, origins = read(sources)
    return settings, origins, warnings


def _change_directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise SettingsError(f"--chdir: cannot change to {path!r}: {error.strerror}") from None


def _file(named: str | None) -> list[Source]:
    """The table of the configuration file, if there is one."""
    if named is not None:
        return [from_table(_table(Path(named), required=True), named)]
    if Path("rrmaster.toml").exists():
        return [from_table(_table(Path("rrmaster.toml"), required=False), "rrmaster.toml")]
    if Path("pyproject.toml").exists():
        return [from_table(_table(Path("pyproject.toml"), required=False), "pyproject.toml")]
    return []


def _table(path: Path, required: bool) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is no TOML: {error}") from None
    if path.name != "pyproject.toml":
        return document
    table = document.get("tool", {}).get("rrmaster")
    if table is None and required:
        raise SettingsError(f"{path}: has no table [tool.rrmaster]")
    return table if isinstance(table, dict) else {}
