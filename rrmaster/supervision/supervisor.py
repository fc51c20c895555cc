"""Which workers live: asks `plan`, and starts, retires and replaces workers as it says.

::

    ReloadController: the goal ──┐
    LifecycleRunner: the states ─┴──► plan ──► start, retire ──► LifecycleRunner

Nothing is decided here.  The goal belongs to the `reload` controller, what becomes of one worker to the
`lifecycle_runner`, crashes and the pace of starts to `crashes` and `starts`.  If any of them changes something, the
plan is asked again.  A worker exists as BOOTING before its process does, so the plan counts it.
"""

from __future__ import annotations

import random
from logging import WARNING

import trio
from attrs import Factory, define, field

from ..config.settings import Settings
from ..dispatch.dispatcher import Dispatcher
from ..faults import Fault
from ..logs.log import tell
from ..processes.process import DUMP_SIGNAL
from ..processes.worker_environment import WorkerSpec
from ..rules.backoff import Exit
from ..rules.lifecycle import Event, State
from ..rules.plan import STAYING, Goal, Member, plan
from ..verdicts.hearing import CLOCK_GAP
from ..verdicts.processor_time import waited_here
from .announcements import Announcements
from .collaborators import KeptCode, Reconfigurer, Spawner
from .crashes import Crashes, NoWorkerReady
from .lifecycle_runner import GOING, LifecycleRunner
from .reload import ReloadController
from .starts import Starts
from .worker_record import WorkerRecord


