"""The worker's side over a real line: what it counts and reports, and how a handler is served on trio."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
from attrs import Factory, define
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.protocol import wire
from rrmaster.protocol.channel import HungUp, Letterbox
from rrmaster.protocol.line import Line
from rrmaster.protocol.uplink import decode_up
from rrmaster.protocol.wire import REPORT_AFTER
from rrmaster.worker import api
from rrmaster.worker.api import CurrentWorker, current_worker, is_worker
from rrmaster.worker.duty import BATCH, Duty, Identity, Taken
from rrmaster.worker.load import descriptors as module
from rrmaster.worker.load.descriptors import RESERVE
from rrmaster.worker.load.requests import Requests
from rrmaster.worker.serving.on_trio import FULL_TABLE_S, Handler, serve
from tests.fakes import DEADLINE, a_line, eventually, run_alone


@define(eq=False)
class Master:
    """The master's end of the line: it hands over connections, and receives messages."""

    line: Line
    clients: list[socket.socket] = Factory(list)

    def hand(self, count: int = 1, probe: bool = False) -> None:
        """Hand over `count` connections, and keep the clients' ends."""
        for _ in range(count):
            client, theirs = socket.socketpair()
            client.settimeout(DEADLINE)
            with theirs:
                handoff = wire.Handoff(probe=probe, family=socket.AF_UNIX)
                self.line.hand_over(wire.encode(handoff), theirs.fileno())
            self.clients.append(client)

    def heard(self) -> list[wire.Up]:
        """All messages since the last call."""
        found = []
        while (datagram := self.line.receive()) is not None:
            message = decode_up(datagram)
            assert message is not None
            found.append(message)
        return found

    def report(self) -> wire.Report:
        """The report, the only message since the last call."""
        (report,) = self.heard()
        assert isinstance(report, wire.Report)
        return report

    def close(self) -> None:
        for client in self.clients:
            client.close()


@contextmanager
def on_duty(heartbeat: float = 0.5) -> Iterator[tuple[Master, Duty]]:
    with a_line(100) as (line, letterbox):
        master = Master(line)
        try:
            yield master, Duty(letterbox, Identity(7, 3, 2), heartbeat)
        finally:
            master.close()


def take(duty: Duty) -> Taken:
    """Take one connection, which must wait there."""
    taken = duty.take()
    assert taken is not None
    return taken


def finish(duty: Duty, taken: Taken) -> None:
    os.close(taken.fd)
    duty.finished(taken)


# --- counters and reports


def test_what_is_taken_and_closed_is_counted() -> None:
    with on_duty() as (master, duty):
        master.hand(3)
        taken = [take(duty) for _ in range(3)]
        assert duty.take() is None
        assert (duty.taken, duty.closed, duty.open) == (3, 0, 3)
        finish(duty, taken[1])
        duty.report()
        report = master.report()
        assert (report.closed, report.busy, report.taking) == (1, 2, True)
        for one in (taken[0], taken[2]):
            finish(duty, one)
        duty.report()
        assert (master.report().closed, duty.open) == (3, 0)


def test_a_probe_is_outside_the_counters_of_load() -> None:
    with on_duty() as (master, duty):
        master.hand(1, probe=True)
        finish(duty, take(duty))
        assert (duty.taken, duty.closed) == (0, 0)
        assert master.report().asides == 1, "it is reported at once as read"


@define(eq=False)
class Tokens:
    """A limiter of two."""

    borrowed_tokens: int = 0
    total_tokens: int = 2


def full_duty(duty: Duty) -> Tokens:
    """A duty that has reported that all tokens are taken, with one request in progress."""
    tokens = Tokens()
    duty.limiters.watch(tokens)
    duty.count(Requests(begun=1))
    duty.report()
    tokens.borrowed_tokens = 2
    duty.report()
    return tokens


def test_a_worker_is_full_while_all_of_a_limiter_is_taken_and_says_so_at_once_when_it_is_not() -> None:
    with on_duty() as (master, duty):
        tokens = full_duty(duty)
        assert [report.full for report in master.heard()] == [False, True]
        assert not duty.busy_report_due, "each request is looked at"
        duty.requests_changed()
        assert master.heard() == [], "a request has ended, and another has its token"
        tokens.borrowed_tokens = 1
        duty.requests_changed()
        assert master.report().full is False
        assert duty.busy_report_due, "requests cost no call, as ever"


