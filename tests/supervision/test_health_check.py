"""Is this very worker well?  Real lines, the test plays the worker at the other end."""

from __future__ import annotations

import errno
import os
import socket

import pytest
import trio
from attrs import Factory, define
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.protocol import wire
from rrmaster.protocol.line import Line
from rrmaster.rules.kernel_errors import CAPACITY_ERRORS
from rrmaster.supervision import health_check
from tests.fakes import House, Player, a_house, eventually, pass_time

LATE = 0.005
FAILED = "its probe failed"


async def says_well(stream: trio.SocketStream) -> bool:
    return await stream.receive_some() == b"well"


async def never_ends(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@define(eq=False)
class Asked:
    """A question under way, and its answer."""

    verdicts: list[str | None] = Factory(list)

    async def ask(self, player: Player, question: health_check.Question = says_well, timeout: float = 2.0) -> None:
        self.verdicts.append(await health_check.ask(player.link, question, timeout))

    def begin(self, house: House, player: Player, question: health_check.Question = says_well) -> None:
        house.nursery.start_soon(self.ask, player, question)


def taken(player: Player) -> socket.socket:
    """The probe that lies in its letterbox."""
    found = player.letterbox.take()
    assert found is not None
    message, fd = found
    assert isinstance(message, wire.Handoff)
    assert message.probe
    assert fd is not None
    player.asides += 1
    return socket.socket(fileno=fd)


@pytest.mark.parametrize(
    ("answer", "verdict"), [(b"well", ""), (b"ill", "its probe failed"), (b"", "its probe failed")]
)
async def test_the_answer_decides_and_no_counter_moves(answer: bytes, verdict: str) -> None:
    async with a_house(1) as house:
        (player,) = house.players
        before, asked = open_descriptors(), Asked()
        asked.begin(house, player)
        await wait_all_tasks_blocked()
        assert (player.load.connections, player.load.recount()) == (0, 0), "it is no client"
        with taken(player) as sock:
            sock.send(answer)
        player.report()
        await eventually(lambda: asked.verdicts == [verdict])
        await house.read_reports()
        assert (player.load.asides_unread, player.load.connections) == (0, 0)
        assert open_descriptors() == before


async def test_what_a_health_check_raises_is_logged_and_stays_with_its_worker() -> None:
    async def raises(stream: trio.SocketStream) -> None:
        raise LookupError("no such page")

    async with a_house(1) as house:
        asked = Asked()
        await asked.ask(house.players[0], raises)
        assert asked.verdicts == ["its probe failed: LookupError: no such page"]
        taken(house.players[0]).close()


async def test_a_worker_that_does_not_answer_in_time_is_unwell(autojump_clock: MockClock) -> None:
    async with a_house(1) as house:
        asked = Asked()
        await asked.ask(house.players[0], never_ends, 3.0)
        assert asked.verdicts == ["its probe was not answered in 3 s"]
        assert trio.current_time() == pytest.approx(3.0)
        taken(house.players[0]).close()


@pytest.mark.parametrize("lives", [True, False])
async def test_a_probe_that_is_taken_back_from_the_late_has_failed_if_no_report_follows(
    lives: bool, mock_clock: MockClock
) -> None:
    async with a_house(0, recall_after=LATE) as house:
        late = house.add_worker()
        before, asked = open_descriptors(), Asked()
        asked.begin(house, late)
        await wait_all_tasks_blocked()
        await house.calls(1)
        heir = house.add_worker()
        mock_clock.jump(LATE + 0.001)
        # A thread reads both back, the probe and the client; the mock clock must not run ahead of it.
        await eventually(lambda: late.link.probe_recalled and house.recall.from_late == 1 and not late.link.recalling)
        await pass_time(mock_clock, 1.5)
        assert (asked.verdicts, heir.seen) == ([], []), "no other worker is asked in its place"
        if not lives:
            await pass_time(mock_clock, 1.0)
            assert asked.verdicts == ["its probe was not answered in 2 s"]
        late.take()
        late.report()
        await house.read_reports()
        await pass_time(mock_clock, 0.125)
        assert asked.verdicts == ([None] if lives else ["its probe was not answered in 2 s"])
        await house.settle()
        assert late.load.asides_unread == 0
        assert open_descriptors() == before + 4  # the client's own end, the heir's line and its copy


async def test_a_probe_in_a_dead_workers_letterbox_goes_with_it() -> None:
    async with a_house(2) as house:
        dead, other = house.players
        other.report(taking=False)
        await house.read_reports()
        asked = Asked()
        asked.begin(house, dead)
        await house.calls(1)
        other.report()
        await house.read_reports()
        assert house.remove(dead) == 0
        await eventually(lambda: asked.verdicts == ["its probe failed"])
        assert other.waiting == 1, "the client"
        assert house.recall.from_dead == 1
        await house.settle()
        assert [(each.listener, each.family, each.probe) for each in other.seen] == [(0, socket.AF_INET, False)]


@define(eq=False)
class Refusing(Line):
    """A line that passes no descriptor."""

    number: int = 0

    def hand_over(self, handoff: bytes, fd: int) -> None:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [*CAPACITY_ERRORS, errno.ETOOMANYREFS])
