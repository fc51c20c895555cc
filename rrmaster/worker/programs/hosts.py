"""Which loop runs in this thread, and which host serves a program's addresses beside it?

The hosts are imported here, when one is needed: a program on asyncio loads no trio, and one on threads loads neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

from .ports import Ports
from .program import Host


def find_host() -> tuple[Callable[[Ports], Host], Any]:
    """The class of the host for the loop that runs in this thread, and that loop, None if no loop runs."""
    return cast("tuple[Callable[[Ports], Host], Any]", _on_trio() or _on_asyncio() or _on_threads())


def _on_trio() -> tuple[Any, Any] | None:
    trio = sys.modules.get("trio")  # a program that has not loaded a library does not run its loop
    if trio is None:
        return None
    try:
        token = trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None  # loaded, but its loop does not run here
    from .ports_on_trio import TrioHost

    return TrioHost, token


def _on_asyncio() -> tuple[Any, Any] | None:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None  # loaded, but no loop of it runs here
    from .server_on_asyncio import AsyncioHost

    return AsyncioHost, loop


def _on_threads() -> tuple[Any, Any]:
    from .ports_on_threads import ThreadHost

    return ThreadHost, None