def test_a_worker_that_is_full_for_a_moment_with_each_request_does_not_report_each() -> None:
    """The master takes more than 5,000 reports a second for a breach."""
    with on_duty() as (master, duty):
        tokens = full_duty(duty)
        master.heard()
        for _ in range(1000):
            for tokens.borrowed_tokens in (1, 2):
                if not duty.busy_report_due:
                    duty.requests_changed()
        assert master.report().full is False


def test_a_limiter_of_the_application_that_fails_is_left_out_and_reports_go_on(capsys) -> None:
    with on_duty() as (master, duty):
        tokens = full_duty(duty)
        del tokens.borrowed_tokens
        duty.report()
        assert master.heard()[-1].full is False
        assert "has failed, and is not looked at from now on" in capsys.readouterr().err


def test_what_is_no_limiter_is_refused() -> None:
    with on_duty() as (_, duty), pytest.raises(AttributeError):
        duty.limiters.watch(object())


def test_a_token_that_is_given_back_in_the_middle_of_a_request_is_noticed_soon() -> None:
    with on_duty() as (master, duty):
        stirred: list[None] = []
        duty.attach(lambda: None, lambda: stirred.append(None))
        tokens = full_duty(duty)
        assert len(stirred) == 1, "a look is due"
        master.heard()
        duty.report_busy()
        assert master.heard() == []
        assert len(stirred) == 2, "and another one, as long as the worker is full"
        tokens.borrowed_tokens = 0
        duty.report_busy()
        assert master.report().full is False
        assert len(stirred) == 2


def test_an_application_that_says_it_is_full_is_until_it_says_otherwise() -> None:
    with on_duty() as (master, duty):
        for full in (True, False):
            duty.set_full(full)
            assert duty.report_due
            duty.report()
            assert master.report().full is full


def test_busy_is_the_servers_count_of_requests_if_there_is_one() -> None:
    with on_duty() as (master, duty):
        duty.requests = Requests(begun=12, ended=7)
        duty.report()
        report = master.report()
        assert (report.busy, report.requests) == (5, 7)


def test_a_nudge_is_answered_at_once() -> None:
    with on_duty() as (master, duty):
        master.line.nudge()
        assert duty.take() is None
        assert master.report().asides == 1
        master.hand()
        master.line.nudge()
        master.line.nudge()
        taken = take(duty)
        assert master.heard() == []
        assert duty.take() is None
        assert [report.asides for report in master.heard()] == [2, 3]  # type: ignore[union-attr]
        finish(duty, taken)


def test_the_end_of_the_line_comes_after_all_that_was_handed_over() -> None:
    with on_duty() as (master, duty):
        master.hand(2)
        master.line.half_close()
        for _ in range(2):
            finish(duty, take(duty))
        with pytest.raises(HungUp):
            duty.take()
        duty.report()
        assert master.report().closed == 2


def test_changes_wake_the_runtime_once_until_the_next_report() -> None:
    with on_duty() as (master, duty):
        woken: list[None] = []
        duty.wake = lambda: woken.append(None)
        master.hand(3)
        taken = [take(duty) for _ in range(3)]
        for one in taken:
            finish(duty, one)
        assert len(woken) == 1
        duty.report()
        duty.report_soon()
        assert len(woken) == 2


def test_a_report_is_due_after_a_take_and_after_a_close() -> None:
    with on_duty() as (master, duty):
        master.hand()
        one = take(duty)
        assert duty.report_due
        duty.report()
        assert not duty.report_due
        finish(duty, one)
        assert duty.report_due


def test_a_report_that_finds_the_line_full_is_not_forgotten() -> None:
    with on_duty() as (master, duty):
        while duty.letterbox.send(wire.Report(0)):
            pass
        master.hand()
        finish(duty, take(duty))
        duty.report()
        duty.retire("old age")
        assert duty.report_due, "the report is still due"
        master.heard()
        duty.beat()
        said = master.heard()
        assert wire.Retiring("old age") in said
        assert [message.closed for message in said if isinstance(message, wire.Report)] == [1]
        duty.beat()
        assert not [message for message in master.heard() if isinstance(message, wire.Retiring)], "it is sent once"


