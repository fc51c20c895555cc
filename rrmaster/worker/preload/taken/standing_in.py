"""What stands in for a function of the interpreter while the application is imported?

An object that notes each call and then calls the function.  It takes the function's place in all modules that are
loaded, and gives it back in all that are loaded by then: an application may say ``from os import getpid``.  Where it
stays behind (in a default argument, in an attribute of an object) it does what the function does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

Note = Callable[[FrameType, Sequence[Any], Any], None]
"""Called with the caller's frame, the arguments and the result."""


class StandIn:
    """Notes calls of a function.

    No Python function: as an attribute of a class that would become a method, which a builtin function does not.
    """

    __slots__ = ("__weakref__", "_function", "_note")

    def __init__(self, function: Callable[..., Any], note: Note) -> None:
        self._function = function
        self._note: Note | None = note

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._function(*args, **kwargs)
        if self._note is not None:
            self._note(sys._getframe(1), (*args, *kwargs.values()), result)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __reduce__(self) -> str:
        return str(self._function.__name__)

    def rest(self) -> None:
        """Note no call from now on."""
        self._note = None


@contextmanager
def standing_in(notes: Mapping[Any, Note]) -> Iterator[None]:
    """Note the calls of these functions in the block."""
    stand_ins = {function: StandIn(function, note) for function, note in notes.items()}
    _exchange({id(function): stand_in for function, stand_in in stand_ins.items()})
    try:
        yield
    finally:
        for stand_in in stand_ins.values():
            stand_in.rest()
        _exchange({id(stand_in): function for function, stand_in in stand_ins.items()})


def _exchange(new: Mapping[int, Any]) -> None:
    """Replace objects, given by their ids, in all loaded modules."""
    for module in list(sys.modules.values()):
        if not issubclass(type(module), ModuleType):
            continue
        # Not vars(): that would load a module of importlib.util.LazyLoader.
        names = ModuleType.__getattribute__(module, "__dict__")
        for name, value in list(names.items()):
            if id(value) in new:
                names[name] = new[id(value)]
