"""rrmaster: one master accepts every connection and passes each to the least loaded of N workers.

*A connection is in the kernel's backlog, in one worker's letterbox, or in one worker's hands.  Only in the last place
can it die with a worker.  The master only carries it between them, and never without somebody to give it to.*

The house, in reading order.  Laws know no trio, no sockets and no clock; hands carry out what laws decide; imports
point upwards in this list, and ``worker/`` (the other process: a directory is a process) sees `wire`, `launch`,
`births`, `forkable`, `proxied`, `channel` and `tls`.

=============  ====================================================================
wire           what is said on the line, and how it is spelled
launch         what a worker is told at its start, and how it is spelled
births         what master and template say to each other, and how it is spelled
forkable       was an import safe to fork, and if not, what was in the way?
proxied        who is the client behind a proxy: the PROXY protocol's header
balance        how load is counted, who has room, who is next
lateness       who does not keep up, and to whom may go what it has not taken
lifecycle      what may become of a worker: State x Event -> State, Actions
restarts       when to try again, when to call it a crash loop
trust          are those whom a template forks fit to live?
fleet          what is to be done next: plan(goal, members) -> orders
rollout        how a reload is going, and what its next step is
recycling      when a worker that does nothing wrong is to be replaced
autoscale      how many workers there should be for the share that is busy
spelling       how the values of options are written
events         what can happen to a fleet, as a program is told of it
options        how an option is declared, and what is said of one that is wrong
coherence      do these settings fit together?
settings       what is to be served, where and how: one frozen class
sources        where the value of a setting comes from
status         what the whole master looks like: one snapshot, as a table and as JSON
-------------  --------------------------------------------------------------------
channel        the two ends of a line
tls            with which certificate TLS is spoken, and whether it can be loaded
outlet         how what is logged reaches a descriptor or a file
relay          how what a worker prints becomes lines
log            what is said, in which form, and where it goes
listeners      which sockets we listen on
process        how a worker's process is started, signalled and awaited
template       how does a worker begin without importing the application again?
recall         how a connection comes back from the late and the dead
hearing        what the workers say, and whether it is to be believed
door           a listener as the hot path sees it
membership     who serves which listener, and who can be given a connection of it now
dispatcher     the hot path: accept, choose, hand over
openings       which addresses programs have asked for, and which listener is each
probe          is this very worker well?
talk           how messages and events reach who wants to know them
ward           what is known of one worker
lineage        which template is a generation's, and for how long is it kept
chronicle      what is told of a worker's life
aftermath      what follows from a worker's end
starts         who may be started now, and until when must the others wait
renewal        how a fleet that runs is changed: reload, scaling, recycling
supervisor     asks plan, LAW and restarts, and obeys
change         what a reload changes besides the code
survey         how a running master is doing: the snapshot is taken
watch          has the code changed?
places         where a master's control socket lies
control        the operator's socket: one JSON object per line each way
systemd        what systemd is told, and the unit for it
master         wires the rooms together; order of birth and death
embedding      what a program sees of a master that it runs itself
service        how a master becomes a process: privileges, signals, pid file, systemd
check          would this be served: configuration and application are tried
client         how a verb finds a running master, and asks it
top            how a master is doing, live in the terminal
verbs          what an operator can ask: `rrmaster status`, `rrmaster reload`, ...
cli            the command line
-------------  --------------------------------------------------------------------
worker/        the other process: take, serve, report
=============  ====================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .embedding import Health, Master, ReloadRefused, ReloadResult, Worker, open_master, serve
    from .events import (
        EventsMissed,
        FleetScaled,
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
    from .listeners import BindError
    from .options import SettingsError
    from .service import run
    from .settings import Settings
    from .supervisor import Hopeless
    from .talk import WorkerGone
    from .wire import NoteRefused
    from .worker import CurrentWorker, MasterGone, client_address, current_worker, is_worker
    from .worker.hooks import on_fork
    from .worker.ports_on_threads import listening_socket
    from .worker.ports_on_trio import open_tcp_listeners, open_unix_listener

__version__ = "0.1.0"

__all__ = [
    "BindError",
    "CurrentWorker",
    "EventsMissed",
    "FleetScaled",
    "Health",
    "Hopeless",
    "Master",
    "MasterGone",
    "NoteRefused",
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

_ROOMS = {
    "Health": "embedding", "Master": "embedding", "ReloadRefused": "embedding", "ReloadResult": "embedding",
    "Worker": "embedding", "open_master": "embedding", "serve": "embedding",
    "EventsMissed": "events", "FleetScaled": "events", "ReloadCommitted": "events", "ReloadRolledBack": "events",
    "ReloadStarted": "events", "WorkerChanged": "events", "WorkerDisconnected": "events", "WorkerEvent": "events",
    "WorkerExited": "events", "WorkerForked": "events", "WorkerListening": "events", "WorkerMessage": "events",
    "WorkerOnline": "events",
    "BindError": "listeners",
    "run": "service",
    "Settings": "settings", "SettingsError": "options",
    "Hopeless": "supervisor",
    "WorkerGone": "talk",
    "NoteRefused": "wire",
    "CurrentWorker": "worker", "MasterGone": "worker", "client_address": "worker",
    "current_worker": "worker", "is_worker": "worker",
    "listening_socket": "worker.ports_on_threads", "on_fork": "worker.hooks",
    "open_tcp_listeners": "worker.ports_on_trio", "open_unix_listener": "worker.ports_on_trio",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load public names when they are asked for (PEP 562): a worker loads no master, and a master no worker."""
    from importlib import import_module

    if name == "asyncio":
        return import_module(".asyncio", __name__)
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{_ROOMS[name]}", __name__), name)
    return found
