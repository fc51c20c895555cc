"""The log of a real fleet: in a file, as JSON, on a full disk, and with a reader that has stalled."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import trio

from tests.whole.harness import PATIENCE, Running, ask, running

GROWTH = 14
"""MiB: the queue's 8, and what a busy master's allocator keeps."""


async def until(true: Callable[[], object], what: str) -> None:
    """Wait until this holds for a file."""
    with trio.move_on_after(PATIENCE):
        while not true():
            await trio.sleep(0.005)
        return
    raise AssertionError(f"in vain: {what}")


async def ready(path: Path) -> int:
    """Wait until the log says that the master is ready; returns the port."""
    await until(lambda: path.exists() and "ready: " in path.read_text(), "ready")
    match = re.search(r" on \S*?:(\d+)", path.read_text())
    assert match
    return int(match[1])


def memory(master: Running) -> float:
    """Resident memory in MiB."""
    with open(f"/proc/{master.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def test_with_a_log_file_all_is_there_and_stderr_says_only_what_is_wrong(tmp_path: Path):
    path = tmp_path / "app.log"
    async with running("handlers:prints", "--log-file", str(path), ready=False, workers=2) as master:
        port = await ready(path)
        await ask(port, b"hello")
        await until(lambda: "| out hello" in path.read_text() and "| err hello" in path.read_text(), "both lines")
        worker = int(re.findall(r"worker \d \(pid (\d+)\): \w+ -> serving", path.read_text())[0])
        os.kill(worker, signal.SIGKILL)
        await master.said(rf"pid {worker}\)")
        assert await master.stop() == 0
    assert "stopped: " in path.read_text()
    assert [line for line in master.lines if line.split()[2] not in ("warning", "error")] == []
    assert "| err" not in master.text


async def test_the_file_is_rotated_while_it_serves_and_no_line_is_lost(tmp_path: Path):
    path = tmp_path / "app.log"
    options = ("--log-file", str(path), "--log-max-size", "20KB", "--log-keep", "50")
    async with running("handlers:prints", *options, ready=False, workers=2) as master:
        port = await ready(path)
        for number in range(400):
            await ask(port, b"%d. %s" % (number, b"x" * 50))
        assert await master.stop() == 0
    files = list(tmp_path.iterdir())
    assert len(files) > 3
    assert all(file.stat().st_size <= 20_000 for file in files)
    assert sorted(re.findall(r"\| out (\d+)\.", "".join(file.read_text() for file in files)), key=int) == [
        str(number) for number in range(400)
    ]


async def test_usr1_opens_a_file_that_was_moved_away_again(tmp_path: Path):
    path = tmp_path / "app.log"
    async with running("handlers:quick", "--log-file", str(path), ready=False, workers=1) as master:
        port = await ready(path)
        path.rename(tmp_path / "moved")
        master.signal(signal.SIGUSR1)
        await until(path.exists, "a new file")
        assert await ask(port)
        assert await master.stop() == 0
    assert "stopped: " in path.read_text()


async def test_a_full_disk_is_told_and_serving_goes_on(tmp_path: Path):
    path = tmp_path / "app.sock"
    async with running("handlers:prints", "--log-file", "/dev/full", bind=f"unix:{path}", ready=False) as master:
        await master.said("trouble with the log file /dev/full: No space left on device")
        await until(path.exists, "a socket")
        with trio.fail_after(PATIENCE):
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(b"hello")
                assert await stream.receive_some()
        assert await master.stop() == 0
    assert master.text.count("No space left") == 1


async def test_a_log_file_that_cannot_be_is_refused_at_the_start(tmp_path: Path):
    where = str(tmp_path / "no" / "app.log")
    async with running("handlers:quick", "--log-file", where, ready=False) as master:
        assert await master.ended() == 2
        await master.said(r"rrmaster: --log-file: cannot write '.*app.log': No such file or directory")


async def test_as_json_every_line_is_an_object():
    async with running("handlers:prints", "--log-format", "json", ready=False, workers=2) as master:
        await master.said('"message": "ready: ')
        await ask(master.port, b'quote " and \\ and \x1b[31m')
        await master.said(r'quote \\" and')
        assert await master.stop() == 0
    entries = [json.loads(line) for line in master.lines]
    assert all(list(entry)[:4] == ["time", "level", "event", "message"] for entry in entries)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"]) for entry in entries)


async def test_a_workers_line_names_the_worker_that_printed_it():
    async with running("handlers:prints", "--log-format", "json", ready=False, workers=1) as master:
        await master.said('"message": "ready: ')
        pid = int(await ask(master.port, b"hello"))
        await master.said("err hello")
        await master.said("out hello")
    entries = [entry for entry in map(json.loads, master.lines) if "hello" in entry["message"]]
    names = ("event", "slot", "pid", "generation", "stream", "message")
    assert {tuple(entry[name] for name in names) for entry in entries} == {
        ("worker.output", 0, pid, 1, "stdout", "out hello"),
        ("worker.output", 0, pid, 1, "stderr", "err hello"),
    }


async def test_a_gigabyte_of_output_with_a_stalled_reader_delays_no_client_and_takes_no_memory():
    async with running("handlers:floods", workers=2) as master:
        port = master.port
        assert await ask(port)
        before = memory(master)
        master.deaf = True
        for _ in range(20):
            assert await ask(port)
        assert memory(master) - before < GROWTH
        assert await master.stop() == 0
