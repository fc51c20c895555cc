"""What stands between a server and an application: what it counts and repairs.  The server is a fake."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from attrs import Factory, define, evolve

from rrmaster.protocol.access_format import pieces_of
from rrmaster.protocol.pages.last_words import LastWords, open_page, read_page
from rrmaster.worker.access.line import Exchange, compiled
from rrmaster.worker.duty import Duty, Identity
from rrmaster.worker.load.requests import Requests
from rrmaster.worker.serving.asgi import (
    ASGI,
    CountedApp,
    Message,
    Receive,
    Send,
    WorkerDraining,
    counted_app,
    is_clients_leaving,
)
from rrmaster.worker.serving.wsgi import _Threads, watched
from tests.fakes import DEADLINE
from tests.worker.test_duty import on_duty

HTTP: Message = {
    "type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"a=b", "headers": [],
    "http_version": "1.1", "client": ("192.0.2.7", 5000), "server": ("127.0.0.1", 80),
}  # fmt: skip
WEBSOCKET: Message = {**HTTP, "type": "websocket"}
END = {"type": "http.request", "body": b"", "more_body": False}
GONE = {"type": "http.disconnect"}


@define(eq=False)
class FakeServer:
    """A fake server's side of one request."""

    says: list[Message] = Factory(list)
    """The messages that the application receives, in this order; then nothing more comes."""
    heard: list[Message] = Factory(list)
    fails_at: int = -1
    """The number of the message at which the server raises."""
    more: asyncio.Event = Factory(asyncio.Event)

    async def receive(self) -> Message:
        while not self.says:
            self.more.clear()
            await self.more.wait()
        return self.says.pop(0)

    async def send(self, message: Message) -> None:
        if len(self.heard) == self.fails_at:
            raise RuntimeError("Response content longer than Content-Length")
        self.heard.append(message)

    def say(self, *messages: Message) -> None:
        self.says += messages
        self.more.set()


