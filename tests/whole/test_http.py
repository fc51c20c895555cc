"""HTTP: every framework works, an error stays in its request, and what cannot be served is refused at the start."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from websockets.sync.client import connect

from tests.whole.browser import FRAMEWORKS, browsing
from tests.whole.harness import PATIENCE, PROGRAMS, ROOT, Running, ask, running

HAVE_WEBSOCKETS = {"with_fastapi:app", "with_starlette:make", "with_quart:app"}

HTTP = "\r\n".join(["{} HTTP/1.1", "Host: test", "{}", "", ""])

MEGABYTES = 3


@pytest.mark.parametrize("application", FRAMEWORKS)
async def test_a_framework_serves_all_it_has(application: str):
    """One fleet for an answer, streams both ways, a websocket, and an error that reaches no other request."""
    async with running(application, *FRAMEWORKS[application], workers=1) as master:
        (pid,) = master.workers
        async with browsing(master.port) as browser:
            answer = await browser.get("/")
            assert (answer.status, answer.json["pid"]) == (200, pid)
            assert not answer.last, "it is kept alive"
            answer = await browser.get("/stream")
            assert answer.body == b"".join(b"%03d\n" % number for number in range(100))
            assert (await browser.get("/boom")).status == 500
        await master.said("ZeroDivisionError: the view's own trouble")
        await upload(master, chunked=application != "with_django:wsgi")
        if application in HAVE_WEBSOCKETS:
            await trio.to_thread.run_sync(converse, master.port, pid)
        assert list(master.workers) == [pid], "it lives"
        assert await master.stop() == 0


async def upload(master: Running, chunked: bool) -> None:
    """A body in pieces, without a length in advance.  (Django reads no such body over WSGI, on any server.)"""
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {MEGABYTES << 20}"
    async with await trio.open_tcp_stream("127.0.0.1", master.port) as stream:
        await stream.send_all(HTTP.format("POST /length", f"{length}\r\nConnection: close").encode())
        for _ in range(MEGABYTES * 16):
            await stream.send_all(b"10000\r\n" + b"x" * 65536 + b"\r\n" if chunked else b"x" * 65536)
        await stream.send_all(b"0\r\n\r\n" if chunked else b"")
        with trio.fail_after(PATIENCE):
            answer = b"".join([bytes(data) async for data in stream])
        assert answer.startswith(b"HTTP/1.1 200")
        assert str(MEGABYTES << 20).encode() in answer


def converse(port: int, pid: int) -> None:
    with connect(f"ws://127.0.0.1:{port}/ws", open_timeout=PATIENCE) as websocket:
        assert int(websocket.recv(PATIENCE)) == pid
        websocket.send("hear, hear")
        assert websocket.recv(PATIENCE) == "hear, hear"


async def test_the_scope_has_the_addresses_of_client_and_server(tmp_path: Path):
    """Client and server for TCP and unix listeners, the root path, trusted proxies, the lifespan's state, a probe."""
    path = tmp_path / "app.sock"
    options = ["--root-path", "/shop", "--bind", f"unix:{path}", "--access-log", "--probe", "http:/"]
    async with running("with_fastapi:app", *options, workers=1) as master:
        await master.said("lifespan begins, worker 0")
        async with browsing(master.port) as browser:
            said = (await browser.get("/?a=b")).json
            assert said["client"] == list(browser.stream.socket.getsockname())
            assert said["server"] == ["127.0.0.1", master.port]
            assert (said["root"], said["scheme"], said["greeting"]) == ("/shop", "http", "good day")
            proxied = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
            said = (await browser.get("/", **proxied)).json
            assert (said["client"][0], said["scheme"]) == ("192.0.2.7", "https")
        async with await trio.open_unix_socket(str(path)) as stream:
            await stream.send_all(HTTP.format("GET /", "Connection: close").encode())
            answer = b"".join([bytes(data) async for data in stream])
            assert f'"client":null,"server":["{path}",null]'.encode() in answer
        await master.said(r'worker 0 \| 127\.0\.0\.1:\d+ "GET /shop/\?a=b HTTP/1\.1" 200 \d+ \d+\.\d ms')
        await master.said(r'worker 0 \| - "GET /shop/ HTTP/1\.1" 200', 2)
        assert await master.stop() == 0
        assert "lifespan ends" in master.text


async def test_a_worker_loads_only_what_its_runtime_needs():
    async with (
        running("asgi_apps:lists_modules", "--runtime", "uvloop", workers=1) as master,
        browsing(master.port) as browser,
    ):
        assert (await browser.get("/")).body == b"asyncio uvicorn uvloop uvloop"
    async with running("asgi_apps:told", "--runtime", "asyncio", workers=1) as master:
        (pid,) = master.workers
        assert await ask(master.port, b"?\n") == b"%d 0 asyncio\n" % pid


async def test_requests_are_counted_over_kept_connections():
    """So --max-requests means requests."""
    async with running("with_flask:app", "--max-requests", "20", "--heartbeat", "50ms", workers=1) as master:
        async with browsing(master.port) as browser:
            for _ in range(25):
                if (await browser.get("/")).last:
                    break
        await master.said(r"it has served \d+ \(--max-requests\)")
        await master.said("draining -> gone, exited with status 0")


async def test_a_stream_that_no_client_reads_gives_its_thread_back():
    async with running("with_flask:app", "--threads", "1", workers=1) as master:
        for times in (1, 2):
            assert b"200 OK" in await ask(master.port, HTTP.format("GET /endless", "").encode())
            await master.said("the stream has ended", times)
        assert await master.stop() == 0


REFUSED = {
    "asgi_apps:fails_to_start": ((), "the database does not answer"),
    "asgi_apps:asgi_2": ((), "which is not async; .* ASGI 2"),
    "asgi_apps:Asgi2": ((), "guarantee_single_callable"),
    "with_django:asgi": (("--runtime", "trio"), "Django, which needs asyncio"),
    "with_quart:app": (("--runtime", "trio"), "Quart, which needs asyncio"),
    "with_flask:app": (("--runtime", "trio"), "cannot be served on trio; say --runtime asyncio or --runtime uvloop"),
    "handlers:quick": (("--runtime", "uvloop"), "cannot be served on uvloop; say --runtime trio"),
    "with_starlette:make": ((), "say --factory"),
}


@pytest.mark.parametrize("application", REFUSED)
def test_what_cannot_be_served_is_refused_with_one_clear_line(application: str):
    options, words = REFUSED[application]
    command = [sys.executable, "-m", "rrmaster", "-w", "1", "-b", "127.0.0.1:0", "--app-dir", str(PROGRAMS)]
    done = subprocess.run([*command, *options, application], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 3, done.stderr
    *_, last = done.stderr.strip().splitlines()
    assert re.search(words, last), done.stderr


MISSING = """
import sys
sys.modules["uvicorn"] = None
from rrmaster.worker.loading import Application, CannotLoad, Kind
from rrmaster.worker.serving.runtimes import server_for
from tests.launches import a_launch
try:
    server_for(Application("shop:app", None, Kind.ASGI), a_launch())
except CannotLoad as error:
    print(error)
"""


def test_a_missing_extra_is_one_line_that_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", MISSING], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert "needs uvicorn, which is missing: pip install 'rrmaster[http]'" in done.stdout, done.stderr
