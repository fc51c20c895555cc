"""Would this be served: is the configuration valid, and does the application start?

The application is started as the master would start it, in a worker's process, with a line to a master that never
hands it anything: so what is tried is what will be done, up to the worker's Ready.  Whether workers can be forked a
template is asked, for which that is imported once more.  Nothing is bound, and nothing of the application comes into
this process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from ..config.option import flag
from ..config.quantities import Between
from ..config.settings import Settings
from ..control.socket_paths import DEFAULT_NAME
from ..processes.process import DUMP_SIGNAL, package_root, usable_cpus, worker_command
from ..processes.worker_environment import WorkerSpec, generation_environment, worker_environment
from ..protocol import template_wire, wire
from ..protocol.channel import Line, Talk
from ..protocol.fork_safety import asked_for, in_words
from ..protocol.launch import is_program
from ..rules.lifecycle import TERM_S
from ..supervision.lifecycle_runner import STACKS_S
from ..supervision.reconfigure import check_certificate, environment_of

NO_PORT = 65535
"""What a program is told that asks for any free port."""


def effective(settings: Settings, origins: Mapping[str, str]) -> list[str]:
    """Every setting, its value and where that came from, one a line.  What is secret is in no setting."""
    rows = []
    for name, value in attrs.asdict(settings, recurse=False).items():
        shown = name if name in ("application", "arguments") else flag(name)
        rows.append((shown, _shown(name, value), origins.get(name, "default")))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{name:<{widths[0]}}  {value:<{min(widths[1], 40)}}  {origin}" for name, value, origin in rows]


def _shown(name: str, value: Any) -> str:
    if value is None:
        return _AUTOMATIC.get(name, lambda: "-")()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in ("unix_mode", "umask"):
        return f"{value:o}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Between):
        return f"{value.least}:{value.most}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


_AUTOMATIC: dict[str, Callable[[], str]] = {
    "workers": lambda: f"auto: {usable_cpus()}",
    "app_dir": os.getcwd,
    "name": lambda: DEFAULT_NAME,
}
"""What becomes of a setting that nobody has made."""


def start_application(settings: Settings) -> str:
    """Start one worker, and end it once it is ready.  Why it does not get ready, or nothing.

    What it prints goes to stderr.  Raises SettingsError for files that cannot be.
    """
    check_certificate(settings)
    line = Line.open(1)
    talk, its = Talk.open()  # what it says there is heard by nobody, and may be said all the same
    spec = WorkerSpec(1, 0, 1, line.key.fileno(), its.fileno())
    environ = worker_environment(settings, os.getcwd(), spec, environment_of(settings))
    try:
        with _a_child(settings, environ, (spec.line, spec.talk)) as (child, pidfd):
            trouble = _until_ready(line, child, pidfd, settings.ready_timeout)
            line.half_close()  # in peace: what has started may have something to finish
            _ended(pidfd, 0.0 if trouble else TERM_S)
            return trouble
    finally:
        line.close()
        talk.close()
        its.close()


def how_workers_begin(settings: Settings) -> tuple[str, str]:
    """Whether they would be forked, and if not, why, in a line; and why nobody would begin at all, or nothing.

    Of an application that starts without a template.
    """
    if is_program(settings.application):
        return "each worker runs it by itself: a program is not forked", ""
    alone = f"workers import {settings.application} one by one"
    if settings.preload == "off":
        return f"{alone}: --preload is off", ""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = its.fileno()
    environ = generation_environment(settings, os.getcwd(), 1, environment_of(settings)) | {
        "RRMASTER_TEMPLATE": str(fd)
    }
    with ours, its, _a_child(settings, environ, (fd,)) as (_, pidfd):
        said = _first_words(ours, pidfd, settings.ready_timeout)
    match said:
        case template_wire.Loaded(found) if found:
            return in_words(settings.application, found, settings.preload == "on"), ""
        case template_wire.Unloadable(_, names) if names:
            return in_words(settings.application, asked_for(names), False), ""
        case template_wire.Unloadable(reason):
            return "", reason
        case template_wire.Loaded():
            return f"workers are forked: {settings.application} is imported once, and nothing is in the way of that", ""
    return f"{alone}: the template that they would be forked from ends before it has it, or hangs", ""


def _first_words(line: socket.socket, pidfd: int, patience: float) -> template_wire.Message | None:
    """What a template says of its import; None: nothing."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(line.fileno(), select.POLLIN)
    try:
        return (
            template_wire.decode(line.recv(template_wire.MAX))
            if line.fileno() in dict(poll.poll(patience * 1000))
            else None
        )
    except (OSError, ValueError):
        return None  # it has ended without a word, or the application has found the line and speaks there


@contextlib.contextmanager
def _a_child(
    settings: Settings, environ: Mapping[str, str], fds: tuple[int, ...]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that imports the application, and its pidfd; nobody of its group is left after the block."""
    child = subprocess.Popen(
        worker_command(["check", settings.application]),
        env=environ,
        cwd=package_root(),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        pass_fds=fds,
        process_group=0,
    )
    pidfd = os.pidfd_open(child.pid)
    try:
        yield child, pidfd
    finally:
        child.kill()  # itself, for it may have left its group
        with contextlib.suppress(ProcessLookupError):  # no process is left in its group
            os.killpg(child.pid, signal.SIGKILL)  # before it is reaped: until then the number is nobody else's
        child.wait()
        os.close(pidfd)


def _until_ready(line: Line, child: subprocess.Popen[bytes], pidfd: int, patience: float) -> str:
    """The master's own view of a worker, without trio: its messages, its end, and the time."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(line.fileno(), select.POLLIN)
    deadline, opened = time.monotonic() + patience, -1
    while (left := deadline - time.monotonic()) > 0:
        ended = pidfd in dict(poll.poll(left * 1000))
        while datagram := line.receive():
            match wire.decode_up(datagram):
                case wire.Ready():
                    return ""
                case wire.Failed(reason):
                    return reason
                case wire.Listen(seq, _, port):
                    # As if it were open: whether it can be is the machine's affair, and a master may run there.
                    line.say(wire.Listening(seq, 0, opened := opened + 1, port or NO_PORT))
        if ended:
            return "its worker ended before it was ready"
    child.send_signal(DUMP_SIGNAL)
    _ended(pidfd, STACKS_S)  # for its stacks, which go to stderr
    return f"it was not ready after {patience:g} s (--ready-timeout)"


def _ended(pidfd: int, patience: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(patience * 1000))
