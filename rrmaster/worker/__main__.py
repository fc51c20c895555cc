"""A worker's process: load the application by its name, choose the runtime, serve, and end with the master.

Started by the master with ``RRMASTER_LINE`` (the descriptor of its line) and ``RRMASTER_LAUNCH`` (JSON: what to load
and how to behave).  ``docs/protocol.md`` says what a worker in another language needs: only the first.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Started from the package's own directory, so that it finds this very package.  Nothing else is to be found
    # there, and nothing may be imported before it is gone.
    sys.path.pop(0)

import faulthandler
import importlib
import inspect
import json
import os
import select
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from .. import wire
from ..channel import Letterbox
from . import DUMP_SIGNAL, Duty, Facts


class CannotLoad(Exception):
    """The application cannot be loaded, and the message is all there is to say."""


def main() -> int:
    """Load, serve, and return the exit status."""
    faulthandler.register(DUMP_SIGNAL, file=2, all_threads=True)
    letterbox = Letterbox.inherit(int(os.environ.pop("RRMASTER_LINE")))
    launch = json.loads(os.environ.pop("RRMASTER_LAUNCH"))
    _leave_with_master(letterbox.fileno(), launch["graceful"])
    try:
        os.chdir(launch["chdir"])
        sys.path.insert(0, launch["app_dir"])
        handler = load(launch["application"])
    except BaseException as error:
        letterbox.say(wire.Failed(explain(error)))
        return 1
    facts = Facts(*(int(os.environ[name]) for name in _FACTS))
    duty = Duty(letterbox, facts, launch["heartbeat"])

    import trio

    from . import on_trio

    trio.run(on_trio.serve, handler, duty, strict_exception_groups=True)
    return 0


_FACTS = ("RRMASTER_WORKER_ID", "RRMASTER_WORKER_SLOT", "RRMASTER_GENERATION")


def load(name: str) -> Any:
    """Import ``module:attribute``, and see that it is a stream handler.

    Raises CannotLoad, or whatever the application raises.
    """
    module_name, _, path = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # a module that the application itself misses: its traceback says where
        raise CannotLoad(f"there is no module {error.name!r} in {sys.path[0]} or among what is installed") from None
    found: Any = module
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise CannotLoad(f"module {module_name!r} has no attribute {path!r}") from None
    _check_handler(name, found)
    return found


def _check_handler(name: str, found: Any) -> None:
    what = f"{name} is {_kind(found)}"
    if not callable(found):
        raise CannotLoad(f"{what}, which cannot be called; a handler is `async def handler(stream)`")
    if not (inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(type(found).__call__)):
        raise CannotLoad(f"{what}, which is not async; a handler is `async def handler(stream)`")
    try:
        inspect.signature(found).bind(None)
    except TypeError:
        raise CannotLoad(
            f"{what}, which does not take one argument; a handler is `async def handler(stream)`"
        ) from None
    except ValueError:
        pass  # no signature to be had (C code): its first connection will tell


def _kind(found: Any) -> str:
    if inspect.isroutine(found) or inspect.isclass(found):
        try:
            return f"{type(found).__name__} {found.__name__}{inspect.signature(found)}"
        except ValueError:
            return f"{type(found).__name__} {found.__name__}"
    return f"an object of {type(found).__name__}"


def explain(error: BaseException) -> str:
    """What is to be told of a failed start: our own words, or the application's traceback without our frames."""
    if isinstance(error, CannotLoad):
        return str(error)
    if isinstance(error, SystemExit):
        return f"the application ended the process while it was imported: SystemExit({error.code!r})"
    frames = _skip(error.__traceback__, lambda file: file == __file__ or "importlib" in file)
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def _skip(frames: TracebackType | None, ours: Callable[[str], bool]) -> TracebackType | None:
    kept = frames
    while kept is not None and ours(kept.tb_frame.f_code.co_filename):
        kept = kept.tb_next
    return kept


def _leave_with_master(line: int, graceful: float) -> None:
    """End this process some time after the master has died, whatever the serving loop is doing.

    The loop itself sees the end of stream and drains; a blocked one sees nothing.  (PR_SET_PDEATHSIG kills healthy
    workers: it is bound to the thread that forked, and trio's end after ten idle seconds.)
    """

    def watch() -> NoReturn:
        poll = select.poll()
        poll.register(line, 0)  # POLLHUP alone, which a half-close does not give
        poll.poll()
        # The master's ends of the pipes are gone, and print would raise.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        time.sleep(graceful)
        os._exit(1)

    threading.Thread(target=watch, name="rrmaster: leave with the master", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
