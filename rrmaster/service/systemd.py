"""What systemd is told of our life (sd_notify), and the unit by which it runs us.

The protocol is one datagram of ``NAME=value`` lines to the socket that NOTIFY_SOCKET names, sd_notify(3); so it is
spelled here.  The libraries for it: sdnotify's last release is of 2017, systemd-python's of 2023 and needs libsystemd
and a compiler, cysystemd is kept well and is a compiled binding of the journal too; none does more for these lines than
`socket.sendto`, and all of them either block on a full queue or lose the message.

Nothing here raises or waits.  What finds the queue of a busy systemd full is sent at the next occasion.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import attrs
import trio
from attrs import Factory, define

from ..config.addresses import Inherited, Tcp, Unix
from ..config.option import Option, flag
from ..config.settings import Settings, options
from ..protocol.launch import MODULE, is_program

UNSENT = 16
"""Messages kept for a systemd that is too busy: all that happens in any start, reload or stop."""

RETRY_S = 1.0
"""Seconds between looks for unsent messages, where no watchdog sets the pace."""

FULL_QUEUE = (BlockingIOError, InterruptedError)


@define(eq=False)
class Notifier:
    """Tells systemd, if it is there; made by `from_environment`.  Keeps a descriptor: there may be none left later."""

    _socket: socket.socket | None = None
    _address: str | bytes = b""
    watchdog: float = 0.0
    """Seconds without a sign of life after which systemd kills us; 0: it does not look."""
    _unsent: deque[bytes] = Factory(lambda: deque(maxlen=UNSENT))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], pid: int) -> Notifier:
        """As NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say.  Without them all that follows does nothing."""
        name = environ.get("NOTIFY_SOCKET", "")
        if not name.startswith(("/", "@")):  # none, or one of a virtual machine's, which is for its own systemd
            return cls()
        address = b"\0" + os.fsencode(name[1:]) if name.startswith("@") else name
        usec = environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        watchdog = int(usec) / 1e6 if meant and re.fullmatch(r"[0-9]{1,18}", usec) else 0.0
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:
            return cls()  # no descriptor at birth: the master will not get far, and says so itself
        return cls(sock, address, watchdog)

    def ready(self, status: str = "") -> None:
        """All that was asked for serves: after the start, and after a reload, whatever became of it."""
        self._send("READY=1", *_status(status))

    def reloading(self) -> None:
        """A reload begins.  The time is how ``Type=notify-reload`` knows which one we mean."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> None:
        """Nothing new is accepted."""
        self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> None:
        """A line for ``systemctl status``."""
        self._send(*_status(text or " "))

    async def feed(self, alive: Callable[[], Awaitable[None]]) -> None:
        """Give the watchdog its sign of life at half its time, but only if `alive` has returned since the last one.

        `alive` is to return once the dispatching loop has turned: a master whose other tasks run while its loop does
        not is dead, and is to be killed.  Returns at once where nobody listens; else it never does.
        """
        if self._socket is None:
            return
        while True:
            begun = trio.current_time()
            self._flush()
            if self.watchdog:
                await alive()
                if not self._unsent:  # another of these would push out what matters
                    self._send("WATCHDOG=1")
            await trio.sleep_until(begun + (self.watchdog / 2 or RETRY_S))

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is not None:
            self._unsent.append("\n".join(lines).encode(errors="replace"))
            self._flush()

    def _flush(self) -> None:
        while self._unsent and self._socket is not None:
            try:
                self._socket.sendto(self._unsent[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._address)
            except FULL_QUEUE:
                return  # it is busy: `feed` and the next message try again
            except OSError:
                pass  # nobody is there any more, and nobody will miss it
            self._unsent.popleft()


def _status(text: str) -> list[str]:
    """One line: with a newline in it the rest would be another message."""
    return [f"STATUS={' '.join(text.split())}"] if text else []


# --- the unit

WATCHDOG_S = 30
"""Far longer than any turn of the loop (2 ms), and than a machine that swaps keeps us away."""

KILL_S = 15
"""Seconds that a stop may take beyond the graceful timeout: five for SIGTERM, and the killing."""

DESCRIPTORS = 524_288
"""systemd's own hard limit; the soft one of 1024 is for programs that still call select(2)."""

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
    """The text of a systemd unit that runs what the settings say.

    `directory` is where it works (default: here), `user` whom it runs as (default: --user, else who asks, unless that
    is root), `version` systemd's (where it is not known the text works with all since 240).  What came from a file, as
    `origins` of `settings.read` say, stays there, so that a reload reads it again; `config` is the file, if named.

    A reload is `rrmaster reload`, not ``Type=notify-reload``: the verb's exit status is the result, so ``systemctl
    reload`` fails when the new code is refused, which a signal and READY=1 cannot say.  Without the verb
    (`reload_verb`) it is notify-reload where systemd knows it, and else a HUP that nobody waits for.
    """
    place = _place(settings, directory, user, python, config, origins or {})
    by_signal = not reload_verb and version is not None and version >= NOTIFY_RELOAD
    sections = {
        "Unit": _unit_section(settings),
        "Service": [
            *_start(settings, place, "notify-reload" if by_signal else "notify"),
            *_reload(place, reload_verb, by_signal),
            *_ends(settings),
            *_hardening(settings, place),
        ],
        "Install": ["WantedBy=multi-user.target"],
    }
    head = f"# /etc/systemd/system/{place.name}.service, made by `rrmaster systemd-unit`\n"
    head += f"# Ask it: rrmaster status --control {place.control}\n"
    return head + "".join(f"\n[{title}]\n" + "\n".join(lines) + "\n" for title, lines in sections.items())


@attrs.frozen
class _Place:
    name: str
    directory: str
    user: str | None
    control: str
    python: str
    config: str | None
    from_file: frozenset[str]


_NO_FILES = ("command line", "environment", "default")
"""The names of the sources that are no file, in `settings.read`."""


def _place(
    settings: Settings,
    directory: str | None,
    user: str | None,
    python: str,
    config: str | None,
    origins: Mapping[str, str],
) -> _Place:
    name = settings.name or _name_of(settings.application)
    return _Place(
        name=name,
        directory=os.path.abspath(settings.chdir or directory or os.getcwd()),
        user=settings.user or user or _who_asks(),
        control=settings.control or f"/run/rrmaster-{name}/control.sock",
        python=python,
        config=config,
        from_file=frozenset(option for option, where in origins.items() if where not in _NO_FILES),
    )


def _name_of(application: str) -> str:
    """shop.main of shop.main:app and of -m shop.main, server of bin/server.py."""
    if is_program(application):
        return os.path.basename(application.removeprefix(MODULE)).removesuffix(".py")
    return application.partition(":")[0]


def _who_asks() -> str | None:
    uid = os.getuid()
    with suppress(KeyError):  # a number without a name
        return None if uid == 0 else pwd.getpwuid(uid).pw_name
    return str(uid)


def _unit_section(settings: Settings) -> list[str]:
    lines = [f"Description={_plain(settings.application)} on rrmaster"]
    if any(isinstance(bind, Inherited) for bind in settings.binds):
        lines.append("# The sockets fd://3, ... come from a .socket unit of the same name.")
    # A bound address must be there, and so must what the application talks to.
    return [*lines, "Wants=network-online.target", "After=network-online.target"]


def _start(settings: Settings, place: _Place, kind: str) -> Iterator[str]:
    yield f"Type={kind}"
    yield f"ExecStart={_command(place.python, '-m', 'rrmaster', *_arguments(settings, place))}"
    yield f"WorkingDirectory={_plain(place.directory)}"
    yield f"SyslogIdentifier={_plain(place.name)}"
    if place.user is None:
        yield "# User=: it would run as root; name somebody else here."
    else:
        yield f"User={_plain(place.user)}"
    if settings.group:
        yield f"Group={_plain(settings.group)}"
    if settings.control is None:
        yield f"RuntimeDirectory=rrmaster-{place.name}"
    yield f"LimitNOFILE={max(DESCRIPTORS, settings.worker_connections + 1024)}"


def _reload(place: _Place, verb: bool, by_signal: bool) -> Iterator[str]:
    if by_signal:
        return
    if verb:
        yield "# Its exit status is the result: `systemctl reload` fails if the new code is refused."
        yield f"ExecReload={_command(place.python, '-m', 'rrmaster', 'reload', '--control', place.control)}"
    else:
        yield "ExecReload=/bin/kill -HUP $MAINPID"


def _ends(settings: Settings) -> Iterator[str]:
    slowest = max(settings.ready_timeout, getattr(settings, "reload_timeout", 0.0))
    yield f"TimeoutStartSec={slowest + KILL_S:g}"
    yield "# The master ends its workers itself; systemd kills what is left."
    yield "KillMode=mixed"
    yield f"TimeoutStopSec={settings.graceful_timeout + KILL_S:g}"
    yield f"WatchdogSec={WATCHDOG_S}"
    yield "# 2 is a mistake in the configuration, which no restart mends.  3 (no worker became ready: its database may"
    yield "# be away) and 4 (an address could not be bound: its last owner may be leaving) are tried again."
    yield "Restart=on-failure"
    yield "RestartSec=5"
    yield "RestartPreventExitStatus=2"
    yield "# A worker that the kernel kills for memory is replaced; the others serve on."
    yield "OOMPolicy=continue"


def _hardening(settings: Settings, place: _Place) -> Iterator[str]:
    """What no server needs.  Left out is what breaks some: MemoryDenyWriteExecute (JITs, ctypes), PrivateDevices
    (graphics cards), ProtectSystem=strict (a database beside the code)."""
    paths = [place.directory, place.python, place.control, settings.log_file or "", settings.pid or ""]
    paths += [bind.path for bind in settings.binds if isinstance(bind, Unix)]
    yield "# Comment out what your application cannot live with: sudo needs new privileges, some browsers namespaces."
    yield "NoNewPrivileges=yes"
    if not _any_below(paths, "/tmp", "/var/tmp"):
        yield "PrivateTmp=yes"
    if not _any_below(paths, "/home", "/root", "/run/user"):
        yield "ProtectHome=yes"
    yield "ProtectSystem=full"
    for what in ("ProtectControlGroups", "ProtectKernelModules", "ProtectKernelTunables", "ProtectKernelLogs"):
        yield f"{what}=yes"
    yield "ProtectClock=yes"
    for what in ("RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality"):
        yield f"{what}=yes"
    yield "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"
    yield "SystemCallArchitectures=native"
    if place.user not in (None, "root", "0"):
        low = any(isinstance(bind, Tcp) and 0 < bind.port < 1024 for bind in settings.binds)
        capability = "CAP_NET_BIND_SERVICE" if low else ""
        yield f"CapabilityBoundingSet={capability}"
        if low:
            yield f"AmbientCapabilities={capability}"


def _any_below(paths: list[str], *roots: str) -> bool:
    return any(path == root or path.startswith(f"{root}/") for path in paths for root in roots)


def _arguments(settings: Settings, place: _Place) -> Iterator[str]:
    """What differs from the defaults, and is not the unit's own affair."""
    if place.config is not None:
        yield f"--config={os.path.abspath(place.config)}"
    usual = Settings(settings.application)
    for name, option in options().items():
        value = getattr(settings, name)
        if name in {"chdir", "user", "group", "control", *place.from_file} or value == getattr(usual, name):
            continue
        if option.is_switch:
            yield flag(name) if value else flag(f"no_{name}")
            continue
        for text in _spellings(option, value):
            yield f"{flag(name)}={text}"
    yield f"--control={place.control}"
    if "application" not in place.from_file:
        module = settings.application.startswith(MODULE)
        yield from settings.application.split(" ", 1) if module else [settings.application]
        yield from settings.arguments


def _spellings(option: Option, value: Any) -> list[str]:
    """The value as it is written: that spelling of it which is understood as the same value."""
    if option.repeatable:
        return list(value)
    spellings: list[str] = [str(value)]
    if isinstance(value, float):
        spellings += [f"{value * 100:g}%"]
    elif isinstance(value, int):
        spellings += [f"{value:o}"]
    elif attrs.has(type(value)):
        spellings += [":".join(map(str, attrs.astuple(value)))]
    return [next(text for text in spellings if _understood(option, text) == value)]


def _understood(option: Option, text: str) -> object:
    try:
        return option.parse(text)
    except ValueError:
        return None


def _command(*words: str) -> str:
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    """One word of a command line, systemd.service(5): its own quotes, escapes, variables and specifiers."""
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
    """The value of a setting that is one text, not words."""
    return " ".join(text.splitlines()).replace("%", "%%")
