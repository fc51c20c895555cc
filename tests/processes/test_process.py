"""Real processes: start, signal, wait, and what is left of them."""

from __future__ import annotations

import math
import os
import select
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from rrmaster.processes import process as module
from rrmaster.processes.process import DUMP_SIGNAL, Child, package_root, start, usable_cpus, worker_command
from rrmaster.rules.backoff import Exit
from tests.fakes import DEADLINE, run_alone


@asynccontextmanager
async def a_child(
    program: str, *args: str, env: dict[str, str] | None = None
) -> AsyncIterator[tuple[Child, trio.lowlevel.FdStream, int]]:
    """A shell program with its output as a stream, and our side of its line (a pipe it may write into)."""
    ours, its = os.pipe()
    out, its_out = os.pipe()
    with open(os.devnull, "wb") as null, trio.fail_after(DEADLINE):
        child = await start(
            ["/bin/sh", "-c", program, "sh", str(its), *args], env or {"PATH": os.environ["PATH"]},
            (its,), its_out, null.fileno(), "/",
        )  # fmt: skip
        os.close(its)
        os.close(its_out)
        try:
            async with trio.lowlevel.FdStream(out) as output:
                yield child, output, ours
        finally:
            child.signal(signal.SIGKILL, group=True)
            with trio.CancelScope(shield=True):
                if not child._over:
                    await child.wait()
            os.close(ours)


async def line_from(output: trio.lowlevel.FdStream) -> str:
    """The next line of its output; the barrier of these tests."""
    text = b""
    while not text.endswith(b"\n"):
        piece = await output.receive_some(1)
        if not piece:
            break
        text += piece
    return text.decode().strip()


@pytest.mark.parametrize("status", [0, 1, 3, 255])
async def test_an_exit_by_itself_tells_its_status(status: int) -> None:
    async with a_child(f"exit {status}") as (child, _, _):
        assert await child.wait() == Exit(code=status)


async def test_nothing_stays_open_of_one_that_has_ended() -> None:
    for _ in range(2):  # the first one starts trio's thread
        before = len(os.listdir("/proc/self/fd"))
        async with a_child("exit 0") as (child, _, _):
            await child.wait()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
async def test_an_exit_by_a_signal_tells_the_signal(number: int) -> None:
    async with a_child("echo up; exec sleep 60") as (child, output, _):
        await line_from(output)
        child.signal(number)
        assert await child.wait() == Exit(signal=number)


async def test_a_signal_to_a_process_that_is_gone_does_nothing() -> None:
    async with a_child("exit 0") as (child, _, _):
        await child.wait()
        child.signal(signal.SIGTERM)
        child.signal(signal.SIGKILL, group=True)


async def test_a_signal_to_a_zombie_does_nothing() -> None:
    async with a_child("exit 0") as (child, output, _):
        assert await line_from(output) == ""  # the end of its output: it has exited, or will in a moment
        await trio.lowlevel.wait_readable(child._pidfd)
        child.signal(signal.SIGTERM)
        child.signal(signal.SIGTERM, group=True)
        assert await child.wait() == Exit(code=0)


async def test_a_wait_that_was_cancelled_can_be_had_again() -> None:
    async with a_child("echo up; exec sleep 60") as (child, output, _):
        await line_from(output)
        with trio.move_on_after(0):
            await child.wait()
        child.signal(signal.SIGKILL)
        assert await child.wait() == Exit(signal=signal.SIGKILL)


async def test_a_process_group_dies_with_its_leader() -> None:
    async with a_child("sleep 60 & echo $!; exit 7") as (child, output, _):
        grandchild = os.pidfd_open(int(await line_from(output)))
        assert await child.wait() == Exit(code=7)
        await trio.lowlevel.wait_readable(grandchild)
        os.close(grandchild)


async def test_a_signal_to_the_group_reaches_the_grandchildren() -> None:
    async with a_child("sleep 60 & echo $!; wait") as (child, output, _):
        grandchild = os.pidfd_open(int(await line_from(output)))
        child.signal(signal.SIGTERM, group=True)
        await trio.lowlevel.wait_readable(grandchild)
        assert await child.wait() == Exit(signal=signal.SIGTERM)
        os.close(grandchild)


LEAVES_ITS_GROUP = """exec {python} -c "
import os, time
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    time.sleep(60)
while os.getpgid(child) != child:
    time.sleep(0.001)
os.setpgid(0, child)
print(child, flush=True)
time.sleep(60)
\""""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_process_that_has_left_its_group_is_reached_all_the_same(number: int) -> None:
    async with a_child(LEAVES_ITS_GROUP.format(python=sys.executable)) as (child, output, _):
        other = int(await line_from(output))
        assert os.getpgid(child.pid) == other
        child.signal(number, group=True)
        with trio.fail_after(DEADLINE):
            assert await child.wait() == Exit(signal=number)
        os.kill(other, signal.SIGKILL)


