"""An application with a heavy import: FastAPI, pandas with pyarrow, and SQLAlchemy.  Each request uses all three."""

from __future__ import annotations

import pandas
import pyarrow
import sqlalchemy
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from .apps import answer

app = FastAPI()
prices = pandas.DataFrame({"item": [f"item {n % 100}" for n in range(5_000)], "price": [n % 17 for n in range(5_000)]})
engine = sqlalchemy.create_engine("sqlite://")


@app.get("/report")
async def report(item: int = 7) -> dict[str, float]:
    """A selection and a sum, in Arrow's memory and back, and a query."""
    chosen = prices[prices["item"] == f"item {item % 100}"]
    table = pyarrow.Table.from_pandas(chosen)
    with engine.connect() as connection:
        twice = connection.execute(sqlalchemy.select(sqlalchemy.literal(item) * 2)).scalar_one()
    return {"sum": float(chosen["price"].sum()), "rows": table.num_rows, "twice": twice}


@app.get("/{name}")
async def anything(name: str) -> PlainTextResponse:
    """Answer on the paths of `apps`."""
    return PlainTextResponse(answer(f"/{name}"))
