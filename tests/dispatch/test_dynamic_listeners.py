"""Addresses that workers ask for: real listeners and real lines, and the test plays the workers."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from attrs import define
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.config.addresses import Tcp
from rrmaster.dispatch.link import OPENS_AT_ONCE, OPENS_PER_S
from rrmaster.dispatch.listening import dynamic_listeners
from rrmaster.dispatch.listening.dynamic_listeners import DynamicListeners
from rrmaster.dispatch.load import Breach
from rrmaster.protocol import wire
from rrmaster.protocol.wire import Attend, Listen, Listening
from tests.dispatch.test_listeners import needs_ipv6
from tests.fakes import House, Player, a_house, eventually, opened

LOOPBACK = "127.0.0.1"


@define(eq=False)
class Programs:
    """A dispatcher at work, and workers that ask it for addresses."""

    house: House
    dynamic_listeners: DynamicListeners

    def add_worker(self, enlist: bool = True) -> Player:
        """A worker that serves nothing yet."""
        player = self.house.add_worker(enlist=False)
        assert self.house.dispatcher.hear_ready(player.link, wire.Ready(0, listeners=()))
        if enlist:
            self.house.dispatcher.enlist(player.link)
        return player

    async def ask(self, player: Player, wish: Listen) -> Listening:
        """Ask on the line, and read the answer there."""
        assert player.letterbox.send(wish)
        await self.house.read_reports()
        found = player.letterbox.take()
        assert found is not None
        assert isinstance(found[0], Listening)
        assert found[0].seq == wish.seq
        player.asides += 1
        player.report()
        return found[0]

    async def say(self, player: Player, message: wire.Up) -> None:
        assert player.letterbox.send(message)
        await self.house.read_reports()

    @property
    def names(self) -> list[str]:
        return [acceptor.listener.name for acceptor in self.house.dispatcher.acceptors]


@asynccontextmanager
async def some_programs(window: int = 8, for_programs: bool = True) -> AsyncIterator[Programs]:
    async with a_house(
        0, window=window, binds=(), on_listener_request=lambda link, request: asked.handle(link, request)
    ) as house:
        asked = DynamicListeners(house.dispatcher, 2048, 0o666, for_programs)
        yield Programs(house, asked)


def numbers(player: Player) -> list[int]:
    player.take()
    return [handoff.listener for handoff in player.seen]


async def test_an_address_is_opened_once_and_served_by_all_workers_that_ask() -> None:
    async with some_programs() as programs:
        first, second = programs.add_worker(), programs.add_worker()
        opened = await programs.ask(first, Listen(1, LOOPBACK))
        assert (opened.errno, opened.listener) == (0, 0)
        assert programs.names == [f"127.0.0.1:{opened.port}"]
        await programs.house.calls(2)
        assert (first.waiting, second.waiting) == (2, 0)
        assert (await programs.ask(second, Listen(9, LOOPBACK))) == Listening(9, 0, 0, opened.port)
        await programs.house.calls(2)
        assert second.waiting == 2, "the one with the fewer gets the next"
        await programs.house.settle()


async def test_the_same_index_is_the_same_free_port_for_all_workers() -> None:
    async with some_programs() as programs:
        first, second = programs.add_worker(), programs.add_worker()
        ports = [(await programs.ask(first, Listen(n, LOOPBACK, index=n))).port for n in (0, 1, 2)]
        assert len(set(ports)) == 3
        assert [(await programs.ask(second, Listen(n, LOOPBACK, index=n))).port for n in (2, 0)] == [ports[2], ports[0]]
        by_number = await programs.ask(second, Listen(7, LOOPBACK, ports[1]))
        assert (by_number.errno, by_number.listener) == (0, 1)
        assert len(programs.names) == 3


async def test_the_same_address_twice_in_one_worker_is_in_use_until_it_is_left() -> None:
    async with some_programs() as programs:
        only = programs.add_worker()
        port = (await programs.ask(only, Listen(1, LOOPBACK))).port
        assert (await programs.ask(only, Listen(2, LOOPBACK, port))).errno == errno.EADDRINUSE
        await programs.say(only, Attend(0, False))
        assert (await programs.ask(only, Listen(3, LOOPBACK, port))) == Listening(3, 0, 0, port)


@needs_ipv6
async def test_the_ipv6_wildcard_leaves_the_port_of_ipv4_free() -> None:
    async with some_programs() as programs:
        only = programs.add_worker()
        found = set()
        for index in range(5):  # another program may have this very port for a moment
            port = (await programs.ask(only, Listen(1, "::", index=index))).port
            found.add((await programs.ask(only, Listen(2, "0.0.0.0", port))).errno)
        assert 0 in found


async def test_an_errno_is_the_kernels_and_nothing_is_left_open(tmp_path: Path) -> None:
    async with some_programs() as programs:
        only = programs.add_worker()
        with socket.create_server((LOOPBACK, 0)) as busy:
            port = busy.getsockname()[1]
            assert (await programs.ask(only, Listen(1, LOOPBACK, port))).errno == errno.EADDRINUSE
        assert (await programs.ask(only, Listen(2, LOOPBACK, port))).errno == 0, "it is free now"
        assert (await programs.ask(only, Listen(3, "192.0.2.1", 80))).errno == errno.EADDRNOTAVAIL
        assert (await programs.ask(only, Listen(4, "fe80::1%no\0ne", 80))).errno == errno.EADDRNOTAVAIL
        path = str(tmp_path / "nowhere" / "x.sock")
        assert (await programs.ask(only, Listen(5, path=path))).errno == errno.ENOENT
        (tmp_path / "file").touch()
        assert (await programs.ask(only, Listen(6, path=str(tmp_path / "file")))).errno == errno.EADDRINUSE
        assert (await programs.ask(only, Listen(7, path=str(tmp_path / ("n" * 200))))).errno == errno.ENAMETOOLONG
        assert len(programs.names) == 1


async def test_a_worker_may_ask_for_an_address_given_with_bind() -> None:
    async with some_programs() as programs:
        (listener,) = opened(Tcp(LOOPBACK, 0))
        programs.house.dispatcher.open(listener)
        only, port = programs.add_worker(), listener.socket.getsockname()[1]
        assert (await programs.ask(only, Listen(1, LOOPBACK, port))) == Listening(1, 0, 0, port)


async def test_a_worker_that_leaves_a_listener_gets_none_of_its_connections_and_others_get_what_it_had_not_taken() -> (
    None
):
    async with some_programs() as programs:
        first, second = programs.add_worker(), programs.add_worker()
        await programs.ask(first, Listen(1, LOOPBACK))
        await programs.house.calls(3)
        await programs.ask(second, Listen(1, LOOPBACK))
        await programs.say(first, Attend(0, False))
        await eventually(lambda: second.waiting == 3)
        await programs.house.calls(3)
        assert (first.waiting, second.waiting) == (0, 6)
        await programs.house.settle()


async def test_while_no_worker_serves_a_listener_its_clients_wait_in_the_backlog() -> None:
    async with some_programs() as programs:
        only = programs.add_worker()
        await programs.ask(only, Listen(1, LOOPBACK))
        await programs.say(only, Attend(0, False))
        await programs.house.calls(3)
        assert only.waiting == 0
        assert programs.house.dispatcher.acceptors[0].queued() == 3
        await programs.say(only, Attend(0, True))
        await eventually(lambda: only.waiting == 3)
        await programs.house.settle()


async def test_the_death_of_all_workers_closes_nothing() -> None:
    async with some_programs() as programs:
        dead = programs.add_worker()
        port = (await programs.ask(dead, Listen(1, LOOPBACK))).port
        await programs.house.calls(3)
        programs.house.remove(dead)
        await programs.house.calls(2)
        heir = programs.add_worker()
        assert (await programs.ask(heir, Listen(1, LOOPBACK))).port == port
        await eventually(lambda: heir.waiting == 5)
        await programs.house.settle()


async def test_what_is_asked_for_before_ready_is_served_from_ready_on() -> None:
    async with some_programs() as programs:
        booting = programs.house.add_worker(enlist=False)
        await programs.ask(booting, Listen(1, LOOPBACK))
        await programs.house.calls(2)
        assert booting.waiting == 0
        assert booting.link.listeners == {0}
        programs.house.dispatcher.enlist(booting.link)
        await eventually(lambda: booting.waiting == 2)
        await programs.house.settle()


async def test_a_full_line_loses_no_answer() -> None:
    async with some_programs(window=2) as programs:
        only = programs.add_worker()
        await programs.ask(only, Listen(1, LOOPBACK))
        await programs.house.calls(2)
        while only.line.nudge():
            only.load.asides_sent += 1
        await programs.say(only, Listen(2, LOOPBACK, index=1))
        assert len(only.link.pending_answers) == 1
        only.take()
        only.report()
        await programs.house.read_reports()
        assert not only.link.pending_answers
        found = only.letterbox.take()
        assert found is not None
        assert isinstance(found[0], Listening)
        assert found[0].listener == 1
        only.asides += 1
        only.report()
        await programs.house.settle()


async def test_an_answer_that_a_recall_has_read_is_sent_again(mock_clock: MockClock) -> None:
    async with some_programs() as programs:
        late, idle = programs.add_worker(), programs.add_worker()
        await programs.ask(late, Listen(1, LOOPBACK))
        await programs.house.calls(1)
        await programs.say(late, Listen(2, LOOPBACK, index=1))
        await programs.house.calls(1)
        assert late.waiting == 3
        await programs.ask(idle, Listen(1, LOOPBACK))
        await programs.house.recall.take_back(late.link, 3, [idle.link], False)
        await eventually(lambda: idle.waiting == 2 and late.waiting == 1)
        found = late.letterbox.take()
        assert found is not None
        assert isinstance(found[0], Listening)
        assert found[0].seq == 2
        late.asides += 1
        late.report()
        await programs.house.read_reports()
        assert not programs.house.breaches, "its asides are right"
        await programs.house.settle()


@pytest.mark.parametrize("message", [Attend(5, False), Attend(5, True), Attend(65535, False)])
async def test_to_name_a_listener_that_does_not_exist_is_a_breach(message: Attend) -> None:
    async with some_programs() as programs:
        liar = programs.add_worker()
        await programs.say(liar, message)
        assert programs.house.breaches == {1: f"it speaks of listener {message.listener}, and there is none"}


async def test_to_ask_for_more_than_a_worker_may_is_a_breach() -> None:
    async with some_programs() as programs:
        greedy = programs.add_worker()
        for index in range(wire.MAX_LISTENERS):
            assert (await programs.ask(greedy, Listen(index, LOOPBACK, index=index))).errno == 0
        with pytest.raises(Breach, match=r"more than \d+ listeners"):
            programs.dynamic_listeners.handle(greedy.link, Listen(99, LOOPBACK, index=99))


async def test_addresses_are_opened_for_a_worker_at_a_bounded_rate(mock_clock: MockClock) -> None:
    async with some_programs() as programs:
        restless = programs.add_worker()
        for index in range(OPENS_AT_ONCE):
            found = await programs.ask(restless, Listen(index, LOOPBACK, index=index))
            assert found.errno == 0
            await programs.say(restless, Attend(found.listener, False))
        for seq in range(1000, 1100):
            assert (await programs.ask(restless, Listen(seq, "192.0.2.1", 80))).errno == errno.EAGAIN
        first = programs.house.dispatcher.acceptors[0].listener.socket.getsockname()[1]
        assert (await programs.ask(restless, Listen(2, LOOPBACK, first))).errno == 0, "that one is open already"
        assert (await programs.ask(programs.add_worker(), Listen(1, LOOPBACK, index=999))).errno == 0, "another worker"
        mock_clock.jump(2 / OPENS_PER_S)
        answers = [(await programs.ask(restless, Listen(9, "192.0.2.1", 80))).errno for _ in range(3)]
        assert answers == [errno.EADDRNOTAVAIL] * 2 + [errno.EAGAIN], "a failure is work too"
        assert programs.house.breaches == {}


async def test_the_addresses_of_all_programs_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_listeners, "MOST", 3)
    async with some_programs() as programs:
        one, other = programs.add_worker(), programs.add_worker()
        answers = [(await programs.ask(one, Listen(index, LOOPBACK, index=index))).errno for index in range(4)]
        assert answers == [0, 0, 0, errno.EMFILE]
        assert (await programs.ask(other, Listen(1, LOOPBACK, index=9))).errno == errno.EMFILE
        assert (await programs.ask(other, Listen(2, LOOPBACK, index=2))).errno == 0, "to share one is no work"


@pytest.mark.parametrize("message", [Listen(1, LOOPBACK), Attend(0, False)])
async def test_where_no_program_runs_to_speak_of_listeners_is_a_breach(message: wire.Up) -> None:
    async with some_programs(for_programs=False) as programs:
        liar = programs.house.add_worker()
        await programs.say(liar, message)
        assert "is no program" in programs.house.breaches[1]
        assert programs.names == []


async def test_a_master_that_stops_opens_nothing() -> None:
    async with some_programs() as programs:
        only = programs.add_worker()
        programs.dynamic_listeners.stop()
        assert (await programs.ask(only, Listen(1, LOOPBACK))).errno == errno.ESHUTDOWN
        await wait_all_tasks_blocked()
        assert programs.names == []
