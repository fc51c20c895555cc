"""Forked workers are like new ones and have their generation's code, whatever the disk has; none needs the template."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.whole.harness import BRIEF, PATIENCE, Running, ask, gone, rrmaster, running, status
from tests.whole.test_faults import crowd, stop_process
from tests.whole.test_reload import GOOD, serving, write


async def verb(control: Path, *words: str) -> int:
    done = await trio.to_thread.run_sync(lambda: rrmaster(*words, "--control", str(control)))
    return done.returncode


async def told(master: Running) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await ask(master.port))
    return found


def template(master: Running, which: int = -1) -> int:
    """The process id of the newest template that is loaded, from the log."""
    return int(re.findall(r"template \d+ \(pid (\d+)\) has imported", master.text)[which])


async def replaced(master: Running, pid: int) -> int:
    """Kill this worker, and wait for its replacement; returns the new process id."""
    before = set(master.workers)
    os.kill(pid, signal.SIGKILL)
    await master.until(lambda: pid not in master.workers and len(master.workers) == len(before), "it is replaced")
    return (master.workers.keys() - before).pop()


# --- as new


async def test_a_forked_worker_is_as_new_as_one_that_was_started() -> None:
    found: dict[str, dict[str, Any]] = {}
    for preload in ("off", "on"):
        async with running("forked:tells", "--preload", preload, workers=1, environ={"COLOUR": "red"}) as master:
            first = await told(master)
            await master.said(r"worker 0 \| unfinished line")
            await replaced(master, first["pid"])
            found[preload] = second = await told(master)
            assert second["parent"] == master.pid
            assert second["group"] == second["pid"]
            assert second["session"] == os.getsid(master.pid)
            assert not set(second["random"]) & set(first["random"])
            assert second["seeded"] == first["seeded"], "what was seeded on purpose stays as it is"
            assert second["hooked"] == [second["pid"]]
            assert (second["imported_by"] == second["pid"]) == (preload == "off")
            assert (second["id"], second["slot"], second["generation"]) == (2, 0, 1)
            assert re.fullmatch(r"[0-9a-f]{12}\.0000000002", second["environ"].pop("RRMASTER_STARTED_BY"))
            assert second["environ"] == {
                "RRMASTER_WORKER_ID": "2",
                "RRMASTER_WORKER_SLOT": "0",
                "RRMASTER_WORKER_COUNT": "1",
                "RRMASTER_GENERATION": "1",
            }
            assert await master.stop() == 0
    started, forked = found["off"], found["on"]
    assert forked["ps"] == started["ps"]
    for same in ("argv", "blocked", "ignored", "caught", "stdin", "write_through"):
        assert forked[same] == started[same], same
    kinds = [
        Counter(re.sub(r"\[\d+\]", "", target) for target in tells["descriptors"].values())
        for tells in (started, forked)
    ]
    assert kinds[0] == kinds[1], "and nothing that belongs to somebody else"


# --- what an import may leave behind


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("thread", r"it started a thread \(a-poller\); to fork them, do that in a start-up hook"),
        ("socket", r"it opened a socket of a pair \(descriptor \d+\) and opened a socket of a pair"),
        ("database", r"it opened /\S+/shop.db for writing \(descriptor \d+\)"),
        ("loop", r"it made an event loop \(descriptor \d+\)"),
        ("process", r"it started a process \(sleep\)"),
        ("timer", r"it started an interval timer"),
        ("slot", r"it asked for RRMASTER_WORKER_SLOT, which each worker has for itself"),
        ("needs slot", r"it asked for RRMASTER_WORKER_SLOT, which each worker has for itself"),
        ("pid", r"it took its process id \(forked.py:\d+\), which each worker has for itself; .* or say --preload on"),
        ("random value", r"it took a random value \(forked.py:\d+\), which each worker has for itself"),
    ],
)
async def test_what_is_not_safe_to_fork_is_said_in_one_line_and_not_forked(deed: str, words: str) -> None:
    async with running("forked:tells", workers=1, environ={"DEED": deed}) as master:
        await master.said(f"workers import forked:tells one by one: while it was imported, {words}")
        found = await told(master)
        assert found["imported_by"] == found["pid"]
        assert master.text.count("while it was imported") == 1
        assert await master.stop() == 0


async def test_files_that_are_only_read_do_not_prevent_a_fork() -> None:
    async with running("forked:tells", workers=1, environ={"DEED": "harmless"}) as master:
        found = await told(master)
        assert found["imported_by"] == template(master)


async def test_a_thread_that_each_forked_process_starts_again_does_not_prevent_a_fork() -> None:
    async with running("forked:tells", workers=1, environ={"DEED": "renewed"}) as master:
        found = await told(master)
        assert found["imported_by"] == template(master)
        assert found["threads"].count("OtelBatchSpanRecordProcessor") == 1


async def test_a_title_that_the_import_sets_is_that_of_forked_workers_too() -> None:
    shown = []
    for preload in ("off", "auto"):
        async with running("forked:tells", "--preload", preload, workers=1, environ={"DEED": "title"}) as master:
            found = await told(master)
            assert (found["imported_by"] == found["pid"]) == (preload == "off")
            shown.append(Path(f"/proc/{found['pid']}/cmdline").read_bytes().rstrip(b"\0"))
    assert shown == [b"shop", b"shop"]


async def test_preload_on_warns_of_what_is_unsafe_and_forks() -> None:
    async with running("forked:tells", "--preload", "on", workers=1, environ={"DEED": "thread"}) as master:
        await master.said(r"warning workers are forked although .* started a thread \(a-poller\) \(--preload on\)")
        found = await told(master)
        assert found["imported_by"] == template(master)


# --- the last good code


def answering(word: str) -> str:
    return f"async def quick(stream):\n    await stream.receive_some()\n    await stream.send_all(b'{word}')\n"


async def test_the_last_good_code_serves_whatever_the_disk_has(tmp_path: Path) -> None:
    control = tmp_path / "control.sock"
    async with serving(tmp_path, *BRIEF, "--control", str(control)) as master:
        write(tmp_path / "app.py", answering("one"))
        assert await verb(control, "reload") == 0
        over = False
        async with trio.open_nursery() as nursery:
            ledger: Counter[str] = Counter()

            async def load() -> None:
                ledger.update(await crowd(master.port, 2, lambda: over))

            # Code that raises: a killed worker is replaced by one without it.  (Not under load: kills cut connections.)
            write(tmp_path / "app.py", "raise RuntimeError('bad code')")
            for pid in list(master.workers):
                await replaced(master, pid)
                assert await ask(master.port) == b"one"
            nursery.start_soon(load)
            assert await verb(control, "reload") == 10
            await master.said("RuntimeError: bad code")
            assert master.text.count("RuntimeError: bad code") == 1
            write(tmp_path / "app.py", answering("two"))
            assert await verb(control, "reload") == 0
            assert await ask(master.port) == b"two"
            (tmp_path / "app.py").unlink()
            assert await verb(control, "rollback") == 0
            assert {await ask(master.port) for _ in range(4)} == {b"one"}
            assert (await status(control)).gone_back
            over = True
        assert ledger.keys() == {"answered"}
        # A replacement has this code now, too, and after a second rollback workers have the other code.
        await replaced(master, next(iter(master.workers)))
        assert {await ask(master.port) for _ in range(4)} == {b"one"}
        assert await verb(control, "rollback") == 0
        assert {await ask(master.port) for _ in range(4)} == {b"two"}
        assert await master.stop() == 0


async def test_an_old_worker_that_dies_in_a_reload_is_replaced_by_old_code(tmp_path: Path) -> None:
    control = tmp_path / "control.sock"
    options = ["--probation", "60s", "--control", str(control)]
    write(tmp_path / "app.py", GOOD)
    async with running("app:quick", *options, workers=2, app_dir=tmp_path) as master:
        before = set(master.workers)
        write(tmp_path / "app.py", answering("new"))
        master.signal(signal.SIGHUP)
        await master.said("2 of 2 ready, probation of 60 s")
        for pid in before:
            heir = await replaced(master, pid)
            assert int(await ask(master.port)) in master.workers
            assert heir in master.workers
        found = await status(control)
        assert Counter((w.generation, w.state) for w in found.workers) == {(1, "serving"): 2, (2, "proving"): 2}
        assert await master.stop() == 0


async def test_with_a_small_surge_a_reload_goes_back_to_the_old_code(tmp_path: Path) -> None:
    control = tmp_path / "control.sock"
    options = [*BRIEF, "--surge", "1", "--control", str(control)]
    async with serving(tmp_path, *options, workers=3) as master:
        write(tmp_path / "app.py", answering("one"))
        assert await verb(control, "reload") == 0
        # The second batch is bad: by then an old worker has gone.
        flag = tmp_path / "flag"
        dies = f"import os\nos.path.exists({str(flag)!r}) and os._exit(5)\nopen({str(flag)!r}, 'w').close()\n"
        hook = "import rrmaster\n@rrmaster.on_fork\ndef begin():\n" + re.sub("^", "    ", dies, flags=re.MULTILINE)
        write(tmp_path / "app.py", hook + "\n" + answering("two"))
        assert await verb(control, "reload") == 11
        await master.until(lambda: len(master.workers) == 3, "three serve")
        await master.said("rolled back", 1)
        with trio.fail_after(PATIENCE):
            while {await ask(master.port) for _ in range(6)} != {b"one"}:
                pass
        found = await status(control)
        assert [w.generation for w in found.workers if w.state == "serving"] == [2, 2, 2]


async def test_what_is_kept_is_shown_and_let_go_in_time(tmp_path: Path) -> None:
    control = tmp_path / "control.sock"
    options = [*BRIEF, "--control", str(control), "--rollback-window"]
    async with serving(tmp_path, *options, "0", workers=1) as master:
        first = template(master)
        done = await trio.to_thread.run_sync(lambda: rrmaster("rollback", "--control", str(control)))
        assert (done.returncode, "there is nothing to go back to" in done.stderr) == (1, True)
        assert await verb(control, "reload") == 0
        await gone(first)
        done = await trio.to_thread.run_sync(lambda: rrmaster("rollback", "--control", str(control)))
        assert (done.returncode, "--rollback-window is 0" in done.stderr) == (1, True)
    async with serving(tmp_path, *options, "1500ms", workers=1) as master:
        first = template(master)
        (only,) = (await status(control)).templates
        assert (only.pid, only.state, only.generation, only.kept_s) == (first, "in use", 1, None)
        assert only.uss is not None
        assert only.rss is not None
        assert only.uss < only.rss
        assert await verb(control, "reload") == 0
        new, old = (await status(control)).templates
        assert (new.state, new.generation, old.pid, old.state) == ("in use", 2, first, "previous")
        assert old.kept_s is not None
        assert 0 < old.kept_s <= 1.5
        text = (await trio.to_thread.run_sync(lambda: rrmaster("status", "--control", str(control)))).stdout
        assert re.search(r"template generation 1, previous for \S+ \(pid \d+", text)
        await gone(first)
        assert len((await status(control)).templates) == 1


# --- no worker needs the template


async def test_whatever_becomes_of_the_template_workers_are_replaced(tmp_path: Path) -> None:
    control = tmp_path / "control.sock"
    async with serving(tmp_path, "--control", str(control)) as master:
        # Killed: the spare takes its place, with the code as it was, and forks another spare.
        write(tmp_path / "app.py", "raise RuntimeError('bad code')")
        for _ in range(2):
            heir = await master.settled(control)
            (only,) = (await status(control)).templates
            assert only.pid is not None
            os.kill(only.pid, signal.SIGKILL)
            await gone(only.pid)
            await replaced(master, next(iter(master.workers)))
            (only,) = (await status(control)).templates
            assert only.pid == heir
        # Stopped: it has a second, and then the spare is asked.
        heir = await master.settled(control)
        stop_process(only.pid)
        await replaced(master, next(iter(master.workers)))
        await master.said("is lost: it has not forked within 1 s")
        await gone(only.pid)
        # Both gone: each worker imports what the disk has, and so does another template.
        write(tmp_path / "app.py", GOOD)
        second = await master.settled(control)
        for pid in (second, heir):
            os.kill(pid, signal.SIGKILL)
            await gone(pid)
        await replaced(master, next(iter(master.workers)))
        await master.said(r"has imported app:quick", 2)
        assert await master.settled(control)
        assert "RuntimeError" not in master.text
        assert int(await ask(master.port)) in master.workers
        assert await master.stop() == 0


GARBAGE = """
import os, socket
template = "RRMASTER_WORKER_SLOT" not in dict(os.environ)
for name in os.listdir("/proc/self/fd") if template else ():
    try:
        line = socket.socket(fileno=os.dup(int(name)))
    except OSError:
        continue
    if line.family == socket.AF_UNIX:
        for _ in range({count}):
            line.send({what})
    line.close()
