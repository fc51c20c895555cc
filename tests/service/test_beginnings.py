"""What a master inherits, and does not leave as it is."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys

import pytest


def test_a_master_that_is_started_with_term_blocked_can_be_stopped() -> None:
    block = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); "
    start = "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    command = ["-m", "rrmaster", "-w", "1", "-b", "127.0.0.1:0", "rrmaster.demo:echo"]
    with subprocess.Popen([sys.executable, "-c", block + start, *command], stderr=subprocess.PIPE, text=True) as master:
        assert master.stderr is not None
        while " ready: " not in master.stderr.readline() and master.poll() is None:
            pass
        master.send_signal(signal.SIGTERM)
        try:
            assert master.wait(20) == 0
        finally:
            master.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("user", ["nobody", "54321"])
def test_another_user_has_a_home_of_its_own(user: str) -> None:
    code = "import os, sys; from rrmaster.service.privileges import drop_privileges as d; d(sys.argv[1], None)"
    code += "; print(os.environ['HOME'], os.environ['USER'], os.environ['LOGNAME'])"
    said = subprocess.run([sys.executable, "-c", code, user], capture_output=True, text=True, timeout=60, check=True)
    home = pwd.getpwnam(user).pw_dir if user == "nobody" else "/"
    assert said.stdout.split() == [home, user, user]
