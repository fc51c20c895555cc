"""Which servers are measured, and how is each started?  Over HTTP, by cost per connection, and by start of a worker.

Over HTTP each has its usual flags, no access log, and keeps a connection for 75 s (some close after 2 s by default,
while other connections are still being opened).  The field for something that a server cannot do is None, and the
figure says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from .fleets import Contender, Wanted
from .machine import HOME
from .programs import compiled

KEEP = "75"
"""Seconds an idle connection is kept, nginx's default; longer than any figure needs."""

ASGI = "bench.apps:asgi"
SHOP = "bench.shop:app"
ANALYST = "bench.analyst:app"

READY = r"ready: \d+ of \d+ workers serve"
"""The line of rrmaster's log that says so."""

PORT = r"^\d+$"
"""The line that the small programs print: the port."""

UVLOOP = ("uvicorn", "uvloop", "httptools")


def rrmaster(want: Wanted, *options: str, app: str = ASGI) -> list[str]:
    """The command of rrmaster."""
    where = ["-b", f"127.0.0.1:{want.port}", "--app-dir", str(HOME.parent), "--name", f"bench-{want.port}"]
    return [sys.executable, "-m", "rrmaster", "-w", str(want.workers), *where, *options, want.app or app]


# --- over HTTP


def rrmaster_over_http(want: Wanted, *options: str) -> list[str]:
    """The same with the options of all servers over HTTP."""
    options = ("--keep-alive", f"{KEEP}s", "--log-level", "warning", *want.recycle("--max-requests"), *options)
    return rrmaster(want, *options)


def _uvicorn(want: Wanted) -> list[str]:
    options = ["--workers", str(want.workers), "--port", str(want.port), "--timeout-keep-alive", KEEP]
    options += want.recycle("--limit-max-requests", "--limit-max-requests-jitter")
    return [sys.executable, "-m", "uvicorn", *options, "--no-access-log", "--log-level", "warning", want.app or ASGI]


def _gunicorn(want: Wanted, *kind: str, app: str | None = None) -> list[str]:
    options = ["-w", str(want.workers), "-b", f"127.0.0.1:{want.port}", "--keep-alive", KEEP, *kind]
    options += want.recycle("--max-requests", "--max-requests-jitter")
    more = ["--log-level", "warning", "--no-control-socket"]
    return [sys.executable, "-m", "gunicorn", *options, *more, app or want.app or ASGI]


def _gunicorn_uvicorn(want: Wanted) -> list[str]:
    return _gunicorn(want, "-k", "uvicorn_worker.UvicornWorker")


def _gunicorn_gthread(want: Wanted) -> list[str]:
    return _gunicorn(want, "-k", "gthread", "--threads", "4", app="bench.apps:wsgi")


def _hypercorn(want: Wanted) -> list[str]:
    options = ["-w", str(want.workers), "-b", f"127.0.0.1:{want.port}", "-k", "uvloop", "--keep-alive", KEEP]
    options += want.recycle("--max-requests", "--max-requests-jitter")
    return [sys.executable, "-m", "hypercorn", *options, "--log-level", "warning", want.app or ASGI]


def _granian(want: Wanted) -> list[str]:
    options = ["--workers", str(want.workers), "--port", str(want.port), "--interface", "asgi", "--loop", "uvloop"]
    options += ["--respawn-failed-workers", "--no-access-log", "--log-level", "error"]
    return [sys.executable, "-m", "granian", *options, want.app or ASGI]


def _node(policy: str, want: Wanted) -> list[str]:
    return ["node", str(HOME / "peer_http.js"), *map(str, (want.port, want.workers, policy, want.max_requests))]


OVER_HTTP = (
    Contender("rrmaster", rrmaster_over_http, UVLOOP),
    Contender("node rr", partial(_node, "rr"), ("node",), python=False, asgi=False),
    Contender("node none", partial(_node, "none"), ("node",), python=False, asgi=False),
    Contender("uvicorn", _uvicorn, UVLOOP),
    Contender("gunicorn uvicorn", _gunicorn_uvicorn, ("gunicorn", "uvicorn_worker", *UVLOOP)),
    Contender("gunicorn gthread", _gunicorn_gthread, ("gunicorn",), asgi=False),
    Contender("hypercorn", _hypercorn, ("hypercorn", "uvloop"), grow=None),
    Contender("granian", _granian, ("granian", "uvloop"), grow=None, recycles=False),
)

STAYING = ("--park-after", "off")
"""rrmaster's connections stay with the worker that took them, as everywhere else."""

ON_TRIO = Contender("rrmaster trio", lambda want: rrmaster_over_http(want, "--runtime", "trio"), ("anycorn", "uvicorn"))
"""rrmaster with the other runtime: not a peer, but the figures show what that runtime costs."""


# --- how a worker begins


FORKING = (
    Contender("rrmaster", rrmaster, UVLOOP, says=READY),
    Contender("gunicorn --preload", lambda want: _gunicorn(want, "--preload", "-k", "asgi"), ("gunicorn",)),
)
"""Workers forked from a template, and from gunicorn's arbiter."""

IMPORTING = (
    Contender("rrmaster --preload off", lambda want: rrmaster(want, "--preload", "off"), UVLOOP, says=READY),
    next(contender for contender in OVER_HTTP if contender.name == "uvicorn"),
)


# --- what a connection costs


def _answering(want: Wanted) -> list[str]:
    return rrmaster(want, app="bench.handlers:answer")


def _cluster(want: Wanted) -> list[str]:
    return ["node", str(HOME / "peer.js"), str(want.workers), str(want.port)]


def _c(want: Wanted) -> list[str]:
    return [str(compiled("peer")), str(want.workers), str(want.port)]


def _foreign(policy: str, want: Wanted) -> list[str]:
    program = compiled("worker")
    return [sys.executable, "-m", "bench.foreign", str(want.workers), policy, str(want.port), str(program)]


C = Contender("c", _c, says=PORT)


def with_workers_in_c(policy: str) -> Contender:
    """rrmaster with the same workers as the master in C, so that only the masters differ."""
    return Contender("rrmaster", partial(_foreign, policy), says=PORT)


def by_connections(beside: Sequence[Path] = ()) -> list[Contender]:
    """rrmaster, other checkouts of it, and the peers."""
    trees = [("rrmaster", HOME.parent), *((f"rrmaster ({path.name})", path.resolve()) for path in beside)]
    ours = [Contender(name, _answering, says=READY, tree=tree) for name, tree in trees]
    return [*ours, Contender("node", _cluster, ("node",), says=PORT, python=False), C]


def with_policy(name: str, policy: str, app: str) -> Contender:
    """rrmaster with a policy: one of its own, or ``module:callable``."""
    command: Callable[[Wanted], list[str]] = partial(_with_policy, policy, app)
    return Contender(name, command, says=READY)


def _with_policy(policy: str, app: str, want: Wanted) -> list[str]:
    return rrmaster(want, "--policy", policy, "--keep-alive", f"{KEEP}s", app=app)