@define(eq=False)
class Supervisor:
    """Keeps a fleet as its goal says.  One task runs it; everything else calls it from the same thread."""

    dispatcher: Dispatcher
    spawner: Spawner
    code: KeptCode
    reconfigurer: Reconfigurer
    goal_at_start: Goal
    announcements: Announcements = Factory(Announcements)
    respawn: bool = True
    """Whether a worker that has ended is replaced."""
    fault: Fault = Factory(Fault)
    random: random.Random = Factory(random.Random)
    crashes: Crashes = Factory(Crashes)
    workers: dict[int, WorkerRecord] = Factory(dict)
    """All that have not gone, by id."""
    ever_ready: bool = False
    complete: trio.Event = Factory(trio.Event)
    """Set once as many workers serve as the goal wants."""
    killed_while_stopping: int = 0
    """Workers that had to be killed after the fleet was told to stop."""
    starts: Starts = field(init=False)
    reload: ReloadController = field(init=False)
    runner: LifecycleRunner = field(init=False)
    _vacated: set[int] = Factory(set)
    """Slots that stay empty until the program asks for a worker in one of them."""
    _verdict: str | None = None
    _news: trio.Event = Factory(trio.Event)

    def __attrs_post_init__(self) -> None:
        settings = self.reconfigurer.settings
        self.runner = LifecycleRunner(self.dispatcher, self.spawner, self.announcements, self, settings, self.fault)
        self.starts = Starts(self.crashes, self.dispatcher, self.announcements, self.runner, settings, self.random)
        self.reload = ReloadController(
            self, self.runner, self.dispatcher, self.spawner, self.code, self.reconfigurer, self.goal_at_start
        )
        self.crashes.configure(development=settings.reload)

    def configure(self, settings: Settings) -> None:
        """Behave as these settings say.  Raises SettingsError."""
        self.crashes.configure(development=settings.reload)
        self.starts.configure(settings)
        self.runner.configure(settings)

    # --- the fleet as a whole

    async def run(self) -> None:
        """Keep the fleet until cancelled or, once stopped, until the last worker has gone.  Raises NoWorkerReady."""
        async with trio.open_nursery() as nursery:
            self.runner.open(nursery)
            nursery.start_soon(self._keep_time)
            while (self.reload.goal.size or self.workers) and self._verdict is None:
                self._news = trio.Event()
                self.fault.attempt(self._replan)
                await self._news.wait()
            nursery.cancel_scope.cancel()
        if self._verdict is not None:
            raise NoWorkerReady(self._verdict)

    def stop(self) -> None:
        """Let all workers finish and go.  `run` returns when they have."""
        self.runner.stop_recalling()
        self.reload.stop()

    def hurry(self, graceful: float, term: float) -> None:
        """Lower the deadlines of workers that must go, in seconds before SIGTERM and before SIGKILL."""
        self.runner.hurry(graceful, term)
        self.plan_again()

    @property
    def serving(self) -> int:
        """The number of workers that serve."""
        return sum(worker.state is State.SERVING for worker in self.workers.values())

    def plan_again(self) -> None:
        """Ask the plan what follows, when the present task has finished its step."""
        self._news.set()

    # --- one worker, by its slot

    def in_slot(self, slot: int) -> WorkerRecord:
        """The worker that serves in this slot.  Raises LookupError."""
        found = [worker for worker in self.workers.values() if worker.slot == slot and worker.state is State.SERVING]
        if not found:
            raise LookupError(f"no worker serves in slot {slot}")
        return max(found, key=lambda worker: worker.id)

    def restart(self, slot: int) -> None:
        """Replace the worker in this slot, its replacement first.  Raises LookupError."""
        self.in_slot(slot).recycle("the operator asked for it")
        self.plan_again()

    def stacks(self, slot: int) -> None:
        """Let the worker in this slot write its stacks into the log.  Raises LookupError."""
        self.runner.signal(self.in_slot(slot), DUMP_SIGNAL)

    # --- slots that a program leaves empty

    @property
    def vacated_slot(self) -> int | None:
        """The lowest slot that stays empty until the program asks for a worker in it."""
        return min((slot for slot in self._vacated if slot < self.reload.size_wanted), default=None)

    def fill(self, slot: int) -> None:
        """Start workers in this slot again."""
        self._vacated.discard(slot)
        self.plan_again()

    def fill_all(self) -> None:
        """Start workers in all slots again."""
        self._vacated.clear()
        self.plan_again()

    def vacate_all(self) -> None:
        """Start no worker in any slot before the program asks for one."""
        self._vacated.update(range(self.reload.goal.size))

    def forget_crashes(self) -> None:
        """Forget past crashes, and fill all slots: new code is about to be tried."""
        self.crashes.reset()
        self._vacated.clear()

    # --- the plan

    def _replan(self) -> None:
        now = trio.current_time()
        self.reload.advance(now)
        goal = self.reload.goal
        self.dispatcher.expect(goal.size)
        if goal.fallback is None:  # the replacement of an old worker that died in a reload is a new one
            self.crashes.settle(w.slot for w in self.workers.values() if w.state in STAYING and not w.leaving)
        members = [Member(w.id, w.slot, w.state, w.generation, w.leaving) for w in self.workers.values()]
        orders = plan(goal, members, self._held(now))
        fallback = goal.fallback or goal.generation
        for slot, generation in [
            *((slot, fallback) for slot in orders.restore),
            *((slot, goal.generation) for slot in orders.spawn),
        ]:
            if self.starts.may(slot, generation, now):
                self._start(slot, generation)
        for id_ in orders.retire:
            self.runner.happens(self.workers[id_], Event.RETIRE, self._why_retire(self.workers[id_]))

    def _why_retire(self, worker: WorkerRecord) -> str:
        goal = self.reload.goal
        if self.reload.stopping:
            return "the master stops"
        if worker.leaving:
            return "superseded" if worker.served_since is None else "its replacement serves"
        if worker.generation > goal.generation:
            return "its generation failed"
        return "reload" if worker.generation < goal.generation else "scaled down"

    def _held(self, now: float) -> set[int]:
        """The slots in which no worker may be started yet."""
        size = self.reload.goal.size
        if not self.starts.look(size, now) or self._awaits_code:
            return set(range(size))
        # The end of a worker that must go before it ever served has not been counted as a crash yet.
        going = {w.slot for w in self.workers.values() if w.served_since is None and not w.asked and w.state in GOING}
        return going | self._vacated | self.starts.held(now, self.ever_ready, self.serving > 0)

    @property
    def _awaits_code(self) -> bool:
        """In development: whether the code on the disk has failed, so no worker is started from it."""
        good = self.code.can_restore(
            self.reload.goal.generation
        )  # a template has the last good code, whatever the disk has
        failed = self.crashes.gave_up or (bool(self.reload.refused) and not good)
        return self.crashes.awaits_code and failed and self.reload.undecided is None

    def _start(self, slot: int, generation: int) -> None:
        found = self.starts.open(slot, generation, trio.current_time())
        if found is None:
            return
        worker, its_talk_end = found
        self.workers[worker.id] = worker
        self.announcements.forked(worker)
        goal, line = self.reload.goal, worker.link.line.key.fileno()
        spec = WorkerSpec(
            worker.id, slot, generation, line, its_talk_end.fileno(), worker.figures.page, worker.page, goal.size,
            serves_now=generation == goal.generation, disk_is_current=self.reload.disk_is_current,
        )  # fmt: skip
        self.runner.start(worker, spec, its_talk_end)

    # --- what happens to workers

    def breached(self, id_: int, what: str) -> None:
        """The dispatcher found that a worker broke the protocol of its line."""
        self.runner.breached(self.workers[id_], what)

    def entered(self, worker: WorkerRecord) -> None:
        """A worker entered another state."""
        if not self.respawn and worker.state not in STAYING and self._successor(worker) is None:
            self._vacated.add(worker.slot)
        if worker.state is State.KILLED and self.reload.stopping:
            self.killed_while_stopping += 1

    def enlisted(self, worker: WorkerRecord) -> None:
        """A worker serves from now on."""
        self.ever_ready = True
        if self.serving >= self.reload.goal.size:
            self.complete.set()

    def started_well(self, worker: WorkerRecord) -> None:
        """A worker became ready, and the crashes before it are known to be no fault of the code."""
        self.crashes.backoff.reset()
        self.plan_again()

    def dropped_out(self, worker: WorkerRecord, why: str, hung: bool = False) -> None:
        """A worker that should have stayed goes, or has gone.

        One that has served may be replaced before its process has ended, so if that is a crash it is counted now.
        """
        self.reload.worker_failed(worker, why)
        if worker.served_since is not None and worker.state is not State.GONE and not self._expected(worker):
            load = worker.link.load
            if hung and load.connections > load.recount():
                self.crashes.died_in_a_request(worker, "hung", load.connections - load.unclaimed)
            else:
                self.crashes.crashed(worker, trio.current_time())

    def ended(self, worker: WorkerRecord, before: State, how: Exit | None) -> None:
        """A worker's process has ended."""
        if not self.ever_ready and not worker.asked and worker.generation == self.reload.goal.generation:
            self._failed_at_first(worker, how)
            return
        expected = self._expected(worker)
        if not worker.judged and self._badly_started(worker, before, how):
            worker.judge()
        if self.reload.refused != worker.failure:
            self.crashes.log_failure(worker)
        self.crashes.ended(worker, before, how, expected, trio.current_time())
        if worker.slot in self._vacated:
            self.crashes.forget(worker.slot)
        if self._awaits_code and not expected:
            self.crashes.give_up()
        # A worker killed for a hang or a breach is replaced before its process has ended.
        successor = self._successor(worker)
        if successor is not None and self.crashes.filled(worker.slot):
            successor.fill_crashed_place(True)

    def remove(self, worker: WorkerRecord) -> None:
        """A worker's record is no longer needed."""
        del self.workers[worker.id]

    def _failed_at_first(self, worker: WorkerRecord, how: Exit | None) -> None:
        """A worker has ended, and none was ever ready: if that is true of every slot, it is the verdict."""
        self.crashes.failed_at_first(worker, how)
        replaced = self.respawn and not self.reload.stopping
        verdict = self.crashes.verdict(self.reload.goal.size) if replaced else None
        if verdict is not None and self.crashes.awaits_code:
            self.crashes.give_up(verdict)
        else:
            self._verdict = verdict

    def _expected(self, worker: WorkerRecord) -> bool:
        """Whether its end is no crash: the master asked it to go, or its generation was given up."""
        return worker.asked or worker.generation not in (self.reload.goal.generation, self.reload.goal.fallback)

    def _badly_started(self, worker: WorkerRecord, before: State, how: Exit | None) -> bool:
        """Whether it died before it was ready because of how it was started, and not of its code."""
        killed_from_outside = how is not None and how.killed and before in STAYING  # says nothing about the code
        return not (worker.ready or worker.asked or killed_from_outside) and worker.report_start(False)

    def _successor(self, worker: WorkerRecord) -> WorkerRecord | None:
        """The worker that has taken its place already."""
        goal = self.reload.goal
        generation = worker.generation if goal.fallback is not None else None  # in a reload each has its own
        staying = (w for w in self.workers.values() if w.slot == worker.slot and w.state in STAYING and not w.leaving)
        return next((w for w in staying if generation in (None, w.generation)), None)

    # --- time

    async def _keep_time(self) -> None:
        """One clock for all deadlines."""
        while True:
            # A wait that begins when its time has passed already does not end late.
            due, waited = max(self._due(), trio.current_time()), waited_here()
            with trio.move_on_at(due):
                await self._news.wait()
                continue
            now = trio.current_time()
            self.dispatcher.read_reports()  # reports that wait prove life
            if now - due > CLOCK_GAP and now - due - (waited_here() - waited) > CLOCK_GAP:
                self._restart_deadlines(now)
            for worker in list(self.workers.values()):
                if self.runner.deadline(worker) <= now:
                    self.runner.judge(worker, now)
                self.crashes.lasted(worker, now)
            self.plan_again()

    def _due(self) -> float:
        """When something must be done, whatever happens."""
        deadlines = (self.runner.deadline(worker) for worker in self.workers.values())
        stable = (self.crashes.stable_at(worker) for worker in self.workers.values())
        infinity = float("inf")
        times = min(deadlines, default=infinity), min(stable, default=infinity)
        return min(*times, self.reload.due(), self.starts.withheld_until)

    def _restart_deadlines(self, now: float) -> None:
        """The master itself was stopped or asleep: no worker may be blamed for that time.

        If it only waited for a processor, that is part of each case: to begin anew each time would find nothing.
        """
        tell("master.slept", "the master was stopped or asleep; all deadlines start afresh", level=WARNING)
        for worker in self.workers.values():
            worker.restart_deadlines(now)
