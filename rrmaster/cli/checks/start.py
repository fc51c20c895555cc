"""Would this be served: is the configuration valid, and does the application start?

The application is started as a master starts it, in the process of a worker, with a line on which no connection is ever
handed over.  So the check takes the same steps as a start, up to the worker's Ready.  Whether workers can be forked is
asked in `forks`.  No address is bound, and the application is never imported into this process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...config.presentation import as_json, in_words, spelled, without_secrets
from ...config.settings import Settings
from ...control.socket_paths import DEFAULT_NAME
from ...processes.orphans import Orphans
from ...processes.process import DUMP_SIGNAL, package_root, usable_cpus, worker_command
from ...processes.worker_environment import WorkerSpec, worker_environment
from ...protocol import wire
from ...protocol.channel import TalkLine
from ...protocol.family.lineage import VARIABLE, Mark, end_marked
from ...protocol.line import Line
from ...protocol.uplink import decode_up
from ...rules.lifecycle import TERM_S
from ...supervision.lifecycle_runner import STACKS_S
from ...supervision.reconfigure import check_certificate, environment_of

NO_PORT = 65535
"""The port that a program gets here if it asks for any free one."""


def settings_table(settings: Settings, origins: Mapping[str, str]) -> list[str]:
    """Every setting, its value and its origin, one per line.  What looks like a secret is not shown."""
    rows = []
    for name, value in as_json(settings).items():
        rows.append((spelled(name), _shown(name, value), origins.get(name, "default")))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{name:<{widths[0]}}  {value:<{min(widths[1], 40)}}  {origin}" for name, value, origin in rows]


def _shown(name: str, value: Any) -> str:
    if value is None and name in _AUTOMATIC:
        return _AUTOMATIC[name]()
    return in_words(name, without_secrets(value))


_AUTOMATIC: dict[str, Callable[[], str]] = {
    "workers": lambda: f"auto: {usable_cpus()}",
    "app_dir": os.getcwd,
    "name": lambda: DEFAULT_NAME,
}
"""The value of a setting that is not set."""


def length_of_a_stop(settings: Settings) -> str:
    """How long a stop may take, which the platform has to know; empty without ``--shutdown-delay``.

    rrmaster cannot see what the platform waits for.  In parentheses: what a platform does that is told nothing.
    """
    delay, graceful = settings.shutdown_delay, settings.graceful_timeout
    if not delay:
        return ""
    parts = f"--shutdown-delay {delay:g} s, --graceful-timeout {graceful:g} s, and {TERM_S:g} s after SIGTERM"
    killers = "TimeoutStopSec (90 s), terminationGracePeriodSeconds (30 s) or stop_grace_period (10 s)"
    return f"a stop takes up to {delay + graceful + TERM_S:g} s ({parts}): {killers} must be longer\n"


def start_application(settings: Settings) -> str:
    """Start one worker, and end it once it is ready.  Returns why it does not get ready; empty if it does.

    What the worker prints goes to stderr.  Raises SettingsError for a certificate that cannot be used.
    """
    check_certificate(settings)
    line = Line.open(1)
    talk, workers_end = TalkLine.open()  # messages that the application sends are accepted, and ignored
    spec = WorkerSpec(1, 0, 1, line.key.fileno(), workers_end.fileno())
    environ = worker_environment(settings, os.getcwd(), spec, Orphans().mark(spec.id), environment_of(settings))
    try:
        with application_process(settings, environ, (spec.line, spec.talk)) as (child, pidfd):
            trouble = _until_ready(line, child, pidfd, settings.ready_timeout)
            line.half_close()  # a drain: the application may have something to finish
            until_ended(pidfd, 0.0 if trouble else TERM_S)
            return trouble
    finally:
        line.close()
        talk.close()
        workers_end.close()


@contextlib.contextmanager
def application_process(
    settings: Settings, environ: Mapping[str, str], fds: tuple[int, ...]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that imports the application, and its pidfd.  After the block it is killed with its process group, and
    with what descends from it (``--kill-mode``)."""
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
        child.kill()  # by its own id too: it may have left its group
        with contextlib.suppress(ProcessLookupError):  # its process group is empty
            os.killpg(child.pid, signal.SIGKILL)  # before it is reaped: until then no other process can get its number
        child.wait()
        os.close(pidfd)
        mark = Mark.parse(environ[VARIABLE])
        if settings.kill_mode == "tree" and mark is not None:
            end_marked(mark)


def _until_ready(line: Line, child: subprocess.Popen[bytes], pidfd: int, timeout: float) -> str:
    """What a master watches of a worker, without trio: its messages, its end and the time.  Empty if it is ready."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(line.fileno(), select.POLLIN)
    deadline, opened = time.monotonic() + timeout, -1
    while (left := deadline - time.monotonic()) > 0:
        ended = pidfd in dict(poll.poll(left * 1000))
        while datagram := line.receive():
            match decode_up(datagram):
                case wire.Ready():
                    return ""
                case wire.Failed(reason):
                    return reason
                case wire.Listen(seq, _, port):
                    # As if it were bound.  Nothing is: a master that runs on this machine may hold the address.
                    line.send(wire.Listening(seq, 0, opened := opened + 1, port or NO_PORT))
        if ended:
            return "its worker ended before it was ready"
    child.send_signal(DUMP_SIGNAL)
    until_ended(pidfd, STACKS_S)  # wait for its stacks, which go to stderr
    return f"it was not ready after {timeout:g} s (--ready-timeout)"


def until_ended(pidfd: int, timeout: float) -> bool:
    """Wait until a process has ended.  False if it has not after `timeout` seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