def test_a_dead_master_is_no_error_for_a_worker_that_reports() -> None:
    with on_duty() as (master, duty):
        master.line.close()
        duty.ready()
        duty.report()
        duty.retire("no master receives this")
        duty.beat()


def test_a_beat_looks_at_memory_and_processor() -> None:
    with on_duty() as (master, duty):
        duty.lag = 0.25
        duty.beat()
        report = master.report()
        assert report.rss > 1024 * 1024
        assert report.cpu_us > 0
        assert report.lag_us == 250_000
        duty.beat()
        assert master.report().lag_us == 0, "the worst since the last report"


def test_a_paused_worker_reports_it_at_once() -> None:
    with on_duty() as (master, duty):
        woken: list[None] = []
        duty.wake = lambda: woken.append(None)
        worker = CurrentWorker(7, 3, 2, trio.Event(), duty, None)
        worker.set_ready(False)
        assert woken
        duty.report()
        assert master.report().taking is False
        worker.set_ready(True)
        duty.report()
        assert master.report().taking is True
        worker.retire("1,000 requests")
        assert master.heard() == [wire.Retiring("1,000 requests")]


def test_outside_of_a_worker_there_is_no_current_one() -> None:
    run_alone("""
import rrmaster.worker.api
assert not rrmaster.worker.api.is_worker()
try:
    rrmaster.worker.api.current_worker()
except RuntimeError as error:
    assert "no worker" in str(error)
else:
    raise AssertionError("there was one")
""")


# --- short of descriptors


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The limit of descriptors that the worker sees; the test may change it."""
    seen = [1_000_000]
    monkeypatch.setattr(module.resource, "getrlimit", lambda _: (seen[0], seen[0]))
    return seen


def in_use() -> int:
    return len(os.listdir("/proc/self/fd")) - 1


def test_a_worker_stops_before_its_descriptor_table_is_full_and_reports_it(limit: list[int]) -> None:
    with on_duty() as (master, duty):
        master.hand(6)
        limit[0] = in_use() + 2 + RESERVE
        duty.beat()
        master.heard()
        taken = [take(duty) for _ in range(3)]
        assert duty.take() is None, "the third reached into the reserve"
        assert master.line.unclaimed() == 3, "the others stay where the master can take them back"
        duty.report()
        assert master.report().taking is False
        duty.beat()
        assert master.report().taking is False
        finish(duty, taken.pop())
        finish(duty, taken.pop())
        duty.beat()
        assert master.report().taking is True
        taken.append(take(duty))
        for one in taken:
            finish(duty, one)


def test_a_hole_in_a_full_table_is_no_room(limit: list[int]) -> None:
    """The kernel gives the lowest free number, which says nothing of the numbers above it."""
    with on_duty() as (master, duty):
        above = [fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 200) for _ in range(40)]
        limit[0] = in_use() + RESERVE + 2
        duty.beat()
        master.heard()
        master.hand(4)
        taken = [take(duty) for _ in range(3)]
        assert all(one.fd < 200 for one in taken), "there are low numbers to be had"
        assert duty.take() is None, "but no more than the reserve is free"
        for fd in above:
            os.close(fd)
        duty.beat()
        taken.append(take(duty))
        for one in taken:
            finish(duty, one)


def test_descriptors_that_the_application_opens_are_counted(limit: list[int]) -> None:
    with on_duty() as (master, duty):
        limit[0] = in_use() + RESERVE + 20
        duty.beat()
        assert master.report().taking is True
        leaked = [os.dup(0) for _ in range(20)]
        duty.beat()
        assert master.report().taking is False
        for fd in leaked:
            os.close(fd)


def test_a_full_table_is_logged_with_what_to_do_once_a_minute(
    limit: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    with on_duty() as (_, duty):
        limit[0] = in_use()
        duty.beat()
        duty.beat()
        told = capsys.readouterr().err
        assert told.count("no connections are taken") == 1
        assert f"{limit[0]} of {limit[0]} descriptors are in use, 0 of them by connections" in told
        assert "LimitNOFILE" in told


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which the table is judged."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def wishes(master: Master, duty: Duty, clock: list[float], beats: int = 30) -> list[str]:
    """Why a worker asks to be replaced in so many beats of a second."""
    for _ in range(beats):
        duty.beat()
        clock[0] += 1.0
    return [heard.reason for heard in master.heard() if isinstance(heard, wire.Retiring)]


def test_a_worker_that_has_leaked_its_descriptors_asks_once_to_be_replaced(
    limit: list[int], clock: list[float]
) -> None:
    with on_duty() as (master, duty):
        assert wishes(master, duty, clock) == []
        limit[0] = in_use() + RESERVE
        assert wishes(master, duty, clock, beats=10) == [], "a burst of open files may be over soon"
        (reason,) = wishes(master, duty, clock)
        assert reason == f"{in_use()} of {limit[0]} descriptors are in use, and not by connections"


@pytest.mark.parametrize("why", ["its connections hold them", "it never had room", "it has room in between"])
def test_other_workers_without_a_descriptor_stay(limit: list[int], clock: list[float], why: str) -> None:
    with on_duty() as (master, duty):
        taken = []
        if why != "it never had room":
            duty.beat()
        if why == "its connections hold them":
            master.hand(1)
            taken.append(take(duty))
        for _ in range(3):
            limit[0] = in_use() + RESERVE
            assert wishes(master, duty, clock, beats=30 if why != "it has room in between" else 9) == []
            if why == "it has room in between":
                limit[0] = 1_000_000
                duty.beat()
        for one in taken:
            finish(duty, one)


def test_a_worker_that_cannot_take_reads_no_nudge(limit: list[int]) -> None:
    with on_duty() as (master, duty):
        limit[0] = RESERVE
        duty.beat()
        assert master.report().taking is False
        master.line.nudge()
        assert duty.take() is None
        assert (master.line.unclaimed(), master.heard()) == (1, [])


def test_a_worker_that_cannot_take_learns_that_no_more_will_come(limit: list[int]) -> None:
    with on_duty() as (master, duty):
        limit[0] = RESERVE
        duty.beat()
        master.hand(1)
        master.line.half_close()
        assert duty.take() is None, "one still lies there, which the master may take back"
        limit[0] = 1_000_000
        duty.beat()
        finish(duty, take(duty))
        limit[0] = RESERVE
        duty.beat()
        with pytest.raises(HungUp):
            duty.take()


def test_a_connection_lost_for_want_of_a_descriptor_counts_as_closed() -> None:
    run_alone("""
