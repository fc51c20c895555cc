"""On which runtime is an application served, and by which server?

::

    stream ── trio ─────────── on_trio          async def handler(stream)
    streams ─ asyncio, uvloop ─ on_asyncio      async def handler(reader, writer)
    ASGI ──── asyncio, uvloop ─ on_uvicorn      by uvicorn
         └─── trio ─────────── on_anycorn       by anycorn
    WSGI ──── asyncio, uvloop ─ wsgi            by uvicorn, in threads, through a2wsgi

A pair that the table omits is refused, with the reason.  Only the module that serves is imported: a worker on asyncio
loads no trio.  WSGI on trio is omitted on purpose: WSGI code runs in threads in any case, so trio would add nothing.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec

from attrs import evolve

from ...protocol.launch import Launch
from ..duty import Duty
from ..loading import Application, CannotLoad, Kind

Run = Callable[[Application, Duty, Launch], None]
"""Serves until the master sends no more and all connections are closed.  Raises CannotLoad before it is ready."""

SERVERS = {
    (Kind.STREAM, "trio"): "on_trio",
    (Kind.STREAMS, "asyncio"): "on_asyncio",
    (Kind.STREAMS, "uvloop"): "on_asyncio",
    (Kind.ASGI, "asyncio"): "on_uvicorn",
    (Kind.ASGI, "uvloop"): "on_uvicorn",
    (Kind.ASGI, "trio"): "on_anycorn",
    (Kind.WSGI, "asyncio"): "wsgi",
    (Kind.WSGI, "uvloop"): "wsgi",
}

NEEDS = {"on_uvicorn": ("uvicorn",), "wsgi": ("uvicorn", "a2wsgi"), "on_anycorn": ("anycorn", "uvicorn")}
"""The packages each server needs that are not rrmaster's own dependencies."""

EXTRAS = {"on_anycorn": "trio-http"}
"""The extra that installs them; for all others it is ``http``."""

_ON_A_LOOP = ("..load.executor",)
_PARKS = ("..parking.law", "..parking.memo")

LATER: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "on_trio": ((), ("..parking.memo", "..parking.streams")),
    "on_asyncio": (_ON_A_LOOP, ("..parking.memo", "..parking.streams")),
    "on_uvicorn": (_ON_A_LOOP, (*_PARKS, "..parking.on_asyncio", ".http1.parked")),
    "wsgi": (_ON_A_LOOP, (*_PARKS, "..parking.on_asyncio", ".http1.parked")),
    "on_anycorn": ((), (*_PARKS, "..parking.on_trio")),
}
"""Our modules that a server imports when it begins to serve, and beyond these when it parks connections."""

OF_OTHERS = {"wsgi": ("uvicorn.lifespan.off",), "on_anycorn": ("anyio._backends._trio",)}
"""Modules of libraries that are imported then.  They are no promise of these libraries, so they may be missing."""


def server_for(application: Application, launch: Launch) -> tuple[Run, Launch]:
    """The function that serves the application, and the launch with its runtime decided.  Raises CannotLoad."""
    runtime = launch.runtime if launch.runtime != "auto" else _best(application)
    server = SERVERS.get((application.kind, runtime))
    if server is None:
        raise CannotLoad(_impossible(application, runtime))
    _refuse_wrong_runtime(application, runtime)
    for module in (*NEEDS.get(server, ()), *(("uvloop",) if runtime == "uvloop" else ())):
        if find_spec(module) is None:
            extra = f"pip install 'rrmaster[{EXTRAS.get(server, 'http')}]'"
            raise CannotLoad(f"to serve {application.name} on {runtime} needs {module}, which is missing: {extra}")
    run: Run = importlib.import_module(f".{server}", __package__).run
    return run, evolve(launch, runtime=runtime)


def warm_up(application: Application, launch: Launch) -> None:
    """In a template: import what the server imports until it serves, without making a loop.

    What a worker imports after the fork is its own, in time and in memory, and not shared with the others.
    """
    name = SERVERS[application.kind, launch.runtime]
    begins, parks = LATER[name]
    of_streams = application.kind in (Kind.STREAM, Kind.STREAMS)
    parked = (launch.asked_to_park_after if of_streams else launch.parks_after) is not None
    headers = name == "on_anycorn" and launch.proxy_headers  # it takes uvicorn's law of them
    tools = {
        "uvloop": launch.runtime == "uvloop",
        "ssl": launch.certfile is not None,
        "uvicorn.middleware.proxy_headers": headers,
    }
    wanted = (*(tool for tool, used in tools.items() if used), f".{name}", *begins, *(parks if parked else ()))
    for module in wanted:
        importlib.import_module(module, __package__)
    for module in OF_OTHERS.get(name, ()):
        with suppress(ImportError):
            importlib.import_module(module)
    server = sys.modules[f"{__package__}.{name}"]
    if (warm := getattr(server, "warm_up", None)) is not None:
        warm(application, launch)


def _best(application: Application) -> str:
    if application.kind is Kind.STREAM or _is_quart_trio(application):
        return "trio"
    return "uvloop" if find_spec("uvloop") is not None else "asyncio"


def _impossible(application: Application, runtime: str) -> str:
    possible = [f"--runtime {name}" for kind, name in SERVERS if kind is application.kind]
    return f"{application.name} is `{application.kind.value}`, which cannot be served on {runtime}; say " + (
        " or ".join([*possible, "nothing"])
    )


# --- frameworks that run on one runtime only, and otherwise answer each request with 500


def _refuse_wrong_runtime(application: Application, runtime: str) -> None:
    if application.kind is not Kind.ASGI:
        return
    if runtime == "trio":
        for framework in ("django", "quart"):
            if _is_of(application, framework) and not _is_quart_trio(application):
                raise CannotLoad(
                    f"{application.name} is an application of {framework.capitalize()}, which needs asyncio and "
                    "answers every request with 500 on trio; say --runtime asyncio, uvloop or nothing"
                )
    elif _is_quart_trio(application):
        raise CannotLoad(f"{application.name} is an application of Quart-Trio, which needs trio; say --runtime trio")


def _is_quart_trio(application: Application) -> bool:
    return _is_of(application, "quart_trio")


def _is_of(application: Application, package: str) -> bool:
    """Whether its class or a base class comes from a package.  A wrapper around the application hides that."""
    if package not in sys.modules:
        return False
    return any(cls.__module__.partition(".")[0] == package for cls in type(application.target).__mro__)
