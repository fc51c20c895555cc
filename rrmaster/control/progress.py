"""How does a client follow the progress of a reload?"""

from __future__ import annotations

import trio

from ..rules.rollout import Rollout
from .session import ClientSession

PROGRESS_S = 0.1
"""Seconds between looks at a reload that a client follows; its phases take seconds."""


async def send_progress(rollout: Rollout, session: ClientSession) -> None:
    """Send each line of a rollout to a client as it comes.  Returns when the rollout has a result."""
    sent = 0
    while True:
        while sent < len(rollout.lines):
            sent += 1
            await session.send({"line": rollout.lines[sent - 1], "progress": round(rollout.progress, 3)})
        if rollout.status is not None:
            return
        await trio.sleep(PROGRESS_S)
