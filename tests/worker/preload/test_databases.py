"""Databases that an import has used give other random values in each forked worker."""

from __future__ import annotations

import sqlite3

import pytest

from rrmaster.worker.preload.taken.databases import Databases
from tests import forked

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""The runner has threads, and the child does nothing but answer."""


def in_two_workers(database: sqlite3.Connection, renewed: bool) -> tuple[bytes, bytes]:
    """What each of two forked workers is given by the database."""
    databases = Databases()
    databases.find()

    def answer() -> bytes:
        if renewed:
            databases.renew()
        return bytes(database.execute("select randomblob(16)").fetchone()[0])

    return forked.in_two_workers(answer)


def test_a_database_in_memory_gives_other_random_values_in_each_worker() -> None:
    database = sqlite3.connect(":memory:")
    database.execute("select random()").fetchone()
    one, other = in_two_workers(database, renewed=False)
    assert one == other, "SQLite does not notice the fork by itself"
    one, other = in_two_workers(database, renewed=True)
    assert len(one) == len(other) == 16
    assert one != other
    database.close()
