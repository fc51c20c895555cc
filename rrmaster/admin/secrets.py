"""Which texts are secrets, and must not be shown?

What the master tells holds texts of the application: its output, the exceptions that ended workers or a reload.  They
may name a database with its password, or a key.  The admin server shows such texts to all that reach its address, so it
puts `MASK` in the place of

- the values of variables whose names say that they are keys (``SECRET_KEY``, ``DATABASE_PASSWORD``), from the master's
  environment and from --env-file;
- what `show-config` hides of the settings, such as a program's argument ``--password=hunter2``;
- passwords in addresses (``postgres://shop:hunter2@db/shop``), in any text;
- what follows a word like ``password=`` or ``Authorization:``.

A secret that an application prints without any of these signs cannot be known.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field

from ..config.presentation import IN_ADDRESS, without_secrets

MASK = "***"

SHORTEST = 6
"""Characters: a shorter value is found in any text by chance, and masks no secret worth the name."""

_NAME = re.compile(
    r"(?i)(^|_)(secrets?|tokens?|pass(word|wd|phrase)?|pwd|keys?|apikey|credentials?|dsn|auth|salt|cookie|signature)(_|$)"
)
_NO_SECRET = re.compile(r"(?i)\.?/[\w./-]+|true|false|disabled|enabled|required|optional|default")
"""A path to a file that has the secret, and switches."""

# Each repetition is bounded, so that no line, however it is made, takes long.
_AFTER_WORD = re.compile(
    r"(?P<before>\b(?:[\w-]{0,40}(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key)|authorization|"
    r"set-cookie|cookie)[\"']?\s{0,9}[=:]\s{0,9}[\"']?(?:(?:bearer|basic)\s{1,9})?)(?P<secret>[^\s\"',;&)}\]]+)",
    re.IGNORECASE,
)


@define(eq=False)
class Secrets:
    """The secrets that one admin server knows."""

    environ: Mapping[str, str] = field(repr=False)
    env_file: str | None = None
    own: tuple[str, ...] = field(default=(), repr=False)
    """Further secrets: the token of the server itself."""
    _told: set[str] = field(factory=set, init=False, repr=False)
    """Those that the master has told.  They stay: workers of before a reload may still print them."""
    _read: str = field(default="", init=False, repr=False)
    _known: re.Pattern[str] | None = field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._learn()

    def refresh(self) -> None:
        """Read --env-file again, if it has changed: a reload of the master did so."""
        text = self._file()
        if text != self._read:
            self._read = text
            self._learn()

    def learn(self, settings: Mapping[str, Any], directory: str = "", environ: Mapping[str, str] | None = None) -> None:
        """The master has these settings, relative to this directory, and these variables."""
        found: list[str] = []
        for value in settings.values():
            without_secrets(value, found)
        variables = (environ or {}).items()
        found += [secret for name, value in variables for secret in _secrets_of(name, value)]
        if self.env_file is None and isinstance(settings.get("env_file"), str):
            self.env_file = os.path.join(directory, settings["env_file"])
        self._told.update(found)
        self._learn()
        self.refresh()

    def masked(self, value: Any) -> Any:
        """A value as `json` reads it, with all secrets in its texts masked."""
        if isinstance(value, str):
            return self._clean(value)
        if isinstance(value, Mapping):
            return {key: self.masked(part) for key, part in value.items()}
        return [self.masked(part) for part in value] if isinstance(value, list | tuple) else value

    def _clean(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(MASK, text)
        if "://" in text:
            text = IN_ADDRESS.sub(rf"\g<before>{MASK}", text)
        return _AFTER_WORD.sub(rf"\g<before>{MASK}", text) if "=" in text or ":" in text else text

    def _learn(self) -> None:
        variables = [*self.environ.items(), *_variables(self._read)]
        values = {*self.own, *self._told, *(secret for name, value in variables for secret in _secrets_of(name, value))}
        longest_first = sorted((value for value in values if len(value) >= SHORTEST), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def _file(self) -> str:
        if self.env_file is None:
            return ""
        try:
            return Path(self.env_file).read_text(errors="replace")
        except OSError:
            return self._read  # the workers still have what it said


def _secrets_of(name: str, value: str) -> Iterator[str]:
    if _NAME.search(name) and not _NO_SECRET.fullmatch(value):
        yield value
    yield from (found["secret"] for found in IN_ADDRESS.finditer(value))


def _variables(text: str) -> Iterable[tuple[str, str]]:
    """The variables of an env file, roughly: a value that is quoted over lines counts with its first line."""
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            yield name.strip(), value.strip().strip("\"'")
