"""The law of deadlines: with clients that are no connections, and times as arguments."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from attrs import Factory, define

from rrmaster.worker.deadlines.full import SAY_EVERY_S, FullLog
from rrmaster.worker.deadlines.law import ENOUGH, SPARED_S, Deadlines, Waiting
from rrmaster.worker.deadlines.reading import bytes_read, drop_unread
from rrmaster.worker.deadlines.requests import CANCEL_S, RequestTimeout


@define(eq=False)
class FakeClient:
    """It waits for what the test says."""

    waiting: Waiting
    heard: int = 0
    request: object = None

    def has_read(self) -> int:
        return self.heard

    def waits_for(self) -> tuple[Waiting, object]:
        return self.waiting, self.request


def ends(deadlines: Deadlines, client: FakeClient, steps: int, speed: int = 0) -> int | None:
    """At which look, one a second, the client must go, with `speed` bytes a second; None: at none."""
    for step in range(steps):
        if deadlines.look([client], float(step)):
            return step
        client.heard += speed
    return None


def test_what_does_not_come_in_time_ends_and_what_waits_for_the_worker_does_not() -> None:
    assert ends(Deadlines(10, 30, 60, 100), FakeClient(Waiting.FIRST_BYTE), 60) == 10
    assert ends(Deadlines(10, 30, 60, 100), FakeClient(Waiting.HEAD), 60, speed=1) == 10
    assert ends(Deadlines(10, 30, 60, 100), FakeClient(Waiting.BODY), 60) == 30
    assert ends(Deadlines(10, 30, 60, 100), FakeClient(Waiting.BODY), 60, speed=ENOUGH // 31) == 30
    assert ends(Deadlines(10, 30, 60, 100), FakeClient(Waiting.BODY), 600, speed=ENOUGH // 29) is None
    assert ends(Deadlines(10, 30, 60, 100), FakeClient(Waiting.READING), 90) == 60
    assert ends(Deadlines(10, 30, 60, 100), FakeClient(Waiting.READING), 90, speed=ENOUGH // 61) == 60
    assert ends(Deadlines(10, 30, 60, 100), FakeClient(Waiting.READING), 600, speed=ENOUGH // 50) is None
    assert ends(Deadlines(10, 30, 60, 100), FakeClient(Waiting.NOTHING), 600) is None
    assert ends(Deadlines(0, 0, 0, 100), FakeClient(Waiting.HEAD), 600) is None
    assert ends(Deadlines(0, 0, 0, 100), FakeClient(Waiting.READING), 600) is None


def test_a_client_that_sends_a_body_must_read_all_the_same() -> None:
    deadlines, client = Deadlines(10, 30, 60, 100), FakeClient(Waiting.BODY)
    assert ends(deadlines, client, 29) is None
    client.waiting = Waiting.READING
    assert not deadlines.look([client], 31.0), "another wait"
    assert deadlines.look([client], 32.0) == []


def test_the_kernel_tells_what_a_client_has_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        server, _ = listener.accept()
        with server:
            server.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    server.send(bytes(65_536))
            _until(lambda: bytes_read(server, -1) == bytes_read(server, -1) > 0)
            before, left = bytes_read(server, -1), 8_000_000
            while left > 0 and bytes_read(server, -1) == before:
                left -= len(client.recv(65_536))
            assert bytes_read(server, -1) > before
            drop_unread(server)
        with pytest.raises(ConnectionResetError):
            _read_all(client)
    one, other = socket.socketpair()
    with one, other:
        assert bytes_read(one, 7) == 7, "a unix socket does not say"


def _read_all(sock: socket.socket) -> None:
    while sock.recv(1 << 20):
        pass


def _until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not true():
        assert time.monotonic() < give_up


def test_the_first_byte_gives_no_more_time_and_the_next_request_does() -> None:
    deadlines, client = Deadlines(10, 30, 60, 100), FakeClient(Waiting.FIRST_BYTE)
    assert ends(deadlines, client, 9) is None
    client.waiting = Waiting.HEAD
    assert deadlines.look([client], 10.0) == [(client, Waiting.HEAD)]
    client.request = object()
    assert not deadlines.look([client], 11.0)


def test_the_time_for_which_the_loop_is_blocked_does_not_count() -> None:
    deadlines, client = Deadlines(10, 30, 60, 100), FakeClient(Waiting.HEAD)
    assert not deadlines.look([client], 0.0)
    assert not deadlines.look([client], 3600.0)
    assert deadlines.look([client], 3601.0) == []


def test_when_every_place_is_taken_those_that_have_said_least_go_a_tenth_at_a_time() -> None:
    deadlines = Deadlines(60, 60, 60, 20)
    half, body, rests = FakeClient(Waiting.HEAD), FakeClient(Waiting.BODY), FakeClient(Waiting.NOTHING)
    old = [FakeClient(Waiting.FIRST_BYTE)]
    young = [FakeClient(Waiting.FIRST_BYTE) for _ in range(2)]
    deadlines.look([half, body, rests, *old], 0.0)
    deadlines.look([half, body, rests, *old, *young], 1.0)
    late = 1.0 + SPARED_S
    deadlines.look([half, body, rests, *old, *young], 2.0)
    named = [client for client, _ in deadlines.look([half, body, rests, *old, *young], late, full=True)]
    assert named == [old[0], young[0]]
    assert [client for client, _ in deadlines.look([half, body, rests], late, full=True)] == [half]


def test_a_full_worker_says_so_once_a_minute() -> None:
    said: list[str] = []
    log, deadlines, duty = FullLog(said.append), Deadlines(60, 60, 60, 3), FakeDuty()
    deadlines.look([FakeClient(Waiting.FIRST_BYTE), FakeClient(Waiting.NOTHING)], 0.0, full=True)
    for now in (0.0, 1.0, SAY_EVERY_S - 1, SAY_EVERY_S):
        log.looked(log.is_full(duty, deadlines), duty, deadlines, 1, now)  # type: ignore[arg-type]
    assert len(said) == 2
    assert "of 3, 1 have sent nothing, 1 are being answered" in said[0]
    assert "1 are others" in said[0]


@define
class FakeDuty:
    """A worker with three connections."""

    retired: list[str] = Factory(list)
    open: int = 3
    has_descriptors: bool = True

    def retire(self, reason: str, now: bool = False) -> None:
        assert now, "a stuck worker gets no more connections at once"
        self.retired.append(reason)


def test_a_stuck_request_is_cancelled_once_and_then_costs_its_worker_once() -> None:
    clock, said, done = Clock(), list[str](), list[str]()
    duty = FakeDuty()
    timed = RequestTimeout(30, duty, said.append, clock.read, lambda: done.append("stacks"))  # type: ignore[arg-type]
    timed.begin({"type": "http", "method": "GET", "path": "/a"}, lambda: done.append("cancelled"))
    assert timed.begin({"type": "websocket", "path": "/b"}, lambda: None) is None
    for clock.now in (29.0, 30.0, 31.0, 30.0 + CANCEL_S, 60.0):
        timed.look()
    assert done == ["cancelled", "stacks"]
    assert [line.split(": ")[-1] for line in said] == ["cancelled\n", "this worker is replaced\n"]
    assert len(duty.retired) == 1
    assert "GET '/a' has been in progress for 32.0 s (--request-timeout 30s)" in duty.retired[0]


def test_a_request_whose_client_does_not_read_costs_its_connection_before_its_worker() -> None:
    clock, duty, cut = Clock(), FakeDuty(), list[object]()
    reads = [False]

    def reset(scope: object) -> bool:
        cut.append(scope)
        return not reads[0]

    timed = RequestTimeout(30, duty, lambda text: None, clock.read, lambda: None, reset)  # type: ignore[arg-type]
    scope = {"type": "http", "method": "GET", "path": "/a"}
    first = timed.begin(scope, None)
    for clock.now in (31.0, 31.0 + CANCEL_S / 2):
        timed.look()
    assert cut == [scope]
    timed.end(first)
    timed.begin(scope, None)
    for clock.now in (62.0, 62.0 + CANCEL_S / 2, 62.0 + CANCEL_S):
        assert not duty.retired
        timed.look()
    assert len(duty.retired) == 1, "it has not ended with its connection"
    assert cut == [scope] * 2


def test_a_request_that_ends_when_it_is_cancelled_costs_no_worker() -> None:
    clock, duty = Clock(), FakeDuty()
    timed = RequestTimeout(30, duty, lambda text: None, clock.read, lambda: None)  # type: ignore[arg-type]
    scope = {"type": "http", "method": "GET", "path": "/a"}
    first = timed.begin(scope, lambda: timed.end(first))
    clock.now = 20.0
    second = timed.begin(scope, None)
    for clock.now in (31.0, 40.0):
        timed.look()
    timed.end(second)
    timed.look()
    assert not duty.retired
    assert not timed.running


@define
class Clock:
    """A clock that a test sets."""

    now: float = 0.0

    def read(self) -> float:
        return self.now
