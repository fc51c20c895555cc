"""How many workers live, and what becomes of each: asks `plan`, `LAW` and `restarts`, and obeys.

::

    what happens (a message, an exit, a deadline) ── LAW ──► state, actions ── done ──► plan ──► spawn, retire

Nothing is decided here.  Each happening is an `Event` for one worker; the table answers; if a state changed, the plan
is asked again.  A worker exists as BOOTING before its process does, so that the plan counts it.
"""

from __future__ import annotations

import random
import signal
import socket
from collections.abc import Awaitable, Callable
from logging import ERROR, WARNING

import trio
from attrs import Factory, define, evolve

from ..dispatch.dispatcher import Dispatcher
from ..dispatch.load import Post
from ..dispatch.recall import GAP
from ..events.bus import MessageChannel
from ..logs.capture import capture_output
from ..logs.log import tell
from ..logs.worker_output import worker_output
from ..processes.process import DUMP_SIGNAL, NotStarted, outlive
from ..protocol import wire
from ..rules.backoff import BRIEF_S, Exit
from ..rules.lifecycle import Action, Event, Patience, State, step
from ..rules.plan import STAYING, Goal, Member, plan
from ..rules.recycling import Limits, Wear
from ..rules.rollout import Rollout
from .announcements import Chronicle
from .crashes import Aftermath
from .health_check import Probing, Question, keep_asking
from .reload import Renewal
from .starts import Starts
from .worker_record import Birth, Born, Ward

STACKS_S = 0.5
"""Seconds between asking a hung worker for its stacks and killing it; they take a few milliseconds."""


