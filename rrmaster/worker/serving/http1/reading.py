"""When does a connection read?  Not while requests wait behind the one that is answered.

uvicorn pauses its reading when a request comes ahead of its turn, and resumes it whenever an application asks for a
body and after each answer, so that a client that sends requests ahead and reads no answer fills the memory: 10 MB of
requests became 670 MB of objects.  `Flow` stands in for uvicorn's `FlowControl` and refuses to resume while requests
wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl

LONGEST_HEAD = 1 << 20
"""Bytes of an unfinished head, or unfinished trailers, where no option bounds it.  httptools itself keeps any number;
the largest head that gunicorn takes by default has 0.8 MB."""


class Flow(FlowControl):
    """A `FlowControl` that resumes only if its connection does not hold back."""

    def __init__(self, transport: asyncio.Transport, holds_back: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._holds_back = holds_back

    def let_go(self) -> None:
        """The connection is closed: keep no reference to it, or only the garbage collector would free both."""
        self._holds_back = bool  # which is False

    def resume_reading(self) -> None:
        if self.read_paused and not self._holds_back():
            super().resume_reading()