"""


@pytest.mark.parametrize(
    ("what", "count"),
    [
        ("b'garbage'", 1),
        ("b'{}'", 1),
        ("""b'{"is": "Loaded", "hindrances": 3}'""", 1),
        ("""b'{"is": "Newborn", "number": 1, "pid": 1}'""", 100),
        ("b'x' * 60000", 1),
    ],
)
async def test_a_template_that_talks_nonsense_is_not_asked(tmp_path: Path, what: str, count: int) -> None:
    (tmp_path / "nonsense.py").write_text(GARBAGE.format(what=what, count=count) + answering("here"))
    async with running("nonsense:quick", "--preload", "on", workers=1, app_dir=tmp_path) as master:
        assert await ask(master.port) == b"here"
        await replaced(master, next(iter(master.workers)))
        assert await ask(master.port) == b"here"
        assert await master.stop() == 0


async def test_an_import_that_ends_its_template_from_outside_is_tried_by_each_worker(tmp_path: Path) -> None:
    code = (
        "import os, signal\nif 'RRMASTER_WORKER_SLOT' not in dict(os.environ): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "picky.py").write_text(code + answering("here"))
    async with running("picky:quick", workers=1, app_dir=tmp_path) as master:
        assert await ask(master.port) == b"here"
        assert await master.stop() == 0


async def test_the_first_start_says_once_what_is_wrong_with_the_application(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("raise RuntimeError('bad code')\n")
    async with running("bad:app", workers=4, app_dir=tmp_path, ready=False) as master:
        assert await master.ended() == 3
        await master.said("RuntimeError: bad code")
    assert master.text.count("RuntimeError: bad code") == 1


async def test_a_worker_that_cannot_begin_is_reported_like_one_that_cannot_be_imported(tmp_path: Path) -> None:
    code = "import rrmaster\n@rrmaster.on_fork\ndef connect():\n    raise OSError('no database')\n"
    (tmp_path / "bad.py").write_text(code + answering("never"))
    async with running("bad:quick", workers=2, app_dir=tmp_path, ready=False) as master:
        assert await master.ended() == 3
        await master.said("OSError: no database")


REFUSED = """
import errno, os
fork, refusals = os.fork, {refusals}
def refused():
    global refusals
    refusals -= 1
    if refusals >= 0:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()
