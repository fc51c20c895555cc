"""What the README says of all this: a table and two plots, written from the JSON in results/ and from nothing else.

`table_of_results` knows no matplotlib, so that a test can compare the README with it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from attrs import frozen

from .machine import HOME, RESULTS
from .rounds import Record, number

README = HOME.parent / "README.md"

IN_README = ("balance", "latency")
"""The plots shown there."""

SERVERS = ("rrmaster", "uvicorn", "gunicorn uvicorn", "gunicorn gthread", "hypercorn", "granian", "node rr")


P99 = "p99 ms"


@frozen
class Row:
    """One line of the README's table."""

    label: str
    figure: str
    group: str
    column: str
    unit: str = ""


ROWS = (
    Row("64 held connections on 4 workers: the fullest's, of its fair share", "balance", "max / mean", "ramp"),
    Row("the same after a worker was killed and replaced", "balance", "max / mean", "replaced"),
    Row(
        "p99 beside blocked workers, 30 % load, a request comes with its connection",
        "latency",
        "at once, 30 %",
        P99,
        "ms",
    ),
    Row("p99, 30 % load, a request comes 2 ms after its connection", "latency", "later, 30 %", P99, "ms"),
    Row("of these, put behind a blocked worker (over 50 ms)", "latency", "later, 30 %", "% over 50 ms", "%"),
    Row("p99, 60 % load, a request comes 2 ms after its connection", "latency", "later, 60 %", P99, "ms"),
    Row("p99, 60 % load, over kept connections", "latency", "kept, 60 %", P99, "ms"),
    Row("failed or hung requests: workers killed, 20 a minute", "faults", "killed", "failed+hung"),
    Row("a worker stopped for 5 s", "faults", "stopped", "failed+hung"),
    Row("reloaded every 5 s", "faults", "reloaded", "failed+hung"),
    Row("workers recycled after 150 requests", "faults", "recycled", "failed+hung"),
    Row("requests a second, kept connections", "throughput", "kept", "requests/s"),
    Row("requests a second, a connection each", "throughput", "one each", "requests/s"),
    Row("4 workers with FastAPI ¹: from start to the last one's answer", "footprint", "4 workers", "all ms", "ms"),
    Row("from SIGKILL of a worker to the last one's answer", "footprint", "4 workers", "replaced ms", "ms"),
    Row("memory of a worker (PSS)", "footprint", "4 workers", "PSS MiB", "MiB"),
)


def results() -> dict[str, dict[str, Any]]:
    """Those of whole runs."""
    names = {"dispatch", *(row.figure for row in ROWS)}
    return {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in sorted(names)}


def _cell(record: Record, server: str, row: Row) -> str:
    columns = row.column.split("+")
    spreads = [record.spread(server, row.group, column) for column in columns]
    there = [spread.median for spread in spreads if spread is not None]
    if len(there) < len(columns):
        return "-"
    value = f"{there[0]:.2f}" if row.figure == "balance" else number(sum(there))
    value = f"{value} {row.unit}".strip()
    return f"**{value}**" if server == SERVERS[0] else value


def table_of_results() -> str:
    """The README's table, and where and when it was measured."""
    found = results()
    records = {name: Record(name, found=result["found"]) for name, result in found.items()}
    lines = ["| | " + " | ".join(SERVERS) + " |", "|---" * (len(SERVERS) + 1) + "|"]
    for row in ROWS:
        cells = (_cell(records[row.figure], server, row) for server in SERVERS)
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    lines.append("")
    lines.append(_weather(found))
    lines += [f"\n![{name}: see bench/README.md](bench/plots/{name}.svg)" for name in IN_README]
    return "\n".join(lines) + "\n"


def _weather(found: dict[str, dict[str, Any]]) -> str:
    dates = sorted(result["date"][:10] for result in found.values())
    machine = found["latency"]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["servers"].items())
    versions += f", Node {machine['node'].lstrip('v')}" if machine["node"] else ""
    days = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return (
        f"*({days}, {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel'].partition('-')[0]}, "
        f"Python {machine['python']}; {versions}. Medians of rounds in turns; - : cannot do it, or died. "
        "¹ gthread and Node have a trivial application. "
        "[bench/](bench/README.md) has the rest, and how it is measured; `python -m bench` does it again.)*"
    )


def limits() -> str:
    """What it is bad at, in figures."""
    found = {name: Record(name, found=result["found"]) for name, result in results().items()}

    def middle(figure: str, server: str, group: str, column: str) -> str:
        spread = found[figure].spread(server, group, column)
        return "?" if spread is None else number(spread.median)

    def ratio(lane: str, column: str) -> str:
        spread = found["throughput"].ratios(lane, column, "uvicorn")
        return "?" if spread is None else f"{number(spread.median)} ({number(spread.least)} to {number(spread.most)})"

    ours, theirs = (middle("dispatch", server, "warm", "master us/conn") for server in ("rrmaster", "c"))
    rate = middle("dispatch", "rrmaster", "warm", "conn/s")
    words = [
        f"- To hand over a connection costs {ours} us of one core here ({theirs} in C); on the cores of the bench,",
        f"  shared with workers and clients, that was {rate} connections a second.",
        "- HTTP beside `uvicorn --workers`, the same loop and parser: over kept connections",
        f"  {ratio('kept', 'requests/s')} of its requests a second, with one connection for each request",
        f"  {ratio('one each', 'requests/s')}.",
    ]
    return "\n".join(words) + "\n"


def renewed(readme: str) -> str:
    """The README as it should be.  Raises RuntimeError."""
    for mark, generate in (("measured", table_of_results), ("limits", limits)):
        begin, end = f"<!-- {mark}: from bench/results, not by hand -->\n", f"<!-- end of {mark} -->"
        before, begun, rest = readme.partition(begin)
        _, ended, after = rest.partition(end)
        if not (begun and ended):
            raise RuntimeError(f"README.md has no {begin.strip()} ... {end}: put them where it is to stand")
        readme = before + begin + generate() + end + after
    return readme


def publish() -> int:
    """Draw and write."""
    try:
        from .plots import DRAWN, draw, source
    except ImportError as error:
        print(f"plots need matplotlib (pip install '.[bench]'): {error}", file=sys.stderr)
        return 1
    written: list[Path] = [draw(name) for name in DRAWN if source(name).exists()]
    README.write_text(renewed(README.read_text()))
    for path in (*written, README):
        print(f"written: {os.path.relpath(path)}")
    return 0
