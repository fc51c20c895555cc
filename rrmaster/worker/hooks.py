"""What does an application do again in each worker that was forked from a template?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_Hook = TypeVar("_Hook", bound=Callable[[], Any])

_hooks: list[Callable[[], Any]] = []


def on_fork(hook: _Hook) -> _Hook:
    """Have `hook` called, without arguments, once in each worker before it serves.

    Workers are forked from a template that has imported the application, and share what the import left in memory.
    What they must not share, such as a connection to a database or a seed, a hook makes anew.  A worker that has
    imported the application by itself (`--preload off`) calls its hooks too, so a hook may also make what each worker
    needs.

    To be called while the application is imported.  The hooks run in the worker's process, in its main thread, outside
    any event loop, in the order of their registration.  An error that a hook raises is a failed start, as if the import
    had raised it.  In a process that is no worker, and in a program that opens its own listeners, no hook is called.

    Returns the hook, so that this can be a decorator.  Compare `post_fork` in gunicorn; and unlike with
    `os.register_at_fork`, children that the worker forks itself do not call the hook.
    """
    _hooks.append(hook)
    return hook


def call_all() -> None:
    """Call the hooks, now that the process is a worker's own.  Raises what a hook raises."""
    for hook in _hooks:
        hook()
