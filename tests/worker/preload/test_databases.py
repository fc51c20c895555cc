"""Databases that an import has used give other random values in each forked worker."""

from __future__ import annotations

import os
import sqlite3

import pytest

from rrmaster.worker.preload.taken import databases

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""The runner has threads, and the child does nothing but answer."""


def in_two_workers(database: sqlite3.Connection, renewed: bool) -> tuple[bytes, bytes]:
    """What each of two forked workers is given by the database."""
    given = []
    for _ in range(2):
        ours, its = os.pipe()
        child = os.fork()
        if child == 0:
            if renewed:
                databases.renew()
            os.write(its, database.execute("select randomblob(16)").fetchone()[0])
            os._exit(0)
        os.close(its)
        with open(ours, "rb") as answer:
            given.append(answer.read())
        os.waitpid(child, 0)
    return given[0], given[1]


def test_a_database_in_memory_gives_other_random_values_in_each_worker() -> None:
    database = sqlite3.connect(":memory:")
    database.execute("select random()").fetchone()
    one, other = in_two_workers(database, renewed=False)
    assert one == other, "SQLite does not notice the fork by itself"
    one, other = in_two_workers(database, renewed=True)
    assert len(one) == len(other) == 16
    assert one != other
    database.close()
