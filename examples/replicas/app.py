"""The application of the trial: it says which replica answers, and keeps count of what it has in hand.

The counts are in files that are mapped into memory, one for each worker, so that they can be read after a SIGKILL.
"""

import asyncio
import mmap
import os
import time
from functools import cache
from pathlib import Path

REPLICA = os.environ.get("REPLICA", "here")
LAB = Path(os.environ.get("LAB", "/tmp"))
SLOW = LAB / f"{REPLICA}.slow"
time.sleep(float(os.environ.get("IMPORT_SECONDS", "0")))
SECONDS = {"GET": 0.02, "POST": 0.05}


@cache
def in_hand(pid: int) -> mmap.mmap:
    """One byte: this worker's requests in progress."""
    file = LAB / f"{REPLICA}.{pid}.in-hand"
    file.write_bytes(b"\0")
    with file.open("r+b") as opened:
        return mmap.mmap(opened.fileno(), 1)


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/readyz":  # of servers that have no other; it is no request in hand
        await answer(send, b"ready")
        return
    count = in_hand(os.getpid())
    count[0] += 1
    try:
        while (await receive()).get("more_body"):
            pass
        seconds = 1 if scope["path"] == "/long" else SECONDS.get(scope["method"], 0)
        await asyncio.sleep(seconds + 0.5 * SLOW.exists())
        await answer(send, REPLICA.encode())
    finally:
        count[0] -= 1


async def answer(send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
