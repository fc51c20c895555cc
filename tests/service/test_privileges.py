"""What processes of the same user can do to a master that has become that user, and what the kernel keeps from them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

UID = 65534

MASTER = """
import os, sys
from rrmaster.service.privileges import drop_privileges
drop_privileges(sys.argv[1], None)
print("dropped", flush=True)
sys.stdin.read()
"""

ATTACKER = """
import ctypes, os, sys
pid, uid = map(int, sys.argv[1:])
ptrace = ctypes.CDLL(None).ptrace
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
for name in ("mem", "environ", "maps", "fd"):
    try:
        os.listdir(f"/proc/{pid}/fd") if name == "fd" else open(f"/proc/{pid}/{name}", "rb").read(1)
        print(name, "is readable")
    except OSError as error:
        print(name, type(error).__name__)
ATTACH = 16
print("ptrace", ptrace(ATTACH, pid, 0, 0))
os.kill(pid, 0)
print("may signal")
"""


def test_the_memory_of_a_master_that_root_started_is_closed_to_its_user_and_signals_are_not() -> None:
    with open("/proc/sys/fs/suid_dumpable") as file:
        if file.read().strip() == "1":
            pytest.skip("this machine is set to let processes be debugged after a change of user")
    command = [sys.executable, "-c", MASTER, str(UID)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as master:
        assert master.stdout is not None
        assert master.stdout.readline() == "dropped\n"
        command = [sys.executable, "-c", ATTACKER, str(master.pid), str(UID)]
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        master.communicate("")
    assert found.stdout.splitlines() == [
        "mem PermissionError",
        "environ PermissionError",
        "maps PermissionError",
        "fd PermissionError",
        "ptrace -1",
        "may signal",
    ], found.stderr
