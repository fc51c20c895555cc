"""How do settings read to people and to programs, and which of their values are not shown because they may be secrets?

No option is meant for a secret, but a program's arguments and an address in a probe may hold one.  What an environment
file holds is no setting: its path is shown, and its contents never are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs
from attrs import frozen

from .option import flag
from .quantities import Between
from .settings import Settings

HIDDEN = "***"
"""What stands for a secret."""


@frozen
class CommandLine:
    """How a master was started: the sources of its settings, beside its files."""

    argv: tuple[str, ...]
    directory: str
    """The working directory of its start, as it was written."""
    environment: Mapping[str, str]
    """The variables that are settings, and no other."""


def as_json(settings: Settings) -> dict[str, Any]:
    """The settings as values for `json`, secrets included: two that are equal here are the same setting."""
    return {name: _plain(value) for name, value in attrs.asdict(settings, recurse=False).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Between):
        return f"{value.least}:{value.most}"
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", repr(value))


def without_secrets(value: Any, found: list[str] | None = None) -> Any:
    """The same value of `as_json`, with `HIDDEN` for what looks like a secret.  What is hidden is added to `found`."""
    found = [] if found is None else found
    if isinstance(value, str):
        return _hide(value, found)
    if not isinstance(value, list):
        return value
    hidden: list[Any] = []
    for before, part in zip([None, *value], value, strict=False):
        follows = isinstance(before, str) and _names_a_secret(before) and before.startswith("-") and "=" not in before
        if follows and isinstance(part, str):
            found.append(part)
        hidden.append(HIDDEN if follows and isinstance(part, str) else without_secrets(part, found))
    return hidden


_NAME = re.compile(r"(?i)(?:key|token|secret|passw|passphrase|pwd|credential|auth|dsn|signature)")
_PUBLIC = re.compile(r"(?i)(?:file|path|dir)s?$")
"""Where a key is, is no key: --keyfile."""
_ASSIGNED = re.compile(r"(?P<before>(?P<name>[\w.-]+)=)(?P<secret>[^\s&;,]+)")
IN_ADDRESS = re.compile(
    r"(?P<before>\b[a-z][a-z0-9+.-]{0,30}://[^\s:/@]{0,256}:)(?P<secret>[^\s/]{1,256}(?=@)|(?:(?!://)\S){1,256}(?=@))",
    re.IGNORECASE,
)
"""A password in an address.  It ends at the last @ of the part before the path; one that has a slash, at the last of
all.  Each repetition is bounded, so that no line, however it is made, takes long."""
_KEY = re.compile(
    r"(?<![\w/.+-])(?P<secret>(?:sk|pk|rk|ghp|gho|ghs|glpat|xox[a-z]|AKIA|ASIA|AIza|eyJ)[\w.-]{12,}|"
    r"(?=[A-Za-z+]*\d)(?=[\d+]*[A-Za-z])[A-Za-z\d+]{32,}={0,2})(?![\w/.+-])"
)
"""A key by its look: the beginnings that issuers use, or 32 letters and digits and more without any mark, which no path
and no list of ciphers has."""


def _names_a_secret(name: str) -> bool:
    return _NAME.search(name) is not None and _PUBLIC.search(name) is None


def _hide(text: str, found: list[str]) -> str:
    def hidden(match: re.Match[str]) -> str:
        groups = match.groupdict()
        if "name" in groups and not _names_a_secret(match["name"]):
            return match[0]
        found.append(match["secret"])
        return groups.get("before", "") + HIDDEN

    for pattern in (IN_ADDRESS, _ASSIGNED, _KEY):
        text = pattern.sub(hidden, text)
    return text


def spelled(name: str) -> str:
    """The name of a setting as it is written on the command line."""
    return name if name in ("application", "arguments") else flag(name)


def in_words(name: str, value: Any) -> str:
    """A value of `as_json` as one line of text."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in ("unix_mode", "umask"):
        return f"{value:o}"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
