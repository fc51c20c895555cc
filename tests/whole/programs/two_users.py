"""What a worker tries against its master, and a master that is taken over against the machine (--master-user)."""

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ATTACH = 16


def tried(deed):
    """What came of it: the name of the error, or "done"."""
    try:
        found = deed()
    except OSError as error:
        return type(error).__name__
    return "done" if found != -1 else "refused"


def starter_of(master):
    """The process that stays root."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return next(int(pid) for pid in children if "as_root" in Path(f"/proc/{pid}/cmdline").read_text())


def against(pid):
    """What is tried against one process."""
    libc = ctypes.CDLL(None)
    return {
        "signal": tried(lambda: os.kill(pid, 0)),
        "ptrace": tried(lambda: libc.ptrace(ATTACH, pid, 0, 0)),
        "memory": tried(lambda: Path(f"/proc/{pid}/mem").open("rb").close()),
        "environment": tried(lambda: Path(f"/proc/{pid}/environ").read_bytes()),
        "descriptors": tried(lambda: os.listdir(f"/proc/{pid}/fd")),
        "steal": tried(lambda: libc.syscall(438, os.pidfd_open(pid), 0, 0)),  # pidfd_getfd
    }


def connect(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)


async def handler(stream):
    """Do what the client asks: attack its master, leave a child behind, or say who it is."""
    deed = bytes(await stream.receive_some())
    master = os.getppid()
    if deed == b"attack":
        place = Path(os.environ["PLACE"])
        said = {
            "master": against(master),
            "starter": against(starter_of(master)),
            "control": tried(lambda: connect(os.fspath(place / "control"))),
            "pid file": tried(lambda: (place / "pid").write_text("1")),
            "log": tried(lambda: (place / "log").write_text("x")),
            "replace": tried(lambda: (place / "pid").unlink()),
            "root": tried(lambda: os.setuid(0)),
            "stdout": tried(lambda: Path("/dev/stdout").write_text("by its name\n")),
        }
    elif deed == b"leave":
        said = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, setsid=True)
    else:
        said = {"uid": os.getuid(), "pid": os.getpid(), "HOME": os.environ["HOME"]}
    await stream.send_all(json.dumps(said).encode())


class Taken:
    """A policy, which is called in the master: the first call tries to become root again."""

    tried = False


def policy(candidates, peer):
    if not Taken.tried:
        Taken.tried = True
        starter = starter_of(os.getpid())
        found = against(starter)
        del found["signal"]  # CAP_KILL lets it
        found |= {
            "setuid": tried(lambda: os.setuid(0)),
            "setresuid": tried(lambda: os.setresuid(-1, 0, -1)),
            "setgroups": tried(lambda: os.setgroups([0])),
            "shadow": tried(lambda: Path("/etc/shadow").read_text()),
            "capabilities": tried(capset_all),
            "su": subprocess.run(
                ["/bin/su", "-c", "id -u"], stdin=subprocess.DEVNULL, capture_output=True
            ).stdout.decode(),
        }
        print("taken over:", json.dumps(found), file=sys.stderr, flush=True)
    return candidates[0]


def capset_all():
    every = 0xFFFFFFFF
    return ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[every, every, 0] * 2))
