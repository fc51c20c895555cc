"""Does a process that is forked from this one do what a worker does?  One is tried, where traces leave a doubt.

::

    template ── fork ──► trial:  operations of libraries, hooks, start, ready
       │  ◄── Ready ───────┤
       │  ── a probe ─────►│     the first request, through what serves all others
       │  ◄── its answer ──┤
       │  ── half-close ──►│     the end of a worker
       └── waits ◄─ status ┘

A trial is a worker without a master: the template plays it, with a line of its own.  Nothing is bound, and no client's
connection comes near it.  What hangs or dies here would hang or die in each forked worker, because nothing runs in the
template from now on: its locks stay as they are.

The template waits for `LIMIT_S` at most, an operation has `OPERATION_S`.  What is late is killed, with its process
group.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time

from attrs import Factory, define, frozen

from ....protocol import wire
from ....protocol.channel import Letterbox, pair
from ....protocol.family import lineage
from ....protocol.launch import Launch
from ...boot import Prepared, serve
from ...loading import Kind
from ..watch import ImportWatch
from .forking import quiet_fork
from .operations import operations

LIMIT_S = 10.0
"""Seconds for a trial.  Most take as long as the start of a forked worker, some hundredths.  An application whose start
takes longer is not forked in a case of doubt; a longer limit would have all starts wait for one that hangs."""

OPERATION_S = 3.0
"""Seconds for one operation of a library; it takes milliseconds."""

OF_WHAT_IS_LEFT = 0.5
"""The part of what is left of ``--ready-timeout`` after the import: the template has to be ready in that time, too."""

ENVIRON = {"RRMASTER_WORKER_ID": "0", "RRMASTER_WORKER_SLOT": "0", "RRMASTER_WORKER_COUNT": "1", "RRMASTER_TRIAL": "1"}
"""What a trial has in its environment, like a worker; no worker has the id 0, or the last."""

START, OPERATE = "start", "finish an operation of"
"""What the process does next, as it follows "did not"."""

_MOST = 4096
"""Bytes that are read of an answer, and of what the process tells."""

_ENDING_MS = 3000
"""Milliseconds in which a process ends that has closed its connection by that; most take one."""


@frozen
class Outcome:
    """How a trial went."""

    trouble: str = ""
    """Why the process is not fit to be a worker, as a phrase that follows "a process forked from it"; empty if it is
    fit."""
    did: str = ""
    """What it did, as a phrase that follows the same."""
    seconds: float = 0.0


class _Trouble(Exception):
    """The trial is over, and this is why."""


@define(eq=False)
class Trial:
    """The process, and the template's ends of its lines."""

    pid: int
    """0: this is that process."""
    line: socket.socket
    talk: socket.socket
    stages: int
    """One end of a pipe, in which the process tells what it does next."""
    _begun: float = Factory(time.monotonic)
    _doing: str = "start"
    _late_at: float = 0.0
    _pidfd: int = -1

    def outcome(self, launch: Launch, kind: Kind, limit: float) -> Outcome:
        """In the template: watch it to its end, for `limit` seconds at most."""
        self._pidfd = os.pidfd_open(self.pid)
        self._late_at = self._begun + limit
        trouble = did = ""
        try:
            self._until_ready(self._late_at)
            did = self._answer(*_question(launch, kind))
            self._until_ended(did)
        except _Trouble as error:
            trouble = str(error)
        except OSError as error:
            trouble = f"broke its line ({error.strerror})"
        except (wire.ProtocolError, ValueError):
            trouble = "sent what no worker sends"
        finally:
            self._end(launch.kill_mode)
        return Outcome(trouble, did, time.monotonic() - self._begun)

    def _until_ready(self, late_at: float) -> None:
        """The process tells its stages in the pipe, and on its line that it is ready.  It may close both."""
        sources = {self.stages, self.line.fileno()}
        while readable := self._wait(*sources):
            if self.stages in readable:
                if not (told := os.read(self.stages, _MOST)):
                    sources.remove(self.stages)
                    continue
                self._doing = told.decode().split("\n")[-2]
                # An operation has a limit of its own; what follows it has what is left of the whole.
                self._late_at = late_at if self._doing == START else min(late_at, time.monotonic() + OPERATION_S)
            elif not (datagram := self.line.recv(wire.MAX_UP)):
                sources.remove(self.line.fileno())
            elif _is_ready(datagram):
                self._late_at = late_at
                return
        raise _Trouble(f"ended before it was ready{self._how()}")

    def _answer(self, name: str, question: bytes) -> str:
        """The first request; returns what was done."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours:
            with its:
                handoff = wire.encode(wire.Handoff(probe=True, family=socket.AF_UNIX))
                socket.send_fds(self.line, [handoff], [its.fileno()], socket.MSG_NOSIGNAL)
            if question:
                ours.sendall(question)
            else:
                ours.shutdown(socket.SHUT_WR)
            self._doing = f"answer {name}"
            if ours.fileno() not in self._wait(ours.fileno()):
                raise _Trouble(f"ended when it was to answer {name}{self._how()}")
            if not _received(ours) and question:
                raise _Trouble(f"closed {name} without an answer{self._how()}")
        return f"answered {name}"

    def _until_ended(self, did: str) -> None:
        self._doing = "end"
        self.line.shutdown(socket.SHUT_WR)
        self._wait()
        if how := self._how():
            raise _Trouble(f"{did}, and failed at its end{how}")

    def _wait(self, *fds: int) -> set[int]:
        """Those that are readable; empty if the process has ended.  Raises _Trouble if it is late."""
        poll = select.poll()
        for fd in (*fds, self._pidfd):
            poll.register(fd, select.POLLIN)
        left = max(self._late_at - time.monotonic(), 0.0)
        ready = {fd for fd, _ in poll.poll(left * 1000)}
        if not ready:
            raise _Trouble(f"did not {self._doing} within {time.monotonic() - self._begun:.1f} s")
        return ready & set(fds)

    def _how(self) -> str:
        """How it ended, if it ended badly."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(_ENDING_MS):
            return ""
        ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
        assert ended is not None  # without WNOHANG there is an answer
        if ended.si_code == os.CLD_EXITED:
            return f" (exit status {ended.si_status})" if ended.si_status else ""
        return f" ({signal.Signals(ended.si_status).name})"

    def _end(self, kill_mode: str) -> None:
        """Whatever is left of it is killed."""
        below = lineage.tree_of([self.pid]) if kill_mode == "tree" else []
        with contextlib.suppress(ProcessLookupError):  # its group is empty
            os.killpg(self.pid, signal.SIGKILL)
        lineage.kill(below)
        os.waitpid(self.pid, 0)
        for fd in (self.stages, self._pidfd):
            os.close(fd)
        self.line.close()
        self.talk.close()


