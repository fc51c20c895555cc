"""What is served, at which addresses, by how many workers, and which worker gets a connection?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import attrs
from attrs import frozen

from ...protocol.launch import INTERFACES, KILL_MODES, PARK_AFTER_S, PRELOADS, RUNTIMES, is_program
from ...protocol.line import MAX_WINDOW
from ..addresses import parse_binds
from ..names import (
    one_of,
    parse_application,
    parse_arguments,
    parse_globs,
    parse_policy,
    parse_switch,
    parse_text,
    parse_texts,
)
from ..option import Scope, in_development, named, option
from ..quantities import Between, from_to, parse_mode, parse_pause, parse_places, parse_workers, positive_duration

_WHERE, _DEVELOPMENT, _WORKERS = "where to serve", "development", "workers"
_CHOICE = "which worker gets a connection"

DEFERRALS = ("auto", "on", "off")


def _default_bind(settings: ServingOptions) -> tuple[str, ...]:
    """The default address of an application.  A program opens its own addresses, so it has none."""
    return () if is_program(settings.application) else ("127.0.0.1:8000",)


def _parse_binds_or_none(value: object) -> tuple[str, ...]:
    return () if value == () else parse_binds(value)


@frozen(slots=False)
class ServingOptions:
    """The application, its addresses, its workers, and the choice among them."""

    application: str = attrs.field(converter=named(parse_application))  # type: ignore[misc]  # the plugin wants a name
    """``module:attribute`` of a stream handler, an ASGI or a WSGI application, or a callable that makes one
    (`factory`); or a program that opens its own addresses: ``server.py`` or ``-m package``."""

    arguments: tuple[str, ...] = attrs.field(default=(), converter=named(parse_arguments), kw_only=True)  # type: ignore[misc]  # as above
    """The arguments of a program."""

    bind: tuple[str, ...] = option(
        attrs.Factory(_default_bind, takes_self=True),
        _parse_binds_or_none,
        _WHERE,
        "ADDRESS",
        "HOST:PORT, [v6]:PORT, unix:PATH or fd://N; port 0 takes a free one; may be given several times; with a "
        "program: opened in advance, for a program that asks for exactly this address",
        flags=("-b",),
        repeatable=True,
        shown="127.0.0.1:8000, or 0.0.0.0:$PORT where PORT is set; none with a program",
    )
    unix_mode: int = option(
        0o666,
        parse_mode,
        _WHERE,
        "MODE",
        "permissions of unix sockets, in octal; the default admits a web server that runs as another user",
        shown="666",
    )
    # At the start: clients of a machine that is alone would rather wait for a second than be refused.  A proxy that
    # asks no health check takes the open port for a server, and requests wait there while other replicas are idle.
    listen_when: str = option(
        "start",
        one_of("moment to listen", ("start", "ready")),
        _WHERE,
        "start|ready",
        "when TCP addresses begin to listen: at the start, so that early clients wait for the first worker; or when it "
        "is ready, so that until then they are refused, and a proxy asks another replica",
    )
    # gunicorn's and uvicorn's; net.core.somaxconn caps it.
    backlog: int = option(
        2048, from_to(1, 65535), _WHERE, "N", "connections that may wait in the kernel, in the only queue there is"
    )
    # Apache's default, too (AcceptFilter).  A worker is chosen with the request at hand, so a request never waits for a
    # worker that was free when its client connected, and what only connects (a scan, a browser's spare connections of
    # the last second) costs no worker anything.  Only where clients speak first: others would wait for a second.  A
    # socket that was passed is shared with another process, which has its own option for this.
    defer_accept: str = option(
        "auto",
        one_of("way to defer", DEFERRALS),
        _WHERE,
        "auto|on|off",
        "give a connection to a worker when its client has sent something (TCP_DEFER_ACCEPT), or has been silent for "
        "a second; auto: for HTTP without TLS; has no effect on unix sockets and on sockets that were passed",
    )

    # uvicorn's names.  They stand before all whose defaults depend on them.
    reload: bool = option(
        False,
        parse_switch,
        _DEVELOPMENT,
        "",
        "watch the code; after a change, replace the workers by new ones, if the new ones are good",
        scope=Scope.MASTER,
    )
    reload_dir: tuple[str, ...] = option(
        (),
        parse_texts,
        _DEVELOPMENT,
        "DIR",
        "watch this directory instead of the application's; may be given several times",
        repeatable=True,
        scope=Scope.MASTER,
    )
    reload_include: tuple[str, ...] = option(
        (),
        parse_globs,
        _DEVELOPMENT,
        "GLOB",
        "files to watch in addition to *.py; may be given several times",
        repeatable=True,
        scope=Scope.MASTER,
    )
    reload_exclude: tuple[str, ...] = option(
        (),
        parse_globs,
        _DEVELOPMENT,
        "GLOB",
        "files and directories to ignore, in addition to .git, .venv, node_modules, __pycache__ and the like; "
        "may be given several times",
        repeatable=True,
        scope=Scope.MASTER,
    )

    workers: int | Between | None = option(  # noqa: RUF009  # it sees a dataclass in the union
        in_development(1, None),
        parse_workers,
        _WORKERS,
        "N|auto|LEAST:MOST",
        "worker processes; auto: one for each processor that this process may use; 2:8: from 2 to 8, as the load "
        "requires",
        flags=("-w",),
        shown="$WEB_CONCURRENCY, else auto; with --reload 1",
    )
    interface: str = option(
        "auto",
        one_of("interface", INTERFACES),
        _WORKERS,
        "KIND",
        "what the application is: stream (async def handler(stream), on trio, or handler(reader, writer), on asyncio), "
        "asgi or wsgi; auto: its parameters tell",
    )
    runtime: str = option(
        "auto",
        one_of("runtime", RUNTIMES),
        _WORKERS,
        "RUNTIME",
        "what the application runs on: trio, asyncio or uvloop; auto: trio for handler(stream), else uvloop where "
        "it is installed",
    )
    factory: bool = option(
        False,
        parse_switch,
        _WORKERS,
        "",
        "the name is that of a callable without arguments that makes the application",
    )
    # A forked worker is there in milliseconds and costs a few megabytes.  What an import did that forbids a fork can be
    # seen from outside, so the default asks nothing of the user.
    preload: str = option(
        "auto",
        one_of("preload", PRELOADS),
        _WORKERS,
        "auto|on|off",
        "import the application once, in a template, and fork the workers from it; auto: if what the import did allows "
        "a fork; in a program that runs a master itself: off",
    )
    # What a request started and its worker can no longer watch holds memory, locks and ports, and each reload would add
    # to it.  systemd ends such processes too, at a stop (KillMode=control-group); gunicorn and supervisord do not.
    kill_mode: str = option(
        "tree",
        one_of("kill mode", KILL_MODES),
        _WORKERS,
        "tree|group",
        "what ends with a worker: tree, all processes that descend from it; group, those of its process group, so that "
        "one with a session of its own goes on",
    )
    app_dir: str | None = option(
        None, parse_text, _WORKERS, "DIR", "where to import the application from", shown="the working directory"
    )
    env_file: str | None = option(
        None,
        parse_text,
        _WORKERS,
        "FILE",
        "additional environment of the workers, as NAME=VALUE lines; read again at a reload",
    )
    chdir: str | None = option(
        None, parse_text, _WORKERS, "DIR", "change to this directory before anything else", scope=Scope.MASTER
    )

    policy: str | Callable[..., Any] = option(  # noqa: RUF009  # it sees a dataclass in the union
        "least-loaded",
        parse_policy,
        _CHOICE,
        "POLICY",
        "least-loaded, round-robin, random-two, ip-hash, or module:callable of your own, "
        "called with (candidates, peer)",
    )
    # 8: a trio worker takes batches of up to 8, so it is never idle for want of one; and no more than 8 wait behind
    # a blocked one for the few milliseconds until they are recalled.
    window: int = option(8, from_to(1, MAX_WINDOW), _CHOICE, "N", "connections that may wait in a worker's letterbox")
    recall_after: float = option(
        0.003,
        positive_duration,
        _CHOICE,
        "TIME",
        "take waiting connections back from a worker that has taken none for this time, while others are idle",
        shown="3ms",
    )
    # Where connections are parked, what a worker has in hand are requests, and one beyond its threads would wait there
    # though another worker may have a free thread.
    worker_connections: int | None = option(
        None,
        parse_places,
        _CHOICE,
        "N|auto",
        "open connections of one worker; when every worker has this number, new ones wait in the backlog; auto: the "
        "number of --threads for WSGI with --park-after TIME, otherwise 10000",
        shown="auto",
    )
    # Why WSGI has no limit of requests by default: docs/decisions/connections-or-requests.md.
    park_after: float | Literal["auto"] | None = option(
        "auto",
        parse_pause,
        _CHOICE,
        "TIME|auto|off",
        "give a kept connection of HTTP/1.1 back when it has been idle for this time, or at once where requests hold "
        "the worker's loop, and choose a worker anew when its client speaks; off: it stays with its worker; auto: "
        f"{PARK_AFTER_S:g}s for ASGI and WSGI without TLS, otherwise off",
    )
    # A resting connection costs a kilobyte of the idle pool and a descriptor; the kernel's own part is larger.
    max_parked: int | None = option(
        None,
        parse_places,
        _CHOICE,
        "N|auto",
        "connections that rest in the idle pool at most; beyond that the one that has rested longest is closed; auto: "
        "100000, or as many as there may be descriptors",
        shown="auto",
    )
