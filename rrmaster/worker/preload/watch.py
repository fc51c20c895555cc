"""What does the import take for its process alone?  All watchers of an import, and what follows for forked workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from ...protocol import template_wire
from ...protocol.forks.safety import Finding, Traces, Verdict, asked_for, only_read
from ...protocol.launch import Launch
from ...protocol.template_wire import Explanation
from .anew import title
from .anew.datagrams import Datagrams, all_as_new, make_again
from .anew.listeners import Listeners
from .anew.read_ahead import ReadAhead
from .anew.value_files import ValueFiles
from .notes import Notes, taking_notes
from .origins import Origins
from .sharing import SharedFile, cannot_be_opened_again, open_again, shared_files
from .taken.callers import Callers
from .taken.databases import Databases
from .taken.environment import OwnEnvironment
from .taken.generators import Generators
from .taken.identity import Taken
from .taken.own_processes import OwnProcesses

HARMLESS = Verdict.HARMLESS


class ImportWatch:
    """Watches the import of an application in a template, and makes a worker forked from it like a new one."""

    def __init__(self, launch: Launch, explained: bool = False) -> None:
        """`explained`: the origin of each trace is noted, for `rrmaster check --fork`."""
        callers = Callers(launch.application, launch.app_dir or launch.chdir)
        self._environment = OwnEnvironment(callers)
        self._generators = Generators()
        self._taken = Taken(callers, self._generators)
        self._own_processes = OwnProcesses()
        self._read_ahead = ReadAhead()
        self._databases = Databases()
        self._datagrams: tuple[Datagrams, ...] = ()
        self._notes = Notes()
        self._files: tuple[SharedFile, ...] = ()
        self.value_files = ValueFiles()
        self.listeners = Listeners()
        self._shown = title.shown()
        self._origins = Origins(self._noted) if explained else None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the import, which is to happen in the block."""
        # The origins last: what restores the names that others have replaced is not the application's.
        origins = self._origins.watched() if self._origins is not None else nullcontext()
        with self._environment.watched(), self._taken.watched(), taking_notes(self._notes), origins:
            yield
        self.listeners.stop()
        self._own_processes.find()
        self._read_ahead.find()
        self._databases.find()
        self._datagrams = all_as_new()
        self.value_files.find()

    def asked(self) -> tuple[str, ...]:
        """The environment variables that it has read, and that each worker has for itself."""
        return self._environment.asked()

    def taken(self) -> tuple[str, ...]:
        """What else it has taken that each worker should have for itself: ``its process id (shop.py:7)``."""
        return self._taken.words()

    def temporary(self) -> list[str]:
        """The files and directories with temporary names that it has left."""
        return self._notes.temporary()

    def findings(self, before: Traces | None, after: Traces | None) -> tuple[Finding, ...]:
        """What it did that traces do not tell, or that follows from them.

        To be called in the template, once: the files that the workers open again are known from then on.
        """
        self._files = shared_files(only_read(before, after)) if before is not None and after is not None else ()
        new = "each worker has a new one in its place"
        return (
            *self._notes.findings(),
            *cannot_be_opened_again(self._files),
            *self.value_files.findings(),
            *self.listeners.findings(),
            *(
                Finding("opened a socket for datagrams", HARMLESS, new, f"descriptor {of.number}")
                for of in self._datagrams
            ),
        )

    def explanation(self, found: Iterable[Finding]) -> Explanation:
        """What was found, with the modules that have done it."""
        told: list[Mapping[str, Any]] = [
            {
                "what": each.what,
                "verdict": each.verdict.value,
                "why": each.why,
                "origin": list(self._origins.of(each.trace) if self._origins is not None else ()),
            }
            for each in found
        ]
        while told and len(template_wire.encode(Explanation(told))) > template_wire.MAX:
            told.pop()  # hundreds of threads, say, and the first ones tell
        return Explanation(told)

    def _noted(self) -> dict[str, object]:
        """The traces of its notes, by their names."""
        asked = dict.fromkeys(asked_for(self.asked()))
        return {**asked, **{f"taken {what}": None for what in self.taken()}, **self._notes.traces()}

    def is_made_again(self, target: str) -> bool:
        """Whether each worker makes for itself what this link of /proc/self/fd leads to, or what is mapped."""
        return any(target == of.target for of in self._datagrams) or self.value_files.has(target)

    def open_again(self) -> None:
        """In a forked worker, before the application runs: open for it alone what is read.  Raises CannotLoad."""
        open_again(self._files)

    def begin_worker(self, arguments: tuple[str, ...]) -> None:
        """In a forked worker: make anew what can be, and show these arguments in `ps`.  Raises OSError."""
        make_again(self._datagrams)
        self.value_files.make_again()
        self._generators.renew()
        self._own_processes.renew()
        self._read_ahead.drop()
        self._databases.renew()
        self.listeners.start_again()
        title.show(arguments, self._shown)