from tests import fakes
from tests.worker import test_duty
with test_duty.on_duty() as (master, duty):
    master.hand(1)
    relieve = fakes.fill_the_table()
    assert duty.take() is None
    assert (duty.taken, duty.closed, duty.has_descriptors) == (1, 1, False)
    duty.report()
    report = master.report()
    assert (report.closed, report.taking) == (1, False)
    relieve()
    duty.beat()
    assert master.report().taking
""")


# --- on trio


@define(eq=False)
class Service:
    """A handler that is served on trio, and the master's end of its line."""

    master: Master
    duty: Duty
    over: trio.Event = Factory(trio.Event)


@asynccontextmanager
async def served(handler: Handler, heartbeat: float = 3600.0) -> AsyncIterator[Service]:
    before = api._current
    with on_duty(heartbeat=heartbeat) as (master, duty):
        service = Service(master, duty)

        async def run() -> None:
            await serve(handler, duty)
            service.over.set()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await wait_all_tasks_blocked()
                assert master.heard() == [wire.Ready(os.getpid())]
                yield service
                nursery.cancel_scope.cancel()
        finally:
            api._current = before


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def waits(stream: trio.SocketStream) -> None:
    """Serve until the client disconnects."""
    await stream.receive_some(1)


async def test_a_connection_is_served_and_closed_and_counted(mock_clock: MockClock) -> None:
    async with served(echo) as service:
        service.master.hand()
        (client,) = service.master.clients
        client.send(b"hello")
        await wait_all_tasks_blocked()
        assert client.recv(100) == b"hello"
        client.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert client.recv(100) == b"", "closed when the handler returns"
        mock_clock.jump(REPORT_AFTER)
        await wait_all_tasks_blocked()
        assert service.master.heard()[-1].closed == 1  # type: ignore[union-attr]


