"""What a valid request of HTTP/1.1 may look like, and that its answer is the answer to all of it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.whole.browser import browsing
from tests.whole.harness import PATIENCE, Running, running

SERVED = {
    "httptools": ("tells:app", {}),
    "h11": ("tells:app", {"hidden": "httptools"}),
    "wsgi": ("tells:wsgi", {}),
}
"""The application, and what of its libraries is not installed."""


@asynccontextmanager
async def served(kind: str, hidden: Path, *options: str, **more: Any) -> AsyncIterator[Running]:
    """A master with one worker, for one of `SERVED`."""
    application, without = SERVED[kind]
    environ = dict(more.pop("environ", {}))
    if without:
        (hidden / f"{without['hidden']}.py").write_text("raise ImportError('hidden by a test')\n")
        environ["PYTHONPATH"] = str(hidden)
    async with running(application, *options, workers=1, environ=environ, **more) as master:
        yield master


async def sent(port: int, *parts: bytes | None) -> tuple[list[int], list[Any]]:
    """The statuses and the bodies of the answers to these bytes; None is the client's end of stream."""
    received = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(PATIENCE):
            for part in parts:
                if part is None:
                    await stream.send_eof()
                else:
                    await stream.send_all(part)
            async for data in stream:
                received += data
    statuses = [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d+)", received, re.MULTILINE)]
    return statuses, [json.loads(body) for body in re.findall(rb"^\[.*?\]", received, re.MULTILINE)]


# --- the environment, and who may speak for others


@pytest.mark.parametrize("value", ["auto", "1:2", ""])
@pytest.mark.parametrize("kind", ["httptools", "wsgi"])
async def test_uvicorn_does_not_read_the_number_of_workers(kind: str, value: str, tmp_path: Path):
    async with served(kind, tmp_path, environ={"WEB_CONCURRENCY": value}) as master, browsing(master.port) as browser:
        assert (await browser.get("/")).status == 200


@pytest.mark.parametrize("runtime", ["uvloop", "trio"])
async def test_a_proxy_is_believed_on_a_listener_of_both_families(runtime: str):
    async with running("tells:app", "--runtime", runtime, workers=1, bind="[::]:0") as master:
        async with browsing(master.port) as browser:
            told = await browser.get("/", **{"X-Forwarded-For": "192.0.2.7"})
            assert told.json == ["GET", "/", 0, "192.0.2.7"]