class Hopeless(Exception):
    """No worker ever became ready.  The message is the application's own."""


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
    aftermath: Aftermath = Factory(Aftermath)
    starts: Starts = Factory(lambda self: Starts(self.aftermath), takes_self=True)
    wards: dict[int, Ward] = Factory(dict)
    killed_while_stopping: int = 0
    """Workers that had to be killed once everybody was to go."""
    ever_ready: bool = False
    complete: trio.Event = Factory(trio.Event)
    """Set once as many serve as were wanted."""
    question: Question | None = None
    """What a worker is asked to see whether it is well."""
    probing: Probing = Factory(Probing)
    limits: Limits = Factory(Limits)
    """When a worker has served, lived or grown enough."""
    renewal: Renewal = Factory(Renewal, takes_self=True)
    chronicle: Chronicle = Factory(Chronicle)
    respawn: bool = True
    """Whether who is gone is replaced."""
    vacated: set[int] = Factory(set)
    """Slots in which nobody is to be started any more, until somebody asks for it."""
    _last_id: int = 0
    _verdict: str | None = None
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
        self.renewal.scale(size)

    def reload(self) -> None:
        """Replace all workers by new ones, if those are good.  Asked while one runs, another one follows."""
        self.renewal.reload()

    def begin_reload(self, supersede: bool = False) -> Rollout:
        """The same, to be watched.  Raises Busy when one runs, unless that is to be given up for it."""
        return self.renewal.begin(supersede)

    @property
    def rollout(self) -> Rollout | None:
        """The reload that runs, or ran last."""
        return self.renewal.rollout

    @property
    def refused(self) -> str:
        """Why the code on disk was refused, if it was."""
        return self.renewal.refused

    def restart(self, slot: int) -> None:
        """Replace the worker in this slot: the new one first.  Raises LookupError."""
        self.in_slot(slot).wish = "the operator asked for it"
        self.changed()

    retire = restart

    def stacks(self, slot: int) -> None:
        """Have the worker in this slot write its stacks into the log.  Raises LookupError."""
        self._signal(self.in_slot(slot), DUMP_SIGNAL)

    def in_slot(self, slot: int) -> Ward:
        """Who serves in this slot.  Raises LookupError."""
        found = [ward for ward in self.wards.values() if ward.slot == slot and ward.state is State.SERVING]
        if not found:
            raise LookupError(f"nobody serves in slot {slot}")
        return max(found, key=lambda ward: ward.id)

    def stop(self) -> None:
        """Let everybody finish and go.  `run` returns when they have."""
        self._recalls = False
        self.renewal.stop()
        self.goal = evolve(self.goal, size=0, committed=None)
        self.changed()

    def hurry(self, graceful: float, term: float) -> None:
        """Lower what patience there is with those who are to go."""
        self.patience = evolve(
            self.patience, graceful=min(self.patience.graceful, graceful), term=min(self.patience.term, term)
        )
        self.changed()

    @property
    def serving(self) -> int:
        """How many serve."""
        return sum(ward.state is State.SERVING for ward in self.wards.values())

    @property
    def _stopping(self) -> bool:
        return self.goal.size == 0

    # --- the plan

    def _replan(self) -> None:
        now = trio.current_time()
        self.renewal.look(now)
        if self.goal.fallback is None:  # whoever was to be restored in a reload has found a successor in it
            self.aftermath.settle(w.slot for w in self.wards.values() if w.state in STAYING and not w.leaving)
        members = [Member(w.id, w.slot, w.state, w.generation, w.leaving) for w in self.wards.values()]
        orders = plan(self.goal, members, self._held(now))
        fallback = self.goal.fallback or self.goal.generation
        for slot, generation in [
            *((slot, fallback) for slot in orders.restore),
            *((slot, self.goal.generation) for slot in orders.spawn),
        ]:
            if self.starts.may(slot, generation, now):
                self._begin(slot, generation)
        for id_ in orders.retire:
            self.happens(self.wards[id_], Event.RETIRE, self._why_retire(self.wards[id_]))

    def _why_retire(self, ward: Ward) -> str:
        if self._stopping:
            return "the master stops"
        if ward.leaving:
            return "superseded" if ward.served_since is None else "its replacement serves"
        if ward.generation > self.goal.generation:
            return "its generation failed"
        return "reload" if ward.generation < self.goal.generation else "scaled down"

    def _held(self, now: float) -> set[int]:
        """Slots in which nobody may be started yet."""
        if not self.starts.look(self.goal.size, now) or self._awaits_code:
            return set(range(self.goal.size))
        # Whoever is on its way out before it ever served has not been counted yet.
        going = {w.slot for w in self.wards.values() if w.served_since is None and not w.asked and w.state in _GOING}
        return going | self.vacated | self.starts.held(now, self.ever_ready, self.serving > 0)

    @property
    def _awaits_code(self) -> bool:
        """In development: whether what is on disk has failed, and nobody is to be started from it."""
        good = self.renewal.can_restore(self.goal.generation)  # a template has what was good, whatever the disk has
        failed = self.aftermath.gave_up or (bool(self.renewal.refused) and not good)
        return self.aftermath.awaits_code and failed and self.renewal.undecided is None

    def _begin(self, slot: int, generation: int) -> None:
        now = trio.current_time()
        lines = self.starts.lines(slot, self.window, now)
        if lines is None:
            return
        line, (talk, its) = lines
        self._last_id += 1
        post = Post(self._last_id, slot, line.unclaimed, self.window, self.limit)
        # `ward` is bound before the dispatcher's next turn can hear anything.
        link = self.dispatcher.connect(post, line, lambda message: self._told_by(ward, message))
        conversation = MessageChannel(
            talk,
            lambda message, size: self.chronicle.heard(ward, message, size),
            lambda what: self.breached(ward.id, what),
        )
        wear = Wear(self.limits.of_one(self.random.random()))
        ward = Ward(self._last_id, slot, generation, link, conversation, now, now, wear=wear)
        ward.retry = self.starts.begun(slot, generation, now)
        self.wards[ward.id] = ward
        self.chronicle.forked(ward)
        assert self._nursery is not None
        self._nursery.start_soon(self._live, ward, its)

    # --- one worker

    async def _live(self, ward: Ward, its: socket.socket) -> None:
        birth = Birth(ward.id, ward.slot, ward.generation, ward.link.line.key.fileno(), its.fileno())
        how: Exit | None = None
        why = "it was never started"
        try:
            with its, trio.CancelScope(shield=True):  # or a process would be started that nobody knows
                born = await self.spawn(birth)
        except (OSError, ValueError) as error:  # ValueError: something that no environment can hold
            why = ward.reason = f"its process could not be started: {getattr(error, 'strerror', None) or error}"
        except NotStarted as error:
            ward.reason = ward.reason or ("" if ward.asked else str(error))
            self.happens(ward, Event.FAILED)
        else:
            ward.process, ward.outcome = born.process, born.outcome
            if ward.ready:
                self._fit(ward)
            if ward.state is State.BOOTING:  # a template that could not be used may have had much of its time
                ward.since = trio.current_time()
            self.chronicle.online(ward, born.process.pid)
            if ward.state in _GOING:  # it was given up before it had a process to tell
                self._act(ward, Action.KILL if ward.state is State.KILLED else Action.TERMINATE)
            how = await self._outlive(ward, born)
        finally:
            ward.conversation.close_after_exit()
        self.happens(ward, Event.EXIT, str(how or why), how)

    async def _outlive(self, ward: Ward, born: Born) -> Exit:
        async with trio.open_nursery() as nursery:
            for fd, stream in zip(born.outputs, ("stdout", "stderr"), strict=False):
                nursery.start_soon(
                    capture_output, fd, worker_output(ward.slot, born.process.pid, ward.generation, stream)
                )
            nursery.start_soon(ward.conversation.receive)
            how = await outlive(born.process)
            nursery.cancel_scope.cancel()
        return how

    def _told_by(self, ward: Ward, message: wire.Up) -> None:
        ward.heard = trio.current_time()
        match message:
            case wire.Report():
                self._reported(ward, message)
            case wire.Ready(listeners=listeners):
                if self.dispatcher.declared(ward.link, listeners):
                    self.happens(ward, Event.READY)
            case wire.Failed(reason):
                ward.reason = reason
                self.happens(ward, Event.FAILED)
            case wire.Retiring(reason, now=True) if ward.served_since is None:
                # It would do so again, and again: that is a start that fails, whatever the worker calls it.
                ward.reason = ward.reason or f"{reason} before it served"
                self.happens(ward, Event.FAILED, ward.reason)
            case wire.Retiring(reason, now=True):
                if ward.state is State.SERVING and not ward.leaving and ward.served_for(ward.heard) < BRIEF_S:
                    self._drops_out(ward, f"{ward.name}: {reason} as soon as it served")
                self.happens(ward, Event.RETIRE, reason)
            case wire.Retiring(reason):
                ward.wish = ward.wish or reason
                self.happens(ward, Event.RETIRING, reason)

    def _reported(self, ward: Ward, report: wire.Report) -> None:
        ward.report = report
        if ward.state is State.SERVING and not ward.wish and ward.heard - ward.sampled >= self.renewal.heartbeat:
            ward.sampled = ward.heard
            ward.wish = ward.wear.reason(report.requests, ward.served_for(ward.heard), report.rss)
            if ward.wish:
                self.changed()

    def breached(self, id_: int, what: str) -> None:
        """The dispatcher says that a worker broke the rules."""
        ward = self.wards[id_]
        tell("worker.breach", f"{ward.name} broke the protocol: {what}", level=ERROR, **ward.facts)
        self.happens(ward, Event.BREACH)

    def happens(self, ward: Ward, event: Event, why: str = "", how: Exit | None = None) -> None:
        """Something happened to a worker: the law says what becomes of it."""
        before = ward.state
        law = step(before, event)
        if event is Event.RETIRE:
            ward.asked = True
        if event is Event.TIMEOUT:
            self._ran_out(ward)
        if law.state is not before:
            self._enter(ward, law.state, why or event.value)
        for action in law.actions:
            self._act(ward, action)
        if event is Event.READY and law.state is State.PROVING:
            ward.ready = True
            self._fit(ward)
            self._prove(ward)
        if before in STAYING and law.state not in STAYING and not ward.asked:
            self._drops_out(ward, ward.reason or f"{ward.name}: {why or event.value}")
        if before is not State.GONE and law.state is State.GONE:
            self.chronicle.exited(ward, how)
            self._ended(ward, before, how)
            ward.gone.set()
        if law.state is not before or law.actions:
            self.changed()

    def _drops_out(self, ward: Ward, why: str) -> None:
        """It should have stayed, and goes, or has gone.  Once it has served somebody may take its place before it is
        gone, so if that is a crash it is one now."""
        self.renewal.failed(ward, why)
        if ward.served_since is not None and ward.state is not State.GONE and not self._expected(ward):
            self.aftermath.crashed(ward, trio.current_time())

    def _expected(self, ward: Ward) -> bool:
        """Whether its end is nobody's crash: it was asked to go, or its generation was given up."""
        return ward.asked or ward.generation not in (self.goal.generation, self.goal.fallback)

    def _enter(self, ward: Ward, state: State, why: str) -> None:
        before, ward.state, ward.since = ward.state, state, trio.current_time()
        if not self.respawn and state not in STAYING and self._heir(ward) is None:
            self.vacated.add(ward.slot)
        self.chronicle.changed(ward, before, why, hushed=not self.ever_ready and bool(ward.reason))
        if state is State.KILLED and self._stopping:
            self.killed_while_stopping += 1

    def _ran_out(self, ward: Ward) -> None:
        """Its time is up; where the law has it stay in its state, the time begins anew."""
        ward.since = trio.current_time()
        if ward.state is State.BOOTING and not ward.reason:
            ward.reason = f"it was not ready after {self.patience.ready:g} s (--ready-timeout)"

    def _fit(self, ward: Ward) -> None:
        """It was well started."""
        if ward.outcome(True):
            self.aftermath.restarts.calm()
            self.changed()

    def _unfit(self, ward: Ward, before: State, how: Exit | None) -> bool:
        """It has died before it was ready.  Whether that is to be blamed on how it was started."""
        outside = how is not None and how.killed and before in STAYING  # says nothing of it
        return not (ward.ready or ward.asked or outside) and ward.outcome(False)

    def _prove(self, ward: Ward) -> None:
        """It says that it is ready: see whether it is well, and go on seeing."""
        if self.question is not None:
            assert self._nursery is not None
            self._nursery.start_soon(self._probe, ward, self.question)
        else:
            self._proved(ward)

    def _proved(self, ward: Ward) -> None:
        if not ward.probed:
            ward.probed = True
            # In a reload the whole generation is looked at together.
            if not self.renewal.proved(ward):
                self.happens(ward, Event.PASSED)
            self.changed()

    async def _probe(self, ward: Ward, question: Question) -> None:
        def found(unwell: str) -> None:
            if unwell:
                ward.reason = unwell
                self.happens(ward, Event.FAILED, unwell)
            else:
                self._proved(ward)

        def wanted() -> bool:
            return ward.state in (State.PROVING, State.SERVING)

        await keep_asking(ward.link, question, self.probing, wanted, lambda: ward.probed, found)

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
                ward.wish = ward.wish or "it asked for it"
            case Action.TERMINATE:
                # Ready and never given anything, it would take SIGTERM for a wish to be replaced; at the end of the
                # stream it goes by itself.
                ward.link.line.half_close()
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
        """It is gone: what follows from it?"""
        if not self.ever_ready and not ward.asked and ward.generation == self.goal.generation:
            self.aftermath.failed_at_first(ward, how)
            verdict = self.aftermath.verdict(self.goal.size) if self.respawn and not self._stopping else None
            if verdict is not None and self.aftermath.awaits_code:
                self.aftermath.give_up(verdict)
            else:
                self._verdict = verdict
            return
        expected = self._expected(ward)
        ward.judged = ward.judged or self._unfit(ward, before, how)
        if self.renewal.refused != ward.reason:
            self.aftermath.tell(ward)
        self.aftermath.ended(ward, before, how, expected, trio.current_time())
        if ward.slot in self.vacated:
            self.aftermath.forget(ward.slot)
        if self._awaits_code and not expected:
            self.aftermath.give_up()
        # Who is killed for a hang or a breach is replaced before he has ended.
        heir = self._heir(ward)
        if heir is not None and self.aftermath.filled(ward.slot):
            heir.retry = True

    def _heir(self, ward: Ward) -> Ward | None:
        """Who stands in its place already."""
        kin = ward.generation if self.goal.fallback is not None else None  # in a reload each generation has its own
        staying = (w for w in self.wards.values() if w.slot == ward.slot and w.state in STAYING and not w.leaving)
        return next((w for w in staying if kin in (None, w.generation)), None)

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
                    self.happens(ward, Event.TIMEOUT, _TIMEOUTS[ward.state])
                self.aftermath.lasted(ward, now)
            self.changed()

    def _due(self) -> float:
        due = min((self._deadline(ward) for ward in self.wards.values()), default=float("inf"))
        stable = min((self.aftermath.stable_at(ward) for ward in self.wards.values()), default=float("inf"))
        return min(due, stable, self.renewal.due(), self.starts.withheld_until)

    def _deadline(self, ward: Ward) -> float:
        return self.patience.deadline(ward.state, ward.since, ward.heard)

    def _start_afresh(self, now: float) -> None:
        """We were away (stopped, asleep): everybody gets the whole time again."""
        tell("master.slept", "the master was stopped or asleep; all deadlines start afresh", level=WARNING)
        for ward in self.wards.values():
            ward.since = ward.heard = now

    def calm(self) -> None:
        """Forget past crashes: the code is another, and everybody is started anew."""
        self.aftermath.calm()
        self.vacated.clear()

    def catch_up(self) -> None:
        """Read all reports that wait."""
        self.dispatcher.catch_up()

    def changed(self) -> None:
        """Ask the plan again."""
        self._news.set()


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
