"""A basket in a session of Flask-Session: the cookie names it, Redis has it, and no worker keeps anything."""

import os

import redis
from flask import Flask, session
from flask_session import Session

app = Flask(__name__)
app.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis.Redis.from_url(os.environ["REDIS_URL"]))
Session(app)


@app.post("/basket/<thing>")
def put(thing: str) -> dict:
    session["basket"] = [*session.get("basket", []), thing]
    return {"worker": os.getpid()}


@app.get("/basket")
def basket() -> dict:
    return {"worker": os.getpid(), "basket": session.get("basket", [])}
