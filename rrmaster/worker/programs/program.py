"""How does a program become a worker: ``rrmaster server.py ARGS`` or ``rrmaster -m package ARGS``?

It runs as ``__main__``, as Python would run it, and the loop is its own.  The first time it asks for an address, or for
anything else of `current_worker` that needs one, a *host* attaches to the loop that runs there just now: it takes
connections, reports and beats beside the program.  Where no loop runs, a thread does it.

It ends in one of three ways: by itself; when its connections are done after the master's last word; or at a second
SIGTERM.  In the latter two its main task is cancelled (on threads, SystemExit is raised in the main one), so that its
`finally` blocks run, and that is exit status 0.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any, Protocol, cast

from attrs import define

from ...protocol import wire
from ...protocol.launch import MODULE, Launch, is_program
from .. import CurrentWorker, Draining, become, is_worker
from ..loading import explain
from ..messages import MasterGone, Means, Speech
from .ports import Ports


class Host(Protocol):
    """What serves the ports in the program's loop, beside the program."""

    loop: Any
    """The loop, by identity; None: a thread of its own."""
    means: Means
    draining: Draining

    def lives(self) -> bool:
        """Whether its loop still runs."""

    def start(self) -> None:
        """Attach.  In the loop."""

    def stop(self) -> None:
        """Leave it to another host."""

    def end(self, now: bool) -> None:
        """End the program: its connections are done, or are to be cut.  From any thread."""


@define(eq=False)
class Program:
    """This process's program, and its host."""

    ports: Ports
    host: Host | None = None
    ending: bool = False
    _asked: bool = False

    def attach(self) -> Host:
        """The host in the loop that runs here.  Raises RuntimeError if another loop serves already."""
        make, loop = _running()
        host = self.host
        if host is not None and host.lives():
            if loop is None or host.loop is loop:
                return host
            if host.loop is not None:
                raise RuntimeError("another loop of this program serves its connections already; open addresses there")
        if host is not None:
            host.stop()
        self.host = host = cast("Host", make(self.ports))
        host.start()
        if self.ports.has_news:
            self.ports.wake()
        return host

    def end(self, now: bool = False) -> None:
        """Its connections are done, or are to be cut: let it end."""
        self.ending = True
        if self.host is not None:
            self.host.end(now)

    def obey_term(self, number: int, frame: object) -> None:
        """SIGTERM, unless the program has a handler of its own: ask to be replaced.  Once draining, or said twice: end
        now."""
        if self.ending and (self.host is None or self.host.loop is None):
            raise SystemExit(0)
        if not self.ports.said_ready and not self.ports.hung_up:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif self._asked or self.ports.hung_up:
            self.end(now=True)
        else:
            self._asked = True
            self.ports.retire("SIGTERM")


def _running() -> tuple[Callable[[Ports], Any], Any]:
    """Who hosts on the loop that runs in this thread, and the loop.  A program that has loaded neither library runs
    neither."""
    trio = sys.modules.get("trio")
    if trio is not None:
        try:
            token = trio.lowlevel.current_trio_token()
        except RuntimeError:
            pass  # it is loaded, and does not run here
        else:
            from .ports_on_trio import TrioHost

            return TrioHost, token
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            pass  # likewise
        else:
            from .ports_on_asyncio import AsyncioHost

            return AsyncioHost, loop
    from .ports_on_threads import ThreadHost

    return ThreadHost, None


_program: Program | None = None


def current_program() -> Program | None:
    """This process's program; None: it runs alone.  Raises RuntimeError in a worker that serves an application."""
    if _program is None and is_worker():
        raise RuntimeError(
            "this worker serves an application, module:attribute, whose addresses are given with --bind; a program "
            "that opens its own is started as `rrmaster server.py`"
        )
    return _program


@define(eq=False)
class _Draining:
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
    def _talk(self) -> Speech:
        if self._speech is None:
            host, talk = self._program.attach(), self._program.ports.talk
            if talk is None:
                raise MasterGone("this worker was started without a talk line")
            self._speech = Speech(talk, host.means)
        return self._speech


def run(launch: Launch, ports: Ports) -> int:
    """Run it to its end, and return the exit status.  Raises SystemExit as the program does."""
    global _program
    _program = program = Program(ports)
    ports.ended = program.end
    facts = ports.facts
    become(ProgramWorker(facts.id, facts.slot, facts.generation, _Draining(program), ports, None, program))
    signal.signal(signal.SIGTERM, program.obey_term)
    try:
        _run_main(launch)
    except SystemExit as stop:
        if not program.ending:
            _say_early(ports, launch, f"exit status {stop.code}")
        raise
    except BaseException as error:
        if program.ending and _is_cancellation(error):
            return 0
        if ports.said_ready:
            print(explain(error), file=sys.stderr)
        else:
            ports.letterbox.send(wire.Failed(explain(error)))
        return 1
    else:
        _say_early(ports, launch, "it returned")
        return 0
    finally:
        ports.report()


def _run_main(launch: Launch) -> None:
    """As ``python server.py ARGS`` and ``python -m package ARGS`` do."""
    name = launch.application
    assert is_program(name)
    if launch.app_dir:
        sys.path.insert(0, launch.app_dir)
    if name.startswith(MODULE):
        sys.path.insert(0, os.getcwd())
        sys.argv[:] = [name, *launch.arguments]
        runpy.run_module(name.removeprefix(MODULE), run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(name)))
        sys.argv[:] = [name, *launch.arguments]
        runpy.run_path(name, run_name="__main__")


def _say_early(ports: Ports, launch: Launch, how: str) -> None:
    """A program that ends before it was ready has failed, whatever its exit status says."""
    if not ports.said_ready:
        ports.letterbox.send(
            wire.Failed(
                f"{launch.application} ended before it was ready ({how}). A program is ready once it has opened an "
                "address with rrmaster.open_tcp_listeners or its likes, or has called "
                "rrmaster.current_worker().set_ready(True)"
            )
        )


def _is_cancellation(error: BaseException) -> bool:
    """Whether it is nothing but what a cancelled main task ends with."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_cancellation(inner) for inner in error.exceptions)
    kinds = [
        getattr(sys.modules.get(m), name, None) for m, name in (("trio", "Cancelled"), ("asyncio", "CancelledError"))
    ]
    return any(kind is not None and isinstance(error, kind) for kind in kinds)
