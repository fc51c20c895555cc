"""What README and docs say of all this: tables, sentences and plots, written from the JSON in results/, and no others.

What is generated stands between ``<!-- name: from bench/results, not by hand -->`` and ``<!-- end of name -->``; what
is measured is said nowhere else.  `renewed` knows no matplotlib, so that a test can compare the pages with it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen

from .machine import HOME, RESULTS, Spread
from .rounds import OURS, Record, number

README = HOME.parent / "README.md"
DOCS = HOME.parent / "docs"

HERE = "https://github.com/rrmaster/rrmaster/blob/main"
"""This repository.  The README is the package's description on the index too, where relative links lead nowhere."""

IMAGES = "https://raw.githubusercontent.com/rrmaster/rrmaster/main"

IN_README = ("balance", "latency")
"""The plots shown there."""

SERVERS = ("rrmaster", "uvicorn", "gunicorn uvicorn", "gunicorn gthread", "hypercorn", "granian", "node rr")

ON_TRIO = "rrmaster trio"

FORKED = {
    "rrmaster: forked": "rrmaster",
    "rrmaster, `--preload off`": "rrmaster --preload off",
    "`uvicorn --workers`": "uvicorn",
    "`gunicorn --preload`": "gunicorn --preload",
}

WARM_COST, WARM_RATE = ("warm", "master us/conn"), ("warm", "conn/s")

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


def record_of(name: str) -> Record:
    """One of them, as it was measured; empty if it was not."""
    path = RESULTS / f"{name}.json"
    found = json.loads(path.read_text()).get("found", {}) if path.exists() else {}
    return Record(name, found=found)


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
    lines += [f"\n![{name}: see bench/README.md]({IMAGES}/bench/plots/{name}.svg)" for name in IN_README]
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
        f"[bench/]({HERE}/bench/README.md) has the rest, and how it is measured; `python -m bench` does it again.)*"
    )


def _middle(spread: Spread | None) -> str:
    return "?" if spread is None else number(spread.median)


def _with_ends(spread: Spread | None) -> str:
    return "?" if spread is None else f"{number(spread.median)} ({number(spread.least)} to {number(spread.most)})"


def limits() -> str:
    """What it is bad at, in figures."""
    dispatch, throughput = record_of("dispatch"), record_of("throughput")
    ours, theirs = (_middle(dispatch.spread(server, *WARM_COST)) for server in ("rrmaster", "c"))
    rate = _middle(dispatch.spread("rrmaster", *WARM_RATE))
    kept, each = (_with_ends(throughput.ratios(lane, "requests/s", "uvicorn")) for lane in ("kept", "one each"))
    words = [
        f"- To hand over a connection costs {ours} us of one core here ({theirs} in C); on the cores of the bench,",
        f"  shared with workers and clients, that was {rate} connections a second.",
        "- HTTP beside `uvicorn --workers`, the same loop and parser: over kept connections",
        f"  {kept} of its requests a second, with one connection for each request",
        f"  {each}.",
    ]
    return "\n".join(words) + "\n"


def cost_of_trio() -> str:
    """Processor time of a request, beside that of the other runtime."""
    found, column = record_of("throughput"), ("kept", "CPU us")
    trio, uvloop = (found.spread(server, *column) for server in (ON_TRIO, OURS))
    ratio = found.ratios(*column, peer=OURS, server=ON_TRIO)
    if trio is None or uvloop is None or ratio is None:
        return "A request costs more processor time than on uvloop; `python -m bench throughput` says how much.\n"
    return (
        f"A request over a kept connection costs {_with_ends(ratio)} times the processor time of the same on uvloop:\n"
        f"{number(trio.median)} us against {number(uvloop.median)}.\n"
    )


def gain_of_forking() -> str:
    """Time and memory of a worker that is forked, and of others."""
    found = record_of("template")
    rows = [
        f"| {label} | {number(ms.median)} ms | {number(uss.median)} MiB |"
        for label, server in FORKED.items()
        if (ms := found.spread(server, "replaced", "ms")) and (uss := found.spread(server, "replaced", "USS MiB"))
    ]
    if not rows:
        return "(`python -m bench template` measures both.)\n"
    head = ["| FastAPI, two workers | killed to replaced | memory of its own |", "|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


PARTS: dict[Path, dict[str, Callable[[], str]]] = {
    README: {"measured": table_of_results, "limits": limits},
    DOCS / "http.md": {"trio": cost_of_trio},
    DOCS / "howto" / "preload.md": {"forked": gain_of_forking},
}
"""What is generated in which page."""


def renewed(page: Path) -> str:
    """A page as it should be.  Raises RuntimeError."""
    text = page.read_text()
    for name, generate in PARTS[page].items():
        begin, end = f"<!-- {name}: from bench/results, not by hand -->\n", f"<!-- end of {name} -->"
        before, begun, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not (begun and ended):
            raise RuntimeError(f"{page.name} has no {begin.strip()} ... {end}: put them where it is to stand")
        text = before + begin + generate() + end + after
    return text


def publish() -> int:
    """Draw and write."""
    try:
        from .plots import DRAWN, draw, source
    except ImportError as error:
        print(f"plots need matplotlib (pip install '.[bench]'): {error}", file=sys.stderr)
        return 1
    try:
        written = [draw(name) for name in DRAWN if source(name).exists()]
        for page in PARTS:
            page.write_text(renewed(page))
    except OSError as error:
        print(f"nothing can be published here: {error}", file=sys.stderr)
        return 1
    for path in (*written, *PARTS):
        print(f"written: {os.path.relpath(path)}")
    return 0
