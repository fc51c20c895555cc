"""Messages and events: nothing is kept without a bound, nobody waits for the slow, and a hostile end harms nobody."""

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

from rrmaster.events.bus import KEPT, KEPT_BYTES, Conversation, News, WorkerGone
from rrmaster.events.events import EventsMissed, FleetScaled, WorkerMessage
from rrmaster.protocol import wire
from rrmaster.protocol.channel import Talk
from rrmaster.worker.messages import MasterGone, Messages
from rrmaster.worker.serving import on_asyncio as asyncio_side
from rrmaster.worker.serving import on_trio as trio_side


@define(eq=False)
class Ends:
    """A conversation, and the worker's end of it."""

    conversation: Conversation
    its: Talk
    heard: list[Any] = Factory(list)
    breaches: list[str] = Factory(list)


@contextmanager
def a_conversation() -> Iterator[Ends]:
    talk, its = Talk.open()
    heard: list[Any] = []
    breaches: list[str] = []
    conversation = Conversation(talk, lambda message, size: heard.append(message), breaches.append)
    ends = Ends(conversation, Talk.inherit(os.dup(its.fileno())), heard, breaches)
    its.close()
    try:
        yield ends
    finally:
        conversation.close()
        ends.its.close()


# --- the talk line


async def test_what_is_sent_is_heard_in_order() -> None:
    with a_conversation() as ends, trio.fail_after(5):
        for number in range(50):
            await ends.conversation.send(number)
        assert [wire.decode_note(ends.its.hear()) for _ in range(50)] == [(number,) for number in range(50)]
        assert ends.its.hear() is None


async def test_a_full_line_makes_the_sender_wait_and_grows_nothing() -> None:
    with a_conversation() as ends, trio.fail_after(5):
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await ends.conversation.send("x" * 1000)
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            before = sent
            assert 50 < before < 1000, "what the kernel keeps"
            await wait_all_tasks_blocked()
            assert sent == before
            while ends.its.hear() is not None:
                pass
            await wait_all_tasks_blocked()
            assert sent > before
            nursery.cancel_scope.cancel()


async def test_those_who_wait_are_served_in_the_order_in_which_they_came() -> None:
    with a_conversation() as ends, trio.fail_after(5):
        while ends.conversation.talk.say(wire.encode_note("filler")):
            pass
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(ends.conversation.send, number)
                await wait_all_tasks_blocked()
            heard = []
            while len(heard) < 5:
                found = ends.its.hear()
                if found is None:
                    await wait_all_tasks_blocked()
                elif wire.decode_note(found) != ("filler",):
                    heard.append(wire.decode_note(found)[0])
        assert heard == list(range(5))


async def test_a_cancelled_sender_has_sent_nothing_and_the_next_one_can() -> None:
    with a_conversation() as ends, trio.fail_after(5):
        while ends.conversation.talk.say(wire.encode_note("filler")):
            pass
        with trio.move_on_after(0) as scope:
            await ends.conversation.send("never")
        assert scope.cancelled_caught
        while ends.its.hear() is not None:
            pass
        await ends.conversation.send("now")
        assert wire.decode_note(ends.its.hear()) == ("now",)


async def test_sending_to_one_who_has_hung_up_is_an_error_there_also_for_those_who_wait() -> None:
    with a_conversation() as ends, trio.fail_after(5):
        while ends.conversation.talk.say(wire.encode_note("filler")):
            pass
        errors = []

        async def send() -> None:
            try:
                await ends.conversation.send(1)
            except WorkerGone as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(send)
            await wait_all_tasks_blocked()
            ends.its.close()
        assert len(errors) == 3


async def test_closing_tells_those_who_wait() -> None:
    with a_conversation() as ends, trio.fail_after(5):
        while ends.conversation.talk.say(wire.encode_note("filler")):
            pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_to_send, ends.conversation)
            nursery.start_soon(ends.conversation.listen)
            await wait_all_tasks_blocked()
            ends.conversation.close()
        with pytest.raises(WorkerGone):
            await ends.conversation.send(2)


async def fails_to_send(conversation: Conversation) -> None:
    with pytest.raises(WorkerGone):
        await conversation.send(1)


async def test_what_the_dead_had_said_is_heard_when_it_is_buried() -> None:
    with a_conversation() as ends:
        for number in range(100):
            assert ends.its.say(wire.encode_note(number))
        ends.its.close()
        ends.conversation.bury()
        assert ends.heard == list(range(100))
        ends.conversation.bury()


NOTE = wire.encode_note(1)


@pytest.mark.parametrize("words", [b"x", b"nonsense", NOTE[:-1], NOTE[:-1] + b"{", bytes([32, 0, 4, 0]) + b"\xff" * 4])
async def test_hostile_words_are_a_breach(words: bytes) -> None:
    with a_conversation() as ends, trio.fail_after(5):
        ends.its.line.send(words)
        await ends.conversation.listen()
        assert len(ends.breaches) == 1
        assert not ends.heard


