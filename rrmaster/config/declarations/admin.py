"""Where does the admin server listen, what may it do, and when does it call the fleet ready?

The master starts it once, so a change takes a restart.
"""

from __future__ import annotations

from functools import partial

from attrs import frozen

from .. import option as declared
from ..addresses import parse_admin
from ..names import parse_switch, parse_text
from ..readiness import checked_ready_when

_ADMIN = "metrics and health"
option = partial(declared.option, scope=declared.Scope.MASTER)


@frozen(slots=False, kw_only=True)
class AdminOptions:
    """The admin server: a process beside the master, with metrics, health and a page."""

    admin: str | None = option(
        None,
        parse_admin,
        _ADMIN,
        "ADDRESS",
        "serve /metrics, /livez, /readyz and a page for people at this address, HOST:PORT or unix:PATH",
        shown="off",
    )
    admin_allow_remote: bool = option(
        False,
        parse_switch,
        _ADMIN,
        "",
        "let --admin listen where other machines reach it; there is no password for looking",
    )
    admin_actions: bool = option(
        False,
        parse_switch,
        _ADMIN,
        "",
        "let the page of --admin reload, roll back, scale and restart, with the token of --admin-token-file",
    )
    # No option has the token itself: arguments are seen by all users (ps), and `check` prints settings.
    admin_token_file: str | None = option(
        None,
        parse_text,
        _ADMIN,
        "FILE",
        "its first line is the token for --admin-actions; without it $RRMASTER_ADMIN_TOKEN is",
    )
    # One worker that takes connections serves each client: a fleet that scales up, or replaces a worker, stays ready.
    ready_when: str = option(
        "any",
        checked_ready_when,
        _ADMIN,
        "WHEN",
        "how many workers must take connections before /readyz says yes: any, all, N or N%",
    )
