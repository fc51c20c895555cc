"""Quart-Trio: / (process id)."""

import os

import trio
from quart_trio import QuartTrio

app = QuartTrio("shop")


@app.route("/")
async def index():
    await trio.lowlevel.checkpoint()
    return {"pid": os.getpid()}
