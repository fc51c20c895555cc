"""An application of the usual weight, for what a worker weighs and how long it takes to start: FastAPI with a model."""

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
    """Give back what came."""
    return item


@app.get("/{name}")
async def anything(name: str) -> PlainTextResponse:
    """The paths of `apps`."""
    return PlainTextResponse(answer(f"/{name}"))


@app.get("/")
async def root() -> PlainTextResponse:
    """Hello."""
    return PlainTextResponse(answer("/"))
