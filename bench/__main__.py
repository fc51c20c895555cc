"""All figures, measured in one command: python -m bench [--quick] [FIGURE ...]; see README.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from types import ModuleType

from . import (
    balance,
    busy,
    choice,
    curves,
    dispatch,
    each_request,
    faults,
    footprint,
    latency,
    programs,
    template,
    throughput,
)
from .conduct import QUICK, Figure, conduct
from .rounds import Record

FIGURES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        dispatch,
        curves,
        choice,
        balance,
        latency,
        each_request,
        busy,
        faults,
        throughput,
        footprint,
        template,
    )
}


def figures(names: Sequence[str], quick: bool) -> Iterator[Figure]:
    """The figures of these names (all, if there are none), in the order in which they are measured."""
    for name, module in FIGURES.items():
        if name in names or not names:
            record = Record(name)
            yield record, module.TARGETS, partial(module.measure, record, quick)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or publish earlier results."""
    told = "\n".join(f"  {name:<11} {module.QUESTION}" for name, module in FIGURES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench", epilog=f"figures:\n{told}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="one of those below (default: all)")
    parser.add_argument("--quick", action="store_true", help="all of it in less than two minutes, with wide margins")
    parser.add_argument(programs.WANTED, action="store_true", help="send requests as where there is no C compiler")
    parser.add_argument("--publish", action="store_true", help="measure nothing: draw the plots and write the figures "
                        "of README and docs, from what the last whole run has left in bench/results")  # fmt: skip
    options = parser.parse_args(argv)
    if unknown := set(options.figures) - FIGURES.keys():
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    if options.publish:
        from .publish import publish

        return publish()
    programs.python_clients = options.python_clients
    return conduct(figures(options.figures, options.quick), prefix=QUICK if options.quick else "")


if __name__ == "__main__":
    sys.exit(main())
