"""With which token may the admin server act?  It stands in a file or in the environment, and never in an argument."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..config.settings import Settings
from ..config.sources import TOKEN_VARIABLE
from .cannot_start import CannotStart

SHORTEST = 16
"""Characters: `openssl rand -hex 8`, 64 bits, which no stranger guesses through a socket."""

LONGEST = 1024
"""Characters: beyond it the file is none that holds a token."""


def token_of(settings: Settings, environ: Mapping[str, str]) -> str:
    """The token; empty without --admin-actions.  Raises CannotStart."""
    if settings.admin is None or not settings.admin_actions:
        return ""
    return read_token(settings.admin_token_file, environ, "--admin-actions", "--admin-token-file")


def read_token(file: str | None, environ: Mapping[str, str], wants: str, flag: str) -> str:
    """The token in a file, or in the environment if none is named.  Raises CannotStart.

    `wants` and `flag` are the options for which it is, and which names the file, as the user wrote them.
    """
    if file is None and not environ.get(TOKEN_VARIABLE):
        raise CannotStart(
            f"{wants} needs a token of {SHORTEST} characters or more: name a file that has one with {flag}, or set "
            f"{TOKEN_VARIABLE}"
        )
    where = TOKEN_VARIABLE if file is None else f"{flag} {file}"
    token = environ[TOKEN_VARIABLE].strip() if file is None else _first_line(file, where)
    if not token.isascii() or not token.isprintable() or " " in token:
        raise CannotStart(f"{where}: a token is one word of ASCII characters; `openssl rand -hex 32` makes one")
    if not SHORTEST <= len(token) <= LONGEST:
        raise CannotStart(
            f"{where}: the token has {len(token)} characters, and {SHORTEST} to {LONGEST} make one; "
            "`openssl rand -hex 32` makes one"
        )
    return token


def _first_line(file: str, where: str) -> str:
    try:
        with Path(file).open(encoding="ascii", errors="replace") as opened:
            return opened.readline(LONGEST + 2).strip()
    except OSError as error:
        raise CannotStart(f"{where}: it cannot be read: {error.strerror}") from None
