"""A reload loses nothing and refuses bad code: the new code is judged by what it does, and the old serves on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGHUP

import trio

from tests.whole.harness import BRIEF, PROGRAMS, Running, ask, gone, rrmaster, running
from tests.whole.test_faults import crowd

GOOD = (PROGRAMS / "handlers.py").read_text()

LOSS = "import ctypes, os, signal, threading, time\n"

BAD = {
    "raises at import": ("raise RuntimeError('bad code')", "RuntimeError: bad code"),
    "exits at import": ("import sys; sys.exit(3)", "SystemExit.3"),
    "ends the process at import": ("import os; os._exit(3)", "exited with status 3"),
    "has a typing mistake": ("def quick(:", "SyntaxError"),
    "is not callable": ("quick = 3", "cannot be called"),
    "dies after 300 ms": (GOOD + LOSS + "threading.Timer(0.3, os._exit, (5,)).start()", "exited with status 5"),
    "hangs after 300 ms": (
        GOOD + LOSS + "signal.signal(signal.SIGALRM, lambda *_: time.sleep(600))\nsignal.setitimer(0, 0.3)",
        "silent for",
    ),
    "crashes after 300 ms": (
        GOOD + LOSS + "signal.signal(signal.SIGALRM, lambda *_: ctypes.string_at(0))\nsignal.setitimer(0, 0.3)",
        "SIGSEGV",
    ),
    "fails its probe": (
        GOOD.replace(
            "async def quick(stream):", "async def quick(stream):\n    await stream.send_all(b'no')\n    return\n"
        ),
        "its probe failed",
    ),
}


def write(path: Path, text: str) -> None:
    """Replace a program's file at once, as a deployment does."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


@asynccontextmanager
async def serving(folder: Path, *options: str, workers: int = 2) -> AsyncIterator[Running]:
    """A fleet that serves the good code from a new folder.  No bytecode: its time stamp has whole seconds."""
    write(folder / "app.py", GOOD)
    environ = {"PYTHONDONTWRITEBYTECODE": "1"}
    async with running("app:quick", *options, workers=workers, app_dir=folder, environ=environ) as master:
        yield master


async def under_load(master: Running, until: Callable[[], bool]) -> Counter[str]:
    """A few clients, while something happens to the fleet."""

    def over() -> bool:
        return until() or master.process.returncode is not None

    return await crowd(master.port, 2, over)


async def test_bad_code_is_refused_and_no_client_sees_it(tmp_path: Path):
    # Probation is longer than the bad code waits, and so is the hang timeout.
    options = ["--probe", "probes:right", "--probe-failures", "1", "--probation", "1200ms", "--heartbeat", "200ms"]
    write(tmp_path / "probes.py", PROBE)
    async with serving(tmp_path, *options) as master:
        before = master.workers
        for fault, (code, reason) in BAD.items():
            said = len(master.text)
            write(tmp_path / "app.py", code)
            master.signal(SIGHUP)
            ledger = await under_load(master, lambda said=said: _over(master.text[said:]))
            assert ledger.keys() == {"answered"}, fault
            assert "reload refused" in master.text[said:], fault
            await master.until(lambda said=said, reason=reason: re.search(reason, master.text[said:]), reason)
            assert master.workers == before, fault
            for pid in {int(pid) for pid in re.findall(r"\(pid (\d+)\)", master.text[said:])} - before.keys():
                await gone(pid)
        # After all of these, good code is committed.
        write(tmp_path / "app.py", GOOD)
        said = len(master.text)
        master.signal(SIGHUP)
        assert (await under_load(master, lambda: _over(master.text[said:]))).keys() == {"answered"}
        await master.said("draining -> gone", 2)
        assert not before.keys() & master.workers.keys()


def _over(text: str) -> bool:
    return any(end in text for end in ("reload refused", "reload rolled back", "committed", "reload out of time"))


