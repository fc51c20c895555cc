"""Messages and events: every queue is bounded, a slow reader delays no other, and a hostile worker does no harm."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from attrs import Factory, define
from trio.testing import wait_all_tasks_blocked

from rrmaster.events.bus import KEPT, KEPT_BYTES, EventBus, MessageChannel, WorkerGone
from rrmaster.events.events import EventsMissed, FleetScaled, WorkerMessage
from rrmaster.protocol import wire
from rrmaster.protocol.channel import TalkLine
from rrmaster.worker.messages import MasterGone, Messages
from rrmaster.worker.serving import asyncio_worker as asyncio_side
from rrmaster.worker.serving import on_trio as trio_side


@define(eq=False)
class Ends:
    """Both ends of a talk line, and what the master's end has received."""

    channel: MessageChannel
    worker_end: TalkLine
    heard: list[Any] = Factory(list)
    breaches: list[str] = Factory(list)


@contextmanager
def open_channel() -> Iterator[Ends]:
    talk, its = TalkLine.open()
    heard: list[Any] = []
    breaches: list[str] = []
    channel = MessageChannel(talk, lambda message, size: heard.append(message), breaches.append)
    ends = Ends(channel, TalkLine.inherit(os.dup(its.fileno())), heard, breaches)
    its.close()
    try:
        yield ends
    finally:
        channel.close()
        ends.worker_end.close()


# --- the talk line


async def test_what_is_sent_is_heard_in_order() -> None:
    with open_channel() as ends, trio.fail_after(5):
        for number in range(50):
            await ends.channel.send(number)
        assert [wire.decode_note(ends.worker_end.receive()) for _ in range(50)] == [(number,) for number in range(50)]
        assert ends.worker_end.receive() is None


async def test_a_full_line_makes_the_sender_wait_and_grows_nothing() -> None:
    with open_channel() as ends, trio.fail_after(5):
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await ends.channel.send("x" * 1000)
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            before = sent
            assert 50 < before < 1000, "what the kernel keeps"
            await wait_all_tasks_blocked()
            assert sent == before
            while ends.worker_end.receive() is not None:
                pass
            await wait_all_tasks_blocked()
            assert sent > before
            nursery.cancel_scope.cancel()


async def test_waiting_senders_send_in_the_order_in_which_they_came() -> None:
    with open_channel() as ends, trio.fail_after(5):
        while ends.channel.talk.send(wire.encode_note("filler")):
            pass
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(ends.channel.send, number)
                await wait_all_tasks_blocked()
            heard = []
            while len(heard) < 5:
                found = ends.worker_end.receive()
                if found is None:
                    await wait_all_tasks_blocked()
                elif wire.decode_note(found) != ("filler",):
                    heard.append(wire.decode_note(found)[0])
        assert heard == list(range(5))


async def test_a_cancelled_sender_has_sent_nothing_and_the_next_one_can() -> None:
    with open_channel() as ends, trio.fail_after(5):
        while ends.channel.talk.send(wire.encode_note("filler")):
            pass
        with trio.move_on_after(0) as scope:
            await ends.channel.send("never")
        assert scope.cancelled_caught
        while ends.worker_end.receive() is not None:
            pass
        await ends.channel.send("now")
        assert wire.decode_note(ends.worker_end.receive()) == ("now",)


async def test_sending_to_a_worker_that_has_closed_its_end_is_an_error_also_for_waiting_senders() -> None:
    with open_channel() as ends, trio.fail_after(5):
        while ends.channel.talk.send(wire.encode_note("filler")):
            pass
        errors = []

        async def send() -> None:
            try:
                await ends.channel.send(1)
            except WorkerGone as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(send)
            await wait_all_tasks_blocked()
            ends.worker_end.close()
        assert len(errors) == 3


async def test_closing_wakes_waiting_senders_with_an_error() -> None:
    with open_channel() as ends, trio.fail_after(5):
        while ends.channel.talk.send(wire.encode_note("filler")):
            pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_to_send, ends.channel)
            nursery.start_soon(ends.channel.receive)
            await wait_all_tasks_blocked()
            ends.channel.close()
        with pytest.raises(WorkerGone):
            await ends.channel.send(2)


async def fails_to_send(channel: MessageChannel) -> None:
    with pytest.raises(WorkerGone):
        await channel.send(1)


async def test_what_a_worker_sent_before_it_ended_is_received() -> None:
    with open_channel() as ends:
        for number in range(100):
            assert ends.worker_end.send(wire.encode_note(number))
        ends.worker_end.close()
        ends.channel.close_after_exit()
        assert ends.heard == list(range(100))
        ends.channel.close_after_exit()


NOTE = wire.encode_note(1)


@pytest.mark.parametrize("words", [b"x", b"nonsense", NOTE[:-1], NOTE[:-1] + b"{", bytes([32, 0, 4, 0]) + b"\xff" * 4])
async def test_a_malformed_datagram_is_a_breach(words: bytes) -> None:
    with open_channel() as ends, trio.fail_after(5):
        ends.worker_end.line.send(words)
        await ends.channel.receive()
        assert len(ends.breaches) == 1
        assert not ends.heard


