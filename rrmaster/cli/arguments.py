"""Which words does the command line understand, and how are they split into options, an application and its arguments?

The options are declared once, in `config.settings`; here they become arguments of argparse and lines of the help.

argparse, and not cyclopts or click: what is left for a library is to split the arguments and to print the help, and
both others cost more than they add.  Measured on Python 3.11 (import time, resident memory): argparse 6 ms, 1.6 MiB;
click 8.5 24 ms, 4.9 MiB, without option groups in its help; cyclopts 5.4 57 ms, 7.7 MiB, and 110 to 160 ms with rich
once it prints, and its errors would have to be put into our words again.  The master keeps that memory for life.
Workers import none of this.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn, TypeVar

from .._version import __version__
from ..config.addresses import parse_port
from ..config.names import suggestion
from ..config.option import Option, flag
from ..config.presentation import spelled
from ..config.settings import Settings, options
from ..config.sources import Source
from ..protocol.launch import MODULE, is_program
from .output import let_stdout_go

_EPILOG = """\
verbs, for a running master (rrmaster VERB --help says more; with several masters, --name or --control says which):
  rrmaster status | workers | top                  how it is doing, once or live
  rrmaster reload                                  new code, if it is good; the exit status is the result
  rrmaster rollback                                the code before the last reload again
  rrmaster scale N|+N|-N|auto                      more workers or fewer
  rrmaster restart SLOT | retire SLOT              replace one worker
  rrmaster stop                                    finish all connections, then end
  rrmaster admin ADDRESS                           metrics, health and a page, if the master has none
  rrmaster events | logs [-f] [SLOT] | stacks SLOT what happens, what workers print, what a worker is doing now
  rrmaster show-config                             what runs, beside what the file and the flags say now
  rrmaster reopen                                  open the log files again
verbs that need no running master:
  rrmaster check [OPTIONS] module:attribute        would this be served, and with which settings?
  rrmaster check --fork [--json] module:attribute  would workers be forked, and what prevents it?
  rrmaster systemd-unit [OPTIONS] module:attribute print a unit for systemd
  rrmaster completion bash|zsh|fish                print a script with which a shell completes all this

Every option is also an environment variable (RRMASTER_WORKERS for --workers) and a key of rrmaster.toml or of
[tool.rrmaster] in pyproject.toml.  Flags win over the environment, the environment over the file.
Durations are written 500ms, 30s, 2m.

signals:
  TERM, INT   finish all connections, then end; a second one ends at once
  QUIT        end fast: connections are cut
  HUP         reload: replace all workers by new ones, if those are good
  USR1        open the log files again
  TTIN, TTOU  add one worker, remove one

exit status:
  0 stopped as asked    1 error, or a process had to be killed    2 usage
  3 no worker ever became ready    4 an address could not be bound

example:
  rrmaster --workers 4 --bind 127.0.0.1:8000 rrmaster.demo:hello
  rrmaster --workers 4 server.py --verbose         runs the program in each worker; --verbose is its own argument
