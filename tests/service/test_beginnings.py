"""What a master inherits, and does not leave as it is."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rrmaster.service import privileges
from rrmaster.service.cannot_start import CannotStart


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


TELLS = """
from pathlib import Path
print("forbidden" if "NoNewPrivs:\t1" in Path("/proc/self/status").read_text() else "allowed", flush=True)
async def handler(stream):
    pass
"""

STAYS_ROOT = """
import sys
from rrmaster.cli.main import main
from rrmaster.service import privileges
privileges.drop_privileges = lambda *_: None
sys.exit(main())
"""
"""A master that stays root: another user may have no right to read this interpreter."""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "allowed"),
        (("--user", "nobody"), "forbidden"),
        (("--user", "nobody", "--new-privileges", "on"), "allowed"),
        (("--new-privileges", "off"), "forbidden"),
        (("--new-privileges", "off", "--preload", "off"), "forbidden"),
    ],
)
def test_no_program_of_a_service_with_a_user_of_its_own_gains_privileges(
    options: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    (tmp_path / "tells.py").write_text(TELLS)
    command = [sys.executable, "-c", STAYS_ROOT, "-w", "1", "-b", "127.0.0.1:0", *options, "tells:handler"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as master:
        assert master.stderr is not None
        said = ""
        while " ready: " not in said and master.poll() is None:
            said += master.stderr.readline()
        master.send_signal(signal.SIGTERM)
        said += master.communicate(timeout=20)[1]
    assert master.returncode == 0, said
    assert f"| {told}" in said


def test_where_new_privileges_cannot_be_forbidden_the_start_is_refused_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    with pytest.raises(CannotStart, match=r"setpriv --no-new-privs.*--new-privileges on"):
        privileges.forbid_new_privileges()
