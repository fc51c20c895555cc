"""The code of each generation: which templates fork its workers, and how long they are kept.

::

    generation 1 ── committed ──► generation 2 has templates of its own; those of 1 are kept for --rollback-window,
                                  and may come back as generation 3

Three generations at most have templates: the one that serves, the one that a reload tries, and the one before.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping

import trio
from attrs import Factory, define

from ..config.settings import Settings
from .generation_templates import GenerationTemplates
from .template import Template


@define(eq=False)
class Generations:
    """The imported code of each generation that may still fork workers, in one master."""

    start: Callable[[GenerationTemplates], Awaitable[Template]]
    """Starts a template's process.  Raises OSError."""
    on_end: Callable[[], None] = lambda: None
    """Called when a template's process has ended."""
    by_number: dict[int, GenerationTemplates] = Factory(dict)
    """By the number of the generation whose workers are forked from it."""
    previous: GenerationTemplates | None = None
    """The code before the last reload, for a rollback."""
    kept_until: float = math.inf
    """When `previous` is given up, on trio's clock."""
    _begun: list[GenerationTemplates] = Factory(list)
    """All whose templates may still run."""
    _nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the tasks that keep the templates, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def of(
        self, generation: int, settings: Settings, environment: Mapping[str, str], directory: str
    ) -> GenerationTemplates:
        """The templates of a generation; the first call begins the import."""
        found = self.by_number.get(generation)
        if found is None:
            found = GenerationTemplates(
                generation, settings, environment, directory, trio.current_time(), on_end=self.on_end
            )
            self.by_number[generation] = found
            assert self._nursery is not None
            self._nursery.start_soon(self._live, found)
        return found

    async def _live(self, templates: GenerationTemplates) -> None:
        self._begun.append(templates)
        try:
            await templates.live(self.start)
        finally:
            self._begun.remove(templates)

    def can_restore(self, generation: int) -> bool:
        """Whether more workers of exactly this code can be started, whatever lies on the disk."""
        found = self.by_number.get(generation)
        return found is not None and found.template is not None and not found.over

    @property
    def can_go_back(self) -> bool:
        """Whether the code before the last reload is still in memory."""
        return self.previous is not None and self.previous.template is not None

    def go_back(self, generation: int) -> GenerationTemplates | None:
        """Give a new generation the previous code, if that is still in memory."""
        if self.previous is None or self.previous.template is None:
            return None
        self.by_number[generation] = self.previous
        return self.previous

    def committed(self, generation: int, window: float) -> None:
        """This generation serves alone: keep the code before it for `window` seconds, and end all other templates."""
        now_serving = self.by_number.get(generation)
        before = [found for number, found in self.by_number.items() if number != generation]
        self.by_number = {generation: now_serving} if now_serving is not None else {}
        if now_serving is not None:
            now_serving.serves_as(generation)
        last, self.previous = self.previous, None
        for templates in [*before, last]:
            if templates is None or templates is now_serving or templates is self.previous:
                continue
            if self.previous is None and templates is not last and templates.template is not None and window > 0:
                self._keep(templates, window)
            else:
                templates.end()

    def abandoned(self, generation: int) -> None:
        """This generation was refused or rolled back: end its templates."""
        templates = self.by_number.pop(generation, None)
        if templates is not None and templates is not self.previous:
            templates.end()

    def end(self) -> None:
        """End all templates: no more workers are started."""
        for templates in [*self.by_number.values(), self.previous]:
            if templates is not None:
                templates.end()
        self.previous = None

    @property
    def starting(self) -> bool:
        """Whether a template's process is being started, so its process id is not known yet."""
        return any(templates.starting for templates in self._begun)

    def children(self) -> dict[int, float]:
        """The process ids of the templates, and when each had done its import; see `Template.imported`."""
        return {pid: one.imported for templates in self._begun for pid, one in templates.running.items()}

    def _keep(self, templates: GenerationTemplates, window: float) -> None:
        assert self._nursery is not None
        self.previous, self.kept_until = templates, trio.current_time() + window
        self._nursery.start_soon(self._expire, templates, self.kept_until)

    async def _expire(self, templates: GenerationTemplates, until: float) -> None:
        await trio.sleep_until(until)
        if self.previous is templates and self.kept_until == until:
            self.previous = None
            if templates not in self.by_number.values():
                templates.end()
