"""How does a systemd unit run a master with these settings?

The unit is text for a person to read, change and install, so lines that are not obvious have a comment in it.
"""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import attrs

from ..config.addresses import Inherited, Tcp, Unix
from ..config.directory import logical_path
from ..config.option import Option, flag
from ..config.settings import Settings, options
from ..protocol.launch import MODULE, is_program

WATCHDOG_S = 30
"""Seconds.  Far longer than a turn of the loop (2 ms), and than the pauses of a machine that swaps."""

KILL_S = 15
"""Seconds that a stop may take beyond the graceful timeout: five after SIGTERM, and the time for SIGKILL."""

DESCRIPTORS = 524_288
"""LimitNOFILE: systemd's default hard limit.  Its soft limit of 1024 is for programs that still call select(2)."""

NOTIFY_RELOAD = 253
"""The version of systemd that brought Type=notify-reload."""


def unit(
    settings: Settings,
    *,
    directory: str | None = None,
    user: str | None = None,
    python: str = sys.executable,
    version: int | None = None,
    reload_verb: bool = True,
    config: str | None = None,
    origins: Mapping[str, str] | None = None,
) -> str:
    """The text of a systemd unit that runs a master with these settings.

    `directory` is the working directory (default: the current one), `user` the user of the service (default: --user,
    else the current user, unless that is root), `version` that of systemd (if unknown, the text works with all versions
    since 240).  A setting that came from a file, as the `origins` of `sources.read` say, stays in the file, so a reload
    reads it again; `config` is the file, if it was named.

    A reload is `rrmaster reload`, not ``Type=notify-reload``: the exit status of the verb is the result, so ``systemctl
    reload`` fails when the new code is refused, which a signal and READY=1 cannot say.  Without the verb
    (`reload_verb` is False) it is notify-reload if systemd knows that, and otherwise a HUP without a result.
    """
    service = _service(settings, directory, user, python, config, origins or {})
    by_signal = not reload_verb and version is not None and version >= NOTIFY_RELOAD
    sections = {
        "Unit": _unit_section(settings),
        "Service": [
            *_start(settings, service, "notify-reload" if by_signal else "notify"),
            *_reload(service, reload_verb, by_signal),
            *_stop(settings),
            *_hardening(settings, service),
        ],
        "Install": ["WantedBy=multi-user.target"],
    }
    head = f"# /etc/systemd/system/{service.name}.service, made by `rrmaster systemd-unit`\n"
    head += f"# Ask it: rrmaster status --control {service.control}\n"
    return head + "".join(f"\n[{title}]\n" + "\n".join(lines) + "\n" for title, lines in sections.items())


@attrs.frozen
class _Service:
    """What the unit says about the service, apart from the settings."""

    name: str
    directory: str
    user: str | None
    control: str
    python: str
    config: str | None
    from_file: frozenset[str]
    """Options that stay in the configuration file."""
    said: frozenset[str]
    """Options given on the command line or in the environment, which the unit's start does not see."""


_NO_FILES = ("command line", "environment", "default")
"""The origins of `sources.read` that are no file."""


def _service(
    settings: Settings,
    directory: str | None,
    user: str | None,
    python: str,
    config: str | None,
    origins: Mapping[str, str],
) -> _Service:
    # A relative --chdir has been followed already.
    name, chdir = settings.name or _name_of(settings.application), settings.chdir or ""
    return _Service(
        name=name,
        directory=chdir if os.path.isabs(chdir) else directory or logical_path(""),
        user=settings.user or user or _current_user(),
        control=settings.control or f"/run/rrmaster-{name}/control.sock",
        python=python,
        config=config,
        from_file=frozenset(option for option, where in origins.items() if where not in _NO_FILES),
        said=frozenset(option for option, where in origins.items() if where in ("command line", "environment")),
    )


def _name_of(application: str) -> str:
    """The name of a service: shop.main for shop.main:app and -m shop.main, server for bin/server.py."""
    if is_program(application):
        return os.path.basename(application.removeprefix(MODULE)).removesuffix(".py")
    return application.partition(":")[0]


