"""Which generator of random values in a database's library does a forked worker seed anew?

SQLite has one for the process: ``select random()``, ``order by random()``, ``randomblob(16)``.  It notices a fork where
it opens a file the next time (os_unix.c, unixOpen, 3.40), and not while a database in memory or one that the import has
opened goes on being used.  So a worker opens one.
"""

from __future__ import annotations

import sys
from typing import Any

from attrs import define


@define(eq=False)
class Databases:
    """The libraries that the import has loaded."""

    _found: tuple[Any, ...] = ()
    """Each compiled module of SQLite: Python's own, and the same with another SQLite (pysqlite3)."""

    def find(self) -> None:
        """In the template: to look at the names of all modules would copy their pages in each worker."""
        modules = list(sys.modules.items())
        self._found = tuple(module for name, module in modules if name.rpartition(".")[2] == "_sqlite3")

    def renew(self) -> None:
        """In a forked worker: have the libraries seed theirs anew.  Raises what the library raises."""
        for module in self._found:
            _open_a_file(module)
        if (apsw := sys.modules.get("apsw")) is not None:
            apsw.randomness(0)


def _open_a_file(module: Any) -> None:
    # Of the compiled module: what instruments sqlite3 would take it for the application's.
    module.connect("file:/dev/null?mode=ro", uri=True).close()
