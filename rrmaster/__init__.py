"""rrmaster: one master accepts every connection and passes each to the least loaded of N workers.

*A connection is in the kernel's backlog, in one worker's letterbox, in one worker's hands, or rests in the idle pool.
Only in a worker's hands can it die with a worker.  The master only carries it between them, and never without a worker
to give it to.*

The house.  A folder is a room; imports run down this list and never up.  ``rules`` decide and know no trio, no sockets
and no clock; everything above carries out what they decide.  ``worker`` is the other process, and of the rest it
imports ``protocol`` alone.  ``tests/test_architecture.py`` keeps it.

============  ============================================================================
cli           the command line: options, verbs, ``check``, ``top``
service       a master as a process: privileges, signals, PID file, systemd
api           a master inside a program: ``open_master``, ``serve``
master        the wiring: what is made from the settings, and the order of birth and death
watcher       ``--reload``: has the code changed?
control       the operator's socket, both of its ends
admin         metrics, health and a page, in a process of their own
status        one snapshot of everything, as a table and as JSON
supervision   which workers live, which are replaced, how a reload goes
processes     how a worker's process begins and ends; templates
parking       the idle pool's process, as the master keeps it
dispatch      the hot path: accept, choose, hand over, recall
events        what a program is told, and how messages reach it
verdicts      how long a process may be silent, in time in which it could have spoken
logs          what is logged, in which form, and where it goes
faults        what happens when the master's own state is wrong
waiting       how a task waits for a descriptor, also where the kernel cannot watch it
rules         pure decisions: lifecycle, plan, rollout, back-off, recycling, scaling
config        from a flag to a value
protocol      what master and worker say to each other
worker        another process: take, serve, report
idle          the idle pool: a process that holds connections between two requests
============  ============================================================================
"""

from __future__ import annotations

from ._version import __version__

TYPE_CHECKING = False  # type checkers know the name; the module `typing` weighs as much as all else in the idle pool
if TYPE_CHECKING:
    from typing import Any

    from .api.master import Master, ReloadRefused, ReloadResult, open_master, serve
    from .api.worker import Health, Worker
    from .config.option import SettingsError
    from .config.settings import Settings
    from .dispatch.listeners import BindError
    from .events.bus import WorkerGone
    from .events.events import (
        EventsMissed,
        FleetScaled,
        PoolCut,
        PoolEnded,
        PoolFull,
        PoolStarted,
        ReloadCommitted,
        ReloadRolledBack,
        ReloadStarted,
        WorkerChanged,
        WorkerDisconnected,
        WorkerEvent,
        WorkerExited,
        WorkerForked,
        WorkerListening,
        WorkerMessage,
        WorkerOnline,
    )
    from .protocol.wire import NoteRefused
    from .service.run import run
    from .supervision.crashes import Hopeless, NoWorkerReady
    from .worker.api import CurrentWorker, client_address, current_worker, is_worker
    from .worker.hooks import on_fork
    from .worker.messages import MasterGone
    from .worker.programs.ports_on_threads import listening_socket
    from .worker.programs.ports_on_trio import open_tcp_listeners, open_unix_listener

__all__ = [
    "BindError",
    "CurrentWorker",
    "EventsMissed",
    "FleetScaled",
    "Health",
    "Hopeless",
    "Master",
    "MasterGone",
    "NoWorkerReady",
    "NoteRefused",
    "PoolCut",
    "PoolEnded",
    "PoolFull",
    "PoolStarted",
    "ReloadCommitted",
    "ReloadRefused",
    "ReloadResult",
    "ReloadRolledBack",
    "ReloadStarted",
    "Settings",
    "SettingsError",
    "Worker",
    "WorkerChanged",
    "WorkerDisconnected",
    "WorkerEvent",
    "WorkerExited",
    "WorkerForked",
    "WorkerGone",
    "WorkerListening",
    "WorkerMessage",
    "WorkerOnline",
    "__version__",
    "client_address",
    "current_worker",
    "is_worker",
    "listening_socket",
    "on_fork",
    "open_master",
    "open_tcp_listeners",
    "open_unix_listener",
    "run",
    "serve",
]

_HOMES = {
    "api.master": ("Master", "ReloadRefused", "ReloadResult", "open_master", "serve"),
    "api.worker": ("Health", "Worker"),
    "events.events": (
        "EventsMissed",
        "FleetScaled",
        "PoolCut",
        "PoolEnded",
        "PoolFull",
        "PoolStarted",
        "ReloadCommitted",
        "ReloadRolledBack",
        "ReloadStarted",
        "WorkerChanged",
        "WorkerDisconnected",
        "WorkerEvent",
        "WorkerExited",
        "WorkerForked",
        "WorkerListening",
        "WorkerMessage",
        "WorkerOnline",
    ),
    "dispatch.listeners": ("BindError",),
    "service.run": ("run",),
    "config.settings": ("Settings",),
    "config.option": ("SettingsError",),
    "supervision.crashes": ("Hopeless", "NoWorkerReady"),
    "events.bus": ("WorkerGone",),
    "protocol.wire": ("NoteRefused",),
    "worker.api": (
        "CurrentWorker",
        "client_address",
        "current_worker",
        "is_worker",
    ),
    "worker.programs.ports_on_threads": ("listening_socket",),
    "worker.hooks": ("on_fork",),
    "worker.messages": ("MasterGone",),
    "worker.programs.ports_on_trio": (
        "open_tcp_listeners",
        "open_unix_listener",
    ),
}
"""Where the public names are defined."""

_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load public names when they are asked for (PEP 562): a worker loads no master, and a master no worker."""
    from importlib import import_module

    if name == "asyncio":
        return import_module(".asyncio", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    return found
