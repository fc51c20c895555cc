"""Which addresses workers ask for: real listeners and real lines, the test plays the workers."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from attrs import define
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.config.parsing import Tcp
from rrmaster.dispatch.dynamic_listeners import Openings
from rrmaster.dispatch.listeners import open_listeners
from rrmaster.dispatch.load import Breach
from rrmaster.protocol import wire
from rrmaster.protocol.wire import Attend, Listen, Listening
from tests.dispatch.test_listeners import needs_ipv6
from tests.fakes import House, Player, a_house, eventually

LOOPBACK = "127.0.0.1"


@define(eq=False)
class Harbour:
    """A dispatcher at work that opens what is asked for."""

    house: House
    openings: Openings

    def hire(self, enlist: bool = True) -> Player:
        """A worker that serves nothing yet."""
        player = self.house.hire(enlist=False)
        assert self.house.dispatcher.declared(player.link, ())
        if enlist:
            self.house.dispatcher.enlist(player.link)
        return player

    async def ask(self, player: Player, wish: Listen) -> Listening:
        """Ask on the line, and read the answer there."""
        assert player.letterbox.send(wish)
        await self.house.listen()
        found = player.letterbox.take()
        assert found is not None
        assert isinstance(found[0], Listening)
        assert found[0].seq == wish.seq
        player.asides += 1
        player.report()
        return found[0]

    async def say(self, player: Player, message: wire.Up) -> None:
        assert player.letterbox.send(message)
        await self.house.listen()

    @property
    def names(self) -> list[str]:
        return [door.listener.name for door in self.house.dispatcher.doors]


@asynccontextmanager
async def a_harbour(window: int = 8) -> AsyncIterator[Harbour]:
    async with a_house(0, window=window, binds=()) as house:
        openings = Openings(house.dispatcher)
        house.dispatcher.asked = openings.asked
        yield Harbour(house, openings)


def numbers(player: Player) -> list[int]:
    player.take()
    return [handoff.listener for handoff in player.seen]


async def test_an_address_is_opened_once_and_served_by_all_who_ask() -> None:
    async with a_harbour() as harbour:
        first, second = harbour.hire(), harbour.hire()
        opened = await harbour.ask(first, Listen(1, LOOPBACK))
        assert (opened.errno, opened.listener) == (0, 0)
        assert harbour.names == [f"127.0.0.1:{opened.port}"]
        await harbour.house.calls(2)
        assert (first.waiting, second.waiting) == (2, 0)
        assert (await harbour.ask(second, Listen(9, LOOPBACK))) == Listening(9, 0, 0, opened.port)
        await harbour.house.calls(2)
        assert second.waiting == 2, "the one with the fewer gets the next"
        await harbour.house.settle()


async def test_the_how_manieth_free_port_is_the_same_for_all() -> None:
    async with a_harbour() as harbour:
        first, second = harbour.hire(), harbour.hire()
        ports = [(await harbour.ask(first, Listen(n, LOOPBACK, index=n))).port for n in (0, 1, 2)]
        assert len(set(ports)) == 3
        assert [(await harbour.ask(second, Listen(n, LOOPBACK, index=n))).port for n in (2, 0)] == [ports[2], ports[0]]
        by_number = await harbour.ask(second, Listen(7, LOOPBACK, ports[1]))
        assert (by_number.errno, by_number.listener) == (0, 1)
        assert len(harbour.names) == 3


async def test_the_same_address_twice_in_one_worker_is_in_use_until_it_is_left() -> None:
    async with a_harbour() as harbour:
        only = harbour.hire()
        port = (await harbour.ask(only, Listen(1, LOOPBACK))).port
        assert (await harbour.ask(only, Listen(2, LOOPBACK, port))).errno == errno.EADDRINUSE
        await harbour.say(only, Attend(0, False))
        assert (await harbour.ask(only, Listen(3, LOOPBACK, port))) == Listening(3, 0, 0, port)


@needs_ipv6
async def test_everybody_of_ipv6_leaves_the_port_of_ipv4_to_who_asks_for_it() -> None:
    async with a_harbour() as harbour:
        only = harbour.hire()
        found = set()
        for index in range(5):  # somebody else may have just this port, for a moment
            port = (await harbour.ask(only, Listen(1, "::", index=index))).port
            found.add((await harbour.ask(only, Listen(2, "0.0.0.0", port))).errno)
        assert 0 in found


async def test_an_errno_is_the_kernels_and_nothing_is_left_open(tmp_path: Path) -> None:
    async with a_harbour() as harbour:
        only = harbour.hire()
        with socket.create_server((LOOPBACK, 0)) as busy:
            port = busy.getsockname()[1]
            assert (await harbour.ask(only, Listen(1, LOOPBACK, port))).errno == errno.EADDRINUSE
        assert (await harbour.ask(only, Listen(2, LOOPBACK, port))).errno == 0, "it is free now"
        assert (await harbour.ask(only, Listen(3, "192.0.2.1", 80))).errno == errno.EADDRNOTAVAIL
        assert (await harbour.ask(only, Listen(4, "fe80::1%no\0ne", 80))).errno == errno.EADDRNOTAVAIL
        path = str(tmp_path / "nowhere" / "x.sock")
        assert (await harbour.ask(only, Listen(5, path=path))).errno == errno.ENOENT
        (tmp_path / "file").touch()
        assert (await harbour.ask(only, Listen(6, path=str(tmp_path / "file")))).errno == errno.EADDRINUSE
        assert (await harbour.ask(only, Listen(7, path=str(tmp_path / ("n" * 200))))).errno == errno.ENAMETOOLONG
        assert len(harbour.names) == 1


async def test_what_is_given_with_bind_is_there_for_who_asks_for_it() -> None:
    async with a_harbour() as harbour:
        (listener,) = open_listeners(Tcp(LOOPBACK, 0))
        harbour.house.dispatcher.open(listener)
        only, port = harbour.hire(), listener.socket.getsockname()[1]
        assert (await harbour.ask(only, Listen(1, LOOPBACK, port))) == Listening(1, 0, 0, port)


async def test_who_leaves_a_listener_gets_no_more_of_it_and_what_it_had_not_taken_goes_to_the_others() -> None:
    async with a_harbour() as harbour:
        first, second = harbour.hire(), harbour.hire()
        await harbour.ask(first, Listen(1, LOOPBACK))
        await harbour.house.calls(3)
        await harbour.ask(second, Listen(1, LOOPBACK))
        await harbour.say(first, Attend(0, False))
        await eventually(lambda: second.waiting == 3)
        await harbour.house.calls(3)
        assert (first.waiting, second.waiting) == (0, 6)
        await harbour.house.settle()


async def test_with_nobody_left_clients_wait_in_the_backlog_until_somebody_serves_again() -> None:
    async with a_harbour() as harbour:
        only = harbour.hire()
        await harbour.ask(only, Listen(1, LOOPBACK))
        await harbour.say(only, Attend(0, False))
        await harbour.house.calls(3)
        assert only.waiting == 0
        assert harbour.house.dispatcher.doors[0].queued() == 3
        await harbour.say(only, Attend(0, True))
        await eventually(lambda: only.waiting == 3)
        await harbour.house.settle()


async def test_the_death_of_all_workers_closes_nothing() -> None:
    async with a_harbour() as harbour:
        dead = harbour.hire()
        port = (await harbour.ask(dead, Listen(1, LOOPBACK))).port
        await harbour.house.calls(3)
        harbour.house.bury(dead)
        await harbour.house.calls(2)
        heir = harbour.hire()
        assert (await harbour.ask(heir, Listen(1, LOOPBACK))).port == port
        await eventually(lambda: heir.waiting == 5)
        await harbour.house.settle()


async def test_what_is_asked_for_before_ready_is_served_from_ready_on() -> None:
    async with a_harbour() as harbour:
        booting = harbour.house.hire(enlist=False)
        await harbour.ask(booting, Listen(1, LOOPBACK))
        await harbour.house.calls(2)
        assert booting.waiting == 0
        assert booting.link.listeners == {0}
        harbour.house.dispatcher.enlist(booting.link)
        await eventually(lambda: booting.waiting == 2)
        await harbour.house.settle()


async def test_a_full_line_loses_no_answer() -> None:
    async with a_harbour(window=2) as harbour:
        only = harbour.hire()
        await harbour.ask(only, Listen(1, LOOPBACK))
        await harbour.house.calls(2)
        while only.line.nudge():
            only.post.asides += 1
        await harbour.say(only, Listen(2, LOOPBACK, index=1))
        assert len(only.link.unsaid) == 1
        only.take()
        only.report()
        await harbour.house.listen()
        assert not only.link.unsaid
        found = only.letterbox.take()
        assert found is not None
        assert isinstance(found[0], Listening)
        assert found[0].listener == 1
        only.asides += 1
        only.report()
        await harbour.house.settle()


async def test_an_answer_that_a_recall_has_read_is_said_again(mock_clock: MockClock) -> None:
    async with a_harbour() as harbour:
        late, idle = harbour.hire(), harbour.hire()
        await harbour.ask(late, Listen(1, LOOPBACK))
        await harbour.house.calls(1)
        await harbour.say(late, Listen(2, LOOPBACK, index=1))
        await harbour.house.calls(1)
        assert late.waiting == 3
        await harbour.ask(idle, Listen(1, LOOPBACK))
        await harbour.house.recall.take_back(late.link, 3, [idle.link], False)
        await eventually(lambda: idle.waiting == 2 and late.waiting == 1)
        found = late.letterbox.take()
        assert found is not None
        assert isinstance(found[0], Listening)
        assert found[0].seq == 2
        late.asides += 1
        late.report()
        await harbour.house.listen()
        assert not harbour.house.breaches, "its asides are right"
        await harbour.house.settle()


@pytest.mark.parametrize("message", [Attend(5, False), Attend(5, True), Attend(65535, False)])
async def test_to_speak_of_a_listener_that_does_not_exist_is_a_breach(message: Attend) -> None:
    async with a_harbour() as harbour:
        liar = harbour.hire()
        await harbour.say(liar, message)
        assert harbour.house.breaches == {1: f"it speaks of listener {message.listener}, and there is none"}


async def test_to_ask_for_more_than_a_worker_may_is_a_breach() -> None:
    async with a_harbour() as harbour:
        greedy = harbour.hire()
        for index in range(wire.MAX_LISTENERS):
            assert (await harbour.ask(greedy, Listen(index, LOOPBACK, index=index))).errno == 0
        with pytest.raises(Breach, match=r"more than \d+ listeners"):
            harbour.openings.asked(greedy.link, Listen(99, LOOPBACK, index=99))


async def test_a_master_that_stops_opens_nothing() -> None:
    async with a_harbour() as harbour:
        only = harbour.hire()
        harbour.openings.over = True
        assert (await harbour.ask(only, Listen(1, LOOPBACK))).errno == errno.ESHUTDOWN
        await wait_all_tasks_blocked()
        assert harbour.names == []
