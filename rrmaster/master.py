"""Wires the rooms together; order of birth and death.

Birth: addresses are bound, privileges dropped, then workers start; the master accepts when the first is ready, and
until then clients wait in the backlog.  Death: what the backlog holds is accepted and handed over, the listeners are
closed, the workers are told that there will be no more, and have the graceful timeout to finish.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import random
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import trio
from attrs import define, evolve, field

from .config.option import SettingsError
from .config.parsing import POLICIES, Between
from .config.settings import Settings
from .control.socket_paths import DEFAULT_NAME
from .dispatch.dispatcher import Dispatcher
from .dispatch.dynamic_listeners import Openings
from .dispatch.listeners import Listener
from .dispatch.load import Policy, UserPolicy, policy_named
from .logs.capture import open_pipe
from .logs.log import logger, tell
from .processes.generations import Lineage, Stem
from .processes.process import NotStarted, Process, adopting, package_root, start, usable_cpus, worker_command
from .processes.template import Template, start_template
from .protocol.launch import FIELDS, Launch, is_program
from .rules.autoscaler import Autoscaler, Scaling
from .rules.lifecycle import Patience
from .rules.plan import Goal
from .rules.recycling import Limits
from .rules.rollout import Rollout, Trial
from .status.model import Snapshot
from .status.snapshot import survey
from .supervision import health_check
from .supervision.health_check import Probing, Question
from .supervision.reconfigure import Change, environment_of, look_at_certificate, prepare
from .supervision.reload import Busy
from .supervision.supervisor import Supervisor
from .supervision.worker_record import Birth, Born, Ward
from .watcher import Watch, in_words, watched

LAST_CALL = 0.5
"""The part of the graceful timeout that the backlog may take at a stop, if clients keep coming."""

NOT_FOR_WORKERS = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID")
"""systemd's messages to the master, which a worker must not take for its own."""


