"""How an application is imported, and how its parameters tell its kind, or an error asks for it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from attrs import evolve

from rrmaster.protocol.launch import Launch
from rrmaster.worker import loading
from rrmaster.worker.loading import Application, CannotLoad, Kind, kind_of, load
from rrmaster.worker.serving.runtimes import SERVERS, server_for
from tests.launches import a_launch

HERE = sys.modules[__name__]


async def stream(connection: Any) -> None: ...
async def streams(reader: Any, writer: Any) -> None: ...
async def asgi(scope: Any, receive: Any, send: Any) -> None: ...
def wsgi(environ: Any, start_response: Any) -> list[bytes]: ...  # type: ignore[empty-body]
async def stream_with_an_option(connection: Any, timeout: float = 1.0) -> None: ...
async def asgi_with_an_option(scope: Any, receive: Any, send: Any, *, debug: bool = False) -> None: ...
def not_async(connection: Any) -> None: ...
def anything(*arguments: Any, **names: Any) -> Any: ...
def nothing() -> None: ...
async def by_name(scope: Any, *, receive: Any, send: Any) -> None: ...
async def generator(connection: Any) -> Any:
    yield connection


async def four(a: Any, b: Any, c: Any, d: Any) -> None: ...


class AsgiObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class WsgiObject:
    def __call__(self, environ: Any, start_response: Any) -> list[bytes]: ...  # type: ignore[empty-body]


class BindableObject(AsgiObject):
    """As a decorator that is a class: `inspect` takes an object of it for a routine without a signature."""

    def __get__(self, instance: Any, owner: Any) -> Any: ...


class StreamObject:
    async def __call__(self, connection: Any) -> None: ...


class Endpoint:
    """As Starlette's HTTPEndpoint: its objects are awaited."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...
    def __await__(self) -> Iterator[None]: ...  # type: ignore[empty-body]


class Pep3333:
    """The example of PEP 3333: its objects are the answers."""

    def __init__(self, environ: Any, start_response: Any) -> None: ...
    def __iter__(self) -> Iterator[bytes]: ...  # type: ignore[empty-body]


class Asgi2:
    def __init__(self, scope: Any) -> None: ...
    async def __call__(self, receive: Any, send: Any) -> None: ...


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


def carelessly_decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: function(*arguments)


async def for_a_partial(more: Any, scope: Any, receive: Any, send: Any) -> None: ...


class Methods:
    async def handle(self, connection: Any) -> None: ...
    def answer(self, environ: Any, start_response: Any) -> list[bytes]: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (stream, Kind.STREAM),
        (StreamObject(), Kind.STREAM),
        (Methods().handle, Kind.STREAM),
        (stream_with_an_option, Kind.STREAM),
        (decorated(stream), Kind.STREAM),
        (functools.partial(streams, None), Kind.STREAM),
        (streams, Kind.STREAMS),
        (decorated(streams), Kind.STREAMS),
        (asgi, Kind.ASGI),
        (asgi_with_an_option, Kind.ASGI),
        (AsgiObject(), Kind.ASGI),
        (decorated(asgi), Kind.ASGI),
        (functools.partial(for_a_partial, 1), Kind.ASGI),
        (functools.partial(AsgiObject()), Kind.ASGI),
        (Endpoint, Kind.ASGI),
        (wsgi, Kind.WSGI),
        (WsgiObject(), Kind.WSGI),
        (Methods().answer, Kind.WSGI),
        (decorated(wsgi), Kind.WSGI),
        (functools.partial(four, 1, 2), Kind.STREAMS),
        (Pep3333, Kind.WSGI),
    ],
)
def test_the_parameters_of_an_application_tell_its_kind(found: Any, kind: Kind) -> None:
    assert kind_of("shop:app", found, "auto", "auto") is kind


