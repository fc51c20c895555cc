"""What happens when the master's own state is wrong, or an error comes up that no law expects?

::

    a task of the master ── error ──► tell ──► the fleet is stopped in order ──► the workers finish ──► `first` rises

An error that ended its task and nothing else would leave a master that looks alive; one that rose through the nurseries
would cancel the tasks that keep the workers, and kill those.  So the task tells it here and ends, the others go on, and
the error rises once the last worker has gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from logging import CRITICAL
from typing import Any

import trio
from attrs import Factory, define

from .logs.log import tell
from .rules.kernel_errors import OWN_STATE


def unwrapped(group: BaseException) -> BaseException:
    """The one error in a group of one: the nurseries around a master are no concern of its owner."""
    while isinstance(group, BaseExceptionGroup) and len(group.exceptions) == 1:
        group = group.exceptions[0]
    return group


@define(eq=False)
class Fault:
    """The errors of one master's own.  Belongs to the thread that runs trio."""

    first: Exception | None = None
    """What ends the master."""
    _awaited: bool = False
    """Whether a task stops the fleet when one is told."""
    _told: trio.Event = Factory(trio.Event)

    async def wait(self) -> None:
        """Wait for the first error."""
        self._awaited = True
        await self._told.wait()

    def tell(self, error: Exception) -> None:
        """Let this error end the master in order; a second one changes nothing.  Raises it if no task waits for one."""
        if not self._awaited:
            raise error
        if self.first is None:
            self.first = error
            tell("master.failed", f"the master stops, for its own state is wrong: {unwrapped(error)!r}", level=CRITICAL)
            self._told.set()

    def tell_own(self, error: Exception) -> None:
        """The same for an error of the kernel, if that says that the master's own state is wrong."""
        if isinstance(error, OSError) and error.errno in OWN_STATE:
            self.tell(error)

    def attempt(self, deed: Callable[[], object]) -> None:
        """Do this, and tell its error.  A further error rises: then not even the end goes in order."""
        try:
            deed()
        except Exception as error:
            if self.first is not None:
                raise
            self.tell(error)

    async def guard(self, task: Callable[..., Awaitable[object]], *arguments: Any, **named: Any) -> None:
        """Run a task, and tell its error."""
        try:
            await task(*arguments, **named)
        except Exception as error:
            self.tell(error)