@define(eq=False)
class Master:
    """A running master: listeners, dispatcher and workers.  Made by `service` and by `embedding`."""

    settings: Settings
    size: int
    listeners: list[Listener]
    name: str = DEFAULT_NAME
    """Among several masters; the verbs know it by it."""
    dispatcher: Dispatcher = field(init=False)
    supervisor: Supervisor = field(init=False)
    openings: Openings = field(init=False)
    """The addresses that programs have asked for."""
    reread: Callable[[], Settings] | None = None
    """Reads the configuration again, for a reload; raises SettingsError."""
    command: tuple[str, ...] = ()
    """What is started as a worker instead of this package's own; it speaks as docs/protocol.md says."""
    alone: bool = False
    """This process is a master and nothing else, so that it may adopt orphans."""
    lineage: Lineage = field(init=False)
    """The templates."""
    told: Callable[[str], None] = lambda what: None
    """Called with "reloading", "reloaded" and "stopping": a service manager wants to know."""
    _kept: contextlib.ExitStack = field(factory=contextlib.ExitStack)
    """What is undone at the end."""
    _adopts: bool | None = None
    """Orphans become our children; None: that was not asked for yet."""
    _change: Change | None = None
    """What the reload under way will change."""
    slot_environ: dict[int, dict[str, str]] = field(factory=dict)
    """What the workers of a slot have in their environment beside that."""
    _watch: Watch | None = field(init=False)
    _environ: dict[str, str] = field(factory=dict)
    _stopped: bool = False
    _last_call: trio.CancelScope = field(factory=trio.CancelScope)
    _cwd: str = field(factory=os.getcwd)
    _began: float = field(factory=trio.current_time)

    def __attrs_post_init__(self) -> None:
        chosen = self.settings
        self.dispatcher = Dispatcher(
            _policies(chosen), lambda id_, what: self.supervisor.breached(id_, what), chosen.recall_after
        )
        self.openings = Openings(self.dispatcher)
        self.dispatcher.asked = self.openings.asked
        for listener in self.listeners:
            self.dispatcher.open(listener)
        self.lineage = Lineage(self._start_template)
        self._environ = environment_of(chosen)
        self._watch = watched(chosen)
        look_at_certificate(chosen)
        self.supervisor = Supervisor(
            self.dispatcher,
            self._spawn,
            Goal(self.size, surge=surge_of(chosen, self.size), at_once=usable_cpus()),
        )
        self.supervisor.chronicle.addresses = self._addresses_of
        self.supervisor.renewal.prepare = self._prepare
        self.supervisor.renewal.decided = self._decided
        self._apply(chosen)

    def _apply(self, chosen: Settings) -> None:
        """Behave as these settings say, as far as it is not the workers who do."""
        supervisor, renewal = self.supervisor, self.supervisor.renewal
        supervisor.patience = Patience(chosen.ready_timeout, chosen.graceful_timeout, chosen.hang_timeout)
        supervisor.window, supervisor.limit = chosen.window, chosen.worker_connections
        supervisor.aftermath.awaits_code = chosen.reload
        supervisor.limits = Limits(chosen.max_requests, chosen.max_age, chosen.max_memory)
        supervisor.question = _question(chosen)
        supervisor.probing = Probing(
            chosen.probe_interval, chosen.probe_timeout, chosen.probe_failures, chosen.probe_successes
        )
        self.dispatcher.recall.lateness.after = chosen.recall_after
        self.openings.backlog, self.openings.unix_mode = chosen.backlog, chosen.unix_mode
        renewal.surge = partial(surge_of, chosen)
        renewal.trial = Trial(chosen.probation, chosen.soak, chosen.reload_timeout)
        renewal.heartbeat = chosen.heartbeat
        renewal.can_restore = self.lineage.can_restore
        renewal.autoscaler = _autoscaler(chosen)

    def _prepare(self) -> str:
        """Before a reload: read the configuration again.  Why it must not be, or nothing."""
        return self._change_to(lambda: self.reread() if self.reread is not None else self.settings)

    def _prepare_to_go_back(self, generation: int) -> str:
        """Before a rollback: the new generation is to be of the previous code."""
        stem = self.lineage.go_back(generation)
        if stem is None:
            return self._why_no_way_back()
        refusal = self._change_to(lambda: stem.settings, stem.environment)
        if refusal:
            self.lineage.abandoned(generation)
        return refusal

    def _change_to(self, chosen: Callable[[], Settings], environ: Mapping[str, str] | None = None) -> str:
        self.told("reloading")
        try:
            new = chosen()
            self._change = prepare(self.settings, new, environ)
            _policies(new), _question(new)  # they name what must be there
        except Exception as error:  # nothing in a new configuration may end a master that serves
            if self._change is not None:
                self._change.undo()
            self._change = None
            self.told("reloaded")
            return str(error) or type(error).__name__
        return ""

    def _decided(self, rollout: Rollout) -> None:
        """A reload is over: what it would have changed is so, or is not."""
        self.told("reloaded")
        change, self._change = self._change, None
        if change is None:
            return
        if rollout.status != 0:
            self.lineage.abandoned(rollout.generation)
            change.undo()
            return
        self.lineage.committed(rollout.generation, change.settings.rollback_window)
        old, self.settings, self._environ = self.settings, change.settings, change.environment
        for listener in change.opened:
            self.dispatcher.open(listener)
        for door in [
            door for door in self.dispatcher.doors if door.listener.bind in set(old.bind) - set(self.settings.bind)
        ]:
            self.dispatcher.shut(door)
        if old.policy != self.settings.policy:
            self.dispatcher.adopt(_policies(self.settings))
        self._apply(self.settings)
        goal = self.supervisor.goal
        self.supervisor.goal = evolve(goal, surge=surge_of(self.settings, goal.size))
        if old.workers != self.settings.workers:
            self.scale(fleet_size(self.settings))

    @property
    def addresses(self) -> tuple[str, ...]:
        """The bound addresses as a person writes them, port 0 resolved."""
        return tuple(door.listener.name for door in self.dispatcher.doors)

    def _addresses_of(self, ward: Ward) -> tuple[str, ...]:
        return tuple(door.listener.name for door in self.dispatcher.doors if ward.link.serves(door.number))

    def status(self) -> Snapshot:
        """How everything is now."""
        return survey(self.name, self.settings, self.supervisor, self.dispatcher, self.lineage, self._began)

    def reload(self) -> None:
        """Replace all workers by new ones, once those are all ready; the old serve until then."""
        self.supervisor.reload()

    def begin_reload(self, supersede: bool = False) -> Rollout:
        """The same, to be watched.  Raises Busy when one runs, unless that is to be given up for it."""
        return self.supervisor.begin_reload(supersede)

    def begin_rollback(self, supersede: bool = False) -> Rollout:
        """A reload to the code and the settings of the previous generation.  Raises LookupError if it is not kept."""
        if self.lineage.previous is None or self.lineage.previous.template is None:
            raise LookupError(self._why_no_way_back())
        return self.supervisor.renewal.begin(supersede, self._prepare_to_go_back)

    def _why_no_way_back(self) -> str:
        if not self._forks(self.settings):
            return "there is nothing to go back to: only with templates is the code of a generation kept (--preload)"
        if self.settings.rollback_window == 0:
            return "there is nothing to go back to: --rollback-window is 0, so no code is kept after a reload"
        return (
            f"there is nothing to go back to: no reload was committed in the last {self.settings.rollback_window:g} s "
            "(--rollback-window), or what served before it had no template"
        )

    def scale(self, size: int) -> None:
        """Have so many workers from now on; at least one."""
        self.slot_environ = {slot: environ for slot, environ in self.slot_environ.items() if slot < max(size, 1)}
        self.supervisor.scale(size)

    def automatic_size(self) -> int:
        """How many workers `auto` is: one for each processor this process may use."""
        return usable_cpus()

    def restart(self, slot: int) -> None:
        """Replace the worker in this slot: the new one serves before the old one drains.  Raises LookupError."""
        self.supervisor.restart(slot)

    def retire(self, slot: int) -> None:
        """Have the worker in this slot drained and replaced, as if it had asked for it.  Raises LookupError."""
        self.supervisor.retire(slot)

    def stacks(self, slot: int) -> None:
        """Have the worker in this slot write its stacks into the log.  Raises LookupError."""
        self.supervisor.stacks(slot)

    async def run(self) -> None:
        """Serve until `stop` has done its work.  Raises Hopeless if no worker ever becomes ready."""
        with self._kept:
            await self._run()

    def _forks(self, chosen: Settings) -> bool:
        """Whether workers are to be forked.  Their parent ends, so this process must adopt them, and with them all
        orphans among its descendants: a program that has other children decides that for itself."""
        if self.command or is_program(chosen.application):
            return False
        if chosen.preload == "off" or (chosen.preload == "auto" and not self.alone):
            return False
        if self._adopts is None:
            self._adopts = self._kept.enter_context(adopting())
        return self._adopts

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.lineage.run)
            nursery.start_soon(self.dispatcher.run)
            if self._watch is not None:
                nursery.start_soon(self._watch.run, self._code_changed)
                await self._watch.begun.wait()  # or a save while the first workers start could be missed
            try:
                await self.supervisor.run()
            finally:
                self.supervisor.chronicle.news.close()
            nursery.cancel_scope.cancel()

    def _code_changed(self, files: list[str]) -> None:
        """Somebody saved something: the newest code, soonest, so a reload under way is given up."""
        tell("code.changed", f"{in_words(files)} changed: reload", files=files)
        try:
            self.begin_reload(supersede=True)
        except Busy:
            pass  # the master is stopping, and has nobody left to renew

    async def stop(self) -> None:
        """Accept what the backlog holds, close the listeners, and let the workers finish; `run` returns then."""
        if self._stopped:
            return
        self._stopped = True
        self.told("stopping")
        self.openings.over = True
        with self._last_call:
            await self.dispatcher.last_call(self.settings.graceful_timeout * LAST_CALL)
        self.dispatcher.close_doors()
        self.lineage.end()
        self.supervisor.stop()

    def hurry(self, graceful: float = 0.0, term: float = 5.0) -> None:
        """Have no more patience than this with workers that are to go, in seconds before TERM and before KILL."""
        self._last_call.cancel()
        self.supervisor.hurry(graceful, term)

    def close(self) -> None:
        """Close what is still open."""
        if self._change is not None:
            self._change.undo()
        self.dispatcher.close()

    def _for(self, birth: Birth) -> tuple[Settings, dict[str, str]]:
        """The settings and the additional environment of its generation."""
        rollout = self.supervisor.rollout
        if self._change is not None and rollout is not None and birth.generation == rollout.generation:
            return self._change.settings, self._change.environment
        return self.settings, self._environ

    def children(self) -> set[int] | None:
        """The process ids somebody here waits for; None while one is being started."""
        processes, templates = [ward.process for ward in self.supervisor.wards.values()], self.lineage.children()
        if None in processes or templates is None:
            return None
        return templates | {process.pid for process in processes if process is not None}

    async def _spawn(self, birth: Birth) -> Born:
        """Start a worker's process.  Raises OSError, NotStarted."""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            outputs: list[tuple[int, int]] = []
            for _ in range(2):
                mine, its = open_pipe()
                ours.callback(os.close, mine)
                theirs.callback(os.close, its)
                outputs.append((mine, its))
            its_outputs, stem = (outputs[0][1], outputs[1][1]), self._stem(birth)
            forked = await self._fork(stem, birth, its_outputs) if stem is not None else None
            process = forked or await self._exec(birth, its_outputs)
            ours.pop_all()
        mine_all = tuple(mine for mine, _ in outputs)
        return Born(process, mine_all, partial(stem.came_to, forked is not None)) if stem else Born(process, mine_all)

    def _stem(self, birth: Birth) -> Stem | None:
        """Where it is to be forked from; None: it imports the application itself."""
        settings, environ = self._for(birth)
        # Who has an environment of his own may import something else with it.
        if self.slot_environ.get(birth.slot) or not self._forks(settings):
            return None
        return self.lineage.of(birth.generation, settings, environ)

    async def _fork(self, stem: Stem, birth: Birth, outputs: tuple[int, int]) -> Process | None:
        """From the template of its generation; None: from what lies on the disk.  Raises NotStarted."""
        serves = birth.generation == stem.generation == self.supervisor.goal.generation
        if stem.trust.doubted and serves and self.supervisor.renewal.has_the_disks:
            return None
        own, title = own_environment(birth, self.supervisor.goal.size), worker_title(stem.settings, birth)
        process = await stem.worker((birth.line, birth.talk, *outputs), own, title)
        if process is None and not serves:
            raise NotStarted(f"the code of generation {birth.generation} is no more: its template has died")
        return process

    async def _exec(self, birth: Birth, outputs: tuple[int, int]) -> Process:
        """From what lies on the disk."""
        settings, environ = self._for(birth)
        environ = environ | self.slot_environ.get(birth.slot, {})
        return await start(
            self.command or worker_command(worker_title(settings, birth)),
            worker_environment(settings, self._cwd, birth, self.supervisor.goal.size, environ),
            (birth.line, birth.talk),
            *outputs,
            self._cwd if self.command else package_root(),
        )

    async def _start_template(self, stem: Stem) -> Template:
        title = ["--template-of-generation", str(stem.generation), stem.settings.application]
        environ = environment(stem.settings, self._cwd, stem.generation, stem.environment)
        return await start_template(stem.generation, worker_command(title), environ, package_root())


