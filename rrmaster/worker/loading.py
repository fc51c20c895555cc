"""How is the application imported by its name, and which kind of application is it?

The parameters of a callable tell its kind: one parameter is a stream, two are a pair of streams (of an async function)
or WSGI (of any other), three are ASGI.  In doubt nothing is guessed: the error says what was found and what to write.
"""

from __future__ import annotations

import _thread
import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from types import TracebackType
from typing import Any

from attrs import frozen

from ..protocol.launch import Launch
from ..protocol.starting import StartedTwice, importing


class CannotLoad(Exception):
    """The application cannot be loaded or started.  The message is for the user; no traceback is needed."""


class Kind(Enum):
    """The kinds of applications; the value is how one is written."""

    STREAM = "async def handler(stream)"
    """On trio; the stream is a trio.SocketStream, or with TLS a trio.SSLStream."""
    STREAMS = "async def handler(reader, writer)"
    """On asyncio; an asyncio.StreamReader and an asyncio.StreamWriter."""
    ASGI = "async def app(scope, receive, send)"
    WSGI = "def app(environ, start_response)"


_AS_WRITTEN: dict[str, Any] = {}
"""Has `inspect.signature` leave annotations unevaluated.  Python 3.14 evaluates them at the first look, and a name that
is imported for type checkers alone is a NameError then."""

if sys.version_info >= (3, 14):
    from annotationlib import Format

    _AS_WRITTEN["annotation_format"] = Format.STRING

_OF_INTERFACE = {"stream": (Kind.STREAM, Kind.STREAMS), "asgi": (Kind.ASGI,), "wsgi": (Kind.WSGI,)}

_PARAMETERS = {Kind.STREAM: 1, Kind.STREAMS: 2, Kind.ASGI: 3, Kind.WSGI: 2}


@frozen(eq=False)
class Application:
    """The application to serve."""

    name: str
    """As the user wrote it, for messages."""
    target: Any
    """The object itself."""
    kind: Kind


def load(launch: Launch) -> Application:
    """Import the application, call it if it is a factory, and find out its kind.

    Raises CannotLoad, and what the application raises.
    """
    with importing(), _refusing_patches():
        name, found = launch.application, _import(launch.application)
        if launch.factory:
            name, found = f"{name}()", _made_by(name, found)
    return Application(name, found, kind_of(name, found, launch.interface, launch.runtime))


