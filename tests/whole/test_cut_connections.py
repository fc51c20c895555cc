"""What a worker cuts at its own end is counted as lost with it, whichever way it ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from tests.whole.harness import PATIENCE, Running, closed, running, status

APPLICATION = """
import asyncio, sys, time

def is_trio():
    return "trio" in sys.modules

async def forever():
    if is_trio():
        import trio
        await trio.sleep_forever()
    await asyncio.sleep(3600)

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan, no websockets")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    if scope["path"] == "/hold":
        await send({"type": "http.response.body", "body": b"we", "more_body": True})
        await forever()
    await send({"type": "http.response.body", "body": b"well"})

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    if environ["PATH_INFO"] == "/hold":
        yield b"we"
        time.sleep(3600)
    yield b"well"

async def on_trio(stream):
    import trio
    await stream.send_all(await stream.receive_some())
    await trio.sleep_forever()

async def on_asyncio(reader, writer):
    while data := await reader.read(100):
        if data == b"exit":
            sys.exit(5)
        writer.write(data)
"""

PROGRAM = """
import asyncio, socketserver, sys, threading
import trio
import rrmaster, rrmaster.asyncio

async def trio_handler(stream):
    async for data in stream:
        await stream.send_all(data)

async def trio_main():
    await trio.serve_listeners(trio_handler, await rrmaster.open_tcp_listeners(0, host="127.0.0.1"))

async def asyncio_handler(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
    writer.close()

async def asyncio_main():
    await (await rrmaster.asyncio.start_server(asyncio_handler, "127.0.0.1", 0)).serve_forever()

def threads_main():
    listener = rrmaster.listening_socket(("127.0.0.1", 0))
    def serve(sock):
        with sock:
            while data := sock.recv(100):
                sock.sendall(data)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

if sys.argv[1] == "trio":
    trio.run(trio_main)
elif sys.argv[1] == "asyncio":
    asyncio.run(asyncio_main())
else:
    threads_main()
"""

OPTIONS = ("--park-after", "off", "--keep-alive", "60s", "--lifespan", "off")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "holds.py").write_text(APPLICATION)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


async def asked(master: Running, say: bytes, until: bytes) -> trio.SocketStream:
    """A connection on which this was said, and this was heard last."""
    (stream,) = await master.burst(1)
    await stream.send_all(say)
    heard = b""
    with trio.fail_after(PATIENCE):
        while not heard.endswith(until):
            heard += (more := bytes(await stream.receive_some()))
            assert more, heard
    return stream


async def told_twice(master: Running) -> None:
    """SIGTERM for the only worker, and once more when the master knows of the first."""
    (pid,) = master.workers
    os.kill(pid, signal.SIGTERM)
    await master.said(rf"\(pid {pid}\).*SIGTERM")
    os.kill(pid, signal.SIGTERM)
    await master.said(rf"\(pid {pid}\): \w+ -> gone, exited with status 0")


async def counted(master: Running, control: Path, streams: list[trio.SocketStream]) -> None:
    """All of these have ended, and the master counts just so many."""
    for stream in streams:
        await closed(stream)
    await master.said(rf"had {len(streams)} connections in its hands; they are lost")
    assert (await status(control)).lost == len(streams)


@pytest.mark.parametrize(
    ("application", "options"),
    [
        ("holds:app", ("--runtime", "uvloop")),
        ("holds:app", ("--runtime", "asyncio")),
        ("holds:app", ("--runtime", "trio")),
        ("holds:wsgi", ("--threads", "4")),
    ],
)
async def test_a_second_signal_cuts_requests_and_kept_connections(
    application: str, options: tuple[str, ...], place: Path
) -> None:
    control = place / "control"
    more = (*OPTIONS, *options, "--control", str(control))
    async with running(application, *more, workers=1, app_dir=place) as master:
        ask = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"
        streams = [await asked(master, ask % b"", b"well") for _ in range(3)]
        streams += [await asked(master, ask % b"hold", b"we") for _ in range(2)]
        over = await asked(master, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"well")
        await closed(over)
        await told_twice(master)
        await counted(master, control, streams)


@pytest.mark.parametrize(
    ("handler", "runtime"), [("on_trio", "trio"), ("on_asyncio", "asyncio"), ("on_asyncio", "uvloop")]
)
async def test_a_second_signal_cuts_the_connections_of_handlers(handler: str, runtime: str, place: Path) -> None:
    control = place / "control"
    more = ("--runtime", runtime, "--control", str(control))
    async with running(f"holds:{handler}", *more, workers=1, app_dir=place) as master:
        streams = [await asked(master, b"?", b"?") for _ in range(3)]
        await told_twice(master)
        await counted(master, control, streams)


@pytest.mark.parametrize("kind", ["trio", "asyncio", "threads"])
async def test_a_second_signal_cuts_the_connections_of_a_program(kind: str, place: Path) -> None:
    control = place / "control"
    more = ("--control", str(control))
    program = str(place / "program.py")
    async with running(program, *more, workers=1, bind=None, app_dir=place, arguments=[kind]) as master:
        streams = [await asked(master, b"?", b"?") for _ in range(3)]
        await told_twice(master)
        await counted(master, control, streams)


@pytest.mark.parametrize("runtime", ["uvloop", "asyncio"])
async def test_a_handler_that_exits_cuts_the_other_connections(runtime: str, place: Path) -> None:
    async with running("holds:on_asyncio", "--runtime", runtime, workers=1, app_dir=place) as master:
        streams = [await asked(master, b"?", b"?") for _ in range(3)]
        await streams[0].send_all(b"exit")
        for stream in streams:
            await closed(stream)
        await master.said("had [23] connections in its hands")  # its own is lost, or closed before the loop ends


async def test_what_a_drain_cuts_at_its_end_is_lost(place: Path) -> None:
    control = place / "control"
    more = (*OPTIONS, "--graceful-timeout", "300ms", "--control", str(control))
    async with running("holds:app", *more, workers=1, app_dir=place) as master:
        ask = b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"
        streams = [await asked(master, ask, b"we") for _ in range(2)]
        master.signal(signal.SIGHUP)
        await master.said("stopping -> gone")
        await counted(master, control, streams)
