"""What the modules of supervision need of each other and of other rooms, as typed protocols."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ..config.settings import Settings
from ..processes.spawner import StartedWorker
from ..processes.worker_environment import WorkerSpec
from ..rules.backoff import Exit
from ..rules.lifecycle import Event, State
from .announcements import Announcements
from .worker_record import WorkerRecord


class Spawner(Protocol):
    """What starts workers; `processes.spawner`."""

    async def spawn(self, spec: WorkerSpec) -> StartedWorker:
        """Start a worker's process.  Raises OSError, NotStarted."""

    def forget_slots_from(self, size: int) -> None:
        """The fleet has `size` slots: forget what is special about the others."""


class ImportedCode(Protocol):
    """The code of a generation as it was imported; `processes.generation_templates`."""

    @property
    def settings(self) -> Settings: ...

    @property
    def environment(self) -> Mapping[str, str]: ...

    @property
    def directory(self) -> str: ...


class KeptCode(Protocol):
    """The code of each generation that is kept in memory; `processes.generations`."""

    def can_restore(self, generation: int) -> bool:
        """Whether more workers of exactly this code can be started, whatever lies on the disk."""

    def go_back(self, generation: int) -> ImportedCode | None:
        """Give a new generation the code before the last reload; None if that is not kept."""

    def committed(self, generation: int, window: float) -> None:
        """This generation serves alone; the code before it is kept for `window` seconds."""

    def abandoned(self, generation: int) -> None:
        """This generation was refused or rolled back."""


class Reconfigurer(Protocol):
    """The settings in force, and those that a reload brings; `supervision.reconfigure`."""

    settings: Settings

    def directory_of(self, generation: int) -> str:
        """Where the code of a generation lies, without symbolic links."""

    def prepare(self, generation: int, code: ImportedCode | None = None) -> str:
        """Read the new configuration, or take the kept one; returns why it cannot be, or nothing."""

    def commit(self) -> Settings:
        """Put the prepared settings into force, and return them."""

    def abandon(self) -> None:
        """Undo what was prepared."""


class Lifecycles(Protocol):
    """What is told of events that the fleet is the cause of; `supervision.lifecycle_runner`."""

    def happens(self, worker: WorkerRecord, event: Event, why: str = "") -> None:
        """Something happened to a worker."""


class Reports(Protocol):
    """Where the workers' reports arrive; `dispatch.dispatcher`."""

    def read_reports(self) -> None:
        """Read all reports that wait.  No worker may be judged for its silence before."""


class Gate(Protocol):
    """Where new workers wait for each other; the `reload` controller."""

    def proved(self, worker: WorkerRecord) -> bool:
        """A worker is ready and well.  Returns whether it must wait for the others of its generation."""


class Outcomes(Protocol):
    """What the fleet makes of the things that happen to a worker; `supervision.supervisor`."""

    ever_ready: bool

    @property
    def reload(self) -> Gate: ...

    def entered(self, worker: WorkerRecord) -> None:
        """A worker entered another state."""

    def enlisted(self, worker: WorkerRecord) -> None:
        """A worker serves from now on."""

    def dropped_out(self, worker: WorkerRecord, why: str, hung: bool = False) -> None:
        """A worker that should have stayed goes, or has gone.  `hung`: it was silent for too long."""

    def started_well(self, worker: WorkerRecord) -> None:
        """A worker became ready, which settles a doubt about how workers are started."""

    def ended(self, worker: WorkerRecord, before: State, how: Exit | None) -> None:
        """A worker's process has ended."""

    def remove(self, worker: WorkerRecord) -> None:
        """A worker's record is no longer needed."""

    def plan_again(self) -> None:
        """Ask the plan what follows."""


class Fleet(Protocol):
    """What a change needs of the fleet; `supervision.supervisor`."""

    workers: dict[int, WorkerRecord]
    announcements: Announcements

    def plan_again(self) -> None:
        """Ask the plan what follows from the goal."""

    def forget_crashes(self) -> None:
        """Forget past crashes: new code is about to be tried."""

    def configure(self, settings: Settings) -> None:
        """Behave as these settings say."""