def _current_user() -> str | None:
    """Its name, or its number if it has no name; None for root, under which no service should run by default."""
    uid = os.getuid()
    with suppress(KeyError):  # this user has no name
        return None if uid == 0 else pwd.getpwuid(uid).pw_name
    return str(uid)


def _unit_section(settings: Settings) -> list[str]:
    lines = [f"Description={_plain(settings.application)} on rrmaster"]
    if any(isinstance(bind, Inherited) for bind in settings.binds):
        lines.append("# The sockets fd://3, ... come from a .socket unit of the same name.")
    # The addresses to bind must exist, and the application may need the network.
    return [*lines, "Wants=network-online.target", "After=network-online.target"]


def _start(settings: Settings, service: _Service, kind: str) -> Iterator[str]:
    yield f"Type={kind}"
    yield f"ExecStart={_command(service.python, '-P', '-m', 'rrmaster', *_arguments(settings, service))}"
    yield f"WorkingDirectory={_plain(service.directory)}"
    yield f"SyslogIdentifier={_plain(service.name)}"
    if settings.master_user is not None:
        yield "# User=: it starts as root, and becomes --master-user and --user by itself."
    elif service.user is None:
        yield "# User=: it would run as root; name another user here."
    else:
        yield f"User={_plain(service.user)}"
    if settings.group and settings.master_user is None:
        yield f"Group={_plain(settings.group)}"
    if settings.control is None:
        yield f"RuntimeDirectory=rrmaster-{service.name}"
        if settings.master_user is not None:  # it is root's, and the socket in it the master's
            yield f"ExecStartPre=/bin/chown {_plain(settings.master_user)} /run/rrmaster-{service.name}"
    yield f"LimitNOFILE={max(DESCRIPTORS, settings.connections + 1024)}"


def _reload(service: _Service, verb: bool, by_signal: bool) -> Iterator[str]:
    if by_signal:
        return
    if verb:
        yield "# Its exit status is the result: `systemctl reload` fails if the new code is refused."
        yield f"ExecReload={_command(service.python, '-P', '-m', 'rrmaster', 'reload', '--control', service.control)}"
    else:
        yield "ExecReload=/bin/kill -HUP $MAINPID"


def _stop(settings: Settings) -> Iterator[str]:
    # A reload counts as a start for systemd, and takes longer.
    slowest = max(settings.ready_timeout, settings.reload_timeout)
    yield f"TimeoutStartSec={slowest + KILL_S:g}"
    yield "# The master ends its workers itself; systemd kills what is left."
    yield "KillMode=mixed"
    if settings.kill_mode == "tree":
        yield "# Each worker gets a control group of its own, with which all ends that it has started."
        yield "Delegate=yes"
    yield f"TimeoutStopSec={settings.shutdown_delay + settings.graceful_timeout + KILL_S:g}"
    yield f"WatchdogSec={WATCHDOG_S}"
    yield "# 2 is a mistake in the configuration, which a restart cannot repair.  3 (no worker became ready: a database"
    yield "# may be down) and 4 (an address could not be bound: its last owner may be stopping) are tried again."
    yield "Restart=on-failure"
    yield "RestartSec=5"
    yield "RestartPreventExitStatus=2"
    yield "# A worker that the kernel kills for want of memory is replaced; the other workers serve on."
    yield "OOMPolicy=continue"


