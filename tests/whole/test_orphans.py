"""Descendants of a worker end with it, whatever sessions and parents they have, and however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from rrmaster.protocol.family.lineage import look
from tests.whole.harness import BRIEF, PATIENCE, PROGRAMS, Running, running
from tests.whole.test_children import get

WAYS = ("session", "group", "twice", "fork", "clean-session", "clean-twice")
"""How a child leaves the worker's process group, with the worker's environment or with an empty one."""

OTHER_RUNTIMES = [("asyncio", "asgi"), ("trio", "asgi"), ("uvloop", "wsgi"), ("trio", "stream")]


async def the_stop(master: Running, worker: int) -> None:
    assert await master.stop() == 0


async def a_kill(master: Running, worker: int) -> None:
    os.kill(worker, signal.SIGKILL)


async def a_crash(master: Running, worker: int) -> None:
    await get(master.port, "/crash")


async def a_hang(master: Running, worker: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(get, master.port, "/hang")
        await master.said("-> killed")


async def a_reload(master: Running, worker: int) -> None:
    master.signal(signal.SIGHUP)
    await master.said("reload: committed|reload: .*done|draining -> gone")


async def a_term(master: Running, worker: int) -> None:
    os.kill(worker, signal.SIGTERM)


async def a_kill_of_the_master(master: Running, worker: int) -> None:
    master.signal(signal.SIGKILL)


async def a_kill_of_the_master_during_a_hang(master: Running, worker: int) -> None:
    with trio.move_on_after(0.5):
        await get(master.port, "/hang")
    master.signal(signal.SIGKILL)


ENDS: dict[str, Callable[[Running, int], Awaitable[None]]] = {
    "stop": the_stop,
    "kill": a_kill,
    "crash": a_crash,
    "hang": a_hang,
    "reload": a_reload,
    "term": a_term,
    "master": a_kill_of_the_master,
    "both": a_kill_of_the_master_during_a_hang,
}


def lives(pid: int) -> bool:
    """Whether it is more than a zombie: where no process reaps, as in some containers, that is all that is left."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def left(children: dict[str, int], until: Callable[[Counter[str]], bool]) -> Counter[str]:
    """How each child stands, under exactly one name, as soon as this holds, or at the end of the patience."""
    deadline = trio.current_time() + PATIENCE
    while True:
        found = Counter("lives" if lives(pid) else "ended" for pid in children.values())
        if until(found) or trio.current_time() > deadline:
            return found
        await trio.sleep(0.02)


async def start(master: Running, *ways: str) -> dict[str, int]:
    """Have a worker start children; returns their process ids, by the way in which each leaves its group.

    They are older than whatever starts next: of two processes of one clock tick nothing tells which is the older.
    """
    children = {way: int((await get(master.port, f"/{way}")).split()[-1]) for way in ways}
    began = max(seen.began for seen in map(look, children.values()) if seen is not None)
    with trio.fail_after(PATIENCE):
        while int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")) <= began:
            await trio.sleep(0.002)
    return children


def end(children: dict[str, int]) -> None:
    assert all(pid > 1 for pid in children.values()), "0 would be this very process group"
    for pid in children.values():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # as it should be


CASES = [
    *(("uvloop", "asgi", how, "auto") for how in ENDS),
    *(("uvloop", "asgi", how, "off") for how in ("kill", "master")),
    *((*runtime, how, "auto") for runtime in OTHER_RUNTIMES for how in ("term", "master")),
]


@pytest.mark.parametrize(("runtime", "attribute", "how", "preload"), CASES)
async def test_no_descendant_outlives_its_worker(
    runtime: str, attribute: str, how: str, preload: str, no_groups: tuple[str, ...]
) -> None:
    options = ("--runtime", runtime, "--hang-timeout", "1s", "--graceful-timeout", "1s", *BRIEF, "--preload", preload)
    async with running(f"leaves_children:{attribute}", *options, workers=1, under=no_groups) as master:
        (worker,) = master.workers
        # With the master goes the last trace of a process that has neither mark nor parent.
        ways = [way for way in WAYS if how not in ("master", "both") or way != "clean-twice"]
        children = await start(master, *ways)
        try:
            assert all(map(lives, children.values()))
            await ENDS[how](master, worker)
            assert await left(children, lambda found: found["lives"] == 0) == {"ended": len(ways)}
        finally:
            end(children)


async def test_what_a_worker_has_started_goes_on_while_that_worker_lives(no_groups: tuple[str, ...]) -> None:
    """The marks tell it; and what has no mark goes on while any worker lives that may have started it."""
    async with running("leaves_children:asgi", "--policy", "round-robin", workers=2, under=no_groups) as master:
        dead, other = workers = set(master.workers)
        children: dict[str, int] = {}
        owners: dict[str, tuple[int, bool]] = {}
        try:
            for way in WAYS:
                clean, started = way.startswith("clean"), set()
                while started != workers:  # a busy machine may give one of them two requests in a row
                    worker, child = (await get(master.port, f"/and-worker-{way}")).split()[-2:]
                    started.add(int(worker))
                    children[child], owners[child] = int(child), (int(worker), clean)
            os.kill(dead, signal.SIGKILL)
            ends = {child: pid for child, pid in children.items() if owners[child] == (dead, False)}
            assert await left(ends, lambda found: found["lives"] == 0) == {"ended": len(ends)}
            go_on = {child: pid for child, pid in children.items() if child not in ends}
            assert await left(go_on, lambda found: True) == {"lives": len(go_on)}
            os.kill(other, signal.SIGKILL)
            assert await left(children, lambda found: found["lives"] == 0) == {"ended": len(children)}
            assert await master.stop() == 0
        finally:
            end(children)


