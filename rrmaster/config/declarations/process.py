"""As which user does the master run, under which name, and where does its log go?

All of these act when the master's process begins, so a change takes a restart.
"""

from __future__ import annotations

from functools import partial

from attrs import frozen

from .. import option as declared
from ..names import LOG_FORMATS, LOG_LEVELS, one_of, parse_master_name, parse_text
from ..quantities import from_to, parse_size, parse_umask

_PROCESS, _OUTPUT = "process", "configuration and output"
option = partial(declared.option, scope=declared.Scope.MASTER)


@frozen(slots=False, kw_only=True)
class ProcessOptions:
    """The master's process and its log."""

    user: str | None = option(None, parse_text, _PROCESS, "NAME|UID", "become this user once the addresses are bound")
    group: str | None = option(None, parse_text, _PROCESS, "NAME|GID", "become this group once the addresses are bound")
    # Off: it takes files and directories of two users, and a process more.
    master_user: str | None = option(
        None,
        parse_text,
        _PROCESS,
        "NAME|UID",
        "with --user, where root starts it: the master becomes this user, and only workers and templates become "
        "--user, so that they cannot signal the master, read its memory or use its control socket",
    )
    # A service that gives up root's rights should not get any back through a program that lends them (set-user-ID, file
    # capabilities).  Where rrmaster starts as the user that it stays, what starts it decides: a developer may use sudo.
    new_privileges: str = option(
        "auto",
        one_of("choice", ("auto", "on", "off")),
        _PROCESS,
        "auto|on|off",
        "whether a program that a worker starts may gain privileges, as sudo, ping and sendmail may need; auto: not "
        "with --user",
    )
    umask: int | None = option(None, parse_umask, _PROCESS, "MODE", "file mode creation mask, in octal")
    pid: str | None = option(None, parse_text, _PROCESS, "FILE", "write the master's process id to this file")
    name: str | None = option(
        None,
        parse_master_name,
        _PROCESS,
        "NAME",
        "the name by which `rrmaster status` and the other verbs find this master",
        shown="default",
    )
    control: str | None = option(
        None,
        parse_text,
        _PROCESS,
        "PATH",
        "the unix socket through which the verbs reach this master",
        shown="NAME.sock in $XDG_RUNTIME_DIR/rrmaster, or see docs/control.md",
    )

    log_level: str = option("info", one_of("log level", LOG_LEVELS), _OUTPUT, "LEVEL", "debug, info, warning or error")
    log_format: str = option(
        "text",
        one_of("log format", LOG_FORMATS),
        _OUTPUT,
        "FORMAT",
        "text for people, json (one object a line) for programs",
    )
    log_file: str | None = option(
        None,
        parse_text,
        _OUTPUT,
        "FILE",
        "write the log to this file; stderr gets the master's own warnings and errors; reopened on USR1",
        shown="stderr",
    )
    # 20 MB and 5: with the current one 120 MB, which any disk has, and days of an ordinary log.
    log_max_size: int = option(
        20_000_000,
        parse_size,
        _OUTPUT,
        "SIZE",
        "begin a new log file before this one grows larger; 0: never, another program rotates it",
        shown="20MB",
    )
    log_keep: int = option(5, from_to(0, 10_000), _OUTPUT, "N", "old log files to keep, FILE.1 the youngest; 0: none")
