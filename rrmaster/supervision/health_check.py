"""Is this very worker well?  A question put to one exact worker, through its letterbox.

A check by URL on the shared port tests whoever answers, which during a reload is the old code.  Here one end of a
socket pair is handed over like a client, marked as a probe, and the question is asked at the other end.  It stands
outside window and counters; taken back unread from a late worker, it counts as failed.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable

import trio
from attrs import frozen

from ..dispatch.link import Link
from ..dispatch.listeners import CAPACITY_ERRORS

Question = Callable[[trio.SocketStream], Awaitable[object]]
"""Asks at the other end of a connection to the worker.  Raises, or returns False, if the answer is not good."""

MAX_LINE = 4096
"""Bytes of an HTTP status line."""


@frozen
class Probing:
    """How often a worker is asked whether it is well, and how often it may not be."""

    interval: float = 10.0
    """Seconds between two probes; Kubernetes' periodSeconds."""
    timeout: float = 2.0
    """Seconds for an answer."""
    failures: int = 3
    """In a row; Kubernetes' failureThreshold."""
    successes: int = 1
    """In a row, before a new worker counts as well; Kubernetes' successThreshold."""


HASTE_S = 1.0
"""Seconds between two probes of a worker of whom it is not known yet whether it is well."""


class Unwell(Exception):
    """The answer was not good."""


async def keep_asking(
    link: Link,
    question: Question,
    probing: Probing,
    wanted: Callable[[], bool],
    proved: Callable[[], bool],
    found: Callable[[str], None],
) -> None:
    """Probe a worker as long as that is `wanted`.

    `found` is told why it counts as unwell, or nothing when it counts as well.  Until it is `proved` well, and while it
    fails, it is asked in haste.
    """
    failures = successes = 0
    while wanted():
        unwell = await ask(link, question, probing.timeout)
        if unwell is None:
            await trio.sleep(HASTE_S)
            continue
        failures, successes = (failures + 1, 0) if unwell else (0, successes + 1)
        if not wanted():
            return
        if failures >= probing.failures:
            found(unwell)
        elif successes >= probing.successes:
            found("")
        await trio.sleep(min(probing.interval, HASTE_S) if failures or not proved() else probing.interval)


async def ask(link: Link, question: Question, timeout: float) -> str | None:
    """Probe a worker: why it is unwell, or nothing.  Never raises for what the worker does.

    None: it could not be asked, for want of something of our own, which says nothing of the worker.
    """
    try:
        ours = _hand_over(link)
    except OSError as error:
        if error.errno in CAPACITY_ERRORS or error.errno == errno.ETOOMANYREFS:
            return None
        return f"its probe could not be handed over ({error.strerror})"
    async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
        try:
            with trio.fail_after(timeout):
                answer = await question(stream)
        except trio.TooSlowError:
            return f"its probe was not answered in {timeout:g} s"
        except trio.BrokenResourceError:
            answer = "taken back" if link.probe_recalled else False
        except Exception as error:
            return f"its probe failed: {type(error).__name__}: {error}"
    if link.probe_recalled:
        return "it was too late to take its probe"
    return "its probe failed" if answer is False else ""


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
    """It takes connections: it says something, or closes when the client has nothing to say."""
    await stream.send_eof()
    await stream.receive_some(1)
    return True


def http(path: str) -> Question:
    """It answers a GET with a status of 200 to 399.  The status line is all that is read of HTTP, by hand: a client
    library would bring more than the whole of it."""

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