os.fork = refused
"""
"""As at a limit of processes, which applies to root in a control group alone."""


@pytest.mark.parametrize("refusals", [1, 2, 1000])
async def test_at_a_limit_of_processes_the_template_waits_for_better_times(refusals: int, tmp_path: Path) -> None:
    """The first fork is one on trial, before the template says that it has imported the application."""
    (tmp_path / "app.py").write_text(REFUSED.replace("{refusals}", str(refusals)) + answering("well"))
    async with running("app:quick", workers=1, app_dir=tmp_path) as master:
        assert await ask(master.port) == b"well"
        assert "has imported app:quick" in master.text
        assert ("it could not fork: Resource temporarily unavailable" in master.text) == (refusals > 1)
        assert "Traceback" not in master.text
        assert await master.stop() == 0


# --- a sick template


def limit_memory(pid: int) -> None:
    """The template can still fork, but a forked worker has no room for a thread's stack."""
    size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (size + (1 << 20), size + (1 << 20)))


async def test_a_template_whose_workers_cannot_live_is_given_up_for_another(tmp_path: Path) -> None:
    control = tmp_path / "control.sock"
    async with serving(tmp_path, "--control", str(control)) as master:
        sick = {template(master), await master.settled(control)}
        for pid in sick:
            limit_memory(pid)
        heir = await replaced(master, next(iter(master.workers)))
        await master.said("2 of its workers in a row died before they were ready; the next one is started without it")
        await master.said(r"template 1 \(pid \d+\) is given up")
        assert "is started again in" not in master.text, "there is no crash loop, and no pause"
        assert heir in master.workers
        for pid in sick:
            await gone(pid)
        # The next worker is forked again.
        await master.said("has imported app:quick", 2)
        await master.settled(control)
        said = len(master.text)
        await replaced(master, next(iter(master.workers)))
        assert "died before" not in master.text[said:]
        assert not (await status(control)).crash_loop
        assert await master.stop() == 0


