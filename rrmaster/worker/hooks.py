"""What an application has to do again in each of its workers: `on_fork`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_Hook = TypeVar("_Hook", bound=Callable[[], Any])

_hooks: list[Callable[[], Any]] = []


def on_fork(hook: _Hook) -> _Hook:
    """Have `hook` called, without arguments, in each worker: once its process is its own, and before it serves.

    Workers are forked from a template that has imported the application, and share what that left in memory.  What
    must not be shared, such as a connection or a seed, is made anew here.  Where a worker has imported the application
    by itself the hook is called too, so that it can also make what each worker needs.  Hooks are called in the order
    of their registration, outside of any event loop; what one raises is told as if the import had raised it.

    Returns the hook, so that this can decorate it.  In a process that is no worker it does nothing.
    """
    _hooks.append(hook)
    return hook


def call_all() -> None:
    """The process is a worker's now.  Raises whatever a hook raises."""
    for hook in _hooks:
        hook()