PROBE = """
async def right(stream):
    await stream.send_all(b"?")
    return (await stream.receive_some()).strip().isdigit()
"""


async def test_code_that_dies_under_traffic_is_rolled_back(tmp_path: Path):
    dies = GOOD.replace(
        "async def quick(stream):",
        "count = [0]\n\n\nasync def quick(stream):\n    count[0] += 1\n    if count[0] > 20: os._exit(4)",
    )
    async with serving(tmp_path, "--probation", "200ms") as master:
        before = master.workers
        write(tmp_path / "app.py", dies)
        master.signal(SIGHUP)
        ledger = await under_load(master, lambda: _over(master.text))
        assert "reload rolled back" in master.text
        await master.until(lambda: master.workers == before, "the old generation serves alone")
        # What the workers that died had in hand: a batch each at most, and one or two died.
        assert ledger["cut off"] <= 16
        assert ledger["refused"] == ledger["hung"] == 0
        write(tmp_path / "app.py", GOOD)
        master.signal(SIGHUP)
        assert (await under_load(master, lambda: "committed" in master.text)).keys() == {"answered"}
        await master.said("draining -> gone", 2)
        assert not before.keys() & master.workers.keys()


async def test_a_reload_with_a_small_surge_goes_in_batches_and_keeps_the_size(tmp_path: Path):
    async with serving(tmp_path, *BRIEF, "--surge", "1", workers=3) as master:
        before, fewest = set(master.workers), [3]

        def committed() -> bool:
            fewest[0] = min(fewest[0], len(master.workers))
            return "committed" in master.text

        master.signal(SIGHUP)
        ledger = await under_load(master, committed)
        assert ledger.keys() == {"answered"}
        assert fewest == [3]
        await master.said("draining -> gone", 3)
        assert not before & set(master.workers)
        assert "cannot be brought back" not in master.text


async def test_workers_that_have_served_enough_are_replaced_one_by_one(tmp_path: Path):
    async with serving(tmp_path, "--max-requests", "50") as master:
        fewest = [2]

        def enough() -> bool:
            fewest[0] = min(fewest[0], len(master.workers))
            return master.text.count("it has served") >= 3

        ledger = await under_load(master, enough)
        assert ledger.keys() == {"answered"}
        assert fewest == [2]


async def test_a_worker_that_grows_too_large_is_replaced(tmp_path: Path):
    async with serving(tmp_path, "--max-memory", "1MB", "--heartbeat", "50ms", workers=1) as master:
        await master.said("is replaced: it has grown to")
        await master.said("draining -> gone")


async def test_a_worker_that_fails_its_probe_later_is_replaced(tmp_path: Path):
    write(tmp_path / "probes.py", PROBE)
    options = ["--probe", "probes:right", "--probe-interval", "50ms", "--probe-timeout", "1s", "--probe-failures", "2"]
    ill = GOOD.replace(
        "async def quick(stream):",
        "sick = [False]\n\n\nasync def quick(stream):\n    data = await stream.receive_some()\n"
        "    sick[0] = sick[0] or data == b'be ill'\n"
        "    await stream.send_all(b'x' if sick[0] else _me())\n    return\n",
    )
    write(tmp_path / "ill.py", ill)
    async with running("ill:quick", *options, workers=2, app_dir=tmp_path) as master:
        await ask(master.port, b"be ill")
        await master.said("serving -> draining, its probe failed")
        await master.until(lambda: len(master.workers) == 2, "it is replaced")


async def test_between_bounds_the_fleet_grows_with_its_load_and_shrinks_again():
    options = ["--scale-up-window", "0s", "--scale-down-window", "1s"]
    async with running("handlers:ident", "--workers", "1:3", *options, workers=1) as master:
        held = await master.hold(6)
        await master.until(lambda: len(master.workers) >= 2, "it grows")
        for stream in held:
            await stream.send_all(b"bye")
        await master.until(lambda: len(master.workers) == 1, "it shrinks")