async def test_a_message_of_the_future_is_skipped() -> None:
    with a_conversation() as ends, trio.fail_after(5):
        ends.its.line.send(bytes([99, 0, 2, 0]) + b"{}")
        ends.its.say(wire.encode_note("now"))
        ends.its.close()
        await ends.conversation.listen()
        assert (ends.heard, ends.breaches) == (["now"], [])


async def test_descriptors_sent_along_do_not_stay_in_the_master() -> None:
    with a_conversation() as ends, trio.fail_after(5):
        before = len(os.listdir("/proc/self/fd"))
        try:
            socket.send_fds(ends.its.line, [wire.encode_note(1)], [0, 1, 2])
        except PermissionError:
            pass  # this kernel refuses them at the sender
        ends.its.say(wire.encode_note(2))
        ends.its.line.shutdown(socket.SHUT_WR)
        await ends.conversation.listen()
        assert ends.heard[-1] == 2
        assert len(os.listdir("/proc/self/fd")) == before


async def test_a_flood_lets_the_others_have_their_turn() -> None:
    with a_conversation() as ends, trio.fail_after(5):
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            for number in range(200):
                assert ends.its.say(wire.encode_note(number))
            ends.its.line.shutdown(socket.SHUT_WR)
            await ends.conversation.listen()
            nursery.cancel_scope.cancel()
        assert ends.heard == list(range(200))
        assert turns >= 200 // 16 // 2, "trio takes tasks that are due in any order"


# --- the worker's end of it


def with_trio(talk: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(5):
            await talk()

    trio.run(main)


def with_asyncio(talk: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(talk(), 5))  # type: ignore[arg-type]


@pytest.mark.parametrize(("run", "kind"), [(with_trio, trio_side.Waiter), (with_asyncio, asyncio_side.Waiter)])
def test_when_the_master_has_gone_messages_end_and_sending_is_an_error(run: Any, kind: Any) -> None:
    master, its = Talk.open()

    class Waiter(kind):  # type: ignore[misc]  # the runtime's own
        async def wait_writable(self, fd: int) -> None:
            """The line is full, and now its other end goes."""
            master.close()
            await super().wait_writable(fd)

    async def talk() -> None:
        channel = Messages(Talk(its), Waiter())
        assert master.say(wire.encode_note("the last word"))
        with pytest.raises(MasterGone):
            await send_for_ever(channel)
        assert [message async for message in channel.receive()] == ["the last word"]
        with pytest.raises(MasterGone):
            await channel.send("nobody hears this")

    with its:
        run(talk)


async def send_for_ever(channel: Messages) -> None:
    for _ in range(10_000):  # a line that never fills would be a fault, too
        await channel.send("x" * 1000)


async def test_the_messages_are_given_to_one_at_a_time() -> None:
    with a_conversation() as ends, trio.fail_after(5):
        channel = Messages(ends.its, trio_side.Waiter())
        for number in range(2):
            await ends.conversation.send(number)
        messages = channel.receive()
        assert await anext(messages) == 0
        with pytest.raises(RuntimeError, match="another iteration"):
            await anext(channel.receive())
        await messages.aclose()
        others = channel.receive()
        assert await anext(others) == 1, "who comes after it goes on"
        await others.aclose()


# --- events


async def test_every_subscriber_sees_every_event_from_its_subscription_on() -> None:
    news = News()
    news.tell(FleetScaled(1))
    async with news.subscribe() as early:
        news.tell(FleetScaled(2))
        async with news.subscribe() as late:
            news.tell(FleetScaled(3))
            news.end()
            assert [event async for event in early] == [FleetScaled(2), FleetScaled(3)]
            assert [event async for event in late] == [FleetScaled(3)]
    async with news.subscribe() as after:
        assert [event async for event in after] == []


async def test_a_slow_subscriber_is_told_how_much_it_missed_and_nobody_else_misses_it() -> None:
    news = News()
    async with news.subscribe() as slow, news.subscribe() as quick:
        seen = []
        for number in range(KEPT + 500):
            news.tell(FleetScaled(number))
            seen.append(await anext(quick))
        assert seen == [FleetScaled(number) for number in range(KEPT + 500)]
        assert await anext(slow) == EventsMissed(500)
        assert await anext(slow) == FleetScaled(500)


async def test_large_messages_are_bounded_by_their_bytes() -> None:
    news = News()
    size = 50_000
    async with news.subscribe() as slow:
        for number in range(1_000):
            news.tell(WorkerMessage(1, 0, 1, number), size)
        missed = await anext(slow)
        assert missed == EventsMissed(1_000 - KEPT_BYTES // size)
        assert (await anext(slow)).message == missed.count


async def test_a_subscriber_that_is_cancelled_loses_no_event() -> None:
    news = News()
    async with news.subscribe() as events:
        news.tell(FleetScaled(1))
        taken = []
        with trio.CancelScope() as scope:
            scope.cancel()
            while True:
                news.tell(FleetScaled(len(taken) + 2))
                taken.append(await anext(events))
        assert scope.cancelled_caught
        assert await anext(events) == FleetScaled(len(taken) + 1), "the next one"
        assert taken == [FleetScaled(number + 1) for number in range(len(taken))]
