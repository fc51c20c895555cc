"""An application of usual size, for the memory and the start of a worker: FastAPI with a model."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from .apps import answer

app = FastAPI()


class Item(BaseModel):
    """What the shop sells."""

    name: str
    price: float
    tags: list[str] = []


@app.post("/items")
async def create(item: Item) -> Item:
    """Return the model that came."""
    return item


@app.get("/{name}")
async def anything(name: str) -> PlainTextResponse:
    """Answer on the paths of `apps`."""
    return PlainTextResponse(answer(f"/{name}"))


@app.get("/")
async def root() -> PlainTextResponse:
    """Answer with 14 bytes."""
    return PlainTextResponse(answer("/"))
