"""What does the application say to the master's program, and hear from it?

Messages travel on the talk line, beside the connections (see `channel.TalkLine`).  What has not been asked for stays in
the kernel, which keeps some hundred messages: then whoever sends, on either side, waits.  How one waits is the
runtime's affair (`Means`), so that this serves trio and asyncio alike.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from attrs import define, field

from ..protocol import wire
from ..protocol.channel import HungUp, TalkLine

AT_ONCE = 16
"""Messages after which the loop's others have their turn, which costs as much as two or three messages."""


class MasterGone(Exception):
    """The master has died, or has let go of this worker: nobody will read the message."""


class Means(Protocol):
    """How one waits, in the library that serves."""

    lock: Any
    """An asynchronous context manager: lets one in at a time, in the order in which they came."""

    async def readable(self, fd: int) -> None:
        """Wait until something can be read."""

    async def writable(self, fd: int) -> None:
        """Wait until something can be written."""

    async def turn(self) -> None:
        """Let others have their turn."""


@define(eq=False)
class Speech:
    """This worker's end of the talk line."""

    talk: TalkLine
    means: Means
    _heard: bool = field(default=False, init=False)
    _run: int = field(default=0, init=False)
    """Messages sent and received since others last had a turn."""

    async def _turn(self) -> None:
        """Let others have their turn, if it is time for it."""
        self._run += 1
        if self._run >= AT_ONCE:
            self._run = 0
            await self.means.turn()

    async def send(self, value: Any) -> None:
        """Send a message; see `CurrentWorker.send`."""
        note = wire.encode_note(value)
        await self._turn()
        try:
            if not self.means.lock.locked() and self.talk.send(note):
                return
            async with self.means.lock:
                while not self.talk.send(note):
                    await self.means.writable(self.talk.fileno())
        except HungUp:
            raise MasterGone("the master has gone, and did not get this message") from None

    async def messages(self) -> AsyncGenerator[Any]:
        """What the master's program sends; see `CurrentWorker.messages`."""
        if self._heard:
            raise RuntimeError("somebody iterates over the messages already; each goes to one alone")
        self._heard = True
        try:
            while True:
                await self._turn()  # cancelled here, nothing has been taken off the line
                try:
                    datagram = self.talk.receive()
                except HungUp:
                    return
                if datagram is None:
                    await self.means.readable(self.talk.fileno())
                    continue
                found = wire.decode_note(datagram)
                if found is not None:
                    yield found[0]
        finally:
            self._heard = False
