"""What follows from a worker's end: whether it was a crash, when its slot may be filled, when to give up.

This module keeps the counts and the reasons, asks `backoff` for the time to wait, and logs each thing once.  It starts
and ends no worker.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from logging import ERROR, WARNING

from attrs import Factory, define

from ..logs.log import tell
from ..rules.backoff import ALONE_CAP_S, STABLE_S, Backoff, DeadlyRequests, Exit, counts_as_crash
from ..rules.lifecycle import State
from .worker_record import WorkerRecord

ENOUGH = 3
"""Crashes in a row, in development, after which only changed code is tried.  One may be chance; three are the code."""


class NoWorkerReady(Exception):
    """No worker ever became ready.  The message is the application's own, mostly its traceback."""


Hopeless = NoWorkerReady
"""The name of `NoWorkerReady` in version 0.1."""


@define(eq=False)
class Crashes:
    """The ends of workers that the master did not ask for, by slot."""

    random: random.Random = Factory(random.Random)
    backoff: Backoff = Factory(Backoff)
    lost: int = 0
    """Connections that died in workers' hands; each worker's are added when their number is final."""
    replacements: dict[int, int] = Factory(dict)
    """By slot, how often it was filled again after such an end."""
    last_exits: dict[int, str] = Factory(dict)
    """By slot, how its last worker ended."""
    gave_up: bool = False
    """In development: the code failed, and has not changed since."""
    _awaits_code: bool = False
    """In development: code that failed is not tried again before it has changed."""
    deadly: DeadlyRequests = Factory(DeadlyRequests)
    """What workers had in hand when they died."""
    _noted: set[int] = Factory(set)
    """Slots whose workers note their requests, until there is other code: one died with some in hand."""
    _vacant: set[int] = Factory(set)
    """Slots whose worker ended unasked."""
    _crashed: set[int] = Factory(set)
    """Slots that may be filled when the back-off is over."""
    _failed_first: dict[int, str] = Factory(dict)
    """By slot, why its first worker failed, as long as no worker has ever been ready."""
    _told: set[str] = Factory(set)
    """Failures that the log already has."""

    def configure(self, development: bool) -> None:
        """Behave as ``--reload`` wants it, or as a service does."""
        self._awaits_code = development

    @property
    def awaits_code(self) -> bool:
        """Whether failed code is left alone until it changes, as ``--reload`` wants it."""
        return self._awaits_code

    # --- a worker has ended, or is as good as ended

    def ended(self, worker: WorkerRecord, before: State, how: Exit | None, expected: bool, now: float) -> None:
        """A worker's process has ended.  `before` is the state it was in; `expected`: the master wanted it to go."""
        self.last_exits[worker.slot] = str(how or worker.failure)
        if not expected:
            self._vacant.add(worker.slot)
        worker.link.when_settled(lambda: self._count_lost(worker))
        if expected:
            return
        if worker.in_hand:
            self._tell_in_hand(worker, now)
        if worker.judged:
            return
        if how is None or before is State.KILLED or counts_as_crash(how, worker.served_since is not None):
            if how is not None and worker.served_since is not None and worker.died_in_a_request:
                self.died_in_a_request(worker, str(how), worker.link.lost)
            else:
                self.crashed(worker, now)

    def _count_lost(self, worker: WorkerRecord) -> None:
        """It is known for good what its end has cut."""
        if lost := worker.link.lost:
            self.lost += lost
            what = "1 connection in its hands; it is" if lost == 1 else f"{lost} connections in its hands; they are"
            text = f"{worker.name} had {what} lost"
            tell("worker.lost", text, level=WARNING, lost=lost, **worker.facts)

    def died_in_a_request(self, worker: WorkerRecord, how: str, connections: int) -> None:
        """It crashed or hung with requests in hand: one of them is to blame, and it is replaced at once."""
        worker.judge()
        if worker.slot not in self._noted:
            self._noted.add(worker.slot)
            text = f"{worker.name} {how} with connections in hand ({connections}): "
            text += "its replacement notes the HTTP requests that it has"
            tell("worker.notes", text, level=WARNING, **worker.facts)

    def _tell_in_hand(self, worker: WorkerRecord, now: float) -> None:
        worst = self.deadly.died(worker.in_hand, now)
        deaths, others = self.deadly.deaths(worst), len(worker.in_hand) - 1
        text = f"{worker.name} died with {worst} in hand"
        text += f" and {others} more" if others else ""
        text += f": it was in hand at {deaths} deaths" if deaths > 1 else ""
        facts = {"in_hand": list(worker.in_hand), "request": worst, "deaths": deaths}
        tell("worker.in_hand", text, level=ERROR, **worker.facts, **facts)

    def notes_requests(self, slot: int) -> bool:
        """Whether the next worker of this slot notes its requests: one before it died with some in hand."""
        return slot in self._noted

    def crashed(self, worker: WorkerRecord, now: float) -> None:
        """Count a crash, or what is as bad as one: the slot may be filled when the back-off is over."""
        worker.judge()
        delay = self.backoff.crashed(now, worker.served_for(now), self.random.random())
        self._crashed.add(worker.slot)
        if self.backoff.is_loop(now):
            crashes = len(self.backoff.crashes)
            tell("crash_loop", f"crash loop: {crashes} crashes in the last minute", level=ERROR, crashes=crashes)
        if self._awaits_code and (worker.served_since is None or self.backoff.streak >= ENOUGH):
            self.give_up()
        elif delay:
            text = f"worker {worker.slot} is started again in {delay:.1f} s"
            if delay > ALONE_CAP_S:
                text += f", or every {ALONE_CAP_S:g} s while no worker serves"
            tell("worker.back_off", text, level=WARNING, delay=round(delay, 3), **worker.facts)

    def failed_at_first(self, worker: WorkerRecord, how: Exit | None) -> None:
        """A worker has ended, and none has ever been ready."""
        self.last_exits[worker.slot] = str(how or worker.failure)
        self._failed_first[worker.slot] = worker.failure or f"the worker {how} before it was ready"

    def verdict(self, size: int) -> str | None:
        """The application's own words, if the first worker of each slot has failed and none was ever ready."""
        return next(iter(self._failed_first.values())) if len(self._failed_first) >= size else None

    def give_up(self, why: str = "") -> None:
        """In development: start no worker before the code has changed.  Logged once."""
        if not self.gave_up:
            self.gave_up = True
            text = "no worker is started before the code changes"
            tell("code.awaited", f"no worker became ready:\n{why}\n{text}" if why else text, level=ERROR)

    def log_failure(self, worker: WorkerRecord) -> None:
        """Log why a worker could not start, in the application's own words, once for each reason."""
        if worker.failure and worker.failure not in self._told:
            self._told.add(worker.failure)
            text = f"worker {worker.slot} could not start:\n{worker.failure}"
            tell("worker.failed", text, level=ERROR, reason=worker.failure, **worker.facts)

    # --- a slot is filled again

    def held(self, now: float, ever_ready: bool, fleet_serves: bool) -> set[int]:
        """The slots in which no worker may be started yet."""
        held = set() if ever_ready else set(self._failed_first)
        if self.wait(now, fleet_serves) > 0:
            return held | self._crashed
        if self.backoff.streak > 1:
            # In a crash loop one start tries for all: eight at once would fail for the same reason eight times.
            held |= set(sorted(self._crashed)[1:])
        return held

    def begun(self, slot: int, now: float) -> bool:
        """A worker was started in this slot.  Returns whether it fills a crashed worker's place."""
        self._fill(slot)
        retry = slot in self._crashed
        if retry:
            self._crashed.discard(slot)
            self.backoff.retried(now)
        return retry

    def filled(self, slot: int) -> bool:
        """A replacement was there before the last worker ended.  Returns whether that end counts as a crash."""
        self._fill(slot)
        crashed = slot in self._crashed
        self._crashed.discard(slot)
        return crashed

    def settle(self, slots: Iterable[int]) -> None:
        """Take note that these slots are filled."""
        for slot in slots:
            self.filled(slot)

    def _fill(self, slot: int) -> None:
        if slot in self._vacant:
            self._vacant.discard(slot)
            self.replacements[slot] = self.replacements.get(slot, 0) + 1

    def lasted(self, worker: WorkerRecord, now: float) -> None:
        """End the crash loop if a worker in a crashed one's place has served long enough."""
        if now >= self.stable_at(worker):
            worker.fill_crashed_place(False)
            self.backoff.reset()

    @staticmethod
    def stable_at(worker: WorkerRecord) -> float:
        """When a worker in a crashed one's place has served long enough; infinity for all others."""
        return worker.served_since + STABLE_S if worker.retry and worker.served_since is not None else float("inf")

    def wait(self, now: float, fleet_serves: bool) -> float:
        """Seconds until a crashed worker's slot may be filled; 0 if now, or if there is none."""
        return self.backoff.wait(now, fleet_serves) if self._crashed else 0.0

    def forget_slots_from(self, size: int) -> None:
        """The fleet has `size` slots: those beyond are not filled again."""
        self._crashed = {slot for slot in self._crashed if slot < size}

    def forget(self, slot: int) -> None:
        """This slot stays empty until the program asks for a worker in it."""
        self._crashed.discard(slot)
        self._vacant.discard(slot)

    def reset(self) -> None:
        """Forget past crashes: new code is about to be tried."""
        self.gave_up = False
        self.backoff.reset()
        self._crashed.clear()
        self._failed_first.clear()
        self._noted.clear()
