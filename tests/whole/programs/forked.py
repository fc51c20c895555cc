"""A handler that describes its process, and applications whose import makes a fork unsafe."""

import asyncio
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import rrmaster

hooked = []

WITHOUT_A_SEED, SEEDED = random.Random(), random.Random(42)


@rrmaster.on_fork
def hook():
    hooked.append(os.getpid())


def now():
    me = rrmaster.current_worker()
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the descriptor of the listing itself
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgid(0),
        "session": os.getsid(0),
        "slot": me.slot,
        "id": me.id,
        "generation": me.generation,
        "environ": {name: value for name, value in os.environ.items() if name.startswith("RRMASTER_")},
        "argv": sys.argv[1:],
        "ps": open("/proc/self/cmdline").read().rstrip("\0").split("\0")[1:],
        "blocked": status["SigBlk"],
        "ignored": status["SigIgn"],
        "caught": status["SigCgt"],
        "random": [random.random(), WITHOUT_A_SEED.random()],
        "seeded": SEEDED.random(),
        "descriptors": descriptors,
        "hooked": hooked,
        "imported_by": IMPORTED_BY,
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "stdin": os.readlink("/proc/self/fd/0"),
        "write_through": [sys.stdout.write_through, sys.stderr.write_through],
    }


IMPORTED_BY = ctypes.CDLL(None).getpid()  # os.getpid() would keep it from being forked


async def tells(stream):
    """One line of JSON."""
    await stream.receive_some()
    print("unfinished", end="")
    print(" line")
    await stream.send_all(json.dumps(now()).encode() + b"\n")


_kept = []


def _thread():
    _kept.append(threading.Thread(target=time.sleep, args=(1000,), daemon=True, name="a-poller"))
    _kept[-1].start()


def _renewed():
    """As OpenTelemetry's batch processor does."""

    def start():
        of = threading.Thread(target=time.sleep, args=(1000,), daemon=True, name="OtelBatchSpanRecordProcessor")
        _kept[:] = [of]
        of.start()

    start()
    os.register_at_fork(after_in_child=start)


def _socket():
    _kept.append(socket.socketpair())


def _database():
    import sqlite3

    _kept.append(sqlite3.connect(os.path.join(tempfile.mkdtemp(), "shop.db")))
    _kept[-1].execute("create table things (name)")


def _loop():
    _kept.append(asyncio.new_event_loop())


def _process():
    _kept.append(subprocess.Popen(["/bin/sleep", "1000"], stdin=subprocess.DEVNULL))


def _timer():
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 1000)


def _slot():
    os.environ.get("RRMASTER_WORKER_SLOT")


def _needs_slot():
    _kept.append(os.environ["RRMASTER_WORKER_SLOT"])


def _pid():
    _kept.append(f"{socket.gethostname()}:{os.getpid()}")


def _random_value():
    _kept.append(uuid.uuid4())


def _title():
    """As setproctitle does: write over the arguments that the process was started with."""
    thread, *_ = os.listdir("/proc/self/task")  # /proc/self/stat would keep it from being forked: it has the process id
    with open(f"/proc/self/task/{thread}/stat") as file:
        start, end = map(int, file.read().rpartition(") ")[2].split()[45:47])
    ctypes.memmove(start, b"shop".ljust(end - start, b"\0"), end - start)


def _harmless():
    _kept.append(open(__file__))  # noqa: SIM115  # it stays open, that is the point
    _kept.append(open(os.devnull, "w"))  # noqa: SIM115  # as above


{
    "thread": _thread, "socket": _socket, "database": _database, "loop": _loop, "process": _process, "timer": _timer,
    "slot": _slot, "needs slot": _needs_slot, "harmless": _harmless, "renewed": _renewed,
    "pid": _pid, "random value": _random_value, "title": _title, "": lambda: None,
}[os.environ.get("DEED", "")]()  # fmt: skip
