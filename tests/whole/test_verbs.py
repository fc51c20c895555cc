"""Every verb with a living master, a dead one and a stale socket, and as another user."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from rrmaster.cli.arguments import VERBS
from tests.whole.harness import PATIENCE, PROGRAMS, ROOT, Running, ask, rrmaster, running

ARGUMENTS = {"admin": ["127.0.0.1:0"], "scale": ["+1"], "restart": ["0"], "retire": ["0"], "stacks": ["0"]}
ASKING = [verb for verb in VERBS if verb not in ("check", "systemd-unit", "completion")]

GOOD = (PROGRAMS / "handlers.py").read_text()

QUICK = ("--probation", "100ms", "--soak", "100ms")


def write(path: Path, text: str) -> None:
    """Replace a program's file at once, as a deployment does, so that stale bytecode is not used."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


async def order(path: Path, verb: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run one verb, while the master's output is read."""
    return await trio.to_thread.run_sync(lambda: rrmaster(verb, *more, "--control", str(path)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def controlled(path: Path) -> tuple[str, str]:
    return "--control", str(path)


async def snapshot(path: Path) -> dict[str, object]:
    done = await order(path, "status", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


# --- a living master


async def test_status_and_workers_are_tables_of_80_columns_for_people_and_json_for_programs(path: Path):
    async with running("handlers:ident", *controlled(path), workers=2) as master:
        held = await master.hold(3)
        done = await order(path, "status")
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert max(map(len, lines)) <= 80
        assert f"(pid {master.pid}): handlers:ident, 2 of 2 workers serve" in done.stdout
        assert f"listens  127.0.0.1:{master.port}, backlog 0 of " in done.stdout
        assert sum(" serving " in line for line in lines) == 2
        told = await snapshot(path)
        assert told["accepted"] == 3
        assert {worker["pid"] for worker in told["workers"]} == set(master.workers)  # type: ignore[attr-defined]
        assert sum(worker["open"] for worker in told["workers"]) == 3  # type: ignore[attr-defined]
        await next(iter(held)).send_all(b"bye")
        with trio.fail_after(PATIENCE):
            while sum(worker["open"] for worker in (await snapshot(path))["workers"]) != 2:  # type: ignore[attr-defined]
                pass
        head, *rows = (await order(path, "workers")).stdout.splitlines()
        assert head.split()[:3] == ["SLOT", "ID", "PID"]
        assert [row.split()[0] for row in rows] == ["0", "1"]
        assert len(json.loads((await order(path, "workers", "--json")).stdout)) == 2
        pytest.importorskip("blessed")
        done = await order(path, "top")
        assert done.returncode == 1
        assert done.stderr == "rrmaster: top needs a terminal; `rrmaster status` does not\n"


async def test_scale_has_more_workers_and_fewer(path: Path):
    async with running("handlers:quick", *controlled(path), workers=1) as master:
        assert (await order(path, "scale", "+2")).stdout == "scaling from 1 to 3 workers\n"
        await master.until(lambda: sorted(master.workers.values()) == [0, 1, 2], "three serve")
        assert (await order(path, "scale", "1")).returncode == 0
        await master.until(lambda: list(master.workers.values()) == [0], "one serves")
        for wrong in ("-1", "0", "none"):
            assert (await order(path, "scale", wrong)).returncode == 2


async def test_a_good_reload_ends_with_0_and_tells_its_progress(path: Path):
    async with running("handlers:quick", *controlled(path), *QUICK, workers=2) as master:
        before = set(master.workers)
        done = await order(path, "reload")
        assert done.returncode == 0, done.stderr
        assert "starting generation 2" in done.stdout
        assert "generation 2 serves alone" in done.stdout
        await master.until(lambda: not before & set(master.workers), "the old have gone")


async def test_a_reload_onto_code_that_cannot_be_imported_ends_with_10_and_its_traceback(path: Path, tmp_path: Path):
    write(tmp_path / "app.py", GOOD)
    environ = {"PYTHONDONTWRITEBYTECODE": "1"}
    async with running("app:quick", *controlled(path), *QUICK, workers=2, app_dir=tmp_path, environ=environ) as master:
        before = master.workers
        write(tmp_path / "app.py", "raise RuntimeError('bad code')\n")
        done = await order(path, "reload")
        assert done.returncode == 10
        assert done.stderr.count("RuntimeError: bad code") == 1
        assert done.stdout.endswith("refused, no client saw the new code\n"), "the reason is said once"
        assert master.workers == before
        assert "code on disk was refused: RuntimeError: bad code" in (await order(path, "status")).stdout
        write(tmp_path / "app.py", GOOD)
        assert (await order(path, "reload")).returncode == 0
        assert "refused" not in (await order(path, "status")).stdout


async def test_two_reloads_at_once_are_one_and_a_13(path: Path, tmp_path: Path):
    (tmp_path / "app.py").write_text(GATED)
    async with running("app:quick", *controlled(path), *QUICK, workers=1, app_dir=tmp_path) as master:
        gate, first = tmp_path / "gate", list[subprocess.CompletedProcess[str]]()
        gate.touch()

        async def begin() -> None:
            first.append(await order(path, "reload"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(begin)
            await master.said("starting generation 2")
            assert (await order(path, "reload")).returncode == 13
            gate.unlink()
        assert first[0].returncode == 0


GATED = (
    GOOD
    + """
from pathlib import Path

while Path(__file__).with_name("gate").exists():
    time.sleep(0.01)
"""
)


async def test_a_worker_is_replaced_before_it_goes(path: Path):
    async with running("handlers:quick", *controlled(path), workers=2) as master:
        for number, verb in enumerate(("restart", "retire"), start=1):
            old = {slot: pid for pid, slot in master.workers.items()}
            assert (await order(path, verb, "1")).returncode == 0
            await master.said(rf"worker 1 \(pid {old[1]}\): serving -> draining")
            before, _, _ = master.text.partition(f"(pid {old[1]}): serving -> draining")
            assert before.count("proving -> serving") == 2 + number, verb
            assert old[0] in master.workers
            done = await order(path, verb, "9")
            assert done.returncode == 1
            assert done.stderr == "rrmaster: no worker serves in slot 9\n"


async def test_stop_lets_all_connections_finish_and_waits_for_the_end(path: Path):
    async with running("handlers:ident", *controlled(path), workers=1) as master:
        (held,) = await master.hold(1)
        done: list[subprocess.CompletedProcess[str]] = []

        async def stop() -> None:
            done.append(await order(path, "stop"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            await master.said("serving -> draining")
            assert " draining " in (await order(path, "status")).stdout
            assert not done, "somebody is served still"
            await held.send_all(b"bye")
        assert done[0].returncode == 0
        assert done[0].stdout.splitlines()[-1] == "stopped"
        assert await master.ended() == 0
        assert not path.exists()


async def test_stop_now_cuts_connections(path: Path):
    async with running("handlers:ident", *controlled(path), workers=1) as master:
        await master.hold(1)
        assert (await order(path, "stop", "--now")).returncode == 0
        assert await master.ended() == 0


async def test_logs_and_stacks_are_those_of_one_worker(path: Path):
    async with running("handlers:prints", *controlled(path), workers=2) as master:
        pid = int(await ask(master.port, b"7"))
        await master.said(r"out 7")
        slot = master.workers[pid]
        assert f"worker {slot} (pid {pid}) | out 7" in (await order(path, "logs")).stdout
        assert "out 7" in (await order(path, "logs", str(slot))).stdout
        assert (await order(path, "logs", str(1 - slot))).stdout == ""
        for slot in (0, 1):
            done = await order(path, "stacks", str(slot))
            assert done.returncode == 0, done.stderr
            assert "Current thread" in done.stdout


async def test_events_are_one_json_object_per_line(path: Path):
    async with running("handlers:quick", *controlled(path), workers=1) as master:
        command = [sys.executable, "-m", "rrmaster", "events", "-n", "100", *controlled(path)]
        follower = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert follower.stdout is not None
        unread = b""
        with trio.fail_after(PATIENCE):
            while b"received SIGTTIN" not in unread:
                master.signal(signal.SIGTTIN) if not unread else None
                unread += await follower.stdout.receive_some()
        follower.send_signal(signal.SIGINT)
        with trio.fail_after(PATIENCE):
            assert await follower.wait() == 130
        await follower.stdout.aclose()
        events = [json.loads(line) for line in unread.splitlines()]
        assert all({"time", "level", "event", "text"} <= event.keys() for event in events)


async def test_clients_that_hang_or_flood_delay_no_other_client(path: Path):
    async with running("handlers:quick", *controlled(path), workers=2) as master:
        with _many(path, 40) as hanging:
            for sock in hanging[:8]:
                sock.settimeout(1)
                try:
                    sock.sendall(b'{"do": "status"}\n' * 2000)
                except OSError:
                    pass  # its share is used up, and the master reads no faster
            for _ in range(20):
                assert await ask(master.port)
            assert (await order(path, "status")).returncode == 0


@contextmanager
def _many(path: Path, count: int) -> Iterator[list[socket.socket]]:
    socks = []
    for _ in range(count):
        sock = socket.socket(socket.AF_UNIX)
        socks.append(sock)
        sock.connect(os.fspath(path))
    try:
        yield socks
    finally:
        for sock in socks:
            sock.close()


# --- which master


async def test_a_second_master_has_a_second_name_and_a_verb_asks_which(tmp_path: Path):
    tmp_path.chmod(0o700)
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    async with (
        running("handlers:quick", workers=1, environ=environ),
        running("handlers:quick", workers=1, environ=environ),
    ):
        sockets = sorted(path.name for path in (tmp_path / "rrmaster").iterdir())
        assert sockets == ["default-2.sock", "default.sock"]
        done = await trio.to_thread.run_sync(lambda: rrmaster("status", "--name", "default-2", environ=environ))
        assert done.returncode == 0
        assert "default-2 (pid " in done.stdout
        done = await trio.to_thread.run_sync(lambda: rrmaster("status", environ=environ))
        assert done.returncode == 1
        assert "several masters run: " in done.stderr


async def test_a_name_or_path_that_is_taken_is_refused(path: Path):
    async with running("handlers:quick", *controlled(path), workers=1) as master:
        done = await trio.to_thread.run_sync(
            lambda: rrmaster("-b", "127.0.0.1:0", *controlled(path), "rrmaster.demo:echo")
        )
        assert done.returncode == 1
        assert f"the master with pid {master.pid} listens at {path}" in done.stderr
        assert (await order(path, "status")).returncode == 0


# --- no master


@pytest.mark.parametrize("verb", ASKING)
def test_every_verb_without_a_master_is_one_line_and_status_1(verb: str, path: Path):
    _refused(verb, path, "there is no such socket")


@pytest.mark.parametrize("verb", ASKING)
def test_every_verb_at_a_stale_socket_is_one_line_and_status_1(verb: str, path: Path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    _refused(verb, path, "no master listens there; the one that made it has ended")


def _refused(verb: str, path: Path, why: str) -> None:
    done = rrmaster(verb, *ARGUMENTS.get(verb, []), "--control", str(path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"rrmaster: {path}: {why}")
    assert done.stderr.count("\n") == 1


async def test_a_master_that_was_killed_leaves_a_socket_that_the_next_one_replaces(path: Path):
    async with running("handlers:quick", *controlled(path), workers=1) as master:
        await _kill(master)
    assert path.exists()
    assert rrmaster("status", *controlled(path)).returncode == 1
    async with running("handlers:quick", *controlled(path), workers=1):
        assert (await order(path, "status")).returncode == 0


async def _kill(master: Running) -> None:
    master.signal(signal.SIGKILL)
    await master.ended()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_every_verb_as_another_user_is_refused():
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = Path(directory) / "control.sock"
        async with running("handlers:quick", *controlled(path), workers=1) as master:
            for verb in ASKING:
                words = [verb, *ARGUMENTS.get(verb, []), *controlled(path)]
                done = await trio.to_thread.run_sync(lambda words=words: rrmaster(*words, cwd=Path("/"), user=65534))
                assert done.returncode == 1, verb
                why = "it belongs to another user's master; become that user, or root"
                assert done.stderr == f"rrmaster: {path}: {why}\n", verb
            assert await master.stop() == 0


# --- without a master


def test_check_shows_every_setting_and_where_it_came_from(tmp_path: Path):
    (tmp_path / "rrmaster.toml").write_text("window = 5\n")
    done = rrmaster("check", "-w", "3", "--app-dir", str(PROGRAMS), "handlers:quick", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert rows["--workers"] == ["--workers", "3", "command", "line"]
    assert rows["--window"] == ["--window", "5", "rrmaster.toml"]
    assert rows["--backlog"] == ["--backlog", "2048", "default"]
    assert done.stdout.splitlines()[-1] == "handlers:quick would be served"


@pytest.mark.parametrize(
    ("deed", "options", "words"),
    [
        ("", [], "workers are forked: forked:tells is imported once"),
        (
            "thread",
            [],
            "workers import forked:tells one by one: while it was imported, it started a thread (a-poller);",
        ),
        ("thread", ["--preload", "on"], "workers are forked although forked:tells, while it was imported, started a"),
        ("thread", ["--preload", "off"], "workers import forked:tells one by one: --preload is off"),
        (
            "needs slot",
            [],
            "workers import forked:tells one by one: while it was imported, it asked for RRMASTER_WORKER",
        ),
    ],
)
def test_check_tells_whether_workers_would_be_forked(deed: str, options: list[str], words: str):
    done = rrmaster("check", *options, "--app-dir", str(PROGRAMS), "forked:tells", environ={"DEED": deed})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2].startswith(words)


def test_check_of_a_wrong_setting_is_2_and_of_an_application_that_does_not_start_3():
    assert rrmaster("check", "--window", "0", "handlers:quick").returncode == 2
    done = rrmaster("check", "--app-dir", str(PROGRAMS), "never_boots:app")
    assert done.returncode == 3
    assert "RuntimeError: the application cannot be imported" in done.stderr
    done = rrmaster("check", "--app-dir", str(PROGRAMS), "--ready-timeout", "1500ms", "never_ready:app")
    assert done.returncode == 3
    assert "it was not ready after 1.5 s" in done.stderr
    assert "never_ready.py" in done.stderr, "its stacks say where it hangs"


def test_a_misspelt_verb_is_reported():
    done = rrmaster("stauts")
    assert done.returncode == 2
    assert done.stderr == "rrmaster: stauts: neither a verb nor an application; did you mean status?\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str):
    done = rrmaster(verb, "--help")
    assert done.returncode == 0
    assert "usage: rrmaster" in done.stdout
