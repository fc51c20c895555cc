"""What becomes of one worker: the law's answers are carried out here.

::

    a message, an exit, a deadline, the plan ──► Event ── LAW ──► state, actions ──► dispatcher, process, fleet

Nothing is decided here.  `rules.lifecycle` says what an event means in a worker's state; the supervisor says what the
fleet does about it.  One runner serves all workers; each has a task of its own, from its start to its end.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Awaitable, Callable
from logging import ERROR

import trio
from attrs import define, evolve, field

from ..config.settings import Settings
from ..dispatch.dispatcher import Dispatcher
from ..faults import Fault
from ..logs.capture import capture_output
from ..logs.log import tell
from ..logs.worker_output import worker_output
from ..processes.process import DUMP_SIGNAL, NoLongerWanted, NotStarted, outlive
from ..processes.spawner import StartedWorker
from ..processes.worker_environment import WorkerSpec
from ..protocol import wire
from ..rules.backoff import BRIEF_S, Exit
from ..rules.lifecycle import SILENCES, TIMEOUTS, Action, Event, Patience, State, step
from ..rules.plan import STAYING
from ..verdicts.hearing import with_evidence
from .announcements import Announcements
from .collaborators import Outcomes, Spawner
from .health_check import HealthCheck, check_of, keep_checking
from .worker_record import WorkerRecord

STACKS_S = 0.5
"""Seconds between asking a hung worker for its stacks and killing it; the stacks take a few milliseconds."""

GOING = frozenset({State.STOPPING, State.KILLED})
"""The states of a worker that was told to end now."""


@define(eq=False)
class LifecycleRunner:
    """Runs the workers' lives.  `start` needs the nursery that `open` was given."""

    dispatcher: Dispatcher
    spawner: Spawner
    announcements: Announcements
    fleet: Outcomes
    _settings: Settings
    fault: Fault
    patience: Patience = field(init=False)
    health_check: HealthCheck | None = field(init=False)
    _heartbeat: float = field(init=False)
    _recalls: bool = True
    """Whether connections that wait in a dismissed worker's letterbox go to others; not when all must go."""
    _nursery: trio.Nursery | None = None

    def __attrs_post_init__(self) -> None:
        self.configure(self._settings)

    def configure(self, settings: Settings) -> None:
        """Behave as these settings say, also towards workers that live.  Raises SettingsError."""
        self._settings = settings
        self.patience = Patience(settings.ready_timeout, settings.graceful_timeout, settings.hang_timeout)
        self.health_check = check_of(settings)
        self._heartbeat = settings.heartbeat

    def open(self, nursery: trio.Nursery) -> None:
        """Run the workers' tasks in this nursery."""
        self._nursery = nursery

    def stop_recalling(self) -> None:
        """All workers must go: each finishes what its letterbox holds."""
        self._recalls = False

    def hurry(self, graceful: float, term: float) -> None:
        """Lower the deadlines of workers that must go, in seconds before SIGTERM and before SIGKILL."""
        self.patience = evolve(
            self.patience, graceful=min(self.patience.graceful, graceful), term=min(self.patience.term, term)
        )

    def deadline(self, worker: WorkerRecord) -> float:
        """When to `judge` the worker in its state, on trio's clock."""
        silence = self._silence(worker)
        due = self.patience.deadline(worker.state, worker.since)
        return due if silence is None else min(due, worker.docket.due(*silence))

    def _silence(self, worker: WorkerRecord) -> tuple[float, float] | None:
        connections = worker.link.load.connections
        return self.patience.silence(worker.state, worker.since, worker.heard, connections)

    def judge(self, worker: WorkerRecord, now: float) -> None:
        """Its deadline has passed: its time is up, unless it had no processor to use it."""
        if now >= self.patience.deadline(worker.state, worker.since):
            self.happens(worker, Event.TIMEOUT, TIMEOUTS[worker.state])
            return
        silence = self._silence(worker)
        found = None if silence is None else worker.docket.judge(*silence, now, worker.pids, worker.name)
        if found is None:
            return
        if worker.state is State.BOOTING and not worker.failure:
            worker.failed(with_evidence(f"it was not ready after {self.patience.ready:g} s (--ready-timeout)", found))
        event = Event.TIMEOUT if worker.state is State.BOOTING else Event.SILENT
        self.happens(worker, event, with_evidence(SILENCES[worker.state], found))

    def lag(self, worker: WorkerRecord) -> float:
        """Seconds by which the worker's loop is late, or was in the last seconds.  Read all reports before."""
        return worker.lag(trio.current_time(), self._heartbeat)

    # --- a worker's task

    def start(self, worker: WorkerRecord, spec: WorkerSpec, its_talk_end: socket.socket) -> None:
        """Begin a worker's life in a task of its own, which closes `its_talk_end` once the process has it."""
        self._in_background(self._live, worker, spec, its_talk_end)

    async def _live(self, worker: WorkerRecord, spec: WorkerSpec, its_talk_end: socket.socket) -> None:
        how: Exit | None = None
        why = "it was never started"
        try:
            with its_talk_end, trio.CancelScope(shield=True):  # a cancelled start would leave an unknown process
                started = await self.spawner.spawn(spec)
        except (OSError, ValueError) as error:  # ValueError: a value that no environment can hold
            self.fault.tell_own(error)
            why = f"its process could not be started: {getattr(error, 'strerror', None) or error}"
            worker.failed(why)
        except NoLongerWanted as error:  # its end is no crash, and nothing to warn of
            self.happens(worker, Event.RETIRE, str(error))
        except NotStarted as error:
            worker.failed(worker.failure or ("" if worker.asked else str(error)))
            self.happens(worker, Event.FAILED)
        else:
            how, why = await self._outlive_in_any_case(worker, started), "its end was not seen"
        finally:
            self._close(worker)
        self.happens(worker, Event.EXIT, str(how or why), how)

    def _began(self, worker: WorkerRecord, started: StartedWorker) -> None:
        worker.started(started.process, started.report_start, trio.current_time())
        worker.link.belongs_to(started.process.pid)
        if worker.ready:  # its Ready was read before the spawner returned
            self._started_well(worker)
        self.announcements.online(worker, started.process.pid)
        if worker.state in GOING:  # it was given up before it had a process to signal
            self._act(worker, Action.KILL if worker.state is State.KILLED else Action.TERMINATE)

    def _close(self, worker: WorkerRecord) -> None:
        try:
            worker.conversation.close_after_exit()
            worker.hear_last_words()
        except OSError as error:
            self.fault.tell(error)

    async def _outlive_in_any_case(self, worker: WorkerRecord, started: StartedWorker) -> Exit | None:
        """The end of its process, or None.  An error ends the master, and this worker may finish as the others may."""
        try:
            self._began(worker, started)
            return await self._outlive(worker, started)
        except Exception as error:
            self.fault.tell(error)
        try:
            return await outlive(started.process)
        except Exception:  # its end cannot be seen in any way: that there is no such worker is all that can be said
            return None

    async def _outlive(self, worker: WorkerRecord, started: StartedWorker) -> Exit:
        pid = started.process.pid
        async with trio.open_nursery() as nursery:
            for fd, stream in zip(started.outputs, ("stdout", "stderr"), strict=False):
                lines = worker_output(worker.slot, pid, worker.generation, stream)
                nursery.start_soon(self.fault.guard, capture_output, fd, lines)
            nursery.start_soon(self.fault.guard, worker.conversation.receive)
            how = await outlive(started.process)
            nursery.cancel_scope.cancel()
        return how

    def _in_background(self, task: Callable[..., Awaitable[object]], *arguments: object) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self.fault.guard, task, *arguments)

    # --- what a worker says

    def read(self, worker: WorkerRecord, message: wire.Up) -> None:
        """A worker's message was read from its line."""
        worker.heard_from(trio.current_time())
        match message:
            case wire.Report():
                if worker.reported(message, self._heartbeat):
                    self.fleet.plan_again()
            case wire.Ready():
                if self.dispatcher.hear_ready(worker.link, message):
                    self.happens(worker, Event.READY)
            case wire.Failed(reason):
                worker.failed(reason)
                self.happens(worker, Event.FAILED)
            case wire.Retiring(now=True) if worker.served_since is None:
                # Its replacement would do the same, and the next one: a start that fails, whatever the worker calls it.
                worker.failed(worker.failure or f"{message.line} before it served")
                self.happens(worker, Event.FAILED, worker.failure)
            case wire.Retiring(now=True):
                if worker.state is State.SERVING and not worker.leaving and worker.served_for(worker.heard) < BRIEF_S:
                    self.fleet.dropped_out(worker, f"{worker.name}: {message.line} as soon as it served")
                self.happens(worker, Event.RETIRE, message.line)
            case wire.Retiring():
                worker.recycle(message.line)
                self.happens(worker, Event.RETIRING, message.line)

    def breached(self, worker: WorkerRecord, what: str) -> None:
        """A worker broke the protocol of its line."""
        tell("worker.breach", f"{worker.name} broke the protocol: {what}", level=ERROR, **worker.facts)
        self.happens(worker, Event.BREACH)

    # --- what the law says of it

    def happens(self, worker: WorkerRecord, event: Event, why: str = "", how: Exit | None = None) -> None:
        """Apply the law to an event; `how` is the end of the process, if that is the event."""
        before = worker.state
        law = step(before, event)
        if event is Event.RETIRE:
            worker.ask_to_go()
        if event is Event.TIMEOUT:
            self._ran_out(worker)
        if law.state is not before:
            self._enter(worker, law.state, why or event.value)
        for action in law.actions:
            try:
                self._act(worker, action)
            except Exception as error:  # what follows must be done all the same, or the worker is never gone
                self.fault.tell(error)
        if event is Event.READY and law.state is State.PROVING:
            worker.became_ready()
            self._started_well(worker)
            self._prove(worker)
        if before in STAYING and law.state not in STAYING and not worker.asked:
            said = worker.failure or f"{worker.name}: {why or event.value}"
            self.fleet.dropped_out(worker, said, hung=event in (Event.TIMEOUT, Event.SILENT))
        if before is not State.GONE and law.state is State.GONE:
            self.announcements.exited(worker, how)
            self.fleet.ended(worker, before, how)
            worker.gone.set()
        if law.state is not before or law.actions:
            self.fleet.plan_again()

    def _enter(self, worker: WorkerRecord, state: State, why: str) -> None:
        before = worker.state
        worker.enter(state, trio.current_time())
        # Before the first worker is ready the fleet itself reports a failure, in the application's words.
        quiet = not self.fleet.ever_ready and bool(worker.failure)
        self.announcements.changed(worker, before, why, quiet)
        self.fleet.entered(worker)

    def _ran_out(self, worker: WorkerRecord) -> None:
        """Its time is up; where the law lets it stay in its state, the time begins anew."""
        worker.extend(trio.current_time())

    def _started_well(self, worker: WorkerRecord) -> None:
        if worker.report_start(True):
            self.fleet.started_well(worker)

    def _act(self, worker: WorkerRecord, action: Action) -> None:
        match action:
            case Action.ENLIST:
                worker.served(trio.current_time())
                self.dispatcher.enlist(worker.link)
                self.fleet.enlisted(worker)
            case Action.DISMISS:
                self.dispatcher.delist(worker.link)
                self._in_background(self.dispatcher.dismiss, worker.link, self._recalls)
            case Action.REPLACE:
                worker.recycle("it asked for it")
            case Action.TERMINATE:
                # A worker that is ready and was given nothing would take SIGTERM for a wish to be replaced.  At the end
                # of the stream it goes by itself.
                worker.link.line.half_close()
                self.signal(worker, signal.SIGTERM)
            case Action.STACKS:
                worker.dump(pending=True)
                self.signal(worker, DUMP_SIGNAL)
            case Action.KILL:
                self.dispatcher.delist(worker.link)
                self._in_background(self._kill, worker, STACKS_S if worker.dumping else 0.0)
                worker.dump(pending=False)
            case Action.RECALL:
                self.dispatcher.remove(worker.link)
            case Action.BURY:
                self.fleet.remove(worker)

    def signal(self, worker: WorkerRecord, number: int) -> None:
        """Send a signal to a worker's process; nothing happens if there is none yet."""
        if worker.process is not None:
            worker.process.signal(number)

    async def _kill(self, worker: WorkerRecord, after: float) -> None:
        await trio.sleep(after)
        if worker.process is not None:
            worker.process.signal(signal.SIGKILL, group=True)

    # --- whether it is well

    def _prove(self, worker: WorkerRecord) -> None:
        """A worker says that it is ready: check its health, and go on checking while it serves."""
        if self.health_check is not None:
            self._in_background(self._keep_checking, worker, self.health_check)
        else:
            self._proved(worker)

    def _proved(self, worker: WorkerRecord) -> None:
        if not worker.proved:
            worker.passed()
            # In a reload the new workers begin to serve together, or not at all.
            if not self.fleet.reload.proved(worker):
                self.happens(worker, Event.PASSED)
            self.fleet.plan_again()

    async def _keep_checking(self, worker: WorkerRecord, check: HealthCheck) -> None:
        def judged(unwell: str) -> None:
            if unwell:
                worker.failed(unwell)
                self.happens(worker, Event.FAILED, unwell)
            else:
                self._proved(worker)

        def wanted() -> bool:
            return worker.state in (State.PROVING, State.SERVING)

        await keep_checking(worker.link, check, wanted, lambda: worker.proved, judged)