async def test_what_the_machine_has_no_room_for_says_nothing_of_the_worker(number: int) -> None:
    async with a_house(0) as house:
        player = house.add_worker(kind=Refusing)
        player.line.number = number  # type: ignore[attr-defined]
        before, asked = open_descriptors(), Asked()
        await asked.ask(player)
        assert asked.verdicts == [None]
        assert player.load.asides_sent == 0
        assert open_descriptors() == before


async def test_a_worker_that_refuses_its_probe_is_unwell() -> None:
    async with a_house(0) as house:
        player = house.add_worker(kind=Refusing)
        player.line.number = errno.EPIPE  # type: ignore[attr-defined]
        asked = Asked()
        await asked.ask(player)
        assert asked.verdicts == ["its probe could not be handed over (Broken pipe)"]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n", ""),
        (b"HTTP/1.0 399 Well\r\n", ""),
        (b"HTTP/1.1 400 Bad\r\n\r\n", "its probe failed: Unwell: GET /ok is answered with 400"),
        (b"HTTP/1.1 503 Down\r\n\r\n", "its probe failed: Unwell: GET /ok is answered with 503"),
        (b"HTTP/1.1 199 Early\r\n\r\n", "its probe failed: Unwell: GET /ok is answered with 199"),
        (b"220 mail ready\r\n", "its probe failed: Unwell: GET /ok is not answered with HTTP"),
        (b"HTTP/1.1 fine\r\n", "its probe failed: Unwell: GET /ok is not answered with HTTP"),
        (b"", "its probe failed: Unwell: GET /ok is not answered with HTTP"),
        (b"x" * 5000, "its probe failed: Unwell: GET /ok is not answered with HTTP"),
    ],
)
async def test_http_is_asked_for_a_status(answer: bytes, verdict: str) -> None:
    async with a_house(1) as house:
        (player,) = house.players
        asked = Asked()
        asked.begin(house, player, health_check.http("/ok"))
        await wait_all_tasks_blocked()
        with taken(player) as sock:
            assert sock.recv(4096).startswith(b"GET /ok HTTP/1.1\r\nHost: localhost\r\n")
            for start in range(0, len(answer), 1000):
                sock.send(answer[start : start + 1000])
        await eventually(lambda: asked.verdicts == [verdict])


async def test_tcp_is_content_with_an_end() -> None:
    async with a_house(1) as house:
        (player,) = house.players
        asked = Asked()
        asked.begin(house, player, health_check.tcp)
        await wait_all_tasks_blocked()
        with taken(player) as sock:
            assert sock.recv(10) == b""
        await eventually(lambda: asked.verdicts == [""])