def _import(name: str) -> Any:
    module_name, _, path = name.rpartition(":")
    if module_name.endswith(".py"):
        module_name = _beside(module_name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # a module that the application imports is missing: its traceback says where
        raise CannotLoad(f"there is no module {error.name!r} in {sys.path[0]} or among what is installed") from None
    found: Any = module
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise CannotLoad(f"module {module_name!r} has no attribute {path!r}") from None
    return found


_LOCK = _thread.allocate_lock
"""The maker of the interpreter's locks, which a library of green threads replaces.  (The start of threads would be no
sign: a debugger replaces that.)"""


@contextmanager
def _refusing_patches() -> Iterator[None]:
    """Refuse a patched interpreter after the import, also if that fails: the error is a consequence as a rule."""
    try:
        yield
    finally:
        _refuse_patched()


def _refuse_patched() -> None:
    """Raise CannotLoad if a library has put green threads in the place of the interpreter's threads and sockets.

    No loop and no thread of a worker runs then: a lock is another kind of lock than the one that was taken.
    """
    by_gevent = getattr(sys.modules.get("gevent.monkey"), "saved", None)
    by_eventlet = getattr(sys.modules.get("eventlet.patcher"), "already_patched", None)
    culprit = "gevent" if by_gevent else "eventlet" if by_eventlet else ""
    if _thread.allocate_lock is not _LOCK:
        culprit = culprit or str(_thread.allocate_lock.__module__)
    if culprit:
        raise CannotLoad(
            f"{culprit} has patched the interpreter while the application was imported, and a patched interpreter is "
            "not served: workers run threads, asyncio, uvloop or trio. Remove the patch (gevent.monkey.patch_all(), "
            "eventlet.monkey_patch()); requests of a WSGI application run in --threads"
        ) from None


def _beside(file: str) -> str:
    """The name of a file's module, which can be imported from now on as if the file were the program."""
    if not os.path.isfile(file):
        raise CannotLoad(f"there is no file {file}")
    directory, base = os.path.split(os.path.abspath(file))
    sys.path.insert(0, directory)
    return base.removesuffix(".py")


def _made_by(name: str, factory: Any) -> Any:
    """The application that a factory returns, called without arguments."""
    if not callable(factory) or not _takes(factory, 0):
        raise CannotLoad(f"{name} is {describe(factory)}, and no factory: --factory calls it without arguments")
    made = factory()
    if inspect.iscoroutine(made):
        made.close()
        raise CannotLoad(f"{name} is {describe(factory)}, which is async; --factory needs a plain function")
    return made


def kind_of(name: str, found: Any, interface: str, runtime: str) -> Kind:
    """The kind of an application.  Raises CannotLoad, whose message says what was found and what to write instead."""
    what = f"{name} is {describe(found)}"
    if not callable(found):
        raise CannotLoad(f"{what}, which cannot be called; write {_forms(tuple(Kind))}")
    if interface == "auto":
        kind = _guess(found)
        if kind is None:
            raise CannotLoad(f"{what}, {_doubt(found)}")
        return kind
    allowed = _OF_INTERFACE[interface]
    fitting = [kind for kind in allowed if _fits(found, kind)]
    if not fitting:
        raise CannotLoad(f"{what}, which is not what --interface {interface} serves: {_forms(allowed)}")
    # Without a signature, or with *args, a handler may be both kinds; the runtime decides.
    return fitting[-1] if runtime in ("asyncio", "uvloop") else fitting[0]


def describe(found: Any) -> str:
    """An object in words, for a message."""
    if isinstance(found, functools.partial):
        return f"a partial of {describe(found.func)}"
    # An object with __get__ is a "routine" for inspect, and may have no name.  From Python 3.14 on a partial is one.
    if (inspect.isroutine(found) or inspect.isclass(found)) and hasattr(found, "__name__"):
        try:
            return f"{type(found).__name__} {found.__name__}{inspect.signature(found, **_AS_WRITTEN)}"
        except (ValueError, TypeError):
            return f"{type(found).__name__} {found.__name__}"
    return f"an object of {type(found).__module__}.{type(found).__qualname__}"


def _guess(found: Any) -> Kind | None:
    if inspect.isclass(found):
        return _guess_class(found)
    needed, is_async = _needed(found), _is_async(found)
    if needed == 3:
        return Kind.ASGI  # decorated, it may be a plain function that returns the coroutine
    if needed == 2:
        return Kind.STREAMS if is_async else Kind.WSGI
    return Kind.STREAM if needed == 1 and is_async else None


def _guess_class(found: type) -> Kind | None:
    """A class is an application only where calling it is serving: Starlette's endpoints, PEP 3333's example."""
    if _needed(found) == 3 and hasattr(found, "__await__"):
        return Kind.ASGI
    return Kind.WSGI if _needed(found) == 2 and hasattr(found, "__iter__") else None


def _doubt(found: Any) -> str:
    """The reason why the kind is in doubt, and what to write."""
    needed, is_async = _needed(found), _is_async(found)
    if inspect.isasyncgenfunction(found) or inspect.isgeneratorfunction(found):
        return f"a generator; write {_forms(tuple(Kind))}"
    if inspect.isclass(found):
        if needed == 1 and inspect.iscoroutinefunction(vars(found).get("__call__")):
            return _ASGI2
        return "a class; name an object of it, or have a function make one and say --factory"
    if needed == 0 and not _takes(found, 1):
        return "which takes no arguments; if it makes the application, say --factory"
    if needed is None or needed == 0:
        return "whose parameters do not tell what it is; say --interface stream, asgi or wsgi"
    if needed == 1 and not is_async:
        return f"which is not async; write {Kind.STREAM.value}, or for ASGI: {_ASGI2}"
    return f"which takes {needed} arguments; write {_forms(tuple(Kind))}"


_ASGI2 = (
    "an application of ASGI 2 is not served, but asgiref.compatibility.guarantee_single_callable(app) makes it one "
    "of ASGI 3"
)


def _forms(kinds: tuple[Kind, ...]) -> str:
    forms = [f"`{kind.value}`" for kind in kinds]
    return forms[0] if len(forms) == 1 else f"{', '.join(forms[:-1])} or {forms[-1]}"


def _fits(found: Any, kind: Kind) -> bool:
    """Whether an object may be of this kind, as far as its signature tells."""
    if not _takes(found, _PARAMETERS[kind]):
        return False
    if kind in (Kind.STREAM, Kind.STREAMS):
        return _is_async(found)
    return kind is Kind.ASGI or not _is_async(found)


def _is_async(found: Any) -> bool:
    """Whether a call returns a coroutine, as far as partials and decorators let that be seen."""
    while isinstance(found, functools.partial):
        found = found.func
    if inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(inspect.unwrap(found)):
        return True
    return not inspect.isclass(found) and inspect.iscoroutinefunction(type(found).__call__)


def _signature(found: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(found, **_AS_WRITTEN)
    except (ValueError, TypeError):
        return None  # C code may have none; whether it fits is seen at the first connection


def _needed(found: Any) -> int | None:
    """The number of required positional arguments.  None if it cannot be seen, or an argument must go by name."""
    signature = _signature(found)
    if signature is None:
        return None
    needed = 0
    for parameter in signature.parameters.values():
        if parameter.default is not parameter.empty:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            return None
        needed += parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return needed


def _takes(found: Any, count: int) -> bool:
    """Whether an object can be called with `count` positional arguments."""
    signature = _signature(found)
    if signature is None:
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def explain(error: BaseException) -> str:
    """The report of a failed start: a message of this package, or the application's traceback without our frames."""
    if isinstance(error, CannotLoad | StartedTwice):
        return str(error)
    if isinstance(error, BaseExceptionGroup) and (twice := error.subgroup(StartedTwice)) is not None:
        return explain(twice.exceptions[0])
    if isinstance(error, SystemExit):
        return f"the application ended the process while it was imported: SystemExit({error.code!r})"
    here = __file__.rpartition("/")[0]
    frames = _skip(error.__traceback__, lambda file: file.startswith((here, "<frozen ")) or "importlib" in file)
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def _skip(frames: TracebackType | None, ours: Callable[[str], bool]) -> TracebackType | None:
    kept = frames
    while kept is not None and ours(kept.tb_frame.f_code.co_filename):
        kept = kept.tb_next
    return kept
