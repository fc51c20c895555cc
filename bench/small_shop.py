"""A small FastAPI application that says which process answers; what `template` measures."""

from __future__ import annotations

import os

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Item(BaseModel):
    """Something to validate."""

    name: str
    price: float
    tags: list[str] = []


@app.get("/pid")
async def pid() -> int:
    """Who answers."""
    return os.getpid()


@app.post("/items")
async def items(item: Item) -> Item:
    """What was sent, validated both ways."""
    return item
