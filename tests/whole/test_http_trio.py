"""ASGI on trio, by anycorn: HTTP/1.1 and HTTP/2, their errors, and a drain that loses nothing."""

from __future__ import annotations

import signal
import ssl
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trio
import trustme
from websockets.sync.client import connect

from tests.whole.browser import DRAINS, Ends, browsing, customer, last_answer
from tests.whole.harness import BRIEF, PATIENCE, Running, running
from tests.whole.test_start import SERVE, rrmaster


def speaking(version: str, **more: object) -> httpx.AsyncClient:
    """A client of HTTP/1.1, or of HTTP/2 with prior knowledge."""
    return httpx.AsyncClient(http1=version == "1.1", http2=version == "2", timeout=PATIENCE, trust_env=False, **more)


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_an_application_is_served(version: str):
    """One fleet for the scope, bodies both ways, errors of four kinds, and a websocket."""
    options = ("--runtime", "trio", "--access-log", "--probe", "http:/sync", "--root-path", "/shop")
    async with running("with_trio:app", *options, workers=1) as master, speaking(version) as client:
        (pid,), url = master.workers, f"http://127.0.0.1:{master.port}"
        seen = (await client.get(f"{url}/?a=b")).json()
        assert (seen["client"][0], seen["server"], seen["scheme"]) == ("127.0.0.1", ["127.0.0.1", master.port], "http")
        assert (seen["root_path"], seen["path"], seen["greeting"]) == ("/shop", "/shop/", "good day")
        assert (seen["http_version"], seen["pid"], seen["asyncio"]) == (version, pid, False)
        told = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
        seen = (await client.get(f"{url}/", headers=told)).json()
        assert (seen["client"], seen["scheme"]) == (["192.0.2.1", 0], "https")
        assert (await client.post(f"{url}/length", content=b"x" * 1_000_000)).json() == 1_000_000
        assert len((await client.get(f"{url}/stream")).content) == 200_000
        assert b"FastAPI on trio" in (await client.get(f"{url}/file")).content
        await _errors(master, client, url)
        assert (await client.get(f"{url}/sync")).json() == {"pid": pid}
        if version == "1.1":
            assert await trio.to_thread.run_sync(_talk, master.port) == [str(pid), "hello"]
        await master.said(rf'worker 0 \| 127\.0\.0\.1:\d+ "GET /shop/\?a=b HTTP/{version}" 200 \d+ \d+\.\d ms')
        assert list(master.workers) == [pid]


async def _errors(master: Running, client: httpx.AsyncClient, url: str) -> None:
    for how in ("raise", "group", "exit"):
        assert (await client.get(f"{url}/boom?how={how}")).status_code == 500, how
    await master.said("ZeroDivisionError: the view's own trouble", 2)
    with pytest.raises(httpx.RemoteProtocolError):
        assert (await client.get(f"{url}/boom?how=late")).content != b"begun"
    await master.said("ZeroDivisionError: the view's own trouble", 3)


def _talk(port: int) -> list[str | bytes]:
    with connect(f"ws://127.0.0.1:{port}/ws", open_timeout=PATIENCE, proxy=None) as websocket:
        pid = websocket.recv(PATIENCE)
        websocket.send("hello")
        return [pid, websocket.recv(PATIENCE)]


async def test_a_client_of_tls_chooses_http_2(tmp_path: Path):
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    options = ("--runtime", "trio", "--certfile", str(tmp_path / "cert.pem"))
    async with running("with_trio:app", *options, workers=1) as master:
        for http2 in (True, False):
            async with httpx.AsyncClient(http2=http2, verify=context, timeout=PATIENCE) as client:
                seen = (await client.get(f"https://127.0.0.1:{master.port}/")).json()
            assert (seen["scheme"], seen["http_version"]) == ("https", "2" if http2 else "1.1")
        assert await master.stop() == 0


async def test_other_applications():
    """Quart-Trio, which is recognized by its class, and an application without lifespan."""
    for application, runtime in (("with_quart_trio:app", "auto"), ("secure:knows_no_life", "trio")):
        async with (
            running(application, "--runtime", runtime, workers=1) as master,
            browsing(master.port) as browser,
        ):
            assert (await browser.get("/")).status == 200
            assert "Traceback" not in master.text


def test_an_application_that_refuses_to_start_says_why():
    ended = rrmaster(*SERVE, "--runtime", "trio", "secure:refuses_to_start")
    assert ended.returncode == 3
    assert ended.stderr.count("the database is away") == 1
    ended = rrmaster(*SERVE, "--runtime", "trio", "--lifespan", "on", "secure:knows_no_life")
    assert ended.returncode == 3
    assert "AssertionError" in ended.stderr


