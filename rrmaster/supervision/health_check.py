"""Is this very worker well?  A health check of one exact worker, through its letterbox.

A check by URL on the shared port reaches any worker, which during a reload is one of the old code.  Here one end of a
socket pair is handed over like a client's connection, marked as a probe, and the question is asked at the other end.  A
probe stands outside window and counters.  One that is recalled unread from a late worker, or finds its line full, has
failed if no report follows in the time for an answer: a few milliseconds without a turn say nothing about a worker.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import trio
from attrs import frozen

from ..config.callables import load_callable
from ..config.settings import Settings
from ..dispatch.link import Link
from ..rules.kernel_errors import CAPACITY_ERRORS, LINE_FULL
from ..verdicts.hearing import Overdue, in_fair_time, with_evidence

Question = Callable[[trio.SocketStream], Awaitable[object]]
"""Asks at the other end of a connection to the worker.  Raises, or returns False, if the worker is not well."""

MAX_LINE = 4096
"""Bytes of an HTTP status line."""


LIFE_S = 0.02
"""Seconds between looks at the reports of a worker that was late for its probe."""

HASTE_S = 1.0
"""Seconds between two probes of a worker whose health is not established."""


@frozen
class HealthCheck:
    """What is asked, how often, and what follows: the four numbers are those of Kubernetes' probes."""

    question: Question
    interval: float
    """Seconds between two probes; periodSeconds."""
    timeout: float
    """Seconds for an answer; timeoutSeconds."""
    failures: int
    """Failures in a row after which a worker is not well; failureThreshold."""
    successes: int
    """Successes in a row before a new worker counts as well; successThreshold."""


def check_of(settings: Settings) -> HealthCheck | None:
    """The health check that ``--probe`` asks for, if it does.  Raises SettingsError."""
    question = _question_of(settings)
    if question is None:
        return None
    return HealthCheck(
        question,
        settings.probe_interval,
        settings.probe_timeout,
        settings.probe_failures,
        settings.probe_successes,
    )


def _question_of(settings: Settings) -> Question | None:
    if settings.probe is None:
        return None
    if settings.probe == "tcp":
        return tcp
    if settings.probe.startswith("http:"):
        return http(settings.probe.removeprefix("http:"))
    question: Question = load_callable(settings, "probe", settings.probe)
    return question


class Unwell(Exception):
    """The answer was not good."""


async def keep_checking(
    link: Link,
    check: HealthCheck,
    wanted: Callable[[], bool],
    proved: Callable[[], bool],
    judged: Callable[[str], None],
) -> None:
    """Probe a worker as long as that is `wanted`.

    `judged` is called with the reason why the worker counts as not well, or with nothing when it counts as well.  Until
    it is `proved` well, and while its probes fail, they follow each other in haste.
    """
    failures = successes = 0
    while wanted():
        unwell = await ask(link, check.question, check.timeout)
        if unwell is None:
            await trio.sleep(HASTE_S)
            continue
        failures, successes = (failures + 1, 0) if unwell else (0, successes + 1)
        if not wanted():
            return
        if failures >= check.failures:
            judged(unwell)
        elif successes >= check.successes:
            judged("")
        await trio.sleep(min(check.interval, HASTE_S) if failures or not proved() else check.interval)


async def ask(link: Link, question: Question, timeout: float) -> str | None:
    """Probe a worker once; returns why it is not well, or nothing.  Never raises for what the worker does.

    Returns None if nothing is known of the worker: the master lacks descriptors or memory for a probe, or the worker
    was late for it and has reported since.
    """
    reports = link.load.reports
    try:
        ours = _hand_over(link)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return await _in_time(link, timeout, partial(_report_after, link, reports))
        if error.errno in CAPACITY_ERRORS | LINE_FULL:
            return None
        return f"its probe could not be handed over ({error.strerror})"
    async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
        return await _in_time(link, timeout, partial(_answer, link, question, stream, reports))


async def _in_time(link: Link, timeout: float, verdict: Callable[[], Awaitable[str | None]]) -> str | None:
    try:
        return await in_fair_time(timeout, lambda: link.pids, f"the probe of worker {link.load.slot}", verdict)
    except Overdue as overdue:
        return with_evidence(f"its probe was not answered in {timeout:g} s", overdue)


async def _answer(link: Link, question: Question, stream: trio.SocketStream, reports: int) -> str | None:
    try:
        answer = await question(stream)
        verdict = "its probe failed" if answer is False else ""
    except trio.BrokenResourceError:
        verdict = "its probe failed"
    except Exception as error:
        verdict = f"its probe failed: {type(error).__name__}: {error}"
    return await _report_after(link, reports) if link.probe_recalled else verdict


async def _report_after(link: Link, reports: int) -> str | None:
    """Wait for a sign of life, which a nudge in its letterbox asks for; it answers nothing."""
    while link.load.reports == reports:
        await trio.sleep(LIFE_S)
    return None


def _hand_over(link: Link) -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.hand_over_probe(theirs.fileno())
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours


async def tcp(stream: trio.SocketStream) -> bool:
    """The worker takes connections: it sends something, or closes when the client sends nothing."""
    await stream.send_eof()
    await stream.receive_some(1)
    return True


def http(path: str) -> Question:
    """The worker answers a GET of this path with a status of 200 to 399.

    Only the status line is read, by hand: an HTTP client library would be larger than the rest of the master.
    """

    async def question(stream: trio.SocketStream) -> bool:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: rrmaster-probe\r\nConnection: close\r\n\r\n"
        await stream.send_all(request.encode())
        line = b""
        while b"\r\n" not in line and len(line) < MAX_LINE:
            data = await stream.receive_some(MAX_LINE)
            if not data:
                break
            line += data
        words = line.partition(b"\r\n")[0].split()
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
            raise Unwell(f"GET {path} is not answered with HTTP")
        if not 200 <= int(words[1]) < 400:
            raise Unwell(f"GET {path} is answered with {int(words[1])}")
        return True

    return question
