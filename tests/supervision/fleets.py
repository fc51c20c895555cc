"""A fleet as the tests of supervision look at it, and scripts for its workers."""

from __future__ import annotations

import signal

import trio

from rrmaster.protocol import wire
from rrmaster.rules.backoff import Exit
from tests.fakes import Actor, Fleet, boots_for_ever

KILL, TERM = signal.SIGKILL, signal.SIGTERM


def generations(fleet: Fleet) -> list[int]:
    return [actor.spec.generation for actor in fleet.serving]


def ids(fleet: Fleet) -> list[int]:
    return [actor.spec.id for actor in fleet.serving]


async def replaced(fleet: Fleet, old: Actor, within: float = 100) -> float:
    """Wait until another worker serves in its slot; returns the seconds it took."""
    slots = set(fleet.slots) | {old.spec.slot}
    return await fleet.until(lambda: old not in fleet.serving and set(fleet.slots) == slots, within)


async def leaves_early(actor: Actor) -> Exit:
    """As `current_worker().disconnect()` where an address is refused."""
    actor.say(wire.Retiring("it has disconnected", now=True))
    return await boots_for_ever(actor)


async def fails_slowly(actor: Actor) -> Exit:
    actor.say(wire.Failed("no"))
    return await boots_for_ever(actor)


async def leaves_at_once(actor: Actor) -> Exit:
    """As `current_worker().disconnect()` in its first request, or its first moment."""
    actor.ready()
    await trio.sleep(0.05)
    actor.say(wire.Retiring("it has disconnected", now=True))
    await actor.serve()
    return Exit(code=0)


async def raves_at_once(actor: Actor) -> Exit:
    actor.ready()
    await trio.sleep(0.05)
    actor.letterbox.line.send(b"?")
    return await boots_for_ever(actor)


async def crashes_slowly(actor: Actor) -> Exit:
    await trio.sleep(0.3)
    return Exit(code=1)


async def react() -> None:
    """Let all tasks do what is due now.  Not `wait_all_tasks_blocked`: a task that spins would block it."""
    for _ in range(30):
        await trio.lowlevel.checkpoint()


async def beats(actor: Actor) -> Exit:
    """A worker with nothing to do but its heartbeat."""
    actor.ready()
    while True:
        await trio.sleep(1)
        actor.report()