async def test_every_kind_of_connection_ends_properly():
    """Virgin, idle and busy connections, a task after the answer, and HTTP/2 with a long answer on its way."""
    async with running("with_trio:app", "--runtime", "trio", *DRAINS, workers=1) as master:
        async with (
            browsing(master.port) as virgin,
            browsing(master.port) as idle,
            browsing(master.port) as busy,
            browsing(master.port) as after,
            speaking("2") as client,
        ):
            url = f"http://127.0.0.1:{master.port}"
            assert not (await idle.get("/")).last
            await busy.ask("/slow?ms=700")
            assert (await after.get("/afterwards", Connection="close")).status == 200
            async with client.stream("GET", f"{url}/stream") as response, trio.open_nursery() as nursery:
                nursery.start_soon(_answered, client, f"{url}/slow?ms=500")
                nursery.start_soon(_answered, client, f"{url}/slow?ms=900")
                master.signal(signal.SIGTERM)
                await master.said("serving -> draining")
                await last_answer(virgin)
                await last_answer(idle)
                answer = await busy.answer()
                assert (answer.status, answer.last) == (200, True)
                assert len(await response.aread()) == 200_000
        assert await master.ended() == 0
        assert master.text.index("done afterwards") < master.text.index("lifespan ends")
        assert "Traceback" not in master.text


async def _answered(client: httpx.AsyncClient, url: str) -> None:
    assert (await client.get(url)).status_code == 200


async def test_a_silent_client_is_not_waited_for_for_long():
    """An idle client of HTTP/2 gets GOAWAY at once, a virgin connection has 2 s, the others half of the timeout."""
    async with running("with_trio:app", "--runtime", "trio", *DRAINS, workers=1) as master:
        noted = Ends()
        ends = noted.at
        async with browsing(master.port) as virgin, browsing(master.port) as idle, trio.open_nursery() as nursery:
            assert not (await idle.get("/")).last
            goes_away = await _idle_http_2(master.port)
            await nursery.start(noted.of_websocket, master.port)
            began = trio.current_time()
            master.signal(signal.SIGTERM)
            nursery.start_soon(noted.of, "virgin", virgin)
            nursery.start_soon(noted.of, "idle", idle)
            await _told_to_go_away(goes_away)
            ends["HTTP/2"] = trio.current_time()
        assert await master.ended() == 0
        assert ends["HTTP/2"] < ends["virgin"] < ends["idle"]
        assert ends["virgin"] - began >= 1.9
        assert min(ends["idle"], ends["websocket"]) - began >= 3.9


async def _idle_http_2(port: int) -> trio.SocketStream:
    """A connection of HTTP/2 that has had an answer."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    settings, get = b"\0\0\0\4\0\0\0\0\0", b"\0\0\6\1\5\0\0\0\1" + b"\x82\x84\x86\x41\x01x"
    await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + get)
    said = b""
    with trio.fail_after(PATIENCE):
        while b"\0\0\0\0\1\0\0\0\1" not in said:  # an empty frame of data, the last of its stream
            said += await stream.receive_some()
    return stream


async def _told_to_go_away(stream: trio.SocketStream) -> None:
    said = b""
    with trio.fail_after(PATIENCE):
        async for data in stream:
            said += data
    await stream.aclose()
    assert said[-17:-8] == b"\0\0\x08\7\0\0\0\0\0", said  # the frame of GOAWAY: 8 bytes, kind 7


async def modern_customer(port: int, ledger: Counter[str], over: Callable[[], bool], think: float) -> None:
    """The same over HTTP/2, where GOAWAY ends a connection; a client repeats requests that were not begun."""
    async with speaking("2") as client:
        while not over():
            ledger[str((await client.get(f"http://127.0.0.1:{port}/slow?ms=20")).status_code)] += 1
            await trio.sleep(think)


async def test_a_reload_under_load_fails_no_request():
    async with running("with_trio:app", "--runtime", "trio", *BRIEF, workers=2) as master:
        ledger: Counter[str] = Counter()

        def over() -> bool:
            return master.text.count("draining -> gone, exited with status 0") >= 2

        async with trio.open_nursery() as nursery:
            for think in (0.0, 0.01, 0.3):
                nursery.start_soon(customer, master.port, ledger, over, think)
            nursery.start_soon(modern_customer, master.port, ledger, over, 0.3)
            master.signal(signal.SIGHUP)
            await master.said("committed: generation 2 serves alone")
        assert ledger.keys() == {"200"}, ledger
        assert await master.stop() == 0