def run(act: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await act()

    asyncio.run(bounded())


def counted(app: ASGI, act: Callable[[CountedApp, Duty], Awaitable[None]], probe: bool = False, **more: Any) -> None:
    with on_duty() as (_, duty):
        options = {"access_log": None, "durations": duty.counting.durations} | more
        serves, serves_probes = CountedApp(app, duty, **options), CountedApp(app, duty, **options)
        duty.requests = serves.requests
        run(lambda: act(serves_probes if probe else serves, duty))


async def waits(scope: Message, receive: Receive, send: Send) -> None:
    """Accepts, and receives until the disconnect; returns, or raises what the scope holds."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    await receive()
    if "raise" in scope:
        raise scope["raise"]


async def begun(*tasks: asyncio.Task[None]) -> None:
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


def test_requests_and_websockets_in_progress_are_counted_however_they_end() -> None:
    idle = list[None]()

    async def act(app: CountedApp, duty: Duty) -> None:
        servers = [FakeServer() for _ in range(3)]
        scopes = [HTTP, WEBSOCKET, {**HTTP, "raise": ZeroDivisionError()}]
        tasks = [asyncio.create_task(app.serve(s, p.receive, p.send)) for s, p in zip(scopes, servers, strict=True)]  # type: ignore[arg-type]
        await begun(*tasks)
        assert (duty.busy, app.requests.ended, app.active) == (3, 0, 3)
        for server in servers:
            server.say(END)
        assert [type(end) for end in await asyncio.gather(*tasks, return_exceptions=True)] == [
            type(None), type(None), ZeroDivisionError,
        ]  # fmt: skip
        assert (duty.busy, app.requests.ended, app.active) == (0, 3, 0)
        assert len(idle) == 1

    counted(waits, act, idle=lambda: idle.append(None))


def test_a_worker_that_was_told_to_notes_what_it_has_in_hand_without_the_query() -> None:
    page = open_page()
    post: Message = {**HTTP, "method": "POST", "raw_path": None, "path": "/b\u00fccher"}
    try:
        with on_duty() as (_, duty):
            assert type(counted_app(waits, duty, None)) is CountedApp, "in ordinary times this costs nothing"
            noting = evolve(duty, words=LastWords.inherit(os.dup(page)))
            app = counted_app(waits, noting, None)

            async def act() -> None:
                servers, tasks = [], []
                for scope in (HTTP, WEBSOCKET | {"method": "WEBSOCKET"}, post):
                    servers.append(server := FakeServer())
                    tasks.append(asyncio.create_task(app.serve(scope, server.receive, server.send)))  # type: ignore[arg-type]
                await begun(*tasks)
                assert read_page(page).requests == ("POST /b\\xc3\\xbccher", "WEBSOCKET /", "GET /")
                for server in servers:
                    server.say(END)
                await asyncio.gather(*tasks)
                assert read_page(page).requests == ()

            run(act)
    finally:
        os.close(page)


def test_a_probe_is_served_and_not_counted() -> None:
    async def act(app: CountedApp, duty: Duty) -> None:
        server = FakeServer([END])
        await app.serve(HTTP, server.receive, server.send)
        assert (app.requests.ended, app.active) == (1, 0)
        assert duty.requests == Requests(0, 0)

    counted(waits, act, probe=True)


def test_many_changes_of_busy_are_one_report() -> None:
    stirred = list[None]()

    async def act(app: CountedApp, duty: Duty) -> None:
        duty.on_requests_changed = lambda: stirred.append(None)
        for _ in range(100):
            await app.serve(HTTP, FakeServer([END]).receive, FakeServer().send)
        assert len(stirred) == 1
        duty.report_busy()
        await app.serve(HTTP, FakeServer([END]).receive, FakeServer().send)
        assert len(stirred) == 2

    counted(waits, act)


def test_a_websocket_is_closed_with_1012_and_its_application_cannot_send_afterwards() -> None:
    async def sends(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        await send({"type": "websocket.close", "code": 1000})
        await send({"type": "websocket.send", "text": "still there?"})

    async def act(app: CountedApp, duty: Duty) -> None:
        server = FakeServer()
        task = asyncio.create_task(app.serve(WEBSOCKET, server.receive, server.send))  # type: ignore[arg-type]
        await begun(task)
        (websocket,) = app.websockets
        await websocket.leave()
        await websocket.leave()
        assert [(m["type"], m.get("code")) for m in server.heard] == [
            ("websocket.accept", None), ("websocket.close", 1012),
        ]  # fmt: skip
        server.say({"type": "websocket.disconnect", "code": 1012})
        with pytest.raises(WorkerDraining, match="its worker drains"):
            await task
        assert len(server.heard) == 2, "a close by the application is dropped"
        assert app.websockets == set()

    counted(sends, act)


def test_the_access_log_shows_client_request_and_answer_before_its_last_part_leaves() -> None:
    class Server(FakeServer):
        async def send(self, message: Message) -> None:
            counts.append(len(log.lines))

    counts: list[int] = []
    log = FakeLog()

    async def answers(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 201})
        await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        await send({"type": "http.response.body", "body": b"678"})

    async def act(app: CountedApp, duty: Duty) -> None:
        await app.serve({**HTTP, "raw_path": b"/a%0Ab"}, Server().receive, Server().send)

    counted(answers, act, access_log=log)
    assert counts == [0, 0, 1]
    (line,) = log.lines
    assert line.startswith('192.0.2.7:5000 "GET /a%0Ab?a=b HTTP/1.1" 201 8 0.')


def test_a_request_without_an_answer_and_a_websocket_have_a_line_each() -> None:
    log = FakeLog()

    async def fails(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        raise ZeroDivisionError

    async def act(app: CountedApp, duty: Duty) -> None:
        for scope in (HTTP, WEBSOCKET):
            with pytest.raises(ZeroDivisionError):
                await app.serve(dict(scope), FakeServer().receive, FakeServer().send)

    counted(fails, act, access_log=log)
    assert [line.split()[-4] for line in log.lines] == ["500", "101"]


class FakeLog:
    """An access log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.line = compiled(pieces_of("brief"), Identity(1, 0, 1))

    def write(self, exchange: Exchange) -> None:
        self.lines.append(self.line(exchange))


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ({"type": "lifespan.startup.failed", "message": "no database"}, "no database"),
        ({"type": "lifespan.startup.failed"}, "its startup has failed"),
        (ZeroDivisionError("at its start"), "ZeroDivisionError: at its start"),
    ],
)
def test_the_reason_of_a_failed_startup_is_kept(end: Any, words: str) -> None:
    async def starts(scope: Message, receive: Receive, send: Send) -> None:
        if isinstance(end, Exception):
            raise end
        await send(end)

    async def act(app: CountedApp, duty: Duty) -> None:
        await asyncio.gather(
            app.serve({"type": "lifespan"}, FakeServer().receive, FakeServer().send), return_exceptions=True
        )
        assert words in app.startup
        assert duty.requests == Requests(0, 0)

    counted(starts, act)


