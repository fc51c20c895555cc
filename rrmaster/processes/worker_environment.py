"""What a worker's process is started with: its environment, and the title that ``ps`` shows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from ..config.settings import Settings
from ..config.sources import TOKEN_VARIABLE
from ..logs.access import MARK
from ..protocol.family.lineage import VARIABLE, Mark
from ..protocol.launch import FIELDS, Launch, is_program

NOT_FOR_WORKERS = (
    "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID", TOKEN_VARIABLE,
)  # fmt: skip
"""systemd's messages to the master, and the token that lets the admin server act.  A worker that inherits them would
answer systemd in the master's name; and what an application prints of its environment is seen by many."""


@frozen
class WorkerSpec:
    """What a new worker must be.  The descriptors stay the caller's."""

    id: int
    """Counts up from 1; no two workers of one master share it."""
    slot: int
    generation: int
    line: int
    """The descriptor of the worker's end of the line."""
    talk: int
    """The descriptor of the worker's end of the talk line."""
    figures: tuple[int, ...] = ()
    """The descriptor of the page for its figures; a worker that is only tried has none."""
    page: tuple[int, ...] = ()
    """The descriptor of the page for its last words, if it should note its requests."""
    fleet_size: int = 1
    """The worker's ``RRMASTER_WORKER_COUNT``."""
    serves_now: bool = True
    """The generation is the one that the fleet wants, so the code on the disk may stand for it."""
    disk_is_current: bool = True
    """The code on the disk is that generation's, as far as the master knows."""


def title_of(settings: Settings, spec: WorkerSpec) -> list[str]:
    """The arguments that ``ps`` shows for a worker."""
    return ["--slot", str(spec.slot), settings.application]


def worker_environment(
    settings: Settings, cwd: str, spec: WorkerSpec, mark: Mark, more: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a worker that starts as a process of its own, in the directory `cwd`."""
    lines = {"RRMASTER_LINE": spec.line, "RRMASTER_TALK": spec.talk}
    if spec.figures:
        lines["RRMASTER_FIGURES"] = spec.figures[0]
    if spec.page:
        lines["RRMASTER_LAST_WORDS"] = spec.page[0]
    given = {name: str(descriptor) for name, descriptor in lines.items()}
    return generation_environment(settings, cwd, spec.generation, mark, more) | given | own_environment(spec, mark)


def generation_environment(
    settings: Settings, cwd: str, generation: int, mark: Mark, more: Mapping[str, str]
) -> dict[str, str]:
    """The environment that all workers of a generation share, with the mark of the one that gets it."""
    environ = {name: value for name, value in os.environ.items() if name not in NOT_FOR_WORKERS} | dict(more)
    if settings.access_log:
        environ["RRMASTER_ACCESS_MARK"] = MARK
    return environ | {
        "PYTHONUNBUFFERED": "1",
        "RRMASTER_LAUNCH": launch_of(settings, cwd).encode(),
        "RRMASTER_GENERATION": str(generation),
        VARIABLE: str(mark),
    }


def own_environment(spec: WorkerSpec, mark: Mark) -> dict[str, str]:
    """The variables that differ between workers.

    Their names are those of `template_wire.OWN_TO_EACH`; the generation, because a rollback brings the same code back
    under another number; and the mark, of which a template has one of its own.
    """
    return {
        "RRMASTER_WORKER_ID": str(spec.id),
        "RRMASTER_WORKER_SLOT": str(spec.slot),
        "RRMASTER_WORKER_COUNT": str(spec.fleet_size),
        "RRMASTER_GENERATION": str(spec.generation),
        VARIABLE: str(mark),
    }


def launch_of(settings: Settings, cwd: str) -> Launch:
    """The part of the settings that a worker is told."""
    same: dict[str, Any] = {name: getattr(settings, name) for name in FIELDS}
    # A program finds the modules beside it, as with `python server.py`; those of the working directory only if asked.
    nowhere = settings.app_dir is None and is_program(settings.application)
    app_dir = "" if nowhere else app_directory(settings, cwd)
    return Launch(**same | {"app_dir": app_dir, "chdir": cwd})


def app_directory(settings: Settings, cwd: str) -> str:
    """Where the application is imported from."""
    return os.path.normpath(os.path.join(cwd, settings.app_dir or "."))
