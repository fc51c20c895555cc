"""Messages take a share of the master's time: what is too much waits in the kernel, and each worker has its turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from attrs import Factory, define
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.events import reading_time
from rrmaster.events.bus import MessageChannel
from rrmaster.events.reading_time import BURST_S, SHARE, TURN_S, ReadingTime
from rrmaster.protocol import wire
from rrmaster.protocol.channel import TalkLine

BIG_S = 0.002
"""What a large message takes to read here, in seconds; longer than a turn."""
SMALL_S = 0.00001
"""The same for a small one."""


@define(eq=False)
class Fleet:
    """Channels of several workers, and the time that the master has used."""

    used: float = 0.0
    reading_time: ReadingTime = Factory(lambda self: ReadingTime(lambda: self.used), takes_self=True)
    heard: list[tuple[str, Any]] = Factory(list)

    @contextmanager
    def worker(self, name: str, cost: float) -> Iterator[tuple[MessageChannel, TalkLine]]:
        """A worker, each of whose messages takes the master this long."""
        talk, its = TalkLine.open()
        channel = MessageChannel(talk, self._reader(name, cost), lambda what: None, self.reading_time, name)
        try:
            yield channel, TalkLine(its)
        finally:
            channel.close()
            its.close()

    def _reader(self, name: str, cost: float) -> Callable[[Any, int], None]:
        def read(message: Any, size: int) -> None:
            self.used += cost
            self.heard.append((name, message))

        return read


def fill(end: TalkLine) -> int:
    """Send until the line is full; returns how many messages found room."""
    sent = 0
    while end.send(wire.encode_note(sent)):
        sent += 1
    return sent


async def test_while_messages_keep_coming_they_take_their_share_of_the_time_and_no_more(
    autojump_clock: MockClock,
) -> None:
    fleet = Fleet()
    with fleet.worker("loud", BIG_S) as (channel, end):
        sent = fill(end)
        end.close()
        began = trio.current_time()
        await channel.receive()
        took = trio.current_time() - began
    assert len(fleet.heard) == sent
    assert fleet.used > 2 * BURST_S, "there was enough to read"
    assert (fleet.used - BURST_S) / (took + 0.020) <= SHARE
    assert fleet.used / took >= SHARE, "it does not wait for longer than it must"


async def test_five_thousand_small_messages_a_second_wait_for_nothing(autojump_clock: MockClock) -> None:
    fleet = Fleet()
    with fleet.worker("busy", SMALL_S) as (channel, end):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.receive)
            for second in range(10):
                for _ in range(50):
                    for _ in range(100):
                        assert end.send(wire.encode_note(second))
                    await wait_all_tasks_blocked()
                    assert len(fleet.heard) % 100 == 0, "all that came is read at once"
                    await trio.sleep(0.020)
            nursery.cancel_scope.cancel()
    assert len(fleet.heard) == 50_000


async def test_what_there_is_no_time_to_read_stays_in_the_kernel_and_its_sender_waits(mock_clock: MockClock) -> None:
    fleet = Fleet()
    with fleet.worker("loud", BIG_S) as (channel, end):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.receive)
            await wait_all_tasks_blocked()
            for _ in range(10):
                fill(end)
                await wait_all_tasks_blocked()
            assert fill(end) == 0
            assert len(fleet.heard) <= BURST_S / BIG_S + 1
            mock_clock.jump(10 * BIG_S / SHARE)
            await wait_all_tasks_blocked()
            assert fill(end) > 0, "it goes on as time comes"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("loud", [1, 4])
async def test_a_worker_beside_others_with_too_much_to_say_is_heard_in_its_turn(
    loud: int, autojump_clock: MockClock
) -> None:
    fleet = Fleet()
    with fleet.worker("quiet", SMALL_S) as (channel, end):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.receive)
            for number in range(loud):
                nursery.start_soon(keeps_sending, fleet, f"loud {number}")
            await trio.sleep(2 * BURST_S / SHARE)
            end.send(wire.encode_note("now"))
            sent_at = trio.current_time()
            with trio.fail_after(1):
                while ("quiet", "now") not in fleet.heard:
                    await trio.sleep(0.001)
            assert trio.current_time() - sent_at <= (loud + 1) * (BIG_S / SHARE + TURN_S) + 0.002
            nursery.cancel_scope.cancel()


async def test_the_log_says_once_in_a_while_that_messages_wait_and_which_worker_sends_most(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_time, "SAY_AGAIN_S", 3.0)
    fleet = Fleet()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeps_sending, fleet, "worker 3")
        await trio.sleep(0.9)
        assert caplog.messages == [], "it may be a burst"
        await trio.sleep(2)
        assert len(caplog.messages) == 1
        assert caplog.messages[0].endswith("25 % of the master's time: 100 % of it is for those of worker 3")
        await trio.sleep(3)
        assert len(caplog.messages) == 2
        nursery.cancel_scope.cancel()


async def keeps_sending(fleet: Fleet, name: str) -> None:
    with fleet.worker(name, BIG_S) as (channel, end):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.receive)
            while True:
                fill(end)
                await trio.sleep(0.010)


async def test_the_last_messages_of_a_worker_that_has_ended_are_read_at_once(mock_clock: MockClock) -> None:
    fleet = Fleet()
    with fleet.worker("dead", BIG_S) as (channel, end):
        sent = fill(end)
        end.close()
        channel.close_after_exit()
        assert len(fleet.heard) == sent
