"""The access log of a real fleet: the same line from every server, with the client that a trusted proxy names."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
import trio

from tests.whole.browser import browsing
from tests.whole.harness import PATIENCE, running

FORMAT = '%(h)s "%(r)s" %(s)s %(B)s "%(f)s" %({content-type}o)s %(worker)s'


async def lines_of(path: Path, count: int) -> list[str]:
    with trio.fail_after(PATIENCE):
        while len(lines := path.read_text().splitlines() if path.exists() else []) < count:
            await trio.sleep(0.02)
    return lines


@pytest.mark.parametrize(
    ("application", "options"),
    [("with_fastapi:app", ()), ("with_fastapi:app", ("--runtime", "trio")), ("with_flask:app", ())],
)
async def test_every_server_writes_the_same_line(application: str, options: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    more = ("--access-log", str(path), "--access-log-format", FORMAT)
    async with running(application, *options, *more, workers=1) as master, browsing(master.port) as browser:
        forged = {"X-Forwarded-For": "192.0.2.7", "Referer": 'http://x/" 500'}
        size = len((await browser.get("/?q=1", **forged)).body)
        kind = r"\S+"
        (line,) = await lines_of(path, 1)
        assert re.fullmatch(rf'192\.0\.2\.7 "GET /\?q=1 HTTP/1\.1" 200 {size} "http://x/\\x22 500" {kind} 0', line)
        assert (await browser.get("/boom")).status == 500
        assert '"GET /boom HTTP/1.1" 500' in (await lines_of(path, 2))[1]
        assert "GET /?q=1" not in master.text, "it is not in the log as well"


async def test_as_json_each_atom_is_a_field_in_a_file_that_usr1_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    options = ("--access-log", str(path), "--log-format", "json")
    async with running("with_fastapi:app", *options, ready=False, workers=1) as master:
        await master.said('"message": "ready: ')
        async with browsing(master.port) as browser:
            await browser.get("/?q=1")
            (line,) = await lines_of(path, 1)
            found = json.loads(line)
            assert (found["request"], found["status"], found["worker"]) == ("GET /?q=1 HTTP/1.1", 200, 0)
            path.rename(tmp_path / "moved")
            master.signal(signal.SIGUSR1)
            await browser.get("/?q=2")
            (line,) = await lines_of(path, 1)
            assert json.loads(line)["query"] == "q=2"
        assert await master.stop() == 0


@pytest.mark.parametrize("to_file", [True, False])
async def test_what_an_application_prints_without_a_newline_is_a_line_of_its_own(tmp_path: Path, to_file: bool) -> None:
    path = tmp_path / "access.log"
    option = f"--access-log={path}" if to_file else "--access-log"
    async with running("asgi_apps:mutters", option, workers=1) as master, browsing(master.port) as browser:
        for _ in range(2):
            assert (await browser.get("/")).status == 200
        await master.said(r"(?m)worker 0 \| half a line$", times=2)
        if to_file:
            assert all('"GET / HTTP/1.1" 200' in line for line in await lines_of(path, 2))
        else:
            await master.said(r'worker 0 \| 127\.0\.0\.1\S* "GET / HTTP/1\.1" 200', times=2)


async def test_a_mistake_in_a_format_is_one_line_and_status_2() -> None:
    async with running("with_fastapi:app", "--access-log", "--access-log-format", "%(z)s", ready=False) as master:
        assert await master.ended() == 2
        await master.said(r"rrmaster: --access-log-format: %\(z\)s is no atom of an access log; there are h, l")
        assert len(master.text.splitlines()) == 1


async def test_a_disk_that_is_full_costs_no_request() -> None:
    async with running("with_fastapi:app", "--access-log", "/dev/full", workers=1) as master:
        async with browsing(master.port) as browser:
            for _ in range(5):
                assert (await browser.get("/")).status == 200
        await master.said("trouble with the access log /dev/full: No space left on device")
        assert await master.stop() == 0