def fork_trial() -> Trial:
    """Fork the process.  Returns in both.  Raises OSError."""
    (ours, its), (talk, its_talk), (stages, its_stages) = pair(), pair(), os.pipe()
    pid = quiet_fork()
    if pid == 0:
        os.setpgid(0, 0)
        for end in (ours, talk):
            end.close()
        os.close(stages)
        return Trial(0, its, its_talk, its_stages)
    with contextlib.suppress(OSError):  # it has done so itself, and may have ended
        os.setpgid(pid, pid)
    for end in (its, its_talk):
        end.close()
    os.close(its_stages)
    return Trial(pid, ours, talk, stages)


def be_tried(trial: Trial, prepared: Prepared, watch: ImportWatch) -> int:
    """In the trial: do what a worker does, and return its exit status."""

    def ready() -> Prepared:
        watch.open_again()
        for name, operation in operations():
            tell(f"{OPERATE} {name}")
            operation()
        tell(START)
        return prepared

    def tell(stage: str) -> None:
        os.write(trial.stages, f"{stage}\n".encode())

    os.environ.update(ENVIRON, RRMASTER_TALK=str(trial.talk.detach()))
    watch.value_files.go_aside()
    watch.begin_worker(("trial",))
    return serve(Letterbox.inherit(trial.line.detach()), prepared.launch, ready)


def _question(launch: Launch, kind: Kind) -> tuple[str, bytes]:
    """What is asked, its name and its bytes; none: only that the connection is read to its end."""
    if kind in (Kind.STREAM, Kind.STREAMS) or launch.probe == "tcp":
        return "a connection", b""
    path = launch.probe.removeprefix("http:") if launch.probe and launch.probe.startswith("http:") else "/"
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: rrmaster-trial\r\nConnection: close\r\n\r\n"
    return f"GET {path}", request.encode()


def _is_ready(datagram: bytes) -> bool:
    """Whether this message says so.  Raises _Trouble if it says why not."""
    kind, body = wire.unframe(datagram)
    if kind == wire.FAILED:
        raise _Trouble(f"could not start: {json.loads(body)['reason'].strip().splitlines()[-1]}")
    return kind == wire.READY


def _received(sock: socket.socket) -> bytes:
    """What was sent; that nothing was, or that the connection was cut, is for the caller to judge."""
    try:
        return sock.recv(_MOST)
    except ConnectionError:
        return b""