def unwrapped(group: BaseException) -> BaseException:
    """The one error in a group of one: that there are nurseries around a master is not its owner's affair."""
    while isinstance(group, BaseExceptionGroup) and len(group.exceptions) == 1:
        group = group.exceptions[0]
    return group


def worker_title(settings: Settings, birth: Birth) -> list[str]:
    """What `ps` shows of a worker."""
    return ["--slot", str(birth.slot), settings.application]


def worker_environment(
    settings: Settings, cwd: str, birth: Birth, size: int, more: Mapping[str, str]
) -> dict[str, str]:
    """What a worker's process is started with, in the directory `cwd`, as one of `size`."""
    lines = {"RRMASTER_LINE": str(birth.line), "RRMASTER_TALK": str(birth.talk)}
    return environment(settings, cwd, birth.generation, more) | lines | own_environment(birth, size)


def environment(settings: Settings, cwd: str, generation: int, more: Mapping[str, str]) -> dict[str, str]:
    """What all workers of a generation have in common."""
    environ = {name: value for name, value in os.environ.items() if name not in NOT_FOR_WORKERS} | dict(more)
    return environ | {
        "PYTHONUNBUFFERED": "1",
        "RRMASTER_LAUNCH": launch_of(settings, cwd).encode(),
        "RRMASTER_GENERATION": str(generation),
    }


