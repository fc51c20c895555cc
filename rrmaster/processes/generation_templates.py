"""The templates of one generation: one that forks its workers, and a spare that takes its place.

::

    starting ── imported ──► in use ── lost, and there is a spare ──► in use
       ▲                       │
       └──── after a pause ────┴── lost, and there is no spare

The code of a generation is what the first template imported, whatever lies on the disk later: a worker that replaces
another of the same generation is forked from that memory.  The spare is forked from the template, so it has the same
code.  Only when both are gone does the code come from the disk again: the import is repeated, with a growing pause
between failures, and meanwhile each worker imports the application by itself.

This module does not know workers: it provides processes, or says that it has none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from logging import INFO, WARNING

import trio
from attrs import Factory, define

from ..config.settings import Settings
from ..logs.log import tell
from ..protocol.forks.safety import asked_for, describe_hindrances
from ..protocol.template_wire import MemoryUse
from ..rules.template_health import TemplateHealth
from .process import NoLongerWanted, NotStarted, Process
from .template import Lost, Template

SPARE_AFTER_S = 0.5
"""Seconds of quiet after which the spare is forked: at a start the workers come first."""

RETRY_S, RETRY_CAP_S = 1.0, 30.0
"""Seconds until a lost template is started again, at first and at most; the same as for workers that crash."""

UNHEALTHY = "its workers die before they are ready"


@define(eq=False)
class GenerationTemplates:
    """The imported code of one generation, with the settings and the environment that it was imported with.

    Made by `Generations`, which runs `live` in a task of its own until the generation is given up.
    """

    generation: int
    """The newest generation of this code: a rollback brings the code back under a higher number."""
    settings: Settings
    environment: Mapping[str, str]
    directory: str
    """The working directory, without symbolic links: what they named when the generation began."""
    since: float
    """When its first import began, on trio's clock."""
    template: Template | None = None
    spare: Template | None = None
    refusal: str = ""
    """Why the application cannot be imported, in its own words."""
    settled: trio.Event = Factory(trio.Event)
    """Set when the first import has succeeded or failed."""
    over: bool = False
    """No worker is forked from here again."""
    running: dict[int, Template] = Factory(dict)
    """Its templates by their process ids, including those that still import."""
    on_end: Callable[[], None] = lambda: None
    """Called when the process of one has ended."""
    trying: bool = True
    """A lost template is started again."""
    health: TemplateHealth = Factory(TemplateHealth)
    """Whether the workers that it forks are fit to live."""
    starting: bool = False
    """A template's process is being started, so its process id is not known yet."""
    _condemned: Template | None = None
    _scope: trio.CancelScope = Factory(trio.CancelScope)
    _news: trio.Event = Factory(trio.Event)

    @property
    def weight(self) -> MemoryUse | None:
        """The memory that the template takes, if it has told."""
        return self.template.weight if self.template is not None else None

    async def worker(self, fds: Sequence[int], environ: Mapping[str, str], title: Sequence[str]) -> Process | None:
        """Fork a worker of this code; None if the worker must import it instead.

        `fds` are the worker's line, talk line, stdout and stderr; they stay the caller's.  Raises NotStarted if the
        generation has been given up or its application cannot be imported.
        """
        await self.settled.wait()
        while not self.over and not self.refusal and self.template is not None:
            template = self.template
            try:
                return await template.worker(fds, environ, title)
            except Lost as lost:
                if not template.fate:  # it lives, and may succeed next time
                    tell("template.barren", f"{self.name}: {lost}", level=WARNING, generation=self.generation)
                    return None
                self.forget(template)
        if self.refusal:
            raise NotStarted(self.refusal)
        if self.over:
            raise NoLongerWanted("its generation was given up")
        return None

    @property
    def state(self) -> str:
        """The word that ``rrmaster status`` shows."""
        if self.template is not None:
            return "in doubt" if self.health.doubted else "in use"
        if not self.settled.is_set():
            return "loading"
        return "lost" if self.running or self.trying else "none"

    @property
    def name(self) -> str:
        """The name in the log."""
        pid = self.template.process.pid if self.template is not None else "-"
        return f"template {self.generation} (pid {pid})"

    def serves_as(self, generation: int) -> None:
        """The code serves under this number from now on: a rollback brought it back."""
        self.generation = generation

    def judge_start(self, forked: bool, ready: bool) -> bool:
        """Take note that a worker of this code became ready, or died before.

        Returns True if the template is to blame for the deaths and not the code, so they count as no crashes.
        """
        if not forked:
            condemned = self.health.imported(ready)
            if condemned:
                self._condemn()
            return condemned
        doubted = self.health.forked(ready)
        if doubted:
            text = f"{self.name}: {self.health.deaths} of its workers in a row died before they were ready"
            text += "; the next one is started without it"
            tell("template.doubted", text, level=WARNING, generation=self.generation)
        return doubted

    def _condemn(self) -> None:
        """Give up a template whose workers die while one that imported by itself lives.

        The spare has the same memory, so it goes too.
        """
        text = f"{self.name} is given up: {UNHEALTHY}, and one without it does not"
        tell("template.lost", text, level=WARNING, generation=self.generation)
        both, self.template, self.spare = (self.template, self.spare), None, None
        for template in both:
            if template is not None:
                template.lose(UNHEALTHY)
        self._condemned = both[0]
        self.changed()

    def forget(self, template: Template) -> None:
        """Take note that a template is lost; the spare takes its place."""
        if self.template is template:
            if not self.over:
                text = f"{self.name} is lost: {template.fate}"
                tell("template.lost", text, level=WARNING, generation=self.generation)
            self.template, self.spare = self.spare, None
        elif self.spare is template:
            self.spare = None
        self.changed()

    def changed(self) -> None:
        """Wake the task that keeps the templates."""
        news, self._news = self._news, trio.Event()
        news.set()

    def end(self) -> None:
        """Fork no more workers, and end the templates."""
        self.over = True
        self._scope.cancel()

    # --- from the import to the end

    async def live(self, start: Callable[[GenerationTemplates], Awaitable[Template]]) -> None:
        """Import the application, keep a template and a spare, and import again when both are lost."""
        pause = RETRY_S
        with self._scope:
            try:
                begun = trio.current_time()
                while await self._begin(start):
                    # A template that lasted longer than the longest pause is no repeated failure.
                    pause = RETRY_S if trio.current_time() - begun > RETRY_CAP_S else pause
                    await trio.sleep(pause)
                    pause, begun = min(2 * pause, RETRY_CAP_S), trio.current_time()
            finally:
                self.over = self.over or self._scope.cancel_called
                self.template = self.spare = None
                self.trying = False
                self.settled.set()

    async def _begin(self, start: Callable[[GenerationTemplates], Awaitable[Template]]) -> bool:
        """Import once, and keep the templates until the last is lost.  Returns whether to import again."""
        self.starting = True
        try:
            with trio.CancelScope(shield=True):  # a cancelled start would leave a process without an owner
                template = await start(self)
        except OSError as error:
            text = f"no template can be started: {error.strerror}"
            tell("template.not_started", text, level=WARNING, generation=self.generation)
            self.settled.set()
            return True
        finally:
            self.starting = False
        async with trio.open_nursery() as nursery:
            self._attend(nursery, template)
            await template.settled(self.settings.ready_timeout)
            if self._judge(template):
                self.template = template
                self.health.reset()
                self.settled.set()
                await self._keep(nursery)
            else:
                await template.dismiss()
            again = self._may_try_again(template)
            nursery.cancel_scope.cancel()
        self.settled.set()
        return again

    def _judge(self, template: Template) -> bool:
        """Whether workers can be forked from it."""
        facts = {"pid": template.process.pid, "generation": self.generation}
        if template.loaded is None:
            self._say_not_loaded(template)
            return False
        found = template.loaded.hindrances
        if found:
            used = self.settings.preload == "on"
            text = describe_hindrances(self.settings.application, found, used)
            tell("template.hindered", text, level=WARNING if used else INFO, why=list(found), **facts)
            if not used:
                return False
        text = f"template {self.generation} (pid {template.process.pid}) has imported {self.settings.application}"
        tell("template.loaded", text, level=INFO, **facts)
        return True

    def _say_not_loaded(self, template: Template) -> None:
        unloadable = template.unloadable
        if unloadable is not None and unloadable.asked:
            found = asked_for(unloadable.asked)
            tell("template.hindered", describe_hindrances(self.settings.application, found, False), why=list(found))
        elif not self.settled.is_set() and (unloadable is not None or template.own_fault):
            self.refusal = unloadable.reason if unloadable is not None else template.fate
        else:
            why = unloadable.reason if unloadable is not None else template.fate
            text = f"template {self.generation} (pid {template.process.pid}) could not be loaded: {why}"
            tell("template.lost", text, level=WARNING, generation=self.generation)

    def _may_try_again(self, template: Template) -> bool:
        if self.over or self.refusal:
            return False
        if template.loaded is not None:
            return not template.loaded.hindrances or self.settings.preload == "on"
        return template.unloadable is None or not template.unloadable.asked

    def _attend(self, nursery: trio.Nursery, template: Template) -> None:
        self.running[template.process.pid] = template
        nursery.start_soon(self._watch, template)

    async def _watch(self, template: Template) -> None:
        try:
            await template.run()
        finally:
            del self.running[template.process.pid]
            self.on_end()
        self.forget(template)

    async def _keep(self, nursery: trio.Nursery) -> None:
        """Keep a spare beside the template, until the last template is lost."""
        while self.template is not None:
            news = self._news
            if self.spare is None:
                with trio.move_on_after(SPARE_AFTER_S) as quiet:
                    await news.wait()
                if quiet.cancelled_caught and self.template is not None:
                    await self._make_spare(nursery, self.template)
            else:
                await news.wait()

    async def _make_spare(self, nursery: trio.Nursery, template: Template) -> None:
        self.starting = True
        try:
            spare = await template.another()
            self._attend(nursery, spare)
        except (Lost, OSError) as error:
            if template.fate:
                self.forget(template)
            else:
                tell("template.barren", f"{self.name}: {error}", level=WARNING, generation=self.generation)
                await trio.sleep(RETRY_S)
            return
        finally:
            self.starting = False
        if template is self._condemned:
            spare.lose(UNHEALTHY)
        elif self.template is None:  # the template died after it had forked this one
            self.template = spare
        else:
            self.spare = spare
