"""What a reload changes besides the code: settings, the workers' environment, addresses.

All that can fail is done before anything starts: the configuration is read, files are parsed, new addresses opened.
Until the reload is committed the old ones are served, and the new sockets only hold what comes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import Factory, define, fields

from ..config.option import SettingsError
from ..config.parsing import Inherited, parse_bind
from ..config.settings import Settings
from ..dispatch.listeners import Listener, adopt, inherited_fds, open_listeners
from ..logs.log import logger
from ..protocol import tls

FIXED = (
    "user", "group", "umask", "pid", "chdir", "control", "name", "log_level", "log_format", "log_file", "log_max_size",
    "log_keep", "reload", "reload_dir", "reload_include", "reload_exclude",
)  # fmt: skip
"""Settings of the master's process, which a reload does not restart."""


@define(eq=False)
class Change:
    """What will be when a reload is committed.  It owns the new listeners until then."""

    settings: Settings
    environment: dict[str, str] = Factory(dict)
    opened: list[Listener] = Factory(list)

    def undo(self) -> None:
        """The reload has failed: close what was opened."""
        for listener in self.opened:
            listener.close()
        self.opened.clear()


def prepare(current: Settings, new: Settings, environ: Mapping[str, str] | None = None) -> Change:
    """Open what is new, and read the workers' environment, if it is not given.

    Raises SettingsError, BindError, with nothing left open.
    """
    for field in fields(Settings):
        if field.name in FIXED and getattr(current, field.name) != getattr(new, field.name):
            logger.warning("reload: %s has changed; it takes a restart of the master to follow", field.name)
    change = Change(new, environment_of(new) if environ is None else dict(environ))
    look_at_certificate(new)
    try:
        change.opened += open_all(new, [bind for bind in new.bind if bind not in current.bind])
    except BaseException:
        change.undo()
        raise
    return change


def open_all(settings: Settings, binds: Iterable[str]) -> list[Listener]:
    """Open these addresses.  Raises BindError, with nothing left open."""
    with _all_or_none() as opened:
        for bind in binds:
            opened.extend(open_listeners(parse_bind(bind), settings.backlog, settings.unix_mode, bind))
    return opened


@contextmanager
def _all_or_none() -> Iterator[list[Listener]]:
    """A list of listeners that are closed if the block fails."""
    opened: list[Listener] = []
    try:
        yield opened
    except BaseException:
        for listener in opened:
            listener.close()
        raise


def environment_of(settings: Settings) -> dict[str, str]:
    """What the environment file adds.  Raises SettingsError."""
    if settings.env_file is None:
        return {}
    try:
        from dotenv import dotenv_values
    except ImportError:
        raise SettingsError("--env-file needs python-dotenv: pip install 'rrmaster[env]'") from None
    try:
        with Path(settings.env_file).open() as file:
            values = dotenv_values(stream=file)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--env-file: {settings.env_file} cannot be read: {error}") from None
    for name, value in values.items():
        if not name or "=" in name or "\0" in name or "\0" in (value or ""):
            raise SettingsError(f"--env-file: {settings.env_file}: {name!r} cannot be in an environment")
    return {name: value for name, value in values.items() if value is not None}


def look_at_certificate(settings: Settings) -> None:
    """See whether the workers will be able to load it.  Raises SettingsError."""
    try:
        tls.context(settings)
    except tls.CannotSpeakTLS as error:
        raise SettingsError(str(error)) from None


def listen(settings: Settings, explicit: bool = True) -> list[Listener]:
    """Open all addresses.  Sockets passed by systemd come first, and replace a bind that nobody asked for.

    Raises BindError, with nothing left open.
    """
    passed = inherited_fds(os.environ, os.getpid())
    named = [bind.fd for bind in settings.binds if isinstance(bind, Inherited)] if explicit else []
    with _all_or_none() as opened:
        for fd in sorted(set(passed) - set(named)):
            opened.append(adopt(fd))  # one that fails must find the others in the list, to be closed
        if explicit or not passed:
            opened.extend(open_all(settings, settings.bind))
    return opened