def _frameworks() -> Iterator[tuple[Any, Kind]]:
    fastapi, starlette = pytest.importorskip("fastapi"), pytest.importorskip("starlette.applications")
    quart, flask = pytest.importorskip("quart"), pytest.importorskip("flask")
    asgi_handler, wsgi_handler = (pytest.importorskip(f"django.core.handlers.{name}") for name in ("asgi", "wsgi"))
    yield fastapi.FastAPI(), Kind.ASGI
    yield starlette.Starlette(), Kind.ASGI
    yield quart.Quart("shop"), Kind.ASGI
    yield object.__new__(asgi_handler.ASGIHandler), Kind.ASGI
    yield object.__new__(wsgi_handler.WSGIHandler), Kind.WSGI
    yield flask.Flask("shop"), Kind.WSGI


def test_the_frameworks_are_told_apart() -> None:
    for found, kind in _frameworks():
        assert kind_of("shop:app", found, "auto", "auto") is kind, found


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (3, "^shop:app is an object of builtins.int, which cannot be called"),
        (
            not_async,
            r"^shop:app is function not_async\(connection.*, which is not async; write async def handler\(stream\)",
        ),
        (not_async, "ASGI 2 is not served"),
        (Asgi2, "guarantee_single_callable"),
        (AsgiObject, "a class; name an object of it"),
        (nothing, "takes no arguments; if it makes the application, say --factory"),
        (anything, "do not tell what it is; say --interface stream, asgi or wsgi"),
        (carelessly_decorated(asgi), "do not tell what it is; say --interface"),
        (by_name, "do not tell what it is"),
        (BindableObject(), "is an object of .*BindableObject, whose parameters do not tell"),
        (four, "takes 4 arguments"),
        (generator, "a generator"),
    ],
)
def test_in_doubt_nothing_is_guessed(found: Any, words: str) -> None:
    with pytest.raises(CannotLoad, match=words):
        kind_of("shop:app", found, "auto", "auto")


@pytest.mark.parametrize(
    ("found", "interface", "runtime", "kind"),
    [
        (carelessly_decorated(asgi), "asgi", "auto", Kind.ASGI),
        (anything, "asgi", "auto", Kind.ASGI),
        (anything, "wsgi", "auto", Kind.WSGI),
        (wsgi, "wsgi", "auto", Kind.WSGI),
        (AsgiObject(), "asgi", "trio", Kind.ASGI),
        (BindableObject(), "asgi", "auto", Kind.ASGI),
        (stream, "stream", "auto", Kind.STREAM),
        (streams, "stream", "auto", Kind.STREAMS),
        (functools.partial(stream_with_an_option), "stream", "asyncio", Kind.STREAMS),
        (functools.partial(stream_with_an_option), "stream", "auto", Kind.STREAM),
    ],
)
def test_the_interface_option_decides(found: Any, interface: str, runtime: str, kind: Kind) -> None:
    assert kind_of("shop:app", found, interface, runtime) is kind


@pytest.mark.parametrize(
    ("found", "interface"),
    [(asgi, "wsgi"), (asgi, "stream"), (wsgi, "asgi"), (wsgi, "stream"), (stream, "asgi"), (streams, "wsgi")],
)
def test_a_wrong_interface_option_is_refused_with_what_was_found(found: Any, interface: str) -> None:
    with pytest.raises(CannotLoad, match=rf"is function {found.__name__}\(.*not what --interface {interface} serves"):
        kind_of("shop:app", found, interface, "auto")


# --- factories


def makes_asgi() -> Any:
    return asgi


async def makes_nothing() -> Any: ...


def fails() -> Any:
    raise LookupError("no database is configured")


def launch(name: str, **more: Any) -> Launch:
    return a_launch(f"{__name__}:{name}", **more)


def test_a_factory_is_called() -> None:
    made = load(launch("makes_asgi", factory=True))
    assert (made.name, made.target, made.kind) == (f"{__name__}:makes_asgi()", asgi, Kind.ASGI)


@pytest.mark.parametrize("name", ["makes_nothing", "wsgi", "HERE"])
def test_an_object_that_is_no_factory_is_refused(name: str) -> None:
    with pytest.raises(CannotLoad, match="--factory"):
        load(launch(name, factory=True))


def test_an_error_of_a_factory_is_reported_without_our_frames() -> None:
    with pytest.raises(LookupError) as caught:
        load(launch("fails", factory=True))
    told = loading.explain(caught.value)
    assert "no database is configured" in told
    assert "test_loading.py" in told


