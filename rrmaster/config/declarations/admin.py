"""Where does the admin server listen, and when does it call the fleet ready?

The master starts it once, so a change takes a restart.
"""

from __future__ import annotations

from functools import partial

from attrs import frozen

from .. import option as declared
from ..addresses import parse_admin
from ..names import parse_switch
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
        "let --admin listen where other machines reach it; there is no password, and nothing can be changed",
    )
    # One worker that takes connections serves each client: a fleet that scales up, or replaces a worker, stays ready.
    ready_when: str = option(
        "any",
        checked_ready_when,
        _ADMIN,
        "WHEN",
        "how many workers must take connections before /readyz says yes: any, all, N or N%",
    )
