"""Which workers may be started now, until when the others wait, and what the master needs for a new one.

::

    a free slot ──► has it crashed (`crashes`)? ──► too many in a second? ──► has the machine room? ──► start

A start that must wait is noted here with the time at which the plan must be asked again.  To ask for that time later
would be wrong: it may have passed in between, and the start would be forgotten.

A new worker's lines and its record are made here; its process is started by the `lifecycle_runner`.
"""

from __future__ import annotations

import contextlib
import random
import socket
from contextlib import closing
from logging import ERROR
from typing import Protocol

from attrs import Factory, define, field

from ..config.settings import Settings
from ..dispatch.dispatcher import Dispatcher
from ..dispatch.load import WorkerLoad
from ..events.bus import MessageChannel
from ..events.reading_time import ReadingTime
from ..logs.log import tell
from ..processes.worker_figures import WorkerFigures
from ..protocol import wire
from ..protocol.channel import TalkLine
from ..protocol.line import Line
from ..protocol.pages.last_words import open_page
from ..rules.recycling import Limits, MemoryPace, Wear
from .announcements import Announcements
from .crashes import Crashes
from .worker_record import WorkerRecord

RETRY_S = 1.0
"""Seconds to wait when a line cannot be opened (out of descriptors)."""

Lines = tuple[Line, tuple[TalkLine, socket.socket], WorkerFigures]
"""The line to a new worker, the talk line (the master's end, and the worker's), and the page that it counts in."""


class Reader(Protocol):
    """What is told of a worker's messages; the `lifecycle_runner`."""

    def read(self, worker: WorkerRecord, message: wire.Up) -> None:
        """A worker's message was read from its line."""

    def breached(self, worker: WorkerRecord, what: str) -> None:
        """A worker broke the protocol of its line."""


@define(eq=False)
class Starts:
    """The conditions between a free slot and a worker in it."""

    crashes: Crashes
    dispatcher: Dispatcher
    announcements: Announcements
    reader: Reader
    _settings: Settings
    random: random.Random
    withheld_until: float = float("inf")
    """When the plan must be asked again because a start was withheld; infinity if none was."""
    _not_before: float = 0.0
    """When to try again after the machine had no room for another line."""
    _newest: dict[int, int] = Factory(dict)
    """By slot, the newest generation that was started in it."""
    _last_id: int = 0
    _memory_pace: MemoryPace = Factory(MemoryPace)
    _reading_time: ReadingTime = Factory(ReadingTime)
    _window: int = field(init=False)
    _worker_connections: int = field(init=False)
    _limits: Limits = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.configure(self._settings)

    def configure(self, settings: Settings) -> None:
        """Start workers as these settings say; those that live keep what they were started with."""
        self._settings = settings
        self._window, self._worker_connections = settings.window, settings.connections
        self._limits = Limits(settings.max_requests, settings.max_age, settings.max_memory)

    # --- whether

    def look(self, size: int, now: float) -> bool:
        """Begin a look at the plan; returns whether any worker may be started at all."""
        self.crashes.forget_slots_from(size)
        self._newest = {slot: newest for slot, newest in self._newest.items() if slot < size}
        possible = now >= self._not_before
        self.withheld_until = float("inf") if possible else self._not_before
        return possible

    def held(self, now: float, ever_ready: bool, fleet_serves: bool) -> set[int]:
        """The slots in which no worker may be started yet, because the last one crashed."""
        wait = self.crashes.wait(now, fleet_serves)
        if wait > 0:
            self.withheld_until = min(self.withheld_until, now + wait)
        return self.crashes.held(now, ever_ready, fleet_serves)

    def may(self, slot: int, generation: int, now: float) -> bool:
        """Whether a worker may be started here, as far as the pace of starts goes.

        The pace holds for replacements.  The first worker of a slot, and the first of a new generation in it, was asked
        for once by the operator; how many of those boot at a time is for the plan alone to say.
        """
        if self._is_first(slot, generation):
            return True
        wait = self.crashes.backoff.pace(now)
        if wait > 0:
            self.withheld_until = min(self.withheld_until, now + wait)
        return wait <= 0

    def _is_first(self, slot: int, generation: int) -> bool:
        return generation > self._newest.get(slot, 0)

    # --- how

    def open(self, slot: int, generation: int, now: float) -> tuple[WorkerRecord, socket.socket] | None:
        """The record of a new worker, and its end of the talk line, which the caller owns.

        The dispatcher listens to its line from now on.  None if there is no room for another line now.
        """
        lines = self._lines(slot, now)
        if lines is None:
            return None
        try:
            return self._record(slot, generation, lines, now)
        except OSError as error:  # the kernel cannot watch another line
            self.dispatcher.fault.tell_own(error)
            line, talk, figures = lines
            for end in (line, *talk, figures):
                end.close()
            self._try_later(slot, error, now)
            return None

    def _record(self, slot: int, generation: int, lines: Lines, now: float) -> tuple[WorkerRecord, socket.socket]:
        line, (talk, its_talk_end), figures = lines
        self._last_id += 1
        load = WorkerLoad(self._last_id, slot, line.unclaimed, self._window, self._worker_connections)
        # The callbacks use `worker` before it is bound; they are called in the dispatcher's next turn, which is later.
        link = self.dispatcher.connect(load, line, lambda message: self.reader.read(worker, message))
        link.count_by(figures.ends)
        conversation = MessageChannel(
            talk,
            lambda message, size: self.announcements.message(worker, message, size),
            lambda what: self.reader.breached(worker, what),
            self._reading_time,
            f"worker {slot}",
        )
        wear = Wear(self._limits.with_jitter(self.random.random()), self._memory_pace)
        page = _page() if self.crashes.notes_requests(slot) else ()
        key = self._last_id, slot, generation
        worker = WorkerRecord(*key, link, conversation, now, now, wear, figures=figures, page=page)
        worker.fill_crashed_place(self._begun(slot, generation, now))
        return worker, its_talk_end

    def _begun(self, slot: int, generation: int, now: float) -> bool:
        """A worker is started here.  Returns whether it fills a crashed worker's place."""
        if self._is_first(slot, generation):
            self._newest[slot] = generation
        else:
            self.crashes.backoff.started(now)
        return self.crashes.begun(slot, now)

    def _lines(self, slot: int, now: float) -> Lines | None:
        """What joins a new worker to the master; None if there is no room for it now."""
        try:
            return _open(self._window)
        except OSError as error:
            self._try_later(slot, error, now)
            return None

    def _try_later(self, slot: int, error: OSError, now: float) -> None:
        text = f"cannot start worker {slot}: {error.strerror}; trying again"
        tell("worker.no_line", text, level=ERROR, slot=slot)
        self._not_before = now + RETRY_S
        self.withheld_until = min(self.withheld_until, self._not_before)


def _page() -> tuple[int, ...]:
    """A page for the last words of a worker; none if the machine has no room for it."""
    try:
        return (open_page(),)
    except OSError:
        return ()


def _open(window: int) -> Lines:
    """Open all of them, or none.  Raises OSError."""
    with contextlib.ExitStack() as opened:
        line = opened.enter_context(closing(Line.open(window)))
        figures = opened.enter_context(closing(WorkerFigures.open()))
        talk = TalkLine.open()
        opened.pop_all()
    return line, talk, figures