def own_environment(birth: Birth, size: int) -> dict[str, str]:
    """What each has for itself, as one of `size`; the names are those of `births.OWN_TO_EACH`, and the generation, for
    the same code may come back."""
    return {
        "RRMASTER_WORKER_ID": str(birth.id),
        "RRMASTER_WORKER_SLOT": str(birth.slot),
        "RRMASTER_WORKER_COUNT": str(size),
        "RRMASTER_GENERATION": str(birth.generation),
    }


def launch_of(settings: Settings, cwd: str) -> Launch:
    """What a worker is told of the settings."""
    same: dict[str, Any] = {name: getattr(settings, name) for name in FIELDS}
    # A program finds what lies beside it, as `python server.py` does, and what is in the working directory if asked.
    nowhere = settings.app_dir is None and is_program(settings.application)
    app_dir = "" if nowhere else os.path.normpath(os.path.join(cwd, settings.app_dir or "."))
    return Launch(**same | {"app_dir": app_dir, "chdir": cwd})


def fleet_size(settings: Settings) -> int:
    """How many workers to begin with."""
    if isinstance(settings.workers, Between):
        return settings.workers.least
    return settings.workers or usable_cpus()


def _autoscaler(settings: Settings) -> Autoscaler | None:
    if not isinstance(settings.workers, Between):
        return None
    bounds, windows = settings.workers, (settings.scale_up_window, settings.scale_down_window)
    return Autoscaler(Scaling(bounds.least, bounds.most, settings.target_busy, *windows))


