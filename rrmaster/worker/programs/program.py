"""What does this process know of the program that it runs?  Its addresses, and the host that serves them.

A *host* takes connections, reports and beats in the program's own loop, beside the program.  `Program.attach` makes it
the first time that something needs one.  Which host that is, `hosts` finds out: this module knows none of them, so
that they can import it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, Protocol

from attrs import define

from ..api import CurrentWorker, Draining, is_worker
from ..messages import MasterGone, Messages, Waiter
from .ports import Ports


class Host(Protocol):
    """What serves the ports in the program's loop, beside the program."""

    loop: Any
    """The loop, compared by identity.  None for a host with a thread of its own."""
    waiter: Waiter
    draining: Draining

    def lives(self) -> bool:
        """Whether the host's loop still runs."""

    def start(self) -> None:
        """Attach to the loop; called in the loop's thread."""

    def stop(self) -> None:
        """Leave the ports to another host."""

    def end(self, now: bool) -> None:
        """End the program, because its connections are done, or `now`, although some are open.  From any thread."""


FindHost = Callable[[], tuple[Callable[[Ports], Host], Any]]
"""What makes a host for the loop that runs in the calling thread, and that loop (None: no loop runs)."""


@define(eq=False)
class Program:
    """This process's program, and its host."""

    ports: Ports
    find_host: FindHost
    host: Host | None = None
    ending: bool = False
    """The host has been told to end the program."""
    _asked: bool = False
    """A first SIGTERM has asked the master for a replacement."""

    def attach(self) -> Host:
        """The host in the loop that runs here.  Raises RuntimeError if another loop serves already.

        A program may run several loops one after another (``asyncio.run`` twice): each gets a host of its own.
        """
        make, loop = self.find_host()
        host = self.host
        if host is not None and host.lives():
            if loop is None or host.loop is loop:
                return host
            if host.loop is not None:
                raise RuntimeError("another loop of this program serves its connections already; open addresses there")
        if host is not None:
            host.stop()
        self.host = host = make(self.ports)
        host.start()
        # Reports that were due before there was a host have woken nothing.
        if self.ports.report_due:
            self.ports.wake()
        return host

    def end(self, now: bool = False) -> None:
        """Let the program end: its connections are done, or with `now` they are cut."""
        self.ending = True
        if now:
            self.ports.counting.cut()
        if self.host is not None:
            self.host.end(now)

    def obey_term(self, number: int, frame: object) -> None:
        """Ask the master for a replacement; at a second SIGTERM, or once draining, end now.

        The handler of SIGTERM, unless the program sets its own.  It runs in the main thread.
        """
        if self.ending and (self.host is None or self.host.loop is None):
            raise SystemExit(0)  # on threads nothing else can end the main one, whatever it waits for
        if not self.ports.reported_ready and not self.ports.hung_up:
            # Nothing is served yet, so nothing is lost: die as any program does, and the master sees by what.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif self._asked or self.ports.hung_up:
            self.end(now=True)
        else:
            self._asked = True
            self.ports.retire("SIGTERM")


_program: Program | None = None


def current_program() -> Program | None:
    """This process's program, or None if the program runs alone, without a master.

    Raises RuntimeError in a worker that serves an application.
    """
    if _program is None and is_worker():
        raise RuntimeError(
            "this worker serves an application, module:attribute, whose addresses are given with --bind; a program "
            "that opens its own is started as `rrmaster server.py`"
        )
    return _program


def become_program(program: Program) -> None:
    """Make this the process's program; called once, before the program's first line runs."""
    global _program
    _program = program


@define(eq=False)
class ProgramDraining:
    """`CurrentWorker.draining` of a program, whose loop may not run yet."""

    program: Program

    def is_set(self) -> bool:
        return self.program.ports.hung_up

    async def wait(self) -> object:
        return await self.program.attach().draining.wait()


@define(eq=False)
class ProgramWorker(CurrentWorker):
    """This worker, as its program sees it: also before it serves."""

    _program: Program

    def set_ready(self, ready: bool) -> None:
        self._program.attach()
        self._program.ports.set_ready(ready)

    @property
    def _talk(self) -> Messages:
        if self._messages is None:
            host, talk = self._program.attach(), self._program.ports.talk
            if talk is None:
                raise MasterGone("this worker was started without a talk line")
            self._messages = Messages(talk, host.waiter)
        return self._messages
