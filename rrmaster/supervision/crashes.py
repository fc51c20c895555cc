"""What follows from a worker's end: was it a crash, when may its place be filled, is there any hope?

Takes the counts and the reasons, asks `restarts` about the time, and says things once.  It starts and ends nobody.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from logging import ERROR, WARNING

from attrs import Factory, define

from ..logs.log import tell
from ..rules.backoff import STABLE_S, Backoff, Exit, counts_as_crash
from ..rules.lifecycle import State
from .worker_record import Ward

ENOUGH = 3
"""Crashes in a row, in development, after which only other code is tried.  One may be chance; three are the code."""


@define(eq=False)
class Aftermath:
    """What the dead have left to do."""

    random: random.Random = Factory(random.Random)
    backoff: Backoff = Factory(Backoff)
    lost: int = 0
    """Connections that died in workers' hands."""
    counts: dict[int, int] = Factory(dict)
    """How often a slot was filled again after an end that nobody had asked for, by slot."""
    awaits_code: bool = False
    """In development: what fails does so until its code has changed, and is not tried again before."""
    gave_up: bool = False
    """It failed, and its code has not changed yet."""
    last_exits: dict[int, str] = Factory(dict)
    """How the last worker of a slot ended."""
    _vacant: set[int] = Factory(set)
    """Slots whose worker died without having been asked to."""
    _crashed: set[int] = Factory(set)
    """Slots to be filled when the back-off is over."""
    _failed_first: dict[int, str] = Factory(dict)
    """Slots whose first worker failed before anybody was ready, and why."""
    _told: set[str] = Factory(set)

    def ended(self, ward: Ward, before: State, how: Exit | None, expected: bool, now: float) -> None:
        """It is gone; expected, if somebody wanted it so."""
        self.lost += ward.link.lost
        self.last_exits[ward.slot] = str(how or ward.reason)
        if not expected:
            self._vacant.add(ward.slot)
        if ward.link.lost:
            text = f"{ward.name} had up to {ward.link.lost} connections in its hands; they are lost"
            tell("worker.lost", text, level=WARNING, lost=ward.link.lost, **ward.facts)
        if expected or ward.judged:
            return
        if how is None or before is State.KILLED or counts_as_crash(how, ward.served_since is not None):
            self.crashed(ward, now)

    def crashed(self, ward: Ward, now: float) -> None:
        """It has crashed, or is as good as that: its place may be filled when the back-off is over."""
        ward.judged = True
        delay = self.backoff.crashed(now, ward.served_for(now), self.random.random())
        self._crashed.add(ward.slot)
        if self.backoff.is_loop(now):
            crashes = len(self.backoff.crashes)
            tell("crash_loop", f"crash loop: {crashes} crashes in the last minute", level=ERROR, crashes=crashes)
        if self.awaits_code and (ward.served_since is None or self.backoff.streak >= ENOUGH):
            self.give_up()
        elif delay:
            text = f"worker {ward.slot} is started again in {delay:.1f} s"
            tell("worker.back_off", text, level=WARNING, delay=round(delay, 3), **ward.facts)

    def failed_at_first(self, ward: Ward, how: Exit | None) -> None:
        """It is gone, and nobody has ever been ready."""
        self.last_exits[ward.slot] = str(how or ward.reason)
        self._failed_first[ward.slot] = ward.reason or f"the worker {how} before it was ready"

    def verdict(self, size: int) -> str | None:
        """The application's words, if each slot has had its try and nobody was ever ready."""
        return next(iter(self._failed_first.values())) if len(self._failed_first) >= size else None

    def give_up(self, why: str = "") -> None:
        """In development: nobody is started before the code has changed.  Said once."""
        if not self.gave_up:
            self.gave_up = True
            text = "nobody is started before the code changes"
            tell("code.awaited", f"no worker became ready:\n{why}\n{text}" if why else text, level=ERROR)

    def tell(self, ward: Ward) -> None:
        """Why it could not start, in the application's own words, once."""
        if ward.reason and ward.reason not in self._told:
            self._told.add(ward.reason)
            text = f"worker {ward.slot} could not start:\n{ward.reason}"
            tell("worker.failed", text, level=ERROR, reason=ward.reason, **ward.facts)

    def held(self, now: float, ever_ready: bool, any_serves: bool) -> set[int]:
        """Slots in which nobody may be started yet."""
        held = set() if ever_ready else set(self._failed_first)
        if self.wait(now, any_serves) > 0:
            return held | self._crashed
        if self.backoff.streak > 1:
            held |= set(sorted(self._crashed)[1:])  # in a loop, one tries for all
        return held

    def begun(self, slot: int, now: float) -> bool:
        """Somebody was started in a slot.  Whether in the place of one that crashed."""
        if slot in self._vacant:
            self._vacant.discard(slot)
            self.counts[slot] = self.counts.get(slot, 0) + 1
        retry = slot in self._crashed
        if retry:
            self._crashed.discard(slot)
            self.backoff.retried(now)
        return retry

    def filled(self, slot: int) -> bool:
        """Somebody stood there before its last worker had ended.  Whether that end counts as a crash."""
        if slot in self._vacant:
            self._vacant.discard(slot)
            self.counts[slot] = self.counts.get(slot, 0) + 1
        crashed = slot in self._crashed
        self._crashed.discard(slot)
        return crashed

    def settle(self, slots: Iterable[int]) -> None:
        """Somebody stands there."""
        for slot in slots:
            self.filled(slot)

    def lasted(self, ward: Ward, now: float) -> None:
        """If it has filled a crashed worker's place for long enough, the loop is over."""
        if now >= self.stable_at(ward):
            ward.retry = False
            self.backoff.reset()

    @staticmethod
    def stable_at(ward: Ward) -> float:
        """When a worker that fills a crashed one's place has lasted."""
        return ward.served_since + STABLE_S if ward.retry and ward.served_since is not None else float("inf")

    def wait(self, now: float, any_serves: bool) -> float:
        """Seconds until the place of one that crashed may be filled; 0: now, or there is none."""
        return self.backoff.wait(now, any_serves) if self._crashed else 0.0

    def forget_slots_from(self, size: int) -> None:
        """The fleet is smaller: places beyond are not to be filled."""
        self._crashed = {slot for slot in self._crashed if slot < size}

    def forget(self, slot: int) -> None:
        """Nobody is to be started in this slot."""
        self._crashed.discard(slot)
        self._vacant.discard(slot)

    def calm(self) -> None:
        """Forget past crashes: the code is another."""
        self.gave_up = False
        self.backoff.reset()
        self._crashed.clear()
        self._failed_first.clear()
