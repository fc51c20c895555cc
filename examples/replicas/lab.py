"""Hosts on one machine: network namespaces, joined by a bridge.

All of it is inside namespaces of its own (network, mounts, processes), so that the kernel removes every host, link and
process when the trial ends, in whatever way it ends.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

NETWORK = "10.99.0"
INSIDE = "INSIDE_THE_LAB"


def enter() -> None:
    """Run this program again inside new namespaces.  It returns only there."""
    if os.environ.get(INSIDE):
        return
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "ip"))):
        sys.exit("network namespaces need root, and the commands unshare (util-linux) and ip (iproute2)")
    apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvpe(apart[0], [*apart, sys.executable, *sys.argv], os.environ | {INSIDE: "1"})


def run(command: str) -> str:
    return subprocess.run(command.split(), check=True, stdout=subprocess.PIPE, text=True).stdout


class Lab:
    """The bridge, and a directory that exists only here."""

    def __init__(self) -> None:
        run("mount -t tmpfs lab-run /run")  # `ip netns` keeps its names there
        run("mount -t tmpfs lab /mnt")
        self.directory = Path("/mnt")
        run("ip link set lo up")
        run("ip link add lab type bridge")
        run("ip link set lab up")
        run(f"ip addr add {NETWORK}.254/24 dev lab")

    def host(self, name: str, number: int) -> "Host":
        run(f"ip netns add {name}")
        run(f"ip link add {name} type veth peer name eth0 netns {name}")
        run(f"ip link set {name} master lab up")
        run(f"ip -n {name} addr add {NETWORK}.{number}/24 dev eth0")
        run(f"ip -n {name} link set eth0 up")
        run(f"ip -n {name} link set lo up")
        return Host(name, f"{NETWORK}.{number}", self.directory)


class Host:
    """One machine: it has an address, runs commands, and can lose its power or its cable."""

    def __init__(self, name: str, address: str, directory: Path) -> None:
        self.name, self.address, self.directory = name, address, directory

    def start(self, command: str, **environ: str) -> subprocess.Popen:
        with (self.directory / f"{self.name}.log").open("ab") as log:
            words = ["ip", "netns", "exec", self.name, *command.split(" ")]
            return subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | environ)

    def kill(self) -> tuple[float, float]:
        """End everything on it at once, as a crash of the machine does; returns when that began, and when it was over.

        The kernel takes bytes for a process that dies until its sockets are closed: a while, on a crowded machine.
        """
        began = time.time()
        while pids := run(f"ip netns pids {self.name}").split():
            for pid in pids:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it has ended with its parent
            reap()
            time.sleep(0.001)
        return began, time.time()

    def signal(self, module: str, number: int) -> None:
        """Send a signal to the processes that run this module of Python."""
        for pid in run(f"ip netns pids {self.name}").split():
            if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                os.kill(int(pid), number)

    def plug(self, state: str) -> tuple[float, float]:
        """Its cable: `down` or `up`; returns when that began, and when it was over."""
        began = time.time()
        run(f"ip link set {self.name} {state}")
        return began, time.time()

    def log(self) -> str:
        file = self.directory / f"{self.name}.log"
        return file.read_text() if file.exists() else ""


def reap() -> None:
    """This is process 1 of its namespace: orphans become its children."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass  # none is left