# --- runtimes


@pytest.mark.parametrize(
    ("kind", "wish", "runtime"),
    [
        (Kind.STREAM, "auto", "trio"),
        (Kind.STREAMS, "auto", "uvloop"),
        (Kind.ASGI, "auto", "uvloop"),
        (Kind.WSGI, "auto", "uvloop"),
        (Kind.ASGI, "asyncio", "asyncio"),
        (Kind.STREAMS, "asyncio", "asyncio"),
    ],
)
def test_the_kind_of_application_decides_the_runtime(kind: Kind, wish: str, runtime: str) -> None:
    pytest.importorskip("uvloop")
    _, decided = server_for(Application("shop:app", asgi, kind), a_launch("shop:app", runtime=wish))
    assert decided == evolve(decided, runtime=runtime)


def test_an_impossible_runtime_is_refused_with_the_possible_ones() -> None:
    impossible = [
        (kind, name) for kind in Kind for name in ("trio", "asyncio", "uvloop") if (kind, name) not in SERVERS
    ]
    assert len(impossible) == 4
    for kind, name in impossible:
        with pytest.raises(CannotLoad, match=f"cannot be served on {name}; say --runtime"):
            server_for(Application("shop:app", asgi, kind), a_launch("shop:app", runtime=name))


def test_an_application_that_needs_trio_is_refused_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quart-Trio answers 500 on asyncio, as Quart does on trio."""
    monkeypatch.setitem(sys.modules, "quart_trio", HERE)
    theirs = type("QuartTrio", (AsgiObject,), {"__module__": "quart_trio.app"})()
    with pytest.raises(CannotLoad, match="Quart-Trio, which needs trio"):
        server_for(Application("shop:app", theirs, Kind.ASGI), a_launch("shop:app", runtime="uvloop"))


# --- a patched interpreter


class FakePatcher:
    """As the modules gevent.monkey and eventlet.patcher are once the interpreter is patched."""

    saved: ClassVar = {"socket": {"socket": object}}
    already_patched: ClassVar = {"thread": True}


@pytest.mark.parametrize("module", ["gevent.monkey", "eventlet.patcher"])
@pytest.mark.parametrize("then", ["", "raise RuntimeError('cannot release un-acquired lock')"])
def test_an_application_that_patches_the_interpreter_is_refused(
    module: str, then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if its import fails, which is a consequence then."""
    monkeypatch.setitem(sys.modules, module, FakePatcher)  # type: ignore[arg-type]
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "green_shop.py").write_text(f"def app(environ, start_response): ...\n{then}\n")
    with pytest.raises(CannotLoad, match=rf"^{module.partition('.')[0]} has patched the interpreter while") as caught:
        load(a_launch("green_shop:app"))
    assert caught.value.__suppress_context__, "it is one line, without the traceback of the consequence"
    sys.modules.pop("green_shop", None)


def test_an_unknown_library_of_green_threads_is_told_by_its_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_LOCK", loading._thread.start_new_thread)
    with pytest.raises(CannotLoad, match="has patched the interpreter"):
        load(a_launch(f"{__name__}:wsgi"))


@pytest.mark.parametrize("module", ["gevent.monkey", "eventlet.patcher"])
def test_gevent_that_is_imported_and_patches_nothing_is_served(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, object)  # type: ignore[arg-type]
    assert load(a_launch(f"{__name__}:wsgi")).kind is Kind.WSGI


@pytest.mark.skipif(sys.version_info < (3, 14), reason="an earlier Python evaluates annotations at the definition")
def test_a_name_that_is_imported_for_type_checkers_alone_does_no_harm():
    names: dict[str, Any] = {}
    exec("async def app(scope: Scope, receive: Receive, send: Send) -> None: ...\ndef no(a: Missing): ...", names)
    assert kind_of("shop:app", names["app"], "auto", "auto") is Kind.ASGI
    with pytest.raises(CannotLoad, match=r"shop:no is function no\(a: '?Missing'?\), which is not async"):
        kind_of("shop:no", names["no"], "auto", "auto")