def _hardening(settings: Settings, service: _Service) -> Iterator[str]:
    """Restrictions that no server should notice.

    Restrictions that break some servers are left out: MemoryDenyWriteExecute (JITs, ctypes), PrivateDevices (graphics
    cards), ProtectSystem=strict (a database beside the code).
    """
    paths = [service.directory, service.python, service.control, settings.log_file or "", settings.pid or ""]
    paths.append(settings.access_log if settings.access_log not in ("on", "-") else "")
    paths += [bind.path for bind in settings.binds if isinstance(bind, Unix)]
    yield "# Comment out what your application cannot work with: sudo needs new privileges, some browsers namespaces."
    if settings.new_privileges != "on":
        yield "NoNewPrivileges=yes"
    if not _any_below(paths, "/tmp", "/var/tmp"):
        yield "PrivateTmp=yes"
    if not _any_below(paths, "/home", "/root", "/run/user"):
        yield "ProtectHome=yes"
    yield "ProtectSystem=full"
    if settings.kill_mode != "tree":  # else they are the master's own, and all others are root's
        yield "ProtectControlGroups=yes"
    for what in ("ProtectKernelModules", "ProtectKernelTunables", "ProtectKernelLogs"):
        yield f"{what}=yes"
    yield "ProtectClock=yes"
    for what in ("RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality"):
        yield f"{what}=yes"
    yield "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"
    yield "SystemCallArchitectures=native"
    if service.user not in (None, "root", "0") and settings.master_user is None:
        low = any(isinstance(bind, Tcp) and 0 < bind.port < 1024 for bind in settings.binds)
        capability = "CAP_NET_BIND_SERVICE" if low else ""
        yield f"CapabilityBoundingSet={capability}"
        if low:
            yield f"AmbientCapabilities={capability}"


def _any_below(paths: list[str], *roots: str) -> bool:
    return any(path == root or path.startswith(f"{root}/") for path in paths for root in roots)


def _arguments(settings: Settings, service: _Service) -> Iterator[str]:
    """The settings that were said, and those that differ from their defaults, but for what other lines of the unit set.

    One that was said is written even where it equals the default: the file may say otherwise, and the flag wins.
    """
    if service.config is not None:
        yield f"--config={os.path.abspath(service.config)}"
    defaults = Settings(settings.application, reload=settings.reload)  # on which other defaults depend
    for name, option in options().items():
        value = getattr(settings, name)
        if name in {"chdir", "control", *service.from_file}:
            continue
        if name in {"user", "group"} and settings.master_user is None:
            continue
        if name not in service.said and value == getattr(defaults, name):
            continue
        if option.is_switch or (option.optional_value and value in ("", "on")):
            yield flag(name) if value else flag(f"no_{name}")
            continue
        for text in _spellings(option, value):
            yield f"{flag(name)}={text}"
    yield f"--control={service.control}"
    if "application" not in service.from_file:
        module = settings.application.startswith(MODULE)
        yield from settings.application.split(" ", 1) if module else [settings.application]
        yield from settings.arguments


def _spellings(option: Option, value: Any) -> list[str]:
    """The value as text: the first spelling that is parsed as the same value again."""
    if option.repeatable:
        return list(value)
    spellings: list[str] = [str(value), "auto"]  # `--workers auto` is None
    if isinstance(value, float):
        spellings += [f"{value * 100:g}%"]
    elif isinstance(value, int):
        spellings += [f"{value:o}"]
    elif attrs.has(type(value)):
        spellings += [":".join(map(str, attrs.astuple(value)))]
    return [text for text in spellings if _is_parsed_as(option, text, value)][:1]


def _is_parsed_as(option: Option, text: str, value: object) -> bool:
    try:
        return bool(option.parse(text) == value)
    except ValueError:
        return False


def _command(*words: str) -> str:
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    """One word of a command line as in systemd.service(5), which has quotes, escapes, variables and specifiers."""
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[\w@%+=:,./$-]+", word, re.ASCII):
        return word
    return f'"{"".join(map(_escaped, word))}"'


def _escaped(character: str) -> str:
    if character in '\\"':
        return f"\\{character}"
    if character.isprintable():
        return character
    return f"\\x{ord(character):02x}" if character.isascii() else f"\\U{ord(character):08x}"


def _plain(text: str) -> str:
    """The value of a directive that is one text and not a list of words."""
    return " ".join(text.splitlines()).replace("%", "%%")
