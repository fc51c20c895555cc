"""What does it cost a request to be a line of the access log, beside uvicorn's own?  ``python -m bench.line``

In one process, without sockets: the application is called as uvicorn calls it, with and without an access log.  What is
told is processor time of the whole process, the least of many rounds in turns, because other processes only ever add to
it.  A line of ours passes through two processes, so the master's part is measured too:
from the bytes that it has read to the write of its thread.  uvicorn's is the call that its protocols make, with its own
configuration of logging.  Both write to a pipe that another process reads.
"""

from __future__ import annotations

import asyncio
import logging.config
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from attrs import evolve
from uvicorn.config import LOGGING_CONFIG
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from rrmaster.config.settings import Settings
from rrmaster.logs import access
from rrmaster.logs.capture import LineSplitter
from rrmaster.logs.formats import OutputSource
from rrmaster.logs.sinks import Descriptor, Sink
from rrmaster.logs.worker_output import OutputLog
from rrmaster.processes.worker_environment import launch_of
from rrmaster.protocol.channel import Letterbox
from rrmaster.worker.access.log import AccessLog
from rrmaster.worker.duty import Duty, Identity
from rrmaster.worker.serving.asgi import CountedApp, Message, Receive, Send, counted_app

CALLS = 5_000
"""In one window: 20 to 100 ms."""

ROUNDS = 40

SCOPE: Message = {
    "type": "http", "method": "GET", "path": "/orders/4711", "raw_path": b"/orders/4711", "query_string": b"full=1",
    "http_version": "1.1", "client": ("192.0.2.7", 50_000), "server": ("127.0.0.1", 8000), "scheme": "http",
    "headers": [
        (b"host", b"shop.example"), (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Firefox/140.0"),
        (b"accept", b"*/*"), (b"referer", b"https://shop.example/orders"),
    ],
}  # fmt: skip


async def app(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def _send(message: Message) -> None:
    pass


def served(application: CountedApp) -> Callable[[], None]:
    """One request, as an event loop runs it that has nothing to wait for."""
    serve: Any = application.serve

    def once() -> None:
        try:
            serve(SCOPE, None, _send).send(None)
        except StopIteration:
            return

    return once


def uvicorns() -> Callable[[], None]:
    """The line that uvicorn's protocols log for a request."""
    logging.config.dictConfig(LOGGING_CONFIG)
    logger = logging.getLogger("uvicorn.access")

    def once() -> None:
        path, version = get_path_with_query_string(SCOPE), SCOPE["http_version"]  # type: ignore[arg-type]
        client = get_client_addr(SCOPE)  # type: ignore[arg-type]
        logger.info('%s - "%s %s HTTP/%s" %d', client, SCOPE["method"], path, version, 200)

    return once


def masters() -> Callable[[], None]:
    """The master's part of one line: of a chunk of many, as it reads them when there are many."""
    access.access.use(Sink(Descriptor(1), lambda dropped, estimated: b""), "-")
    seconds = iter(range(10**9))
    lines = LineSplitter(OutputLog(OutputSource(0, 1, 1, "stdout")), clock=lambda: float(next(seconds)))
    line = access.MARK + '192.0.2.7 - - [29/Nov/2026:02:21:45 +0000] "GET /orders/4711?full=1 HTTP/1.1" 200 5 '
    chunk = (
        line + '"https://shop.example/orders" "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Firefox/140.0"\n'
    ).encode() * 100

    def once() -> None:
        if next(turns) % 100 == 0:
            lines.feed(chunk)

    turns = iter(range(10**9))
    return once


def window(once: Callable[[], None]) -> float:
    """Microseconds of processor time for a call."""
    began = time.process_time()
    for _ in range(CALLS):
        once()
    while access.access.sink is not None and access.access.sink.queued:
        time.sleep(0.001)
    return (time.process_time() - began) / CALLS * 1e6


def rounds(duty: Duty) -> Iterator[dict[str, float]]:
    settings = Settings("shop:app", access_log="-")
    os.environ["RRMASTER_ACCESS_MARK"] = access.MARK
    log = AccessLog.of(launch_of(settings, "/"), duty.identity)
    brief = AccessLog.of(launch_of(evolve(settings, access_log="on"), "/"), duty.identity)
    kinds = {
        "called": served(counted_app(app, duty, None)),
        "combined": served(counted_app(app, duty, log)),
        "brief": served(counted_app(app, duty, brief)),
        "uvicorn": uvicorns(),
        "master": masters(),
        "loop": lambda: None,
    }
    for _ in range(ROUNDS):
        yield {name: window(once) for name, once in kinds.items()}


def main() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    duty = Duty(Letterbox(theirs), Identity(1, 0, 1), 0.5)
    duty.busy_report_due = True
    said, told = os.dup(1), sys.stderr
    reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert reader.stdin is not None
    os.dup2(reader.stdin.fileno(), 1)
    found = list(rounds(duty))
    os.dup2(said, 1)
    least = {name: min(each[name] for each in found) for name in found[0]}
    uvicorn, master = least["uvicorn"] - least["loop"], least["master"] - least["loop"]
    for name in ("combined", "brief"):
        worker = least[name] - least["called"]
        told.write(
            f"{name}: {worker:.1f} us in the worker, {master:.1f} in the master; uvicorn's line {uvicorn:.1f} us: "
            f"{(worker + master) / uvicorn:.2f} of it\n"
        )
    ours.close()


if __name__ == "__main__":
    asyncio.set_event_loop(None)
    main()
