"""What does the application say to the master's program, and hear from it?

Messages travel on the talk line, beside the connections (see `channel.Talk`).  What has not been asked for stays in the
kernel, which keeps some hundred messages: then whoever sends, on either side, waits.  How one waits is the runtime's
affair (`Waiter`), so that this serves trio and asyncio alike.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from attrs import define, field

from ..protocol import wire
from ..protocol.channel import HungUp, Talk

AT_ONCE = 16
"""Messages after which the loop's others have their turn, which costs as much as two or three messages."""


class MasterGone(Exception):
    """The master has died, or has let go of this worker: nobody will read the message."""


class Waiter(Protocol):
    """How one waits, in the library that serves."""

    lock: Any
    """An asynchronous context manager: lets one in at a time, in the order in which they came."""

    async def wait_readable(self, fd: int) -> None:
        """Wait until something can be read."""

    async def wait_writable(self, fd: int) -> None:
        """Wait until something can be written."""

    async def checkpoint(self) -> None:
        """Let others have their turn."""


@define(eq=False)
class Messages:
    """This worker's end of the talk line."""

    talk: Talk
    waiter: Waiter
    _iterating: bool = field(default=False, init=False)
    _run: int = field(default=0, init=False)
    """Messages sent and received since others last had a turn."""

    async def _turn(self) -> None:
        """Let others have their turn, if it is time for it."""
        self._run += 1
        if self._run >= AT_ONCE:
            self._run = 0
            await self.waiter.checkpoint()

    async def send(self, value: Any) -> None:
        """Send a message; see `CurrentWorker.send`."""
        note = wire.encode_note(value)
        await self._turn()
        try:
            if not self.waiter.lock.locked() and self.talk.say(note):
                return
            async with self.waiter.lock:
                while not self.talk.say(note):
                    await self.waiter.wait_writable(self.talk.fileno())
        except HungUp:
            raise MasterGone("the master has gone, and did not get this message") from None

    async def receive(self) -> AsyncGenerator[Any]:
        """What the master's program sends; see `CurrentWorker.messages`."""
        if self._iterating:
            raise RuntimeError("another iteration over the messages is under way; each message goes to one alone")
        self._iterating = True
        try:
            while True:
                await self._turn()  # cancelled here, nothing has been taken off the line
                try:
                    datagram = self.talk.hear()
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