async def test_a_size_asked_for_during_a_reload_is_taken_when_it_is_over(tmp_path: Path):
    from signal import SIGTTIN

    async with serving(tmp_path, *BRIEF, workers=1) as master:
        master.signal(SIGHUP)
        await master.said("starting generation 2")
        master.signal(SIGTTIN)
        await master.said("waits until the reload is decided")
        await master.said("committed")
        await master.until(lambda: sorted(master.workers.values()) == [0, 1], "two serve")


async def test_stacks_show_threads_and_trios_tasks(tmp_path: Path):
    control = tmp_path / "control.sock"
    async with running("handlers:ident", "--control", str(control), workers=1) as master:
        await master.hold(1)
        code = await trio.to_thread.run_sync(verb, "stacks", "0", "--control", str(control))
        assert code == 0
        await master.said(r"worker 0 \| .*Current thread")
        await master.said(r"worker 0 \| Tasks of trio:")
        await master.said(r"worker 0 \| .*handlers.py:\d+ in ident")
        assert int(await ask(master.port)) in master.workers


def verb(*words: str) -> int:
    return rrmaster(*words).returncode


async def test_a_reload_that_takes_too_long_is_12(tmp_path: Path):
    control = tmp_path / "control.sock"
    options = ["--control", str(control), "--reload-timeout", "300ms"]
    async with serving(tmp_path, *options, workers=1) as master:
        before = master.workers
        write(tmp_path / "app.py", GOOD)
        code = await trio.to_thread.run_sync(verb, "reload", "--control", str(control))
        assert code == 12
        assert master.workers == before


async def test_after_a_refusal_the_replacement_loads_what_is_on_disk_and_the_status_says_so(tmp_path: Path):
    control = tmp_path / "control.sock"
    async with serving(tmp_path, "--control", str(control)):
        write(tmp_path / "app.py", "raise RuntimeError('bad code')\n")
        assert await trio.to_thread.run_sync(verb, "reload", "--control", str(control)) == 10
        done = await trio.to_thread.run_sync(status, str(control))
        assert "code on disk was refused" in done
        assert "bad code" in done


def status(control: str) -> str:
    return rrmaster("status", "--control", control).stdout


async def test_a_stop_during_a_probation_is_quick_and_clean(tmp_path: Path):
    async with serving(tmp_path, "--probation", "60s") as master:
        master.signal(SIGHUP)
        await master.said("2 of 2 ready, probation of 60 s")
        assert await master.stop() == 0
        assert "SIGKILL" not in master.text


async def test_a_reload_that_supersedes_another_leaves_the_old_generation_untouched(tmp_path: Path):
    control = tmp_path / "control.sock"
    async with serving(tmp_path, "--control", str(control), "--probation", "0", "--soak", "60s") as master:
        before = master.workers
        master.signal(SIGHUP)
        await master.until(lambda: len(master.workers) == 4, "both generations serve")
        second = set(master.workers) - before.keys()
        assert len(second) == 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, verb, "reload", "--supersede", "--control", str(control))
            await master.said("superseded by another reload")
            for pid in second:
                await gone(pid)
            assert before.keys() <= master.workers.keys()
            assert await master.stop() == 0


async def test_a_worker_killed_for_its_silence_leaves_the_master_at_rest():
    async with running("handlers:blocks", "--hang-timeout", "300ms", "--heartbeat", "50ms", workers=2) as master:
        ledger: Counter[str] = Counter()
        await ask(master.port, b"600000", ledger)
        assert ledger == {"cut off": 1}
        await master.until(lambda: len(master.workers) == 2, "the fleet is whole again")
        # A plan that was asked again and again for a slot that is already filled made 229 turns a second.
        before = turns(master.pid)
        with trio.move_on_after(1.0):
            await master.process.wait()
        assert turns(master.pid) - before < 150


def turns(pid: int) -> int:
    """Voluntary context switches of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
