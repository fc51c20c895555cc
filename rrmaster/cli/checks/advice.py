"""Why does a trace of an import prevent forking, and what is to change in the code?

The phrases are those of `protocol.forks.safety`; the first entry whose beginning fits counts.
"""

from __future__ import annotations

from collections.abc import Sequence

_HOOK = "in a function that @rrmaster.on_fork registers, or in the lifespan of ASGI"

_ADVICE = (
    (
        "started a thread (of compiled code",
        "a forked process has only the thread that forked, and a library that counts on this one would wait for it",
        "make the call that starts it {hook}; a library that computes may do with one thread "
        "(OMP_NUM_THREADS=1, torch.set_num_threads(1))",
    ),
    (
        "started a thread",
        "a forked process has only the thread that forked: what this one does would not be done in a worker",
        f"start it {_HOOK}",
    ),
    (
        "left a process whose trial fork",
        "what happened in the trial would happen in each forked worker",
        "make what needs the thread {hook}; or have the first request, or that of --probe, do less",
    ),
    (
        "has a handler of os.register_at_fork",
        "no process can be forked to its end",
        "have the handler wait for nothing",
    ),
    (
        "opened a socket of a pair",
        "what one process writes comes to one of those that read; each event loop has such a pair",
        f"make it, or the loop, {_HOOK}",
    ),
    (
        "opened a socket",
        "all workers would have one connection, and each answer would come to one of them",
        f"connect at the first use, or {_HOOK}",
    ),
    ("opened a pipe", "what is written comes to one of the processes that read", f"open it {_HOOK}"),
    (
        "made an event loop",
        "a loop of the kernel's is shared: what one process watches, the others lose",
        "make it where it runs: with asyncio.run, or {hook}",
    ),
    ("watches files", "each event comes to one of the processes", f"watch {_HOOK}"),
    (
        "started a process",
        "it would be the child of none of the workers, and all would talk to it",
        f"start it {_HOOK}",
    ),
    ("opened something of the kernel", "one object would be shared by all workers", f"make it {_HOOK}"),
    (
        "opened shared memory",
        _SHARED := "all workers would write to it, and a lock in it stays taken if one is killed",
        f"make it {_HOOK}",
    ),
    ("opened a device", "what is read comes to one of the processes", f"open it {_HOOK}"),
    ("made a lock or semaphore between processes", _SHARED, f"make it {_HOOK}; for threads, threading.Lock does"),
    ("made memory that forked processes share", _SHARED, f"make it {_HOOK}"),
    ("made shared memory", _SHARED, f'map it {_HOOK}, or for reading (mmap_mode="r", ACCESS_READ)'),
    (
        "locked memory",
        "a forked process has no locks on memory: what is in it could be swapped out",
        f"lock it {_HOOK}",
    ),
    (
        "locked",
        "the lock belongs to the open file: each worker would take itself for its owner",
        f"lock {_HOOK}; or have the worker in slot 0 do what one alone may do",
    ),
    (
        "used the generator of",
        "two processes that were forked for a trial have drawn the same values from it",
        f"use it {_HOOK}, or while serving; not while the application is imported",
    ),
    (
        "made ",
        "the first worker that ends would remove it for all",
        f"make it {_HOOK}",
    ),
    ("started an interval timer", "a forked process has no timers", f"set it {_HOOK}"),
    ("set a timer", "a forked process has no timers", f"set it {_HOOK}"),
    ("asked for a signal", "a forked process gets none at its parent's death", f"ask for it {_HOOK}"),
    ("left an event loop running", "the loop would be shared", "end it before the import ends"),
    (
        "asked for",
        "all forked workers would have one value",
        f"ask for it {_HOOK}, or while serving (rrmaster.current_worker().slot)",
    ),
    (
        "took",
        "all forked workers would have the same: one owner of locks, one name of a consumer",
        f"take it {_HOOK}, or where it is needed; if all may have the same, say --preload on",
    ),
    (
        "opened",
        "forked workers would share the open file: where each writes, and what is buffered",
        f"open it {_HOOK}; a log goes to stdout, or to a handler with delay=True; "
        "a database is connected to at the first use",
    ),
)
"""How a phrase begins, why it prevents forking, and what to change."""


_KNOWN = {
    "onnxruntime": (
        "a forked process would write to the database of onnxruntime's figures of use, and abort at its end",
        "set ORT_DISABLE_TELEMETRY=1 in the environment; sessions are to be made {hook}",
    ),
    "matplotlib": (
        "the first worker that ends would remove it for all",
        "set MPLCONFIGDIR to a directory that can be written, or let matplotlib write to its own",
    ),
}
"""The same for libraries with a way of their own: by the first part of the module's name."""


def advice_on(what: str, modules: Sequence[str]) -> tuple[str, str]:
    """Why this trace prevents forking, and what to change.  `modules`: whose it is, the innermost first."""
    if modules and (known := _KNOWN.get(modules[0].partition(".")[0])):
        return known[0], known[1].replace("{hook}", _HOOK)
    for beginning, why, todo in _ADVICE:
        if what.startswith(beginning):
            library = _imported(modules)
            way = f"; it is the import of {library} that does it: import it there, too" if library else ""
            return why, todo.replace("{hook}", _HOOK) + (way if beginning in _OF_LIBRARIES else "")
    return "it cannot be seen what a fork would share", "--preload on forks all the same"


def _imported(modules: Sequence[str]) -> str:
    """What the application imports and so gets the innermost module with it; empty if that is its own."""
    own = modules[-1].partition(".")[0] if modules else ""
    return next((each for each in reversed(modules) if each.partition(".")[0] != own), "")


_OF_LIBRARIES = ("started a thread", "opened a socket", "opened a pipe", "made an event loop", "started a process")
"""What a library may do when it is imported."""
