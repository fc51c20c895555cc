"""`rrmaster completion bash|zsh|fish`: what a shell needs to complete verbs, options and their values.

shtab turns parsers into scripts: a completion then starts no Python, which takes a tenth of a second for each press of
the key (argcomplete).  shtab 1.13 writes for all three shells.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

from ..config.names import LOG_FORMATS, LOG_LEVELS, POLICIES
from ..protocol.launch import CERT_REQS, INTERFACES, RUNTIMES
from .arguments import CHECK_WORDS, Parser, add_options
from .commands import COMMANDS
from .output import complain

SHELLS = ("bash", "zsh", "fish")

ABOUT = """\
Print a script with which a shell completes verbs, options and their values.  It belongs into this file:

  bash  ~/.local/share/bash-completion/completions/rrmaster
  zsh   ~/.zfunc/_rrmaster, with fpath+=~/.zfunc before compinit in ~/.zshrc
  fish  ~/.config/fish/completions/rrmaster.fish"""

_WITHOUT_MASTER = {
    "check": "Tell whether an application would be served, and with which settings.",
    "systemd-unit": "Print a unit for systemd.",
    "completion": "Print a script with which a shell completes.",
}

_WORDS = {
    "policy": POLICIES, "log_level": LOG_LEVELS, "log_format": LOG_FORMATS, "interface": INTERFACES,
    "runtime": RUNTIMES, "cert_reqs": CERT_REQS, "ready": ("any", "all"), "to": ("auto",),
}  # fmt: skip
"""The words that an argument may have, by its name; where its metavar lists them, they are taken from there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("shell", choices=SHELLS, metavar="|".join(SHELLS), help="the shell")


def run(arguments: argparse.Namespace) -> int:
    """Print the script; returns the exit status."""
    try:
        import shtab
    except ModuleNotFoundError:
        return complain("completion needs the package shtab; install it with: pip install 'rrmaster[completion]'")
    script = shtab.complete(_described(whole_parser(), shtab), arguments.shell)
    if arguments.shell == "bash":  # what is no verb is an application or a file
        script = script.replace("complete -o bashdefault ", "complete -o bashdefault -o default ")
    sys.stdout.write(f"{script.rstrip()}\n")
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """One parser of everything: the options of a start, and each verb with its own."""
    parser = Parser(prog="rrmaster", add_help=False)
    add_options(parser)
    verbs = parser.add_subparsers(metavar="VERB")
    for verb, command in COMMANDS.items():
        command.add_to(verbs.add_parser(verb, description=_first_sentence(command.about), help=verb))
    for verb, about in _WITHOUT_MASTER.items():
        child = verbs.add_parser(verb, description=about, help=verb, add_help=verb == "completion")
        (add_arguments if verb == "completion" else add_options)(child)
        if verb == "check":
            for word in CHECK_WORDS:
                child.add_argument(word, action="store_true")
    return parser


def _first_sentence(text: str) -> str:
    return re.split(r"[.;:](?:\s|$)", text, maxsplit=1)[0]


def _described(parser: argparse.ArgumentParser, shtab: Any) -> argparse.ArgumentParser:
    """The parser, with what shtab wants to know of the values: an attribute or the choices of each action."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                _described(child, shtab)
        elif action.choices is None:
            metavar = str(action.metavar or "")
            if re.fullmatch(r"[a-z\d-]+(\|[a-z\d-]+)+", metavar):
                action.choices = metavar.split("|")
            elif action.dest in _WORDS:
                action.choices = list(_WORDS[action.dest])
            elif metavar in ("FILE", "PATH"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # this is shtab's way to be told
            elif metavar == "DIR":
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return parser
