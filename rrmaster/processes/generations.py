"""Which template is a generation's, and for how long is it kept?

::

    generation 1 ── Stem: template, and a spare ── committed ──► generation 2 has another stem; this one is kept for
                                                                 --rollback-window, and may come back as generation 3

A *stem* is the code of a generation as it was when it was imported: one process that has it in memory, and a spare one
forked from that, which takes its place if it is killed.  Whoever replaces a worker of the generation is forked from it,
whatever lies on the disk by then.  Only when both are gone is the code what the disk has: it is imported again, later
and later if that fails, and meanwhile each worker imports it by itself.

It does not know workers: it gives processes, or none.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from logging import INFO, WARNING

import trio
from attrs import Factory, define

from ..config.settings import Settings
from ..logs.log import tell
from ..protocol.fork_safety import asked_for, describe_hindrances
from ..protocol.template_wire import MemoryUse
from ..rules.template_health import Trust
from .process import NotStarted, Process
from .template import Lost, Template

SPARE_AFTER_S = 0.5
"""Seconds after which the spare one is made: at first the workers are."""

AGAIN_S, AGAIN_CAP_S = 1.0, 30.0
"""Seconds until a template is started again, the first time and at most; as for workers that crash."""

SICK = "its workers die before they are ready"


@define(eq=False)
class Stem:
    """One generation's code, its settings and its environment."""

    generation: int
    """The newest generation that is, or was, of this code."""
    settings: Settings
    environment: Mapping[str, str]
    since: float
    """When it was first begun."""
    template: Template | None = None
    spare: Template | None = None
    refusal: str = ""
    """Why the application cannot be had, in its own words."""
    settled: trio.Event = Factory(trio.Event)
    """It is known what becomes of it."""
    over: bool = False
    running: set[int] = Factory(set)
    """The process ids of its templates, those too that have not imported it yet."""
    trying: bool = True
    """It is started again if it is lost."""
    trust: Trust = Factory(Trust)
    starting: bool = False
    """A template's process is being started, and its number is not known yet."""
    _condemned: Template | None = None
    _scope: trio.CancelScope = Factory(trio.CancelScope)
    _news: trio.Event = Factory(trio.Event)

    @property
    def weight(self) -> MemoryUse | None:
        """What its template takes of the memory."""
        return self.template.weight if self.template is not None else None

    async def worker(self, fds: Sequence[int], environ: Mapping[str, str], title: Sequence[str]) -> Process | None:
        """A worker of this code; None: it has to import it.  Raises NotStarted if there will be none."""
        await self.settled.wait()
        while not self.over and not self.refusal and self.template is not None:
            template = self.template
            try:
                return await template.worker(fds, environ, title)
            except Lost as lost:
                if not template.fate:  # this once it could not; it may next time
                    tell("template.barren", f"{self.name}: {lost}", level=WARNING, generation=self.generation)
                    return None
                self.forget(template)
        if self.over or self.refusal:
            raise NotStarted(self.refusal or "its generation was given up")
        return None

    @property
    def state(self) -> str:
        """As `status` has it."""
        if self.template is not None:
            return "in doubt" if self.trust.doubted else "in use"
        if not self.settled.is_set():
            return "loading"
        return "lost" if self.running or self.trying else "none"

    @property
    def name(self) -> str:
        """For the log."""
        pid = self.template.process.pid if self.template is not None else "-"
        return f"template {self.generation} (pid {pid})"

    def came_to(self, forked: bool, ready: bool) -> bool:
        """A worker of this code is ready, or has died before.  True: the code is not to blame for who died."""
        if not forked:
            condemned = self.trust.imported(ready)
            if condemned:
                self._condemn()
            return condemned
        doubted = self.trust.forked(ready)
        if doubted:
            text = f"{self.name}: {self.trust.dead} of its workers in a row died before they were ready"
            text += "; the next one is started without it"
            tell("template.doubted", text, level=WARNING, generation=self.generation)
        return doubted

    def _condemn(self) -> None:
        """Those it forks die, and who is not forked lives.  The spare one was forked from it as well."""
        text = f"{self.name} is given up: {SICK}, and one without it does not"
        tell("template.lost", text, level=WARNING, generation=self.generation)
        both, self.template, self.spare = (self.template, self.spare), None, None
        for template in both:
            if template is not None:
                template.lose(SICK)
        self._condemned = both[0]
        self.changed()

    def forget(self, template: Template) -> None:
        """One is lost; if there is a spare one, it takes its place."""
        if self.template is template:
            if not self.over:
                text = f"{self.name} is lost: {template.fate}"
                tell("template.lost", text, level=WARNING, generation=self.generation)
            self.template, self.spare = self.spare, None
        elif self.spare is template:
            self.spare = None
        self.changed()

    def changed(self) -> None:
        """Something is to be done about it."""
        news, self._news = self._news, trio.Event()
        news.set()

    def end(self) -> None:
        """Nobody will be forked from it any more."""
        self.over = True
        self._scope.cancel()

    # --- its life

    async def live(self, start: Callable[[Stem], Awaitable[Template]]) -> None:
        """From the import to the end."""
        pause = AGAIN_S
        with self._scope:
            try:
                begun = trio.current_time()
                while await self._begin(start):
                    # Who has lasted for longer than the longest pause does not fail again and again.
                    pause = AGAIN_S if trio.current_time() - begun > AGAIN_CAP_S else pause
                    await trio.sleep(pause)
                    pause, begun = min(2 * pause, AGAIN_CAP_S), trio.current_time()
            finally:
                self.over = self.over or self._scope.cancel_called
                self.template = self.spare = None
                self.trying = False
                self.settled.set()

    async def _begin(self, start: Callable[[Stem], Awaitable[Template]]) -> bool:
        """Import, and keep what has, until it is lost.  Whether to try again."""
        self.starting = True
        try:
            with trio.CancelScope(shield=True):  # or a process would be started that nobody knows
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
                self.trust.anew()
                self.settled.set()
                await self._keep(nursery)
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
        self.running.add(template.process.pid)
        nursery.start_soon(self._watch, template)

    async def _watch(self, template: Template) -> None:
        try:
            await template.run()
        finally:
            self.running.discard(template.process.pid)
        self.forget(template)

    async def _keep(self, nursery: trio.Nursery) -> None:
        """See that there is a spare one, until there is none at all."""
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
        try:
            spare = await template.another()
        except (Lost, OSError) as error:
            if template.fate:
                self.forget(template)
            else:
                tell("template.barren", f"{self.name}: {error}", level=WARNING, generation=self.generation)
                await trio.sleep(AGAIN_S)
            return
        self._attend(nursery, spare)
        if template is self._condemned:
            spare.lose(SICK)
        elif self.template is None:  # it has died since it forked this one
            self.template = spare
        else:
            self.spare = spare


