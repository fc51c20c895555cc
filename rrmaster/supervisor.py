"""How many workers live, and what becomes of each: asks `plan`, `LAW` and `restarts`, and obeys.

::

    what happens (a message, an exit, a deadline) ── LAW ──► state, actions ── done ──► plan ──► spawn, retire

Nothing is decided here.  Each happening is an `Event` for one worker; the table answers; if a state changed, the plan
is asked again.  A worker exists as BOOTING before its process does, so that the plan counts it.
"""

from __future__ import annotations

import logging
import random
import signal
from collections.abc import Awaitable, Callable
from functools import partial

import trio
from attrs import Factory, define, evolve, frozen

from . import wire
from .balance import Post
from .channel import Line
from .dispatcher import Dispatcher
from .fleet import Goal, Member, plan
from .lifecycle import Action, Event, Patience, State, step
from .log import Lines, logger, relay
from .process import DUMP_SIGNAL, Process
from .recall import GAP, Link
from .restarts import STABLE_S, Exit, Restarts, is_crash

STACKS_S = 0.5
"""Seconds between asking a hung worker for its stacks and killing it; they take a few milliseconds."""


RETRY_S = 1.0
"""Seconds to wait when a line cannot be opened (out of descriptors)."""


class Hopeless(Exception):
    """No worker ever became ready.  The message is the application's own."""


@frozen
class Birth:
    """What a new worker is to be."""

    id: int
    slot: int
    generation: int
    line: int
    """The descriptor to inherit; it stays the supervisor's."""


@frozen
class Born:
    """A new worker's process, and the descriptors of its output, now the supervisor's."""

    process: Process
    outputs: tuple[int, ...] = ()


@define(eq=False)
class Ward:
    """One worker, as the supervisor knows it."""

    id: int
    slot: int
    generation: int
    link: Link
    since: float
    """When it entered its state."""
    heard: float
    """When it was last heard."""
    state: State = State.BOOTING
    process: Process | None = None
    leaving: bool = False
    asked: bool = False
    """We wanted it gone, so its end is no crash."""
    served_since: float | None = None
    retry: bool = False
    """It fills a crashed worker's place: if it lasts, the crash loop is over."""
    dumping: bool = False
    """It was just asked for its stacks; they take a moment."""
    reason: str = ""
    """Why it could not start, in its own words."""
    report: wire.Report | None = None

    @property
    def name(self) -> str:
        """For the log."""
        return f"worker {self.slot} (pid {self.process.pid if self.process else '-'})"


