"""What do libraries do that may need what a forked process lacks?  A trial does it there.

A first request need not come near a library, so that it is answered is no evidence of one.  An operation here takes
milliseconds, needs no file and no network, and leaves nothing outside of the process.  What it says is for the version
named; where a newer library has no such functions, it raises, and workers are not forked.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any


def _polars(polars: Any) -> None:
    """polars 2.1: a query, which starts its threads."""
    polars.DataFrame({"a": [1, 2]}).lazy().select(polars.col("a").sum()).collect()


def _pyarrow(pyarrow: Any) -> None:
    """pyarrow 26: memory of jemalloc, where it is built with that."""
    if "jemalloc" in pyarrow.supported_memory_backends():
        pyarrow.array(range(1000), memory_pool=pyarrow.jemalloc_memory_pool())


def _prometheus_client(_: Any) -> None:
    """prometheus_client 0.26, with files of values: a process with another number begins another file."""
    values: Any = sys.modules["prometheus_client.values"]
    own = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if own is None or not values.ValueClass._multiprocess:
        return
    numbers = [1]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        try:
            value = values.MultiProcessValue(lambda: numbers[0])("counter", "a", "a_total", (), (), "tried")
            numbers[0] = 2
            value.inc(1)
        finally:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = own
        made = sorted(os.listdir(folder))
    if made != ["counter_1.db", "counter_2.db"]:
        raise RuntimeError(f"prometheus_client does not notice a fork: it has made {made}")


_OPERATIONS: dict[str, Callable[[Any], None]] = {
    "polars": _polars,
    "pyarrow": _pyarrow,
    "prometheus_client": _prometheus_client,
}
"""By the module that must be loaded."""


def operations() -> Iterator[tuple[str, Callable[[], None]]]:
    """Those of the libraries that are loaded, with their names."""
    for name, operation in _OPERATIONS.items():
        if (module := sys.modules.get(name)) is not None:
            yield name, lambda operation=operation, module=module: operation(module)  # type: ignore[misc]
