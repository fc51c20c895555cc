"""The application of the trial: it says which replica answers."""

import asyncio
import os
import time
from pathlib import Path

REPLICA = os.environ.get("REPLICA", "here")
SLOW = Path(os.environ.get("LAB", "/tmp")) / f"{REPLICA}.slow"
time.sleep(float(os.environ.get("IMPORT_SECONDS", "0")))
SECONDS = {"GET": 0.02, "POST": 0.05}


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/readyz":  # of servers that have no other
        await answer(send, b"ready")
        return
    while (await receive()).get("more_body"):
        pass
    seconds = 1 if scope["path"] == "/long" else SECONDS.get(scope["method"], 0)
    await asyncio.sleep(seconds + 0.5 * SLOW.exists())
    await answer(send, REPLICA.encode())


async def answer(send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
