"""How a worker comes to life: forked from a template of its generation, or started as an interpreter of its own.

::

    spawn ──► has its generation templates? ── yes ──► fork ── none lives ──► exec
                                            └─ no ───────────────────────────► exec

A fork takes milliseconds and shares memory; an exec imports what lies on the disk.  Whether a generation may be forked
at all is a question of the settings and of the process that the master runs in (see `_may_fork`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Protocol

from attrs import Factory, define, frozen

from ..config.settings import Settings
from ..logs.capture import open_pipe
from ..protocol.launch import is_program
from .generation_templates import GenerationTemplates
from .generations import Generations
from .memory_kills import KillsForMemory
from .orphans import Orphans
from .process import Child, NotStarted, Process, adopting, package_root, start, worker_command
from .template import Template, start_template
from .two_users.starter import Starter, admit
from .worker_environment import WorkerSpec, generation_environment, own_environment, title_of, worker_environment
from .worker_process import WorkerProcess


@frozen
class StartedWorker:
    """A new worker's process, and the read ends of its stdout and stderr, which the receiver owns."""

    process: Process
    outputs: tuple[int, ...] = ()
    report_start: Callable[[bool], bool] = lambda ready: False
    """Must be called once: with True when the worker is ready, with False when it died before.  Returns True if the
    way it was started is to blame and not the application; the next worker is then started in another way."""


class GenerationSettings(Protocol):
    """Where the settings of a generation are looked up."""

    def of_generation(self, generation: int) -> tuple[Settings, Mapping[str, str], str]:
        """The settings, what the workers have in their environment beside the master's, and their directory."""