async def test_what_a_handler_raises_stays_in_its_connection(capsys: pytest.CaptureFixture[str]) -> None:
    async def fragile(stream: trio.SocketStream) -> None:
        if await stream.receive_some(10) == b"break":
            raise ZeroDivisionError("the application's fault")
        await stream.send_all(b"fine")

    async with served(fragile) as service:
        service.master.hand(2)
        broken, other = service.master.clients
        broken.send(b"break")
        await wait_all_tasks_blocked()
        assert broken.recv(10) == b""
        other.send(b"and you?")
        await wait_all_tasks_blocked()
        assert other.recv(10) == b"fine"
        assert service.duty.closed == 2
    assert "the application's fault" in capsys.readouterr().err


async def test_a_client_that_just_leaves_is_no_error_and_a_database_that_does_is_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def unheard(stream: trio.SocketStream) -> None:
        await stream.send_all(b"unread, so that it is a reset")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits, stream)

    async def asks_database(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        near, far = trio.socket.socketpair()
        with near, far:
            far.close()
            await trio.SocketStream(near).send_all(b"SELECT 1")

    for handler in (unheard, asks_database):
        async with served(handler) as service:
            service.master.hand()
            (client,) = service.master.clients
            await wait_all_tasks_blocked()
            client.close()
            await wait_all_tasks_blocked()
            assert service.duty.closed == 1
        told = capsys.readouterr().err
        assert ("BrokenResourceError" in told) == (handler is asks_database), told


async def test_reports_are_gathered(mock_clock: MockClock) -> None:
    async def brief(stream: trio.SocketStream) -> None:
        await trio.lowlevel.checkpoint()

    async with served(brief) as service:
        service.master.hand(20)
        await wait_all_tasks_blocked()
        assert service.master.heard() == [], "the report is not due yet"
        mock_clock.jump(REPORT_AFTER)
        await wait_all_tasks_blocked()
        assert service.master.report().closed == 20


async def test_an_idle_worker_still_beats(autojump_clock: MockClock) -> None:
    async with served(waits, heartbeat=0.5) as service:
        await trio.sleep(10.1)
        assert len(service.master.heard()) == 20


async def test_a_busy_worker_beats_too(autojump_clock: MockClock) -> None:
    async def brief(stream: trio.SocketStream) -> None:
        await trio.lowlevel.checkpoint()

    async with served(brief, heartbeat=0.5) as service:
        rss = 0
        for _ in range(300):
            service.master.hand()
            await trio.sleep(0.003)
            rss = max([rss, *(r.rss for r in service.master.heard() if isinstance(r, wire.Report))])
        assert rss > 0, "only a beat looks at memory"


async def test_a_late_loop_reports_by_how_much(mock_clock: MockClock) -> None:
    async with served(waits, heartbeat=0.5) as service:
        mock_clock.jump(2.5)
        await wait_all_tasks_blocked()
        assert service.master.heard()[0].lag_us == pytest.approx(2_000_000, abs=10)  # type: ignore[union-attr]


async def test_the_batch_doubles_while_connections_begin_quickly(mock_clock: MockClock) -> None:
    left: list[int] = []

    async def quick(stream: trio.SocketStream) -> None:
        left.append(service.master.line.unclaimed())

    async with served(quick) as service:
        service.master.hand(31)
        await wait_all_tasks_blocked()
    assert [31 - count for count in left] == [1] + [3] * 2 + [7] * 4 + [15] * 8 + [23] * 8 + [31] * 8
    assert BATCH == 8


async def test_the_batch_falls_to_one_when_a_handler_blocks(mock_clock: MockClock) -> None:
    left: list[int] = []
    slow: set[int] = {11}

    async def sometimes_slow(stream: trio.SocketStream) -> None:
        left.append(service.master.line.unclaimed())
        if len(left) in slow:
            mock_clock.jump(0.050)

    async with served(sometimes_slow) as service:
        service.master.hand(22)
        await wait_all_tasks_blocked()
    # The eleventh is in a batch of eight; those after it are taken one by one, and the batch grows again.
    assert [22 - count for count in left] == [1] + [3] * 2 + [7] * 4 + [15] * 8 + [16] + [18] * 2 + [22] * 4


async def test_a_blocked_handler_leaves_the_others_in_the_letterbox(mock_clock: MockClock) -> None:
    taken_while_slow: list[int] = []

    async def slow(stream: trio.SocketStream) -> None:
        mock_clock.jump(0.050)
        taken_while_slow.append(service.duty.open)

    async with served(slow) as service:
        service.master.hand(6)
        await wait_all_tasks_blocked()
    assert taken_while_slow == [1] * 6, "one at a time, so that the others can go to another worker"


async def test_a_drain_waits_for_open_connections() -> None:
    async with served(waits) as service:
        service.master.hand(3)
        service.master.line.half_close()
        await wait_all_tasks_blocked()
        assert current_worker().draining.is_set()
        assert not service.over.is_set()
        for client in service.master.clients:
            assert not service.over.is_set()
            client.close()
            await wait_all_tasks_blocked()
        assert service.over.is_set()
        assert service.master.heard()[-1].closed == 3  # type: ignore[union-attr]


async def test_a_drain_with_nothing_to_do_ends_at_once() -> None:
    async with served(waits) as service:
        service.master.line.half_close()
        with trio.fail_after(DEADLINE):
            await service.over.wait()


async def test_a_dead_masters_last_connections_are_served() -> None:
    async with served(echo) as service:
        service.master.hand(2)
        service.master.line.close()
        for client in service.master.clients:
            client.send(b"still there?")
            client.shutdown(socket.SHUT_WR)
        with trio.fail_after(DEADLINE):
            await service.over.wait()
        assert [client.recv(100) for client in service.master.clients] == [b"still there?"] * 2


async def test_the_application_knows_its_worker() -> None:
    async def asks(stream: trio.SocketStream) -> None:
        me = current_worker()
        await stream.send_all(f"{me.id} {me.slot} {me.generation} {is_worker()} {me.draining.is_set()}".encode())

    async with served(asks) as service:
        service.master.hand()
        await wait_all_tasks_blocked()
        assert service.master.clients[0].recv(100) == b"7 3 2 True False"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_first_signal_asks_for_a_replacement_and_a_second_one_ends_it(number: signal.Signals) -> None:
    async with served(echo) as service:
        service.master.hand()
        (client,) = service.master.clients
        os.kill(os.getpid(), number)
        await eventually(lambda: has_message(service))
        assert wire.Retiring(number.name) in service.master.heard()
        client.send(b"still serving")
        await wait_all_tasks_blocked()
        assert client.recv(100) == b"still serving"
        os.kill(os.getpid(), number)
        with trio.fail_after(DEADLINE):
            await service.over.wait()
        assert client.recv(100) == b""


def has_message(service: Service) -> bool:
    try:
        service.master.line.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    return True


async def test_a_signal_in_a_drain_ends_it() -> None:
    async with served(waits) as service:
        service.master.hand()
        service.master.line.half_close()
        await wait_all_tasks_blocked()
        os.kill(os.getpid(), signal.SIGTERM)
        with trio.fail_after(DEADLINE):
            await service.over.wait()
        assert service.master.clients[0].recv(1) == b""


async def test_a_worker_short_of_descriptors_waits_and_goes_on_by_itself(
    limit: list[int], mock_clock: MockClock
) -> None:
    async with served(waits) as service:
        limit[0] = RESERVE
        service.duty.beat()
        service.master.heard()
        service.master.hand(2)
        for _ in range(3):
            mock_clock.jump(FULL_TABLE_S)
            await wait_all_tasks_blocked()
        # The worker may have taken one before it saw the limit; the other is not touched.
        assert service.master.line.unclaimed() >= 1
        assert all(not r.taking for r in service.master.heard() if isinstance(r, wire.Report))
        limit[0] = 1_000_000
        mock_clock.jump(FULL_TABLE_S)
        await wait_all_tasks_blocked()
        assert service.master.line.unclaimed() == 0
        assert service.duty.taking


def test_a_letterbox_sends_nothing_on_a_broken_line() -> None:
    with a_line() as (line, letterbox):
        line.close()
        assert isinstance(letterbox, Letterbox)
        assert not letterbox.send(wire.Report(0))
