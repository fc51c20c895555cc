"""The same basket in the memory of one worker, which is what needs --policy ip-hash, and what it does not survive."""

import os

from flask import Flask, request

app = Flask(__name__)
baskets: dict[str, list[str]] = {}


@app.post("/basket/<thing>")
def put(thing: str) -> dict:
    baskets.setdefault(request.headers["X-Visitor"], []).append(thing)
    return {"worker": os.getpid()}


@app.get("/basket")
def basket() -> dict:
    return {"worker": os.getpid(), "basket": baskets.get(request.headers["X-Visitor"], [])}
