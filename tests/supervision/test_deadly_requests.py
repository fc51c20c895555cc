"""Workers that die with requests in hand: they are replaced at once, and what they had in hand is told."""

from __future__ import annotations

import os
import signal

import pytest
import trio
from trio.testing import MockClock

from rrmaster.protocol.pages.last_words import LastWords
from rrmaster.rules.backoff import Exit
from tests.fakes import Actor, Fleet, a_fleet, falls_silent
from tests.supervision.fleets import KILL, replaced

SEGFAULT = Exit(signal=signal.SIGSEGV)


def give(fleet: Fleet, actor: Actor) -> None:
    """The worker has a connection that was handed to it, and has taken it."""
    fleet.supervisor.workers[actor.spec.id].link.load.count_handoff()


def notes(actor: Actor, *requests: bytes) -> None:
    """The worker was started to note its requests, and has these in progress."""
    (fd,) = actor.spec.page
    words = LastWords.inherit(os.dup(fd))
    words.open()
    for request in requests:
        words.begin(request)


async def died(fleet: Fleet, slot: int, how: Exit = SEGFAULT, *requests: bytes) -> float:
    """The worker in this slot dies with a connection in hand; returns the seconds until another serves there."""
    actor = next(actor for actor in fleet.serving if actor.spec.slot == slot)
    give(fleet, actor)
    if actor.spec.page:
        notes(actor, *requests)
    actor.process.end(how)
    return await replaced(fleet, actor)


async def test_workers_that_die_with_requests_in_hand_are_replaced_at_once_each_time(
    autojump_clock: MockClock,
) -> None:
    async with a_fleet(2) as fleet:
        for _ in range(12):
            assert await died(fleet, 0, SEGFAULT, b"GET /boom") < 0.1
            await trio.sleep(0.5)
        assert not fleet.supervisor.crashes.backoff.is_loop(trio.current_time())


async def test_the_replacement_notes_its_requests_and_what_kills_is_said(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_fleet(2) as fleet:
        assert all(actor.spec.page == () for actor in fleet.serving), "in ordinary times no request is noted"
        await died(fleet, 0)
        assert "its replacement notes the HTTP requests that it has" in caplog.text
        for _ in range(2):
            await died(fleet, 0, SEGFAULT, b"GET /shop", b"GET /boom")
        assert "died with GET /boom in hand and 1 more\n" in caplog.text
        assert "died with GET /boom in hand and 1 more: it was in hand at 2 deaths" in caplog.text
        known = fleet.supervisor.crashes.deadly.known(trio.current_time())
        assert sorted(known) == [("GET /boom", 2), ("GET /shop", 2)]
        assert fleet.serving[1].spec.page == (), "a slot whose worker never died so notes nothing"


async def test_a_worker_that_crashes_with_nothing_in_hand_has_a_back_off(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        await died(fleet, 0)  # it may have had an idle connection only: nothing was noted
        assert await died(fleet, 0) < 0.1, "a crash, the first"
        assert await died(fleet, 0) > 0.7
        assert await died(fleet, 0) > 1.5


async def test_a_worker_that_notes_nothing_is_judged_by_its_connections(autojump_clock: MockClock) -> None:
    """Stream handlers, programs, workers in other languages."""
    async with a_fleet(2) as fleet:
        for _ in range(8):
            (actor,) = (actor for actor in fleet.serving if actor.spec.slot == 0)
            give(fleet, actor)
            actor.process.end(SEGFAULT)
            assert await replaced(fleet, actor) < 0.1
        for _ in range(3):
            (actor,) = (actor for actor in fleet.serving if actor.spec.slot == 0)
            actor.process.end(SEGFAULT)
            pause = await replaced(fleet, actor)
        assert pause > 1.5, "without a connection it is a crash loop"


async def test_a_worker_that_hangs_in_a_request_is_replaced_at_once_and_the_request_is_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_fleet(1, falls_silent, hang_timeout=10.0) as fleet:
        for times in range(1, 5):
            (actor,) = fleet.serving
            give(fleet, actor)
            if times > 1:
                notes(actor, b"GET /loops")
            await fleet.until(lambda a=actor: a not in fleet.serving)  # type: ignore[misc]
            assert await fleet.until(lambda: len(fleet.serving) == 1) < 0.1, "without a back-off"
        assert "hung with connections in hand (1): its replacement notes the HTTP requests that it has" in caplog.text
        await fleet.until(lambda: fleet.supervisor.crashes.deadly.deaths("GET /loops") == 3)


async def test_the_page_of_a_worker_is_closed_with_it(autojump_clock: MockClock) -> None:
    async with a_fleet(1) as fleet:
        await died(fleet, 0)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            await died(fleet, 0, SEGFAULT, b"GET /boom")
        assert len(os.listdir("/proc/self/fd")) == before


async def test_an_operators_kill_starts_no_notes_and_a_reload_ends_them(autojump_clock: MockClock) -> None:
    async with a_fleet(1) as fleet:
        await died(fleet, 0, Exit(signal=KILL))
        assert fleet.serving[0].spec.page == ()
        await died(fleet, 0)
        assert fleet.serving[0].spec.page != ()
        fleet.supervisor.reload.reload()
        await fleet.until(lambda: [actor.spec.generation for actor in fleet.serving] == [2])
        assert fleet.serving[0].spec.page == ()