@define(eq=False)
class Spawner:
    """Starts the workers' processes.  A context manager: while it is open, orphaned workers become our children."""

    settings: GenerationSettings
    command: tuple[str, ...] = ()
    """Started as a worker instead of this package's own; a program that speaks as docs/protocol.md says."""
    owns_process: bool = False
    """This process is a master and nothing else, so it may adopt all orphans among its descendants."""
    orphans: Orphans = Factory(Orphans)
    memory: KillsForMemory = Factory(KillsForMemory)
    starter: Starter | None = None
    """Starts processes as another user than this one; the caller's."""
    generations: Generations = Factory(
        lambda self: Generations(self._start_template, self.orphans.look_again), takes_self=True
    )
    _slot_environment: dict[int, dict[str, str]] = Factory(dict)
    _adopts: bool | None = None
    """Whether orphans become our children; None until the first request."""
    _kept: contextlib.ExitStack = Factory(contextlib.ExitStack)

    def __enter__(self) -> Spawner:
        if self.starter is not None or (self.owns_process and self.orphans.wanted()):
            self._adopt()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept.close()

    # --- the environment of one slot

    def set_slot_environment(self, slot: int, environ: Mapping[str, str]) -> None:
        """Add these variables to the environment of each worker that is started in this slot from now on."""
        self._slot_environment[slot] = dict(environ)

    def forget_slots_from(self, size: int) -> None:
        """The fleet has `size` slots: forget the environments of the others."""
        self._slot_environment = {slot: own for slot, own in self._slot_environment.items() if slot < size}

    # --- starting a worker

    async def spawn(self, spec: WorkerSpec) -> StartedWorker:
        """Start a worker's process.  Raises OSError, NotStarted."""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            outputs: list[tuple[int, int]] = []
            for _ in range(2):
                mine, its = open_pipe()
                ours.callback(os.close, mine)
                theirs.callback(os.close, its)
                outputs.append((mine, its))
            if self.starter is not None:
                admit([its for _, its in outputs])
            its_outputs, templates = (outputs[0][1], outputs[1][1]), self._templates_for(spec)
            forked = await self._fork(templates, spec, its_outputs) if templates is not None else None
            process = forked or await self._exec(spec, its_outputs)
            ours.pop_all()
        read_ends = tuple(mine for mine, _ in outputs)
        process = WorkerProcess(process, spec.id, self.orphans, self.memory)
        if templates is None:
            return StartedWorker(process, read_ends)
        return StartedWorker(process, read_ends, partial(templates.judge_start, forked is not None))

    def _templates_for(self, spec: WorkerSpec) -> GenerationTemplates | None:
        """The templates to fork the worker from; None if it must import the application itself."""
        settings, environ, directory = self.settings.of_generation(spec.generation)
        # A worker with an environment of its own may import something else with it.
        if self._slot_environment.get(spec.slot) or not self.may_fork(settings):
            return None
        return self.generations.of(spec.generation, settings, environ, directory)

    def may_fork(self, settings: Settings) -> bool:
        """Whether workers are forked from a template.

        The parent of a forked worker ends, so this process must adopt the worker, and with it all orphans among its
        descendants.  A program that has other children must ask for that (``preload="on"``).
        """
        if self.command or is_program(settings.application):
            return False
        if settings.preload == "off" or (settings.preload == "auto" and not self.owns_process):
            return False
        return self._adopt()

    def _adopt(self) -> bool:
        """Adopt orphans, if that has not been tried yet.  Returns whether this process does."""
        if self._adopts is None:
            self._adopts = self._kept.enter_context(adopting())
            if self._adopts:
                self.orphans.adopted(self.owns_process)
        return self._adopts

    def why_no_way_back(self, settings: Settings) -> str:
        """Why the code before the last reload is not kept."""
        if not self.may_fork(settings):
            return "there is nothing to go back to: only with templates is the code of a generation kept (--preload)"
        if settings.rollback_window == 0:
            return "there is nothing to go back to: --rollback-window is 0, so no code is kept after a reload"
        return (
            f"there is nothing to go back to: no reload was committed in the last {settings.rollback_window:g} s "
            "(--rollback-window), or what served before it had no template"
        )

    async def _fork(self, templates: GenerationTemplates, spec: WorkerSpec, outputs: tuple[int, int]) -> Process | None:
        """A worker forked from a template; None if it must import from the disk.  Raises NotStarted."""
        disk_will_do = spec.serves_now and spec.generation == templates.generation
        if templates.health.doubted and disk_will_do and spec.disk_is_current:
            return None
        fds = (spec.line, spec.talk, *outputs, *spec.figures, *spec.page)
        environ = own_environment(spec, self.orphans.mark(spec.id))
        process = await templates.worker(fds, environ, title_of(templates.settings, spec))
        if process is None and not disk_will_do:
            raise NotStarted(f"the code of generation {spec.generation} is lost: its template has died")
        return process

    async def _exec(self, spec: WorkerSpec, outputs: tuple[int, int]) -> Process:
        """A worker that imports what lies on the disk."""
        settings, environ, directory = self.settings.of_generation(spec.generation)
        more = {**environ, **self._slot_environment.get(spec.slot, {})}
        child = await self._start(
            self.command or worker_command(title_of(settings, spec)),
            worker_environment(settings, directory, spec, self.orphans.mark(spec.id), more),
            (spec.line, spec.talk, *spec.figures, *spec.page),
            *outputs,
            directory if self.command else package_root(),
        )
        await self.orphans.admit(child.pid)
        return child

    async def _start_template(self, templates: GenerationTemplates) -> Template:
        title = ["--template-of-generation", str(templates.generation), templates.settings.application]
        settings, environ = templates.settings, templates.environment
        mark = self.orphans.mark()
        environ = generation_environment(settings, templates.directory, templates.generation, mark, environ)

        async def begin(environ: Mapping[str, str], inherit: Sequence[int], stdout: int, stderr: int) -> Child:
            child = await self._start(worker_command(title), environ, inherit, stdout, stderr, package_root())
            await self.orphans.admit(child.pid, template=True)
            return child

        return await start_template(begin, templates.generation, environ, self.orphans.admit)

    @property
    def _start(self) -> Callable[..., Awaitable[Child]]:
        return start if self.starter is None else self.starter.start