"""


_ELSEWHERE = {
    "-k": "what runs a worker is --runtime (auto finds it)",
    "--worker-class": "what runs a worker is --runtime (auto finds it)",
    "--loop": "the event loop is --runtime",
    "--limit-concurrency": "the most connections of one worker are --worker-connections",
    "--timeout-graceful-shutdown": "it is --graceful-timeout here",
    "--timeout": "a request that is stuck ends by --request-timeout, a worker that is stuck by --hang-timeout",
    "-t": "a request that is stuck ends by --request-timeout, a worker that is stuck by --hang-timeout",
    "--reuse-port": "the master alone listens, so nothing needs it",
    "--header": "the application sets its own headers",
    "--date-header": "a proxy in front can drop the header",
    "--no-date-header": "a proxy in front can drop the header",
    "--server-header": "a proxy in front can drop the header",
    "--no-server-header": "a proxy in front can drop the header",
    "--log-config": "the log is set up by --log-level, --log-format and --log-file",
    "--http": "the parser is httptools where it is installed",
    "--ws": "websockets work where the package websockets or wsproto is installed",
    "--error-logfile": "the log goes to stderr, or to --log-file",
    "--worker-tmp-dir": "workers report over a socket, so nothing needs it",
    "--statsd-host": "the figures are in `rrmaster status --json`",
    "--ssl-version": "which versions of TLS are spoken is decided by OpenSSL",
    "-D": "rrmaster stays in the foreground; let systemd, a container or `nohup` put it into the background",
    "-n": "it is --name here",
    "-p": "it is --pid here",
    "-u": "it is --user here",
    "-g": "it is --group here",
}
"""Options of gunicorn and uvicorn whose nearest spelling here means something else, and what to write instead."""


T = TypeVar("T")

VERBS = (
    "status", "workers", "scale", "reload", "rollback", "restart", "retire", "stop", "top", "events", "logs", "stacks",
    "show-config", "reopen", "admin", "check", "systemd-unit", "completion",
)  # fmt: skip
"""The verbs.  None of them is taken for an application: the name of an application has a colon."""

CHECK_WORDS = ("--fork", "--json")
"""What `rrmaster check` understands beside the options of a start."""


class UsageError(Exception):
    """The arguments are wrong; the message says why."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, where argparse prints the whole usage, and which says if it cannot print."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def print_help(self, file: Any = None) -> None:
        """Print the help on stdout."""
        self.say(self.format_help())

    def say(self, text: str) -> None:
        """Print what was asked for.  argparse itself drops the error of a full disk, and ends with 0."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            let_stdout_go()  # `| head` has seen enough
        except OSError as error:
            let_stdout_go()
            self.exit(1, f"rrmaster: cannot write the output: {error.strerror}\n")


def argument_type(parse: Callable[[Any], T]) -> Callable[[str], T]:
    """The parser of a value as argparse takes it, which prints the message of no other error."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


class _Version(argparse.Action):
    def __call__(self, parser: Any, *_: Any) -> None:
        parser.say(f"rrmaster {__version__}\n")
        parser.exit()


class _RefuseDaemon(argparse.Action):
    def __call__(self, *_: Any, **__: Any) -> None:
        raise UsageError(
            "--daemon: rrmaster stays in the foreground; let systemd, a container or `nohup` put it into the background"
        )


def make_parser() -> Parser:
    """The parser of everything but the verbs."""
    parser = Parser(
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
        help="the application to serve, by its import name: an ASGI or WSGI application, or an `async def "
        "handler(stream)`; or a program, FILE.py, that opens its own addresses (rrmaster.open_tcp_listeners), followed "
        "by its arguments",
    )
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what a start, `check` and `systemd-unit` take, beside the application."""
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
    other.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    other.add_argument("--daemon", action=_RefuseDaemon, nargs=0, help=argparse.SUPPRESS)


def _add(group: Any, name: str, option: Option) -> None:
    default = option.shown or default_of(name)
    notes = "; ".join(filter(None, (default and f"default: {default}", option.note)))
    text = (f"{option.help} ({notes})" if notes else option.help).replace("%", "%%")
    if option.is_switch:
        # argparse's own help would show the default as True or False.
        group.add_argument(*option.flags, flag(name), dest=name, action=argparse.BooleanOptionalAction, help=text)
        return
    if option.optional_value:
        group.add_argument(*option.flags, flag(name), dest=name, metavar=option.metavar, help=text)
        group.add_argument(flag(f"no_{name}"), dest=name, action="store_const", const="off", help=argparse.SUPPRESS)
        return
    action = "append" if option.repeatable else "store"
    group.add_argument(*option.flags, flag(name), dest=name, metavar=option.metavar, action=action, help=text)


def default_of(name: str) -> str:
    """The default of an option, as the help shows it; empty if there is none."""
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


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of everything but the verbs; an option that is not given is missing.

    Words that look like options and are none are in its `unknown`: a message for each.  Raises UsageError.
    """
    parser = make_parser()
    own, of_program = _split(argv, parser)
    arguments, unknown = parser.parse_known_args(own)
    if getattr(arguments, "application", None) in VERBS:
        _refuse_late(arguments.application, argv)
    mistakes = _unknown([word.partition("=")[0] for word in unknown if word.startswith("-")], parser)
    if unknown and not mistakes:
        raise UsageError(f"{unknown[0]}: one application is served, and {arguments.application} is already named")
    found: dict[str, Any] = {"chdir": None, "config": None, "application": None} | vars(arguments)
    if mistakes:  # its value would be taken for the application
        return argparse.Namespace(**{**found, "application": None, "unknown": mistakes})
    if "module" in found:
        if found["application"] is not None:
            raise UsageError(f"-m: one program is served, and {found['application']} is already named")
        found["application"] = f"{MODULE}{found['module']}"
    if found["application"] is not None:
        found["arguments"] = of_program
    return argparse.Namespace(**found)


