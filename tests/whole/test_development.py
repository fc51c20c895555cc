"""--reload: saved code serves soon, a broken save is reported once, and the last good code serves meanwhile."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest
import trio

from tests.whole.harness import OWN_FRAME, PATIENCE, Running, ask, gone, is_free, running

CODE = """
async def answer(stream):
    if await stream.receive_some() == b"stay":
        await stream.send_all(b"here")
        await stream.receive_some()
    await stream.send_all(b"{}")
"""
BROKEN = "import shop\nraise RuntimeError('bad code')\n"
SOON = 5.0
"""Seconds; it takes 0.3 on an idle machine."""


def save(folder: Path, text: str) -> None:
    """Replace a file at once, as most editors do, so that no reader sees a half-written one."""
    (folder / "app.new").write_text(text)
    (folder / "app.new").rename(folder / "app.py")


@asynccontextmanager
async def developing(
    folder: Path, *options: str, workers: int | None = None, ready: bool = True
) -> AsyncIterator[Running]:
    environ = {"WEB_CONCURRENCY": ""}
    async with running(
        "app:answer", "--reload", *options, workers=workers, app_dir=folder, ready=ready, environ=environ
    ) as master:
        yield master


async def serves(master: Running, answer: bytes) -> None:
    """Ask until the answer is this: an old worker may answer until the new ones have taken over."""
    with trio.fail_after(PATIENCE):
        while await ask(master.port) != answer:
            await trio.lowlevel.checkpoint()


def changes(master: Running) -> int:
    return len(re.findall(r"changed: reload", master.text))


async def test_a_day_of_a_developer(tmp_path: Path):
    save(tmp_path, CODE.format("one"))
    (tmp_path / "shop.py").touch()
    async with developing(tmp_path) as master:
        assert "with 1 worker" in master.text
        # Saved code serves, also when size and second of the file are the same as before.
        for count, word in enumerate(("two", "six", "ten"), 1):
            save(tmp_path, CODE.format(word))
            await serves(master, word.encode())
            await master.said("committed", count)
        assert len(re.findall(r"app\.py changed: reload", master.text)) == 3
        # A broken save is reported once, and the last good code serves on.
        await master.until(lambda: len(master.workers) == 1, "the one before is gone")
        good = master.workers
        save(tmp_path, BROKEN)
        await master.said("reload refused:\n")
        await master.said("generation 4 serves on")
        assert await ask(master.port) == b"ten"
        assert master.workers == good
        assert master.text.count("bad code") == 2  # the line of the code, and the message
        assert OWN_FRAME not in master.text
        # The worker is killed: the last good code is still there, in its template.
        os.kill(next(iter(good)), SIGKILL)
        assert await ask(master.port) == b"ten"
        assert not master.workers.keys() & good.keys()
        # Mended it takes over.
        save(tmp_path, CODE.format("new"))
        await serves(master, b"new")
        assert master.text.count("bad code") == 2
        assert await master.stop() == 0
    assert is_free(master.port)


async def test_without_a_template_broken_code_is_not_even_tried(tmp_path: Path):
    save(tmp_path, CODE.format("one"))
    (tmp_path / "shop.py").touch()
    async with developing(tmp_path, "--preload", "off") as master:
        save(tmp_path, BROKEN)
        await master.said("generation 1 serves on")
        os.kill(next(iter(master.workers)), SIGKILL)
        await master.said("no worker is started before the code changes")
        # Mended it takes over, and clients that have connected meanwhile are answered.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serves, master, b"new")
            save(tmp_path, CODE.format("new"))
        assert master.text.count("bad code") == 2


async def test_many_saves_are_one_reload_and_the_newest_code_comes_soonest(tmp_path: Path):
    save(tmp_path, CODE.format("one"))
    async with developing(tmp_path, workers=2) as master:
        before = master.workers
        master.signal(SIGSTOP)  # or it might look while this process is the one that waits
        for count in range(20):
            (tmp_path / f"part{count % 4}.py").write_text(f"# {count}")
        save(tmp_path, CODE.format("two"))
        master.signal(SIGCONT)
        await master.said("and 2 more changed: reload")
        await master.said("starting generation 2")
        # This reload is given up for the next, which begins before this one could be ready.
        save(tmp_path, "import time; time.sleep(600)\n")
        await master.said("starting generation 3")
        save(tmp_path, CODE.format("three"))
        await serves(master, b"three")
        await master.said("committed: generation 4")
        assert changes(master) == 3
        assert "superseded by another reload" in master.text
        for pid in before:
            await gone(pid)
        await master.until(lambda: len(master.workers) == 2, "the new ones serve alone")


async def test_a_long_poll_holds_up_neither_the_next_reload_nor_the_end(tmp_path: Path):
    save(tmp_path, CODE.format("one"))
    async with developing(tmp_path) as master:
        polls = []
        for count, word in enumerate((b"two", b"six"), 1):
            poll = (await master.burst(1))[0]
            await poll.send_all(b"stay")
            assert await poll.receive_some() == b"here"
            polls.append(poll)
            save(tmp_path, CODE.format(word.decode()))
            with trio.fail_after(SOON):
                await serves(master, word)
            await master.said("committed", count)
        with trio.fail_after(SOON):
            assert await master.stop() == 0


async def test_a_first_start_that_fails_waits_for_the_code_and_keeps_clients_waiting(tmp_path: Path):
    save(tmp_path, BROKEN)
    (tmp_path / "shop.py").touch()
    async with developing(tmp_path, workers=2, ready=False) as master:
        await master.said("no worker is started before the code changes")
        assert master.text.count("RuntimeError: bad code") == 1
        answers: Counter[str] = Counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, master.port, b"?", answers)
            save(tmp_path, "def answer(:\n")  # another mistake
            await master.said("SyntaxError")
            await master.said("no worker serves")
            save(tmp_path, CODE.format("good"))
        assert answers == {"answered": 1}
        await master.said("ready: 2 of 2 workers serve")
        assert changes(master) == 2
        assert master.text.count("RuntimeError: bad code") == 1


async def test_a_crash_loop_ends_until_the_code_changes(tmp_path: Path):
    dies = "import os, threading\nthreading.Timer(0.2, os._exit, (7,)).start()\n" + CODE.format("dies")
    save(tmp_path, dies)
    async with developing(tmp_path, ready=False) as master:
        await master.said("no worker is started before the code changes")
        deaths = master.text.count("exited with status 7")
        assert deaths <= 4
        save(tmp_path, CODE.format("good"))
        await serves(master, b"good")
        assert master.text.count("exited with status 7") == deaths


@pytest.mark.parametrize("broken", [False, True], ids=["serving", "waiting for code"])
async def test_the_end_is_quick_and_leaves_no_worker(broken: bool, tmp_path: Path):
    save(tmp_path, "1/0\n" if broken else CODE.format("one"))
    async with developing(tmp_path, ready=not broken) as master:
        await master.said("before the code changes" if broken else "ready: 1 of 1")
        waiting = await master.burst(1)
        if not broken:
            assert await ask(master.port) == b"one"
        workers = master.workers
        await waiting[0].aclose()
        began = trio.current_time()
        assert await master.stop() == 0
        assert trio.current_time() - began < SOON
        for pid in workers:
            await gone(pid)


async def test_inside_a_trio_program_it_is_a_setting_like_any_other(tmp_path: Path):
    import rrmaster

    save(tmp_path, CODE.format("one"))
    settings = rrmaster.Settings("app:answer", bind="127.0.0.1:0", app_dir=str(tmp_path), reload=True)
    with trio.fail_after(PATIENCE):
        async with rrmaster.open_master(settings) as master:
            await master.scale(1)
            port = int(master.addresses[0].rpartition(":")[2])
            assert await ask(port) == b"one"
            save(tmp_path, CODE.format("two"))
            while await ask(port) != b"two":
                await trio.lowlevel.checkpoint()