@pytest.mark.parametrize("how", ["stop", "reload", "master"])
async def test_a_daemon_that_an_import_starts_lives_as_long_as_its_code(how: str, tmp_path: Path) -> None:
    control = tmp_path / "control"
    options = ("--rollback-window", "0", *BRIEF, "--control", str(control))
    async with running("daemon_at_import:wsgi", *options, workers=1) as master:
        worker, daemon = map(int, (await get(master.port, "/")).split()[-2:])
        try:
            await master.settled(control)
            os.kill(worker, signal.SIGKILL)
            await master.said("-> serving", times=2)
            assert (await get(master.port, "/")).endswith(f" {daemon}"), "a worker comes and goes, the code stays"
            assert lives(daemon)
            await ENDS[how](master, worker)
            assert await left({"daemon": daemon}, lambda found: found["lives"] == 0) == {"ended": 1}
        finally:
            end({"daemon": daemon})


async def test_with_kill_mode_group_a_child_in_a_session_of_its_own_goes_on() -> None:
    async with running("leaves_children:asgi", "--kill-mode", "group", workers=1) as master:
        children = await start(master, *WAYS)
        try:
            await a_crash(master, 0)
            await master.said("-> serving", times=2)
            assert await master.stop() == 0
            assert await left(children, lambda found: True) == {"lives": len(WAYS)}
        finally:
            end(children)


async def test_what_was_there_before_the_master_and_what_comes_from_elsewhere_goes_on(
    no_groups: tuple[str, ...],
) -> None:
    """A shell that starts a helper and becomes the master by exec, as entry points of containers do."""
    shell = 'setsid sleep 600 </dev/null >/dev/null 2>&1 & echo "helper $!" >&2; exec "$@"'
    under = (*no_groups, "/bin/sh", "-c", shell, "sh")
    async with running("leaves_children:asgi", workers=1, under=under) as master:
        helper = {"helper": int((await master.said(r"helper (\d+)"))[1])}
        children = await start(master, *WAYS)
        try:
            await a_crash(master, 0)
            await master.said("-> serving", times=2)
            marked = {way: pid for way, pid in children.items() if not way.startswith("clean")}
            assert await left(marked, lambda found: found["lives"] == 0) == {"ended": len(marked)}
            assert await master.stop() == 0
            assert await left(helper, lambda found: True) == {"lives": 1}
        finally:
            end(children | helper)


async def test_the_log_names_what_was_ended() -> None:
    async with running("leaves_children:asgi", workers=1) as master:
        children = await start(master, "session", "twice")
        await a_crash(master, 0)
        line = await master.said(r"processes that a worker had started were ended with it.*")
        assert all(f"sleep (pid {pid})" in line[0] for pid in children.values())
        assert await master.stop() == 0


async def test_it_is_so_for_a_master_that_gives_up_roots_rights() -> None:
    try:
        subprocess.run([sys.executable, "-c", ""], check=True, user=65534, cwd="/")
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("no other user can be become here, or this interpreter is root's alone")
    async with running("leaves_children:asgi", "--user", "65534", "--group", "65534", workers=1) as master:
        children = await start(master, *WAYS)
        try:
            await a_crash(master, 0)
            assert await left(children, lambda found: found["lives"] == 0) == {"ended": len(WAYS)}
            assert await master.stop() == 0
        finally:
            end(children)


@pytest.mark.parametrize("preload", ["off", "on"])
async def test_a_master_inside_a_program_ends_them_and_leaves_the_programs_own_children_alone(preload: str) -> None:
    """It goes by the marks alone: what has none may be the program's."""
    command = [sys.executable, str(PROGRAMS / "embeds_master.py"), preload]
    program = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROGRAMS)
    assert program.stdin is not None
    assert program.stdout is not None
    ways = [way for way in WAYS if not way.startswith("clean")]
    children: dict[str, int] = {}
    try:
        with trio.fail_after(PATIENCE):
            port, own = map(int, (await program.stdout.receive_some()).split())
        children = {way: int((await get(port, f"/{way}")).split()[-1]) for way in ways}
        await program.stdin.aclose()
        with trio.fail_after(PATIENCE):
            assert await program.wait() == 0
        assert await left(children, lambda found: found["lives"] == 0) == {"ended": len(ways)}
        assert lives(own)
        children["own"] = own
    finally:
        end(children)
        program.kill()
        await program.wait()


async def test_as_process_1_of_a_container_it_spares_what_came_from_outside() -> None:
    unshare, nsenter = shutil.which("unshare"), shutil.which("nsenter")
    if (
        unshare is None
        or nsenter is None
        or subprocess.run([unshare, "--pid", "--fork", "true"], check=False).returncode
    ):
        pytest.skip("no pid namespace can be made here")
    container = (unshare, "--pid", "--fork", "--mount-proc", "--kill-child")
    async with running("leaves_children:asgi", workers=1, under=container) as master:
        inside = int(Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text())
        job = [nsenter, f"--target={inside}", "--pid", "--mount", "/bin/sh", "-c"]
        done = subprocess.run(
            [*job, "setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $!"], capture_output=True, check=True
        )
        names = [way for way in WAYS if not way.startswith("clean")]
        children = {**await start(master, *names), "from outside": int(done.stdout)}
        seen = Path(f"/proc/{inside}/root/proc")
        await a_crash(master, 0)
        await master.said("-> serving", times=2)

        def lives_inside(pid: int) -> bool:
            return (seen / str(pid)).exists()

        with trio.fail_after(PATIENCE):
            while any(lives_inside(children[way]) for way in names):
                await trio.sleep(0.02)
        assert lives_inside(children["from outside"])
        os.kill(inside, signal.SIGTERM)
        assert await master.ended() == 0
