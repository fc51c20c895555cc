"""What was lost with a worker or a pool: one party counts at each door, and what remains is exact once all is read."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress

from attrs import Factory, define
from trio.testing import wait_all_tasks_blocked

from rrmaster.protocol import wire
from rrmaster.protocol.parking.lane import ENDED, LANE, ORDER, PARK, record
from tests.fakes import House, Player, a_house, eventually, run_alone


@define(eq=False)
class FakePool:
    """The other end of the line to the idle pool, moved by the test."""

    house: House
    line: socket.socket = None  # type: ignore[assignment]
    masters: socket.socket = None  # type: ignore[assignment]
    lanes: dict[int, socket.socket] = Factory(dict)
    rested: list[socket.socket] = Factory(list)

    def stand(self) -> None:
        """Stand, and open the lanes that the master sends."""
        self.masters, self.line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.masters.setblocking(False)
        self.line.setblocking(False)
        self.house.dispatcher.returns.open(self.masters)
        self.house.dispatcher.lanes.stand(self.masters)
        self.hear()

    def hear(self) -> None:
        with suppress(BlockingIOError):
            while True:
                data, fds, _, _ = socket.recv_fds(self.line, 64, 1)
                kind, number = ORDER.unpack(data)
                assert kind == LANE
                self.lanes[number] = socket.socket(fileno=fds[0])

    def take(self, number: int) -> int:
        """Take what lies in a lane, and say how many those are."""
        before = len(self.rested)
        self.lanes[number].setblocking(False)
        with suppress(BlockingIOError, ConnectionResetError):
            while got := socket.recv_fds(self.lanes[number], 9000, 60)[1]:
                self.rested += [socket.socket(fileno=fd) for fd in got]
        return len(self.rested) - before

    def say_ended(self, number: int, taken: int) -> None:
        self.lanes.pop(number).close()
        self.line.send(ENDED.pack(number, taken))

    async def die(self) -> None:
        """End, and let the master do what its keeper does then."""
        for sock in (*self.lanes.values(), *self.rested, self.line):
            sock.close()
        lanes, returns = self.house.dispatcher.lanes, self.house.dispatcher.returns
        lanes.fall()
        returns.look()
        self.house.dispatcher.wake()
        await eventually(lambda: not returns.is_open)
        self.masters.close()
        lanes.fallen()


@define(eq=False)
class Parker:
    """A worker that parks, and the page on which it counts."""

    player: Player
    house: House
    counted: list[int] = Factory(lambda: [0, 0])
    lane: socket.socket = None  # type: ignore[assignment]

    def ready(self) -> None:
        self.player.link.count_by(lambda: (self.counted[0], self.counted[1]))
        self.house.dispatcher.lanes.add(self.player.link)

    def take_lane(self) -> None:
        found = self.player.letterbox.take()
        assert found is not None
        message, fd = found
        assert isinstance(message, wire.Lane)
        assert fd is not None
        self.lane = socket.socket(fileno=fd)
        self.player.asides += 1
        self.player.report()

    def park(self, *fds: int) -> None:
        """Send these, and count nothing."""
        socket.send_fds(self.lane, [PARK.pack(len(fds)) + record(1e9, 0, 3, b"memo") * len(fds)], list(fds))

    def park_one(self) -> None:
        sock = self.player.held.pop()
        self.park(sock.fileno())
        sock.close()

    def die(self) -> int:
        self.lane.close()
        return self.house.remove(self.player)


async def a_parker(house: House, pool: FakePool) -> Parker:
    """The first worker parks; a pool stands."""
    parker = Parker(house.players[0], house)
    parker.ready()
    pool.stand()
    parker.take_lane()
    await wait_all_tasks_blocked()
    return parker


async def given(house: House, parker: Parker, count: int) -> None:
    """The first worker has this number of connections in its hands."""
    for other in house.players[1:]:
        other.report(taking=False)
    await house.read_reports()
    await house.calls(count)
    assert parker.player.take() == count
    for other in house.players[1:]:
        other.report(taking=True)
    await house.read_reports()


async def test_what_a_dead_worker_had_closed_and_not_reported_is_not_lost():
    async with a_house(2) as house:
        pool = FakePool(house)
        parker = await a_parker(house, pool)
        await given(house, parker, 3)
        parker.counted[0] = 2
        parker.die()
        pool.say_ended(1, 0)
        await eventually(lambda: parker.player.link.settled)
        assert parker.player.link.lost == 1
        await pool.die()


async def test_what_a_dead_worker_had_parked_and_not_counted_is_known_when_its_lane_is_read():
    async with a_house(2) as house:
        pool, told = FakePool(house), []
        parker = await a_parker(house, pool)
        link = parker.player.link
        await given(house, parker, 3)
        parker.park_one()
        assert parker.die() == 3, "no more is lost than this"
        link.when_settled(lambda: told.append(link.lost))
        assert not told
        pool.say_ended(1, pool.take(1))
        await eventually(lambda: link.settled)
        assert told == [2]
        assert house.dispatcher.lanes.parked() == 1
        await pool.die()


async def test_what_is_known_twice_counts_once():
    async with a_house(2) as house:
        pool = FakePool(house)
        parker = await a_parker(house, pool)
        await given(house, parker, 3)
        parker.park_one()
        parker.counted[1] = 1
        assert parker.die() == 2
        pool.say_ended(1, pool.take(1))
        await eventually(lambda: parker.player.link.settled)
        assert parker.player.link.lost == 2
        await pool.die()


async def test_what_lay_in_the_lane_of_a_dead_worker_when_the_pool_dies_too_is_served_and_not_lost():
    async with a_house(2) as house:
        pool = FakePool(house)
        parker = await a_parker(house, pool)
        await given(house, parker, 3)
        parker.park_one()
        parker.die()
        await pool.die()
        assert parker.player.link.settled
        assert (parker.player.link.lost, house.dispatcher.lanes.taken_back) == (2, 1)
        await house.settle(lost=2)


async def test_what_a_pool_has_said_before_it_died_is_heard():
    async with a_house(2) as house:
        pool = FakePool(house)
        parker = await a_parker(house, pool)
        await given(house, parker, 2)
        parker.park_one()
        taken = pool.take(1)
        parker.die()
        pool.say_ended(1, taken)
        await pool.die()
        assert parker.player.link.lost == 1
        assert house.dispatcher.lanes.parked() == 1, "and it was cut with the pool"


async def test_a_worker_outlives_pools_and_what_it_parked_in_each_counts():
    async with a_house(2) as house:
        first, second = FakePool(house), FakePool(house)
        parker = await a_parker(house, first)
        await given(house, parker, 4)
        parker.park_one()
        parker.counted[1] = 1
        first.take(1)
        await first.die()
        second.stand()
        parker.lane.close()
        parker.take_lane()
        parker.park_one()
        parker.die()
        second.say_ended(2, second.take(2))
        await eventually(lambda: parker.player.link.settled)
        assert (parker.player.link.lost, house.dispatcher.lanes.parked()) == (2, 2)
        await second.die()


async def test_a_nudge_that_a_dead_worker_had_read_is_no_connection_that_was_lost():
    async with a_house(2) as house:
        dead, link = house.players[0], house.players[0].link
        house.players[1].report(taking=False)
        await house.read_reports()
        link.nudge()
        await house.calls(2)
        assert dead.take(1) == 1
        house.players[1].report(taking=True)
        await house.read_reports()
        assert house.remove(dead) == 1, "its letterbox is empty at once, for another worker has room"
        assert link.settled
        await house.settle(lost=1)


async def test_what_a_worker_claims_is_no_more_than_it_was_handed():
    async with a_house(2) as house:
        pool = FakePool(house)
        parker = await a_parker(house, pool)
        await given(house, parker, 3)
        parker.counted[:] = [2**63, 2**63]
        parker.die()
        pool.say_ended(1, 2**62)
        await eventually(lambda: parker.player.link.settled)
        assert (parker.player.link.lost, house.dispatcher.lanes.parked()) == (0, 0)
        await pool.die()


async def test_what_lies_in_a_lane_and_is_no_connection_comes_to_no_worker():
    """The pool has died, and the master judges as the pool would have."""
    async with a_house(2) as house:
        pool = FakePool(house)
        parker = await a_parker(house, pool)
        await given(house, parker, 2)
        ends = os.pipe()
        sock = parker.player.held.pop()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1000))
        listener = house.dispatcher.acceptors[0].listener.socket
        with socket.create_server(("127.0.0.1", 0)) as other, socket.socket() as unconnected:
            assert listener.fileno() >= 0
            parker.park(ends[0], other.fileno(), unconnected.fileno(), sock.fileno(), sock.fileno())
        parker.lane.send(b"?")
        socket.send_fds(parker.lane, [PARK.pack(1)], list(ends))
        for end in ends:
            os.close(end)
        sock.close()
        parker.counted[1] = 1
        parker.lane.close()
        await pool.die()
        lanes = house.dispatcher.lanes
        assert (lanes.taken_back, lanes.left, lanes.lost) == (1, 1, 0)
        assert lanes.refused == 7, "a pipe, a listener, the same again, two messages that are none, and two descriptors"
        heir = next(player for player in house.players if player.waiting)
        assert heir.take() == 1
        assert struct.unpack("ii", heir.held[-1].getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0] == 0
        await house.settle()


async def test_what_is_taken_back_cannot_be_parked_again_in_a_lane_of_the_dead_pool():
    """A quick worker would park it before the last lane is read, and it would lie there as if it came twice."""
    async with a_house(2) as house:
        pool, refused = FakePool(house), []
        first = await a_parker(house, pool)
        second = Parker(house.players[1], house)
        second.ready()
        pool.hear()
        second.take_lane()
        await given(house, first, 1)
        lanes = house.dispatcher.lanes
        redeliver = lanes.redeliver

        def and_park_at_once(handoff: wire.Handoff, fd: int) -> None:
            for parker in (first, second):
                try:
                    parker.park(fd)
                except BrokenPipeError:
                    refused.append(parker)
            redeliver(handoff, fd)

        lanes.redeliver = and_park_at_once
        first.park_one()
        first.counted[1] = 1
        await pool.die()
        assert refused == [first, second]
        assert (lanes.taken_back, lanes.refused) == (1, 0)
        for parker in (first, second):
            parker.lane.close()
        await house.settle()


async def test_a_worker_that_has_closed_its_lane_is_told_nothing_through_it():
    async with a_house(2) as house:
        pool = FakePool(house)
        parker = await a_parker(house, pool)
        parker.lane.close()
        pool.say_ended(1, 0)
        await house.read_reports()
        house.dispatcher.lanes.spread(house.players[1].link)
        assert house.dispatcher.links
        await pool.die()


def test_a_connection_that_comes_back_without_its_descriptor_is_lost_and_ends_no_lane():
    """Its memo, which a worker has written, is as long as an Ended."""
    run_alone("""
import socket
import trio
from tests import fakes
from tests.idle.test_losses import FakePool, a_parker
from rrmaster.protocol.parking.lane import ENDED, RETURN

async def main():
    async with fakes.a_house(2) as house:
        pool = FakePool(house)
        parker = await a_parker(house, pool)
        ours, theirs = socket.socketpair()
        head = RETURN.pack(0, int(socket.AF_UNIX)).ljust(ENDED.size, b"\\0")
        relieve = fakes.fill_the_table()
        socket.send_fds(pool.line, [head], [theirs.fileno()])
        house.dispatcher.wake()
        try:
            await fakes.eventually(lambda: house.dispatcher.returns.lost == 1)
        finally:
            relieve()
        parker.die()
        assert not parker.player.link.settled
        pool.say_ended(1, 0)
        await fakes.eventually(lambda: parker.player.link.settled)
        await pool.die()

trio.run(main)
""")
