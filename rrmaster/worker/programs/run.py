"""How does a program become a worker: ``rrmaster server.py ARGS`` or ``rrmaster -m package ARGS``?

It runs as ``__main__``, as Python would run it, and the loop is its own.  The first time it asks for an address, or for
anything of `current_worker` that needs one, a host attaches to the loop that runs at that moment (see `program`).
Where no loop runs, a thread is the host.

A program ends in one of three ways: by itself; when the master has sent its last connection and all connections are
done; or at a second SIGTERM.  In the latter two its main task is cancelled (on threads, SystemExit is raised in the
main thread), so that its `finally` blocks run, and the exit status is 0.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys

from ...protocol import wire
from ...protocol.family.children import note_handlers
from ...protocol.launch import MODULE, Launch, is_program
from ...protocol.starting import forbid_in_program
from ..api import set_current_worker
from ..loading import explain
from .hosts import find_host
from .ports import Ports
from .program import Program, ProgramDraining, ProgramWorker, become_program


def run(launch: Launch, ports: Ports) -> int:
    """Run the program to its end, and return the exit status.  Raises SystemExit as the program does."""
    program = Program(ports, find_host)
    become_program(program)
    ports.set_on_end(program.end)
    me = ports.identity
    set_current_worker(ProgramWorker(me.id, me.slot, me.generation, ProgramDraining(program), ports, None, program))
    signal.signal(signal.SIGTERM, program.obey_term)
    forbid_in_program(launch.application)
    note_handlers((signal.SIGTERM,))
    try:
        _run_main(launch)
    except SystemExit as stop:
        if not program.ending:
            _report_early_end(ports, launch, f"exit status {stop.code}")
        raise
    except BaseException as error:
        if program.ending and _is_cancellation(error):
            return 0
        if ports.reported_ready:
            print(explain(error), file=sys.stderr)
        else:
            ports.letterbox.send(wire.Failed(explain(error)))
        return 1
    else:
        _report_early_end(ports, launch, "it returned")
        return 0
    finally:
        ports.report()


def _run_main(launch: Launch) -> None:
    """Run the program as ``python server.py ARGS`` and ``python -m package ARGS`` do."""
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


def _report_early_end(ports: Ports, launch: Launch, how: str) -> None:
    """Tell the master of a program that ends before it was ready: it has failed, whatever its exit status is."""
    if not ports.reported_ready:
        ports.letterbox.send(
            wire.Failed(
                f"{launch.application} ended before it was ready ({how}). A program is ready once it has opened an "
                "address with rrmaster.open_tcp_listeners or a similar function, or has called "
                "rrmaster.current_worker().set_ready(True)"
            )
        )


def _is_cancellation(error: BaseException) -> bool:
    """Whether the error is nothing but what a cancelled main task ends with."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_cancellation(inner) for inner in error.exceptions)
    # Looked up among what is loaded: the program may have loaded one library, both or neither.
    names = (("trio", "Cancelled"), ("asyncio", "CancelledError"))
    kinds = [getattr(sys.modules.get(module), name, None) for module, name in names]
    return any(kind is not None and isinstance(error, kind) for kind in kinds)