@define(eq=False)
class Lineage:
    """The stems of one master."""

    start: Callable[[Stem], Awaitable[Template]]
    stems: dict[int, Stem] = Factory(dict)
    """By the generation whose workers come from it."""
    previous: Stem | None = None
    """What can be gone back to."""
    kept_until: float = math.inf
    _begun: list[Stem] = Factory(list)
    """All whose templates may still run."""
    _nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep them, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def of(self, generation: int, settings: Settings, environment: Mapping[str, str]) -> Stem:
        """The stem of a generation; begun, if there is none yet."""
        stem = self.stems.get(generation)
        if stem is None:
            stem = self.stems[generation] = Stem(generation, settings, environment, trio.current_time())
            assert self._nursery is not None
            self._nursery.start_soon(self._live, stem)
        return stem

    async def _live(self, stem: Stem) -> None:
        self._begun.append(stem)
        try:
            await stem.live(self.start)
        finally:
            self._begun.remove(stem)

    def can_restore(self, generation: int) -> bool:
        """Whether there can be more workers of this very code."""
        stem = self.stems.get(generation)
        return stem is not None and stem.template is not None and not stem.over

    def go_back(self, generation: int) -> Stem | None:
        """Let a new generation be of the previous code, if that is still there."""
        stem = self.previous
        if stem is None or stem.template is None:
            return None
        self.stems[generation] = stem
        return stem

    def committed(self, generation: int, window: float) -> None:
        """It serves alone: what served before is kept for the time of the window, and nothing else."""
        now_serving = self.stems.get(generation)
        before = [stem for number, stem in self.stems.items() if number != generation]
        self.stems = {generation: now_serving} if now_serving is not None else {}
        if now_serving is not None:
            now_serving.generation = generation
        last, self.previous = self.previous, None
        for stem in [*before, last]:
            if stem is None or stem is now_serving or stem is self.previous:
                continue
            if self.previous is None and stem is not last and stem.template is not None and window > 0:
                self._keep(stem, window)
            else:
                stem.end()

    def abandoned(self, generation: int) -> None:
        """It was not good enough."""
        stem = self.stems.pop(generation, None)
        if stem is not None and stem is not self.previous:
            stem.end()

    def end(self) -> None:
        """Nobody is to be started any more."""
        for stem in [*self.stems.values(), self.previous]:
            if stem is not None:
                stem.end()
        self.previous = None

    def children(self) -> set[int] | None:
        """The process ids of the templates; None while one is being started."""
        if any(stem.starting for stem in self._begun):
            return None
        return {pid for stem in self._begun for pid in stem.running}

    def _keep(self, stem: Stem, window: float) -> None:
        assert self._nursery is not None
        self.previous, self.kept_until = stem, trio.current_time() + window
        self._nursery.start_soon(self._expire, stem, self.kept_until)

    async def _expire(self, stem: Stem, until: float) -> None:
        await trio.sleep_until(until)
        if self.previous is stem and self.kept_until == until:
            self.previous = None
            if stem not in self.stems.values():
                stem.end()