# --- WSGI


def in_threads(
    app: Callable[..., Iterable[bytes]], played: FakeServer, header_map: str = "drop", **scope: Any
) -> Awaitable[None]:
    return watched(app, _Threads(1), header_map)({**HTTP, **scope}, played.receive, played.send)


def environment(header_map: str = "drop", **scope: Any) -> tuple[dict[str, Any], int]:
    """The environment that a WSGI application sees (empty: it was not called), and the status of the answer."""
    seen: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.update(environ)
        start_response("200 OK", [])
        return []

    server = FakeServer()
    run(lambda: in_threads(app, server, header_map, **scope))
    return seen, server.heard[0]["status"]


FORGED = [(b"x-remote-user", b"a guest"), (b"x_remote_user", b"the owner"), (b"content_length", b"7")]


def test_a_wsgi_client_cannot_write_the_headers_of_its_proxy() -> None:
    seen, status = environment("drop", headers=FORGED)
    assert (seen["HTTP_X_REMOTE_USER"], "HTTP_CONTENT_LENGTH" in seen, status) == ("a guest", False, 200)
    assert environment("refuse", headers=FORGED) == ({}, 400)
    assert environment("refuse", headers=FORGED[:1])[1] == 200
    assert environment("dangerous", headers=FORGED)[0]["HTTP_X_REMOTE_USER"] == "a guest,the owner"


def test_a_wsgi_environment_has_what_gunicorns_has() -> None:
    seen, _ = environment(path="/shop/a b", raw_path=b"/shop/a%20b", root_path="/shop", client=None)
    assert (seen["RAW_URI"], seen["REMOTE_ADDR"], seen["SERVER_SOFTWARE"]) == (
        "/a%20b?a=b", "", "rrmaster",
    )  # fmt: skip
    assert b"".join(seen["wsgi.file_wrapper"](io.BytesIO(b"a file"), 4)) == b"a file"
    assert environment()[0]["REMOTE_ADDR"] == "192.0.2.7"


def test_a_wsgi_path_that_is_no_utf_8_keeps_its_bytes() -> None:
    seen, _ = environment(path="/shop/caf\ufffd \ufffd", raw_path=b"/shop/caf%E9%20%EF%BF%BD", root_path="/shop")
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("/shop", "/caf\xe9 \xef\xbf\xbd")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"shop.example", ("shop.example", "80")),
        (b"shop.example:81", ("shop.example", "81")),
        (b"[::1]:82", ("[::1]", "82")),
        (b"[::1]", ("[::1]", "80")),
        (b"a:b", ("localhost", "80")),
        (None, ("localhost", "80")),
    ],
)
def test_a_wsgi_server_on_a_unix_socket_has_the_name_that_was_asked_for(host: bytes | None, expected: object) -> None:
    seen, _ = environment(server=("/run/shop.sock", None), headers=[] if host is None else [(b"host", host)])
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == expected