def _refuse_late(verb: str, argv: Sequence[str]) -> NoReturn:
    rest = list(argv)
    rest.remove(verb)
    raise UsageError(f"{verb}: a verb comes before its options: {shlex.join(['rrmaster', verb, *rest])}")


def _unknown(words: Sequence[str], parser: Parser) -> list[str]:
    known = [name for action in parser._actions for name in action.option_strings if action.dest != "help"]
    mistakes = []
    for word in dict.fromkeys(words):
        here = _ELSEWHERE.get(word)
        hint = f"; {here}" if here is not None else suggestion(word, known)
        mistakes.append(f"{word}: there is no such option{hint} (see rrmaster --help)")
    return mistakes


def _split(argv: Sequence[str], parser: Parser) -> tuple[list[str], list[str]]:
    """The arguments of rrmaster, and those after a program's name, which are the program's whatever they look like."""
    values = {name for action in parser._actions if action.nargs is None for name in action.option_strings}
    argv, place, is_application = list(argv), 0, False
    while place < len(argv):
        word = argv[place]
        if word in _SWITCHES_WITH_VALUES and not _is_value(argv[place + 1 : place + 2]):
            argv.insert(place + 1, "on")
        if not is_application and (word.startswith("-m") or is_program(word)):
            end = place + (2 if word == "-m" else 1)
            return argv[:end], argv[end:]
        is_application = is_application or not word.startswith("-")  # options may follow it
        place += 2 if word in values else 1
    return argv, []


_SWITCHES_WITH_VALUES = {
    word for name, option in options().items() if option.optional_value for word in (*option.flags, flag(name))
}


def _is_value(following: Sequence[str]) -> bool:
    """Whether what follows a switch that may have a value is one, and neither an option nor what is to be served."""
    if not following or (following[0].startswith("-") and following[0] != "-"):
        return False
    word = following[0]
    return not (is_program(word) or ".py:" in word or (":" in word and "/" not in word))


def split_words(argv: Sequence[str], words: Collection[str]) -> tuple[list[str], set[str]]:
    """The arguments without these words, and those of the words that were given.  A program's arguments stay."""
    own, of_program = _split(argv, make_parser())
    return [word for word in own if word not in words] + of_program, {*own} & {*words}


def as_source(arguments: argparse.Namespace) -> Source:
    """The arguments as a source of settings, beside the environment and the file."""
    given = vars(arguments)
    values = {name: given[name] for name in ("application", "arguments", *options()) if given.get(name) is not None}
    binds = list(values.get("bind", []))
    unknown = given.get("unknown", [])
    mistakes = list(unknown)
    if "host" in given or "port" in given:
        try:
            binds.append(_join(given.get("host", "127.0.0.1"), given.get("port", "8000")))
        except ValueError as error:
            mistakes.append(f"--port: {error}")
    if "uds" in given:
        binds.append(f"unix:{given['uds']}")
    if binds:
        values["bind"] = binds
    return Source("command line", values, spelled, hides_application=bool(unknown), mistakes=tuple(mistakes))


def _join(host: str, port: str) -> str:
    parse_port(port)  # raises ValueError
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
