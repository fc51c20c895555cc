"""How a worker begins without importing the application again: it is forked from a template that has.

::

    master ── ForkRequest: descriptors, environment ──► template ── fork ──► worker
           ◄── Forked: number, pid and pidfd ───                        │ waits for one byte on its leash
           ── that byte ─────────────────────────────────────────────────┘

The template is a process of its own (`worker.template`), started like a worker, with a line of its own
(`template_wire`).  It runs the application's code, so the master trusts it no more than a worker: what it says is
bounded, what it says it has forked must be a child of the master, and each order has `FORK_S`.  A template that is late
or strange is lost: it is killed, which costs no worker, and the next worker is started in another way.

A forked worker that the master no longer waits for ends by itself at the end of its leash, so there are never two
workers on one line.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from logging import INFO, WARNING

import trio
from attrs import Factory, define

from ..logs.capture import LineSplitter, capture_output, open_pipe
from ..logs.log import tell
from ..protocol import template_wire
from ..protocol.family import lineage
from ..protocol.family.children import keep_from_children
from ..protocol.template_line import receive
from ..protocol.template_wire import Forked, ForkFailed, ForkRequest, Loaded, LoadFailed, MemoryUse
from ..rules.backoff import Exit
from ..verdicts.hearing import Overdue, in_fair_time, with_evidence
from ..verdicts.processor_time import children_of
from ..waiting import close, readable, writable
from .process import DUMP_SIGNAL, Begin, Child, Process, adopted, outlive

FORK_S = 1.0
"""Seconds for one fork, in time in which the processes that it takes had a processor.  It takes 3 to 10 ms; on a
machine that needs longer because it swaps, exec is no faster."""

AT_ONCE = 64
"""Messages read from a template in one turn.  It sends two for each order; more is garbage."""

STACKS_S = 0.3
"""Seconds for the stacks of a template whose import hangs; they take a few milliseconds."""


class Lost(Exception):
    """This template forks no workers, now or for good; the message says why."""


async def _nothing_to_do(pid: int) -> None:
    pass


@define(eq=False)
class Template:
    """One template's process, and the master's end of its line, which it owns."""

    process: Process
    line: socket.socket
    outputs: tuple[int, ...] = ()
    """The read ends of its stdout and stderr."""
    generation: int = 1
    loaded: Loaded | None = None
    unloadable: LoadFailed | None = None
    weight: MemoryUse | None = None
    fate: str = ""
    """Why it is lost; empty while it can fork."""
    imported: float = math.inf
    """When its import was done, in clock ticks since the machine was started; 0 if it never imported."""
    admit: Callable[[int], Awaitable[None]] = _nothing_to_do
    """Called with the process id of each worker that it has forked, before that begins."""
    own_fault: bool = False
    """It ended by itself, or hung: the application's doing, and not a kill from outside."""
    _decided: trio.Event = Factory(trio.Event)
    """Set when the import has succeeded or failed."""
    _answers: dict[int, Child | str] = Factory(dict)
    _expected: int = 0
    _news: trio.Event = Factory(trio.Event)
    _turn: trio.Lock = Factory(trio.Lock)
    _last: int = 0

    # --- from the import to the end

    async def run(self) -> Exit:
        """Watch it until it has ended.  If cancelled, kill it."""
        try:
            async with trio.open_nursery() as nursery:
                for fd, stream in zip(self.outputs, ("stdout", "stderr"), strict=False):
                    lines = LineSplitter(partial(_print, self.generation, self.process.pid, stream))
                    nursery.start_soon(capture_output, fd, lines)
                nursery.start_soon(self._listen)
                how = await self._end()
                nursery.cancel_scope.cancel()
        finally:
            self.lose("it was ended")
            self._forget_answers()
            trio.lowlevel.notify_closing(self.line)
            self.line.close()
        return how

    async def _end(self) -> Exit:
        how = await outlive(self.process)
        self._hear_all()
        self.own_fault = self.own_fault or not how.killed
        self.lose(f"its template {how}" if self.loaded is None else f"it {how}")
        return how

    def lose(self, why: str) -> None:
        """Give it up and kill it; the tasks that wait for it get `Lost`."""
        if not self.fate:
            self.fate = why
            self._decided.set()
            self._stir()
            self.process.signal(signal.SIGKILL, group=True)

    async def dismiss(self) -> None:
        """Let it end by itself, and delete what its import has made.  Returns when it has ended, or is late."""
        with contextlib.suppress(OSError):  # it has ended
            self.line.shutdown(socket.SHUT_WR)
        with trio.move_on_after(template_wire.GOODBYE_S):
            while not self.fate:
                await self._news.wait()

    async def settled(self, patience: float) -> None:
        """Wait `patience` seconds for the import to succeed or fail; one that hangs prints its stacks and is killed."""
        try:
            await in_fair_time(patience, lambda: (self.process.pid,), self._name, self._decided.wait)
            return
        except Overdue as overdue:
            fate = with_evidence(f"it was not ready after {patience:g} s (--ready-timeout)", overdue)
        self.process.signal(DUMP_SIGNAL)
        with trio.move_on_after(STACKS_S):
            await self._decided.wait()
            return
        self.own_fault = True
        self.lose(fate)

    # --- forking

    async def worker(self, fds: Sequence[int], environ: Mapping[str, str], title: Sequence[str]) -> Process:
        """Fork a worker that has these descriptors, which stay the caller's.

        They are: line, talk line, stdout, stderr, the page for its figures, and maybe one for its last words.

        Raises Lost.  If cancelled, no worker is left: its leash ends it.
        """
        kind, notes = template_wire.WORKER, len(fds) == template_wire.FDS[template_wire.WORKER]  # the leash comes too
        return await self._fork(fds, lambda number: ForkRequest(number, kind, environ, tuple(title), notes), self.admit)

    async def another(self) -> Template:
        """Fork another template, to be the spare.  Raises Lost, and OSError if no descriptors are left."""
        ours, its = _line()
        try:
            with its:
                order = partial(ForkRequest, kind=template_wire.TEMPLATE)
                process = await self._fork([its.fileno()], order)
        except BaseException:
            ours.close()
            raise
        made = Template(process, ours, (), self.generation, self.loaded, imported=0.0, admit=self.admit)
        made._decided.set()
        return made

    async def _fork(
        self,
        fds: Sequence[int],
        order: Callable[[int], ForkRequest],
        admit: Callable[[int], Awaitable[None]] = _nothing_to_do,
    ) -> Process:
        async with self._turn:
            with _leash() as (held, let_go):
                before = children_of(os.getpid())
                try:
                    process = await in_fair_time(
                        FORK_S, lambda: self._involved(before), self._name, partial(self._order, [*fds, held], order)
                    )
                    await admit(process.pid)
                    let_go()
                    return process
                except Overdue as overdue:
                    fate = with_evidence(f"it has not forked within {FORK_S:g} s", overdue)
            self.lose(fate)
            raise Lost(self.fate)

    def _involved(self, before: Collection[int]) -> set[int]:
        """The processes that a fork takes: the template, those below it, and the newborn that became our child."""
        return {self.process.pid} | (children_of(os.getpid()) - set(before))

    @property
    def _name(self) -> str:
        return f"template {self.generation} (pid {self.process.pid})"

    async def _order(self, fds: Sequence[int], order: Callable[[int], ForkRequest]) -> Process:
        self._last += 1
        number = self._expected = self._last
        try:
            await self._send(template_wire.encode(order(number)), fds)
            while number not in self._answers:
                if self.fate:
                    raise Lost(self.fate)
                await self._news.wait()
            answer = self._answers.pop(number)
        finally:
            self._expected = 0
            self._forget_answers()
        if isinstance(answer, str):
            raise Lost(f"it could not fork: {answer}")
        return answer

    def _forget_answers(self) -> None:
        """Disown workers that were forked too late: their leash has ended, and so do they."""
        for answer in self._answers.values():
            if isinstance(answer, Child):
                answer.disown()
        self._answers.clear()

    async def _send(self, datagram: bytes, fds: Sequence[int]) -> None:
        while not self.fate:
            try:
                socket.send_fds(self.line, [datagram], fds, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                await writable(self.line.fileno())
            except OSError as error:  # it has died, or this user has too many descriptors in flight
                raise Lost(f"no order can be sent to it: {error.strerror}") from None
            else:
                return

    # --- its messages

    async def _listen(self) -> None:
        while self._hear_all() and not self.fate:
            await readable(self.line.fileno())

    def _hear_all(self) -> bool:
        """Read all waiting messages.  Returns whether more may come."""
        for _ in range(AT_ONCE):
            try:
                found = receive(self.line)
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    self.lose(f"its line broke: {error.strerror}")
                return isinstance(error, BlockingIOError)
            except ValueError as error:
                self.lose(str(error))
                return False
            if found is None:  # it has closed its line; its process tells the rest
                return False
            self._heard(*found)
        self.lose("it says too much")
        return False

    def _heard(self, message: template_wire.Message, fd: int | None) -> None:
        match message:
            case Forked(number, pid) if fd is not None and number == self._expected:
                self._born(number, fd, pid)
                return
            case ForkFailed(number, reason) if number == self._expected:
                self._answers[number] = reason
                self._stir()
            case MemoryUse():
                self.weight = message
            case Loaded() if self.loaded is None:
                self.loaded, self.imported = message, lineage.now()
                self._decided.set()
            case LoadFailed() if self.loaded is None:
                self.unloadable = message
                self._decided.set()
            case _:
                pass  # an answer to an order that was given up
        if fd is not None:
            close(fd)

    def _born(self, number: int, pidfd: int, pid: int) -> None:
        try:
            self._answers[number] = adopted(pidfd, pid)
        except ValueError as error:
            self.lose(str(error))
        self._stir()

    def _stir(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()


async def start_template(
    begin: Begin,
    generation: int,
    environ: Mapping[str, str],
    admit: Callable[[int], Awaitable[None]] = _nothing_to_do,
) -> Template:
    """Start a template, which imports the application that `environ` names.  Raises OSError."""
    ours, its = _line()
    with contextlib.ExitStack() as mine, contextlib.ExitStack() as theirs:
        mine.callback(ours.close)
        theirs.callback(its.close)
        outputs = []
        for _ in range(2):
            out, its_out = open_pipe()
            mine.callback(os.close, out)
            theirs.callback(os.close, its_out)
            outputs.append((out, its_out))
        environ = {**environ, "RRMASTER_TEMPLATE": str(its.fileno())}
        process = await begin(environ, [its.fileno()], outputs[0][1], outputs[1][1])
        mine.pop_all()
    return Template(process, ours, tuple(out for out, _ in outputs), generation, admit=admit)


def _line() -> tuple[socket.socket, socket.socket]:
    """The master's end of a new line, and the template's."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    keep_from_children(ours, its)
    return ours, its


@contextlib.contextmanager
def _leash() -> Iterator[tuple[int, Callable[[], object]]]:
    """A pipe that holds a forked worker back until one byte comes; at its end of file the worker exits.

    Yields the read end, for the worker, and the function that lets it go.
    """
    held, ours = os.pipe2(os.O_CLOEXEC)
    try:
        yield held, lambda: os.write(ours, b"!")
    finally:
        close(held)
        close(ours)


def _print(generation: int, pid: int, stream: str, line: str) -> None:
    """Log what the application prints while it is imported."""
    level, text = WARNING if stream == "stderr" else INFO, f"template {generation} (pid {pid}) | {line}"
    tell("template.output", text, level=level, pid=pid, generation=generation, stream=stream)