def test_a_wsgi_body_is_read_by_lines_and_by_bytes() -> None:
    found: list[Any] = []

    def reads(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"]
        found.extend([body.readline(4), body.readline(100), body.read(3), body.readline(), list(body), body.read()])
        found.append(environ["wsgi.input_terminated"])
        start_response("200 OK", [])
        return []

    async def act() -> None:
        parts = [b"first li", b"ne\nsecond line\n", b"third", b"\nlast"]
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        await in_threads(reads, FakeServer([*messages, END]), headers=[(b"transfer-encoding", b"chunked")])

    run(act)
    assert found == [b"firs", b"t line\n", b"sec", b"ond line\n", [b"third\n", b"last"], b"", True]


def test_a_wsgi_request_that_is_cut_short_does_not_look_complete() -> None:
    def reads(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgi.input"].read()
        raise AssertionError("the request looked complete")

    async def act() -> None:
        server = FakeServer([{"type": "http.request", "body": b"half of", "more_body": True}, GONE])
        with pytest.raises(ConnectionResetError, match="before the end of its request") as cut:
            await in_threads(reads, server, headers=[(b"content-length", b"14")])
        assert is_clients_leaving(cut.value), "it is no news"

    run(act)


def endless(ended: threading.Event) -> Callable[..., Iterable[bytes]]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"more"
        finally:
            ended.set()

    return app


def test_a_wsgi_stream_ends_when_its_client_has_gone() -> None:
    ended = threading.Event()

    async def act() -> None:
        server = FakeServer([END])
        task = asyncio.ensure_future(in_threads(endless(ended), server))
        while len(server.heard) < 20:
            await asyncio.sleep(0)
        server.say(GONE)
        await task
        assert ended.is_set()

    run(act)


def test_a_wsgi_stream_ends_when_the_server_fails_and_the_error_is_raised() -> None:
    ended = threading.Event()

    async def act() -> None:
        with pytest.raises(RuntimeError, match="longer than Content-Length"):
            await in_threads(endless(ended), FakeServer([END], fails_at=5))
        assert ended.is_set()

    run(act)


# --- how long a request takes


def test_a_request_is_counted_once_and_before_its_last_part_leaves() -> None:
    seen: list[int] = []

    async def act(app: CountedApp, duty: Duty) -> None:
        page = Page(app)

        async def send(message: Message) -> None:
            seen.append(page.count)

        await app.serve(dict(HTTP), None, send)  # type: ignore[arg-type]
        assert page.count == 1

    counted(answers_in_parts, act)
    assert seen == [0, 0, 1]


def test_what_follows_the_answer_is_no_part_of_its_duration() -> None:
    async def goes_on(scope: Message, receive: Receive, send: Send) -> None:
        await answers_in_parts(scope, receive, send)
        await receive()

    async def act(app: CountedApp, duty: Duty) -> None:
        page, server = Page(app), FakeServer()
        task = asyncio.create_task(app.serve(dict(HTTP), server.receive, server.send))  # type: ignore[arg-type]
        await begun(task)
        assert page.count == 1, "its background task goes on"
        server.say(END)
        await task
        assert page.count == 1

    counted(goes_on, act)


def test_a_request_without_an_answer_is_counted_when_its_call_ends_and_a_websocket_never() -> None:
    async def fails(scope: Message, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    async def act(app: CountedApp, duty: Duty) -> None:
        page = Page(app)
        for scope in (HTTP, WEBSOCKET):
            with pytest.raises(ZeroDivisionError):
                await app.serve(dict(scope), None, None)  # type: ignore[arg-type]
        assert page.count == 1

    counted(fails, act)


async def answers_in_parts(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"one", "more_body": True})
    await send({"type": "http.response.body", "body": b"two"})


class Page:
    """The counts of an application."""

    def __init__(self, app: CountedApp) -> None:
        self.tally = app.durations

    @property
    def count(self) -> int:
        return sum(self.tally._counts)