async def test_a_child_leads_a_group_of_its_own_and_no_session() -> None:
    async with a_child("echo up; exec sleep 60") as (child, output, _):
        await line_from(output)
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
        assert os.getsid(child.pid) == os.getsid(0)


async def test_of_our_descriptors_only_the_line_is_inherited() -> None:
    leaky, other = os.pipe()
    os.set_inheritable(leaky, True)
    async with a_child("echo up; exec sleep 60") as (child, output, _):
        await line_from(output)
        fds = {int(fd) for fd in os.listdir(f"/proc/{child.pid}/fd")}
    os.close(leaky)
    os.close(other)
    beyond = fds - {0, 1, 2}
    assert leaky not in beyond
    assert len(beyond) <= 1, "the line, and nothing else"


async def test_the_line_is_there_under_its_own_number() -> None:
    async with a_child("echo hello > /proc/$$/fd/$1") as (child, _, line):
        await child.wait()
        assert os.read(line, 100) == b"hello\n"


async def test_what_is_not_given_is_not_in_the_environment() -> None:
    async with a_child("env | sort | tr '\\n' ' '; echo", env={"PATH": "/bin:/usr/bin", "ONLY": "this"}) as (_, out, _):
        names = {pair.partition("=")[0] for pair in (await line_from(out)).split()}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == {"ONLY", "PATH"}


async def test_standard_input_is_empty() -> None:
    async with a_child("cat; echo end") as (_, output, _):
        assert await line_from(output) == "end"


async def test_what_cannot_be_started_raises_and_leaves_nothing() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with open(os.devnull, "wb") as null, pytest.raises(FileNotFoundError):
        await start(["/nowhere/python"], {}, (), null.fileno(), null.fileno(), "/")
    assert sorted(os.listdir("/proc/self/fd")) == before


async def test_a_child_that_cannot_be_watched_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(pid: int) -> int:
        started.append(pid)
        raise OSError(24, "Too many open files")

    started: list[int] = []
    monkeypatch.setattr(module.os, "pidfd_open", full)
    with open(os.devnull, "wb") as null, pytest.raises(OSError, match="Too many"):
        await start(["/bin/sleep", "60"], {}, (), null.fileno(), null.fileno(), "/")
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


async def test_the_workers_command_finds_this_very_package() -> None:
    assert worker_command(["--slot", "3"]) == [sys.executable, "-m", "rrmaster.worker", "--slot", "3"]
    assert (Path(package_root()) / "rrmaster" / "worker" / "__main__.py").is_file()


def test_the_signal_for_stacks_is_one_that_no_application_wants() -> None:
    from rrmaster.worker.__main__ import DUMP_SIGNAL as THEIRS

    assert THEIRS == DUMP_SIGNAL
    assert signal.SIGRTMIN < DUMP_SIGNAL < signal.SIGRTMAX


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one() -> None:
    run_alone("""
import resource
from rrmaster.processes.process import raise_descriptor_limit
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
assert raise_descriptor_limit() == hard
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
""")


# --- processors


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.fixture
def in_group(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """As if this process were in the control group /a/b."""
    real = Path.read_text

    def read_text(self: Path, *args: object, **options: object) -> str:
        return "0::/a/b\n" if str(self) == "/proc/self/cgroup" else real(self)

    monkeypatch.setattr(Path, "read_text", read_text)


def quota(root: Path, group: str, text: str) -> None:
    (root / group).mkdir(parents=True, exist_ok=True)
    (root / group / "cpu.max").write_text(text)


@pytest.mark.usefixtures("eight_cpus", "in_group")
@pytest.mark.parametrize(
    ("quotas", "cpus"),
    [
        ({}, 8),
        ({"a/b": "max 100000"}, 8),
        ({"a/b": "200000 100000"}, 2),
        ({"a/b": "250000 100000"}, 3),
        ({"a/b": "10000 100000"}, 1),
        ({"a/b": "1600000 100000"}, 8),
        ({"a/b": "max 100000", "a": "300000 100000"}, 3),
        ({"a/b": "500000 100000", "a": "300000 100000", "": "400000 100000"}, 3),
        ({"a/b": "what is this"}, 8),
        ({"a/b": "400000"}, 8),
    ],
)
def test_usable_processors_are_the_affinity_and_the_smallest_quota_above_us(
    quotas: dict[str, str], cpus: int, tmp_path: Path
) -> None:
    for group, text in quotas.items():
        quota(tmp_path, group, text + "\n")
    assert usable_cpus(tmp_path) == cpus


def test_here_there_is_at_least_one_processor_and_no_more_than_there_are() -> None:
    assert 1 <= usable_cpus() <= (os.cpu_count() or math.inf)


def test_a_pidfd_is_what_is_waited_for() -> None:
    # EOF and SIGCHLD may lie; this is the seam that the kernel keeps.
    pidfd = os.pidfd_open(os.getpid())
    assert select.select([pidfd], [], [], 0)[0] == []
    os.close(pidfd)