def surge_of(settings: Settings, size: int) -> int:
    """How many more workers than `size` may live in a reload; a share is rounded up, and at least one."""
    surge = settings.surge
    return max(math.ceil(size * surge) if isinstance(surge, float) else min(surge, size), 1)


def _policies(settings: Settings) -> Callable[[], Policy]:
    """What makes the policy of each listener."""
    policy = settings.policy
    if isinstance(policy, str) and policy in POLICIES:
        return partial(policy_named, policy, random.Random())
    rule = _load(settings, "policy", policy) if isinstance(policy, str) else policy
    return partial(UserPolicy, rule=rule, complain=_once_a_second(logger.error))


def _question(settings: Settings) -> Question | None:
    if settings.probe is None:
        return None
    if settings.probe == "tcp":
        return health_check.tcp
    if settings.probe.startswith("http:"):
        return health_check.http(settings.probe.removeprefix("http:"))
    question: Question = _load(settings, "probe", settings.probe)
    return question


def _load(settings: Settings, what: str, name: str) -> Any:
    """A callable of the operator's own.  It runs in the master, unlike the application: it should be small."""
    module, _, attribute = name.partition(":")
    directory = os.path.abspath(settings.app_dir or "")
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise SettingsError(f"--{what} {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise SettingsError(f"--{what} {name!r} is no callable")
    return found


def _once_a_second(say: Callable[[str], None]) -> Callable[[str], None]:
    last = float("-inf")

    def say_sometimes(text: str) -> None:
        nonlocal last
        now = trio.current_time()
        if now - last >= 1.0:
            last = now
            say(text)

    return say_sometimes
