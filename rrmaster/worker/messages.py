"""How does an application exchange messages with the master's program?

Messages travel on the talk line, beside the connections (see `channel.TalkLine`).  Messages that the application does
not read stay in the kernel, which keeps some hundred: then the sender, on either side, waits.  A runtime brings its own
way to wait (`Waiter`), so this module serves trio and asyncio alike and imports neither.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from attrs import define, field

from ..protocol import wire
from ..protocol.channel import HungUp, TalkLine

AT_ONCE = 16
"""Messages after which the other tasks of the loop have a turn, which costs as much as two or three messages."""


class MasterGone(Exception):
    """The master has died or hung up on this worker, so a message cannot be delivered.

    Raised by `CurrentWorker.send`, and by all that needs the talk line in a worker that was started without one.
    """


class Waiter(Protocol):
    """How one waits in the async library that serves."""

    lock: Any
    """An asynchronous context manager that lets one task in at a time, in the order in which they came."""

    async def wait_readable(self, fd: int) -> None:
        """Wait until something can be read."""

    async def wait_writable(self, fd: int) -> None:
        """Wait until something can be written."""

    async def checkpoint(self) -> None:
        """Let other tasks run."""


@define(eq=False)
class Messages:
    """This worker's end of the talk line."""

    talk: TalkLine
    waiter: Waiter
    _iterating: bool = field(default=False, init=False)
    _run: int = field(default=0, init=False)
    """Messages sent and received since other tasks last had a turn."""

    async def _checkpoint(self) -> None:
        """Let other tasks run, if it is time for it."""
        self._run += 1
        if self._run >= AT_ONCE:
            self._run = 0
            await self.waiter.checkpoint()

    async def send(self, value: Any) -> None:
        """Send a message; see `CurrentWorker.send`."""
        note = wire.encode_note(value)
        await self._checkpoint()
        try:
            # Without the lock only if no other task waits for room: a message must not overtake theirs.
            if not self.waiter.lock.locked() and self.talk.send(note):
                return
            async with self.waiter.lock:
                while not self.talk.send(note):
                    await self.waiter.wait_writable(self.talk.fileno())
        except HungUp:
            raise MasterGone("the master has gone, and did not get this message") from None

    async def receive(self) -> AsyncGenerator[Any]:
        """Iterate over what the master's program sends; see `CurrentWorker.messages`."""
        if self._iterating:
            raise RuntimeError("another iteration over the messages is under way; each message goes to one alone")
        self._iterating = True
        try:
            while True:
                await self._checkpoint()  # cancelled here, nothing has been taken off the line
                try:
                    datagram = self.talk.receive()
                except HungUp:
                    return
                if datagram is None:
                    await self.waiter.wait_readable(self.talk.fileno())
                    continue
                found = wire.decode_note(datagram)
                if found is not None:
                    yield found[0]
        finally:
            self._iterating = False
