"""Which settings do the command line, the environment and the configuration file make together?

The command line wins over the environment, the environment over the file.
"""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen

from ..config.directory import change_directory
from ..config.option import SettingsError, flag
from ..config.settings import Settings
from ..config.sources import Source, conventions, from_environment, from_table, read
from ..status.model import Snapshot
from .arguments import as_source, parse_arguments


def configured(argv: Sequence[str]) -> tuple[Settings, dict[str, str], list[str]]:
    """The settings, the origin of each, and warnings.  Changes the working directory as the settings say.

    Raises SettingsError, UsageError.
    """
    arguments = parse_arguments(argv)
    if arguments.chdir is not None:
        _change_directory(arguments.chdir)
    settings, origins, warnings = settings_from(arguments)
    if arguments.chdir is None and settings.chdir is not None:
        _change_directory(settings.chdir)
    mistakes = []
    if settings.app_dir is not None and not os.path.isdir(settings.app_dir):
        mistakes.append(f"--app-dir: {settings.app_dir!r} is no directory")
    # In a file they may be prepared for a later --reload; on the command line they are a mistake without it.
    mistakes += [
        f"{flag(name)} says what --reload watches, and there is no --reload"
        for name in ("reload_dir", "reload_include", "reload_exclude")
        if origins[name] == "command line" and not settings.reload
    ]
    if mistakes:
        raise SettingsError(*mistakes)
    return settings, origins, warnings


def settings_from(arguments: argparse.Namespace) -> tuple[Settings, dict[str, str], list[str]]:
    """The settings, the origin of each, and warnings.  Raises SettingsError."""
    environment, warnings = from_environment(os.environ)
    sources = [as_source(arguments), environment, *_file(arguments.config), conventions(os.environ)]
    settings, origins = read(sources)
    return settings, origins, warnings


def socket_named(arguments: argparse.Namespace) -> tuple[str | None, str | None]:
    """The path and the name of the master that a verb is for: from its arguments, the environment or the file."""
    try:
        files = _file(None)
    except SettingsError:
        files = []  # a master must be reachable also while its file is broken
    for source in (as_source(arguments), from_environment(os.environ)[0], *files):
        control, name = source.values.get("control"), source.values.get("name")
        if control is not None or name is not None:
            return control if control is None else str(control), name if name is None else str(name)
    return None, None


@frozen
class Project:
    """The project in whose directory a verb is given."""

    file: str
    """Its configuration file."""
    application: str | None
    directories: tuple[str, ...]
    """Where its master may work: here, and where the file's --chdir leads."""

    def is_served_by(self, snapshot: Snapshot) -> bool:
        """Whether this master is the project's.

        A directory decides, since most applications are called main:app; the application does where it is unknown.
        """
        if not snapshot.directory:
            return self.application in (None, snapshot.application)
        return any(map(partial(_is_same, snapshot.directory), self.directories))


def _is_same(one: str, other: str) -> bool:
    with suppress(OSError):  # one of them is gone, so they are the same only by name
        return one == other or os.path.samefile(one, other)
    return False


def project_here() -> Project | None:
    """The project whose configuration file stands in the working directory; None if there is none."""
    try:
        files = _file(None)
    except SettingsError:
        return None
    for source in files:
        if source.values:
            application, chdir = source.values.get("application"), source.values.get("chdir")
            directories = (os.getcwd(), *([os.path.abspath(chdir)] if isinstance(chdir, str) else []))
            return Project(source.name, application if isinstance(application, str) else None, directories)
    return None


def _change_directory(path: str) -> None:
    try:
        change_directory(path)
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