@define(eq=False)
class Supervisor:
    """Keeps a fleet as its goal says."""

    dispatcher: Dispatcher
    spawn: Callable[[Birth], Awaitable[Born]]
    goal: Goal
    patience: Patience = Factory(Patience)
    window: int = 8
    limit: int = 10_000
    random: random.Random = Factory(random.Random)
    restarts: Restarts = Factory(Restarts)
    wards: dict[int, Ward] = Factory(dict)
    killed_while_stopping: int = 0
    """Workers that had to be killed once everybody was to go."""
    lost: int = 0
    """Connections that died in workers' hands."""
    ever_ready: bool = False
    complete: trio.Event = Factory(trio.Event)
    """Set once as many serve as were wanted."""
    _last_id: int = 0
    _last_generation: int = 1
    _before: Goal | None = None
    """While a reload is undecided: the goal to go back to."""
    _again: bool = False
    _not_before: float = 0.0
    """When to try again after the machine had no room for another line."""
    _crashed: set[int] = Factory(set)
    """Slots to be filled when the back-off is over."""
    _failed_first: dict[int, str] = Factory(dict)
    """Slots whose first worker failed before anybody was ready, and why."""
    _verdict: str | None = None
    _told: set[str] = Factory(set)
    _recalls: bool = True
    _news: trio.Event = Factory(trio.Event)
    _nursery: trio.Nursery | None = None

    # --- what others ask for

    async def run(self) -> None:
        """Keep the fleet until cancelled, or, once stopped, until the last worker has gone.  Raises Hopeless."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._keep_time)
            while (self.goal.size or self.wards) and self._verdict is None:
                self._news = trio.Event()
                self._replan()
                await self._news.wait()
            nursery.cancel_scope.cancel()
        if self._verdict is not None:
            raise Hopeless(self._verdict)

    def scale(self, size: int) -> None:
        """Have so many workers from now on; at least one."""
        size = max(size, 1)
        if size == self.goal.size or self._stopping:
            return
        logger.info("scaling from %d to %d workers", self.goal.size, size)
        if self._before is not None:
            self._before = evolve(self._before, size=size, surge=size)
        self.goal = evolve(self.goal, size=size, surge=size)
        self._changed()

    def reload(self) -> None:
        """Replace all workers by new ones, once those are all ready.  Asked while one runs, another one follows."""
        if self._stopping:
            return
        if self._before is not None:
            self._again = True
            return
        self._last_generation += 1
        self._before, self.restarts = self.goal, Restarts()
        self.goal = evolve(self.goal, generation=self._last_generation, committed=0)
        logger.info(
            "reload: starting generation %d beside generation %d", self.goal.generation, self._before.generation
        )
        self._changed()

    def stop(self) -> None:
        """Let everybody finish and go.  `run` returns when they have."""
        self._before, self._again, self._recalls = None, False, False
        self.goal = evolve(self.goal, size=0, committed=None)
        self._changed()

    def hurry(self, graceful: float, term: float) -> None:
        """Lower what patience there is with those who are to go."""
        self.patience = evolve(
            self.patience, graceful=min(self.patience.graceful, graceful), term=min(self.patience.term, term)
        )
        self._changed()

    @property
    def serving(self) -> int:
        """How many serve."""
        return sum(ward.state is State.SERVING for ward in self.wards.values())

    @property
    def _stopping(self) -> bool:
        return self.goal.size == 0

    # --- the plan

    def _replan(self) -> None:
        self._decide_reload()
        self._crashed &= set(range(self.goal.size))
        members = [Member(w.id, w.slot, w.state, w.generation, w.leaving) for w in self.wards.values()]
        orders = plan(self.goal, members, self._held())
        for slot in orders.spawn:
            if self.restarts.pace(trio.current_time()) <= 0:
                self._begin(slot)
        for id_ in orders.retire:
            self._happens(self.wards[id_], Event.RETIRE, self._why_retire(self.wards[id_]))

    def _why_retire(self, ward: Ward) -> str:
        if self._stopping:
            return "the master stops"
        if ward.leaving:
            return "its replacement serves"
        return "reload" if ward.generation != self.goal.generation else "scaled down"

    def _held(self) -> set[int]:
        """Slots in which nobody may be started yet."""
        now = trio.current_time()
        if now < self._not_before:
            return set(range(self.goal.size))
        # Whoever is on its way out before it ever served has not been counted yet.
        held = {w.slot for w in self.wards.values() if w.served_since is None and not w.asked and w.state in _GOING}
        if not self.ever_ready:
            held |= self._failed_first.keys()
        if self._crashed and self.restarts.wait(now, self.serving > 0) > 0:
            held |= self._crashed
        elif self.restarts.streak > 1:
            held |= set(sorted(self._crashed)[1:])  # in a loop, one tries for all
        return held

    def _begin(self, slot: int) -> None:
        now = trio.current_time()
        try:
            line = Line.open(self.window)
        except OSError as error:
            logger.error("cannot start worker %d: %s; trying again", slot, error.strerror)
            self._not_before = now + RETRY_S
            return
        self._last_id += 1
        post = Post(self._last_id, slot, line.unclaimed, self.window, self.limit)
        # `ward` is bound before the dispatcher's next turn can hear anything.
        link = self.dispatcher.connect(post, line, lambda message: self._told_by(ward, message))
        ward = Ward(self._last_id, slot, self.goal.generation, link, now, now, retry=slot in self._crashed)
        self.restarts.started(now)
        if ward.retry:
            self._crashed.discard(slot)
            self.restarts.tried(now)
        self.wards[ward.id] = ward
        assert self._nursery is not None
        self._nursery.start_soon(self._live, ward)

    def _decide_reload(self) -> None:
        """Commit when all of the new generation is ready; go back when one of it has failed (see `_ended`)."""
        if self._before is None:
            return
        fresh = [w for w in self.wards.values() if w.generation == self.goal.generation]
        ready = [w for w in fresh if w.state is State.PROVING and not w.link.breached]
        if len(ready) < self.goal.size:
            return
        for ward in ready:
            self._happens(ward, Event.PASSED)
        logger.info(
            "reload: generation %d is ready and serves; generation %d goes",
            self.goal.generation, self._before.generation,
        )  # fmt: skip
        self._before, self.goal = None, evolve(self.goal, committed=None)
        self._follow_up()

    def _abort_reload(self, why: str) -> None:
        assert self._before is not None
        logger.error("reload refused: %s; generation %d serves on, untouched", why, self._before.generation)
        self.goal, self._before = self._before, None
        self._follow_up()

    def _follow_up(self) -> None:
        if self._again:
            self._again = False
            self.reload()

    # --- one worker

    async def _live(self, ward: Ward) -> None:
        birth = Birth(ward.id, ward.slot, ward.generation, ward.link.line.key.fileno())
        how: Exit | None = None
        try:
            with trio.CancelScope(shield=True):  # or a process would be started that nobody knows
                born = await self.spawn(birth)
        except OSError as error:
            ward.reason = f"its process could not be started: {error.strerror}"
        else:
            ward.process = born.process
            if ward.state is not State.BOOTING:
                self._act(ward, Action.KILL if ward.state is State.KILLED else Action.TERMINATE)
            how = await self._outlive(ward, born)
        self._happens(ward, Event.EXIT, str(how or ward.reason), how)

    async def _outlive(self, ward: Ward, born: Born) -> Exit:
        async with trio.open_nursery() as nursery:
            for fd, level in zip(born.outputs, (logging.INFO, logging.WARNING), strict=False):
                nursery.start_soon(relay, fd, Lines(partial(self._print, ward, level)))
            try:
                how = await born.process.wait()
            except trio.Cancelled:
                # Nothing outlives the master's own end.
                born.process.signal(signal.SIGKILL, group=True)
                with trio.CancelScope(shield=True):
                    await born.process.wait()
                raise
            nursery.cancel_scope.cancel()
        return how

    def _print(self, ward: Ward, level: int, text: str) -> None:
        logger.log(level, "worker %d | %s", ward.slot, text)

    def _told_by(self, ward: Ward, message: wire.Up) -> None:
        ward.heard = trio.current_time()
        match message:
            case wire.Report():
                ward.report = message
            case wire.Ready():
                self._happens(ward, Event.READY)
            case wire.Failed(reason):
                ward.reason = reason
                self._happens(ward, Event.FAILED)
            case wire.Retiring(reason):
                self._happens(ward, Event.RETIRING, reason)

    def breached(self, id_: int, what: str) -> None:
        """The dispatcher says that a worker broke the rules."""
        ward = self.wards[id_]
        logger.error("%s broke the protocol: %s", ward.name, what)
        self._happens(ward, Event.BREACH)

    def _happens(self, ward: Ward, event: Event, why: str = "", how: Exit | None = None) -> None:
        before = ward.state
        law = step(before, event)
        if event is Event.RETIRE:
            ward.asked = True
        if event is Event.TIMEOUT and before is State.BOOTING and not ward.reason:
            ward.reason = f"it was not ready after {self.patience.ready:g} s (--ready-timeout)"
        if law.state is not before:
            ward.state, ward.since = law.state, trio.current_time()
            self._log_change(ward, before, why or event.value)
        if law.state is State.KILLED and before is not State.KILLED and self._stopping:
            self.killed_while_stopping += 1
        for action in law.actions:
            self._act(ward, action)
        if event is Event.READY and law.state is State.PROVING and not (self._before and self._is_fresh(ward)):
            self._happens(ward, Event.PASSED)
        if before is not State.GONE and law.state is State.GONE:
            self._ended(ward, before, how)
        if before in _NEW and law.state not in _STAYING and self._before is not None and self._is_fresh(ward):
            self._abort_reload(ward.reason or f"{ward.name} {why or 'failed'} before it was ready")
        if law.state is not before or law.actions:
            self._changed()

    def _is_fresh(self, ward: Ward) -> bool:
        return ward.generation == self.goal.generation and not ward.asked

    def _log_change(self, ward: Ward, before: State, why: str) -> None:
        level = logging.INFO
        if ward.state in (State.KILLED, State.STOPPING) or (ward.state is State.GONE and not ward.asked):
            level = logging.WARNING
        elif ward.state is State.PROVING:
            level = logging.DEBUG
        if not self.ever_ready and ward.reason:
            level = logging.DEBUG  # its own words follow, once
        logger.log(level, "%s: %s -> %s, %s", ward.name, before.value, ward.state.value, why)

    def _act(self, ward: Ward, action: Action) -> None:
        match action:
            case Action.ENLIST:
                self.ever_ready = True
                ward.served_since = trio.current_time()
                self.dispatcher.enlist(ward.link)
                if self.serving >= self.goal.size:
                    self.complete.set()
            case Action.DISMISS:
                assert self._nursery is not None
                self.dispatcher.leave_out(ward.link)
                self._nursery.start_soon(self.dispatcher.dismiss, ward.link, self._recalls)
            case Action.REPLACE:
                ward.leaving = ward.asked = True
            case Action.TERMINATE:
                self._signal(ward, signal.SIGTERM)
            case Action.STACKS:
                ward.dumping = True
                self._signal(ward, DUMP_SIGNAL)
            case Action.KILL:
                self.dispatcher.leave_out(ward.link)
                assert self._nursery is not None
                self._nursery.start_soon(self._kill, ward, STACKS_S if ward.dumping else 0.0)
                ward.dumping = False
            case Action.RECALL:
                ward.link.lost = self.dispatcher.bury(ward.link)
            case Action.BURY:
                del self.wards[ward.id]

    def _signal(self, ward: Ward, number: int) -> None:
        if ward.process is not None:
            ward.process.signal(number)

    async def _kill(self, ward: Ward, after: float) -> None:
        await trio.sleep(after)
        if ward.process is not None:
            ward.process.signal(signal.SIGKILL, group=True)

    def _ended(self, ward: Ward, before: State, how: Exit | None) -> None:
        """It is gone: was that a crash, and what follows from it?"""
        now = trio.current_time()
        self.lost += ward.link.lost
        if ward.link.lost:
            logger.warning("%s had %d connections in its hands; they are lost", ward.name, ward.link.lost)
        if ward.reason:
            self._tell_reason(ward)
        if ward.asked:
            return
        was_ready = ward.served_since is not None
        if not self.ever_ready:
            self._failed_at_first(ward, how)
        elif self._is_fresh(ward) and (how is None or before is State.KILLED or is_crash(how, was_ready)):
            served = now - ward.served_since if ward.served_since is not None else 0.0
            delay = self.restarts.crashed(now, served, self.random.random())
            self._crashed.add(ward.slot)
            if self.restarts.looping(now):
                logger.error("crash loop: %d crashes in the last minute", len(self.restarts.crashes))
            if delay:
                logger.warning("worker %d is started again in %.1f s", ward.slot, delay)

    def _failed_at_first(self, ward: Ward, how: Exit | None) -> None:
        reason = ward.reason or f"the worker {how} before it was ready"
        self._failed_first[ward.slot] = reason
        if not self._stopping and len(self._failed_first) >= self.goal.size:
            self._verdict = next(iter(self._failed_first.values()))
            self._changed()

    def _tell_reason(self, ward: Ward) -> None:
        """The application's own words, once."""
        if self.ever_ready and ward.reason not in self._told and self._before is None:
            self._told.add(ward.reason)
            logger.error("worker %d could not start:\n%s", ward.slot, ward.reason)

    # --- time

    async def _keep_time(self) -> None:
        """One clock for all deadlines."""
        while True:
            due = self._due()
            with trio.move_on_at(due):
                await self._news.wait()
                continue
            now = trio.current_time()
            # Reports that wait prove life: nobody is judged before they are read.
            self.dispatcher.catch_up()
            if now - due > GAP:
                self._start_afresh(now)
            for ward in list(self.wards.values()):
                if self._deadline(ward) <= now:
                    self._happens(ward, Event.TIMEOUT, _TIMEOUTS[ward.state])
                elif ward.retry and ward.served_since is not None and now - ward.served_since >= STABLE_S:
                    ward.retry = False
                    self.restarts.calm()
            self._changed()

    def _due(self) -> float:
        now = trio.current_time()
        due = min((self._deadline(ward) for ward in self.wards.values()), default=float("inf"))
        if self._crashed:
            due = min(due, now + max(self.restarts.wait(now, self.serving > 0), 0.01))
        if self._not_before > now:
            due = min(due, self._not_before)
        if pace := self.restarts.pace(now):
            due = min(due, now + pace)
        for ward in self.wards.values():
            if ward.retry and ward.served_since is not None:
                due = min(due, ward.served_since + STABLE_S)
        return due

    def _deadline(self, ward: Ward) -> float:
        return self.patience.deadline(ward.state, ward.since, ward.heard)

    def _start_afresh(self, now: float) -> None:
        """We were away (stopped, asleep): everybody gets the whole time again."""
        logger.warning("the master was stopped or asleep; all deadlines start afresh")
        for ward in self.wards.values():
            ward.since = ward.heard = now

    def _changed(self) -> None:
        self._news.set()


_NEW = frozenset({State.BOOTING, State.PROVING})
_STAYING = frozenset({State.BOOTING, State.PROVING, State.SERVING})
_GOING = frozenset({State.STOPPING, State.KILLED})
_TIMEOUTS = {
    State.BOOTING: "not ready in time",
    State.PROVING: "silent for too long",
    State.SERVING: "its loop has not reported for too long",
    State.DRAINING: "not done in time",
    State.STOPPING: "still there after SIGTERM",
    State.KILLED: "still there after SIGKILL",
    State.GONE: "",
}
