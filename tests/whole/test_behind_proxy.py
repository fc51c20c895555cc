"""The PROXY protocol with every server: it names the client, and a connection without a header is not served."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
from pathlib import Path

import pytest
import trio
import trustme
from websockets.sync.client import connect as connect_websocket

from tests.whole.harness import PATIENCE, Running, closed, dial, running

CLIENT, LISTENER = ["192.0.2.7", 56324], ["198.51.100.1", 443]
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack("!H4s4sHH", 12, b"\xc0\0\2\7", b"\xc6\x33\x64\1", 56324, 443)
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

SERVERS = [("app", "uvloop"), ("app", "trio"), ("wsgi", "uvloop"), ("stream", "trio"), ("streams", "asyncio")]


async def answer(stream: trio.abc.Stream) -> list:
    """What the application has seen of a request that has been sent."""
    data, body = b"", None
    with trio.fail_after(PATIENCE):
        while body is None or len(body[2]) < int(body[1]):
            more = await stream.receive_some()
            assert more, f"ended after {data!r}"
            data += more
            body = re.search(rb"(?i)content-length: *(\d+)\r\n(?:.*\r\n)*?\r\n(.*)", data)
    return json.loads(body[2])


async def asked(master: Running, header: bytes) -> list:
    stream = await dial(master)
    await stream.send_all(header + REQUEST)
    return await answer(stream)


@pytest.mark.parametrize(("application", "runtime"), SERVERS)
async def test_the_client_is_the_one_that_the_proxy_names(application, runtime):
    """One fleet for both versions, headers in pieces, the proxy's own checks, headers that are refused, and a drain
    that begins before the header.  It becomes ready only if the master's own probes need no header."""
    options = ("--proxy-protocol", "auto", "--probe", "http:/", "--graceful-timeout", "8s", "--access-log")
    async with running(f"secure:{application}", *options, "--runtime", runtime, workers=1) as master:
        before = master.workers
        for header in (V1, V2, V2[:15] + b"\x0f" + V2[16:] + b"\4\0\0"):
            assert (await asked(master, header))[1] == CLIENT
        if application == "app":
            assert await asked(master, V2) == ["http", CLIENT, LISTENER]
            await master.said(rf'{CLIENT[0]}:{CLIENT[1]} "GET / HTTP/1.1" 200')
        for header in (LOCAL, b"PROXY UNKNOWN\r\n"):
            assert (await asked(master, header))[1][0] == "127.0.0.1"
        await _in_pieces(master)
        await _refused(master)
        assert master.workers == before
        virgin, begun = await dial(master), await dial(master)
        await begun.send_all(V1[:20])
        assert (await asked(master, V1))[1] == CLIENT  # so those before it are in the worker's hands
        master.signal(signal.SIGTERM)
        await master.said("serving -> draining")
        await virgin.send_all(V2 + REQUEST)
        assert (await answer(virgin))[1] == CLIENT
        await begun.send_all(V1[20:] + REQUEST)
        assert (await answer(begun))[1] == CLIENT
        assert await master.ended() == 0
        assert "Traceback" not in master.text
        assert master.text.count("was closed: ") == 1


async def _in_pieces(master: Running) -> None:
    """Send a header byte by byte, the last one together with the request, no byte of which may be lost."""
    for header in (V1, V2):
        stream = await dial(master)
        for byte in header[:-1]:
            await stream.send_all(bytes([byte]))
            await trio.lowlevel.checkpoint()
        await stream.send_all(header[-1:] + REQUEST)
        assert (await answer(stream))[1] == CLIENT


async def _refused(master: Running) -> None:
    for begin in (REQUEST, b"PROXY TCP4 1.1.1.1 nowhere 1 1\r\n" + REQUEST, V2[:12] + b"\x11" + V2[13:] + REQUEST,
                  b"PROXY " + b"x" * 200, V2[:14] + b"\xff\xff" + b"x" * 9000):  # fmt: skip
        stream = await dial(master)
        await stream.send_all(begin)
        assert await closed(stream) == b"", begin
    for left in (b"", V1[:9]):
        stream = await dial(master)
        await stream.send_all(left)
        await stream.aclose()


async def test_tls_begins_behind_the_header(tmp_path: Path):
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    options = ("--proxy-protocol", "v2", "--certfile", str(tmp_path / "cert.pem"))
    for application in ("app", "stream"):
        async with running(f"secure:{application}", *options, workers=1) as master:
            stream = await dial(master)
            await stream.send_all(V2)  # the hello follows, in the same packet or the next
            secure = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)
            await secure.send_all(REQUEST)
            assert (await answer(secure))[:2] == ["https" if application == "app" else "stream", CLIENT]
            if application == "app":
                seen = await trio.to_thread.run_sync(_ask_websocket, master.port, context)
                assert json.loads(seen) == ["wss", CLIENT, LISTENER]
            wrong = await dial(master)
            await wrong.send_all(V1)
            assert await closed(wrong) == b""
            await master.said(r"from 127.0.0.1:\d+ was closed: no PROXY header of version 2")


def _ask_websocket(port: int, context: ssl.SSLContext) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        sock.sendall(V2)
        with connect_websocket(
            "wss://localhost/", sock=sock, ssl=context, open_timeout=PATIENCE, proxy=None
        ) as websocket:
            return str(websocket.recv(timeout=PATIENCE))


async def test_only_trusted_proxies_are_believed(tmp_path: Path):
    """The permissions of a unix socket's file decide which users may connect, so each of its clients is trusted."""
    path = tmp_path / "s.sock"
    options = ("--proxy-protocol", "v1", "--proxy-allow-from", "192.0.2.0/24", "--bind", f"unix:{path}")
    async with running("secure:app", *options, workers=1) as master:
        stream = await dial(master)
        await stream.send_all(V1 + REQUEST)
        assert await closed(stream) == b""
        await master.said(r"was closed: its address may not send a PROXY header \(--proxy-allow-from\)")
        async with await trio.open_unix_socket(str(path)) as local:
            await local.send_all(V1 + REQUEST)
            assert await answer(local) == ["http", CLIENT, LISTENER]
        async with await trio.open_unix_socket(str(path)) as local:
            await local.send_all(b"PROXY UNKNOWN\r\n" + REQUEST)
            assert await answer(local) == ["http", None, [str(path), None]]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_curl_is_understood():
    async with running("secure:app", "--proxy-protocol", "v1", workers=1) as master:
        command = ["curl", "-sS", "--max-time", str(PATIENCE), "--haproxy-protocol", f"http://127.0.0.1:{master.port}/"]
        done = await trio.run_process(command, capture_stdout=True, env=os.environ | {"no_proxy": "*"})
        assert json.loads(done.stdout)[1][0] == "127.0.0.1"