async def test_a_template_is_not_given_up_for_what_is_the_applications_trouble(tmp_path: Path) -> None:
    """A database is down for a while: a worker that is started without the template fails as well."""
    control, imports, down = tmp_path / "control.sock", tmp_path / "imports", tmp_path / "down"
    code = (
        f"import os, rrmaster\nwith open({str(imports)!r}, 'a') as file:\n    file.write('x')\n"
        f"@rrmaster.on_fork\ndef connect():\n    if os.path.exists({str(down)!r}): raise OSError('no database')\n"
    )
    (tmp_path / "shop.py").write_text(code + answering("here"))
    async with running("shop:quick", "--control", str(control), workers=2, app_dir=tmp_path) as master:
        mother = template(master)
        down.touch()
        os.kill(next(iter(master.workers)), signal.SIGKILL)
        await master.said("the next one is started without it")
        await master.said("is started again in")
        (only,) = (await status(control)).templates
        assert (only.pid, only.state) == (mother, "in use")
        down.unlink()
        await master.until(lambda: len(master.workers) == 2, "it is back")
        assert imports.read_text() == "xx", "the template, and one trial"
        assert await master.stop() == 0


# --- many


async def test_forks_leave_nothing_behind(tmp_path: Path) -> None:
    """Twenty forks here; the bench makes hundreds, and looks at the memory."""
    control = tmp_path / "control.sock"
    async with running("handlers:ident", "--control", str(control), workers=2) as master:
        mother = template(master)
        await master.settled(control)

        async def some(count: int) -> None:
            for _ in range(count):
                await replaced(master, next(iter(master.workers)))

        def held() -> int:
            return len(os.listdir(f"/proc/{mother}/fd"))

        await some(5)
        kept, of_template = master.descriptors(), held()
        await some(15)
        await master.at_rest(kept)
        assert held() == of_template
        children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
        states = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] for pid in children]
        assert "Z" not in states
        assert not Path(f"/proc/{mother}/task/{mother}/children").read_text().split()
        assert await master.stop() == 0


# --- what is shared


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        ("asgi", ()),
        ("asgi", ("--runtime", "asyncio", "--park-after", "off")),
        ("asgi", ("--runtime", "trio")),
        ("asgi", ("--runtime", "trio", "--no-proxy-headers", "--access-log", "-")),
        ("wsgi", ("--access-log", "-")),
        ("stream", ()),
        ("stream", ("--park-after", "1s")),
        ("streams", ()),
        ("streams", ("--runtime", "asyncio", "--park-after", "1s")),
    ],
)
async def test_a_forked_worker_imports_nothing_that_its_template_could_have(
    handler: str, options: tuple[str, ...]
) -> None:
    async with running(f"imports_late:{handler}", "--preload", "on", *options, workers=1) as master:
        for _ in range(2):
            async with await trio.open_tcp_stream("127.0.0.1", master.port) as client:
                await client.send_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                with trio.fail_after(PATIENCE):
                    answer = b"".join([part async for part in client])
            assert b"[]" in answer, answer