async def test_a_message_of_an_unknown_kind_is_skipped() -> None:
    with open_channel() as ends, trio.fail_after(5):
        ends.worker_end.line.send(bytes([99, 0, 2, 0]) + b"{}")
        ends.worker_end.send(wire.encode_note("now"))
        ends.worker_end.close()
        await ends.channel.receive()
        assert (ends.heard, ends.breaches) == (["now"], [])


async def test_descriptors_sent_along_do_not_stay_in_the_master() -> None:
    with open_channel() as ends, trio.fail_after(5):
        before = len(os.listdir("/proc/self/fd"))
        try:
            socket.send_fds(ends.worker_end.line, [wire.encode_note(1)], [0, 1, 2])
        except PermissionError:
            pass  # this kernel refuses them at the sender
        ends.worker_end.send(wire.encode_note(2))
        ends.worker_end.line.shutdown(socket.SHUT_WR)
        await ends.channel.receive()
        assert ends.heard[-1] == 2
        assert len(os.listdir("/proc/self/fd")) == before


async def test_a_flood_does_not_keep_other_tasks_from_running() -> None:
    with open_channel() as ends, trio.fail_after(5):
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            for number in range(200):
                assert ends.worker_end.send(wire.encode_note(number))
            ends.worker_end.line.shutdown(socket.SHUT_WR)
            await ends.channel.receive()
            nursery.cancel_scope.cancel()
        assert ends.heard == list(range(200))
        assert turns >= 200 // 16 // 2, "trio runs the tasks of a turn in any order"


# --- the worker's end


def with_trio(talk: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(5):
            await talk()

    trio.run(main)


def with_asyncio(talk: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(talk(), 5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("run", "kind"), [(with_trio, trio_side.TrioWaiter), (with_asyncio, asyncio_side.AsyncioWaiter)]
)
def test_when_the_master_has_gone_messages_end_and_sending_is_an_error(run: Any, kind: Any) -> None:
    master, its = TalkLine.open()

    class Waiter(kind):  # type: ignore[misc]  # the runtime's own
        async def wait_writable(self, fd: int) -> None:
            """Close the other end when the line is full."""
            master.close()
            await super().wait_writable(fd)

    async def talk() -> None:
        channel = Messages(TalkLine(its), Waiter())
        assert master.send(wire.encode_note("the last message"))
        with pytest.raises(MasterGone):
            await send_for_ever(channel)
        assert [message async for message in channel.receive()] == ["the last message"]
        with pytest.raises(MasterGone):
            await channel.send("this is not read")

    with its:
        run(talk)


async def send_for_ever(channel: Messages) -> None:
    for _ in range(10_000):  # a line that never fills would be a mistake, too
        await channel.send("x" * 1000)


async def test_messages_have_one_iteration_at_a_time() -> None:
    with open_channel() as ends, trio.fail_after(5):
        channel = Messages(ends.worker_end, trio_side.TrioWaiter())
        for number in range(2):
            await ends.channel.send(number)
        messages = channel.receive()
        assert await anext(messages) == 0
        with pytest.raises(RuntimeError, match="another iteration"):
            await anext(channel.receive())
        await messages.aclose()
        others = channel.receive()
        assert await anext(others) == 1, "the next iteration continues"
        await others.aclose()


# --- events


async def test_every_subscriber_sees_every_event_from_its_subscription_on() -> None:
    bus = EventBus()
    bus.publish(FleetScaled(1))
    async with bus.subscribe() as early:
        bus.publish(FleetScaled(2))
        async with bus.subscribe() as late:
            bus.publish(FleetScaled(3))
            bus.close()
            assert [event async for event in early] == [FleetScaled(2), FleetScaled(3)]
            assert [event async for event in late] == [FleetScaled(3)]
    async with bus.subscribe() as after:
        assert [event async for event in after] == []


async def test_a_slow_subscriber_is_told_how_many_events_it_missed_and_the_others_miss_none() -> None:
    bus = EventBus()
    async with bus.subscribe() as slow, bus.subscribe() as quick:
        seen = []
        for number in range(KEPT + 500):
            bus.publish(FleetScaled(number))
            seen.append(await anext(quick))
        assert seen == [FleetScaled(number) for number in range(KEPT + 500)]
        assert await anext(slow) == EventsMissed(500)
        assert await anext(slow) == FleetScaled(500)


async def test_large_messages_are_bounded_by_their_bytes() -> None:
    bus = EventBus()
    size = 50_000
    async with bus.subscribe() as slow:
        for number in range(1_000):
            bus.publish(WorkerMessage(1, 0, 1, number), size)
        missed = await anext(slow)
        assert missed == EventsMissed(1_000 - KEPT_BYTES // size)
        assert (await anext(slow)).message == missed.count


async def test_a_subscriber_that_is_cancelled_loses_no_event() -> None:
    bus = EventBus()
    async with bus.subscribe() as events:
        bus.publish(FleetScaled(1))
        taken = []
        with trio.CancelScope() as scope:
            scope.cancel()
            while True:
                bus.publish(FleetScaled(len(taken) + 2))
                taken.append(await anext(events))
        assert scope.cancelled_caught
        assert await anext(events) == FleetScaled(len(taken) + 1), "the next one"
        assert taken == [FleetScaled(number + 1) for number in range(len(taken))]
