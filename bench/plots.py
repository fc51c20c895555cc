"""The plots: SVG files, drawn from the JSON in results/ alone.

Each plot carries the hash of the JSON that it was drawn from, so that a test can say whether it is up to date.  The
colours are those of Okabe and Ito, which the colour-blind can tell apart; rrmaster is always the first and has the
thickest line; the background is white, so that a plot can be read on a dark page too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .machine import HOME, RESULTS

PLOTS = HOME / "plots"

COLOURS = {
    "rrmaster": "#0072B2",
    "node rr": "#009E73",
    "node none": "#56B4E9",
    "rrmaster trio": "#6BAED6",
    "uvicorn": "#D55E00",
    "gunicorn uvicorn": "#E69F00",
    "gunicorn gthread": "#B5A900",
    "hypercorn": "#CC79A7",
    "granian": "#000000",
    "c": "#999999",
    "node": "#009E73",
    "ideal": "#999999",
}

SETTINGS: Any = {
    "svg.hashsalt": "rrmaster",  # so that the same figures give the same file
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "figure.facecolor": "white",
}

Json = dict[str, Any]


def medians(result: Json, group: str) -> dict[str, dict[str, float]]:
    """The median of the rounds by server and column, where there is one."""
    found: dict[str, dict[str, float]] = {}
    for server, groups in result["found"].items():
        for column, values in groups.get(group, {}).items():
            there = sorted(value for value in values if value is not None)
            if there:
                middle = len(there) // 2
                even = len(there) % 2 == 0
                found.setdefault(server, {})[column] = (there[middle] + there[middle - even]) / 2
    return found


def _bars(axes: Axes, groups: list[str], values: dict[str, list[float | None]]) -> None:
    """A cluster of bars for each group, one bar for each server, in the order of the legend."""
    width = 0.85 / max(len(values), 1)
    for number, (server, heights) in enumerate(values.items()):
        for place, height in enumerate(heights):
            x = place + (number - (len(values) - 1) / 2) * width
            label = server if place == 0 else None
            if height is None:
                axes.annotate("×", (x, 0), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8)
            axes.bar(
                x, height or 0, width * 0.92, label=label, color=COLOURS[server], edgecolor="#444444", linewidth=0.4
            )
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)


def _line(axes: Axes, server: str, points: list[tuple[float, float]]) -> None:
    axes.plot(*zip(*points, strict=True), marker="o", label=server, color=COLOURS[server],
              linewidth=2.5 if server == "rrmaster" else 1.5, markersize=4,
              linestyle="--" if server == "ideal" else "-", zorder=3 if server == "rrmaster" else 2)  # fmt: skip


def balance(result: Json, figure: Figure) -> None:
    """Plot how unevenly held connections are spread."""
    from .balance import COLUMNS, GROUP

    axes = figure.subplots()
    found = medians(result, GROUP)
    _bars(axes, list(COLUMNS), {server: [of.get(column) for column in COLUMNS] for server, of in found.items()})
    axes.set_ylabel("fullest worker / fair share")
    axes.set_ylim(bottom=0.8)
    axes.axhline(1.0, color="#444444", linewidth=0.8)
    plan = result["plan"]
    axes.set_title(f"{plan['held']} held connections on {plan['workers']} workers (1.0 is even; × could not do it)")
    axes.legend(ncols=4, fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1))


def latency(result: Json, figure: Figure) -> None:
    """Plot the p99 over the load, for each lane."""
    from .latency import LANES, LOADS, group

    titles = {
        "at once": "request with its connection",
        "later": "request 2 ms after its connection",
        "kept": "over kept connections",
    }
    all_axes = figure.subplots(1, len(LANES), sharey=True)
    for axes, lane in zip(all_axes, LANES, strict=True):
        found = {load: medians(result, group(lane, load)) for load in LOADS}
        for server in result["found"]:
            points = [(load, found[load].get(server, {}).get("p99 ms")) for load in LOADS]
            there = [(float(load), p99) for load, p99 in points if p99 is not None]
            if there:
                _line(axes, server, there)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xticks(LOADS)
        axes.set_xlabel("load, % of capacity")
        axes.set_title(titles[lane], fontsize=10)
    all_axes[0].set_ylabel("p99 of the others, ms")
    figure.suptitle("3 % of the requests block their worker for 100 ms (8 workers)")
    handles, labels = all_axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=5, fontsize=8, frameon=False, loc="outside lower center")


def curves(result: Json, figure: Figure) -> None:
    """Plot the master's cost over workers, over held connections, and for each policy."""
    over_workers, over_held, over_policies = figure.subplots(1, 3, sharey=True)
    for axes, name, label in ((over_workers, "workers", "workers"), (over_held, "held", "held connections")):
        found = medians(result, name)
        for server, of in found.items():
            _line(axes, server, [(float(column), value) for column, value in of.items()])
        axes.set_xlabel(label)
    over_workers.set_xscale("log", base=2)
    over_workers.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    over_held.legend(frameon=False)
    policies = medians(result, "policies").get("rrmaster", {})
    over_policies.bar(list(policies), list(policies.values()), 0.6, color=COLOURS["rrmaster"])
    over_policies.tick_params(axis="x", rotation=20, length=0)
    over_workers.set_ylabel("master's processor time, us per connection")
    over_workers.set_ylim(bottom=0)
    figure.suptitle("What a connection costs the master (workers in C)")


def throughput(result: Json, figure: Figure) -> None:
    """Plot requests a second, and processor time."""
    from .throughput import LANES

    rates, costs = figure.subplots(1, 2)
    found = {lane: medians(result, lane) for lane in LANES}
    servers = list(result["found"])
    for axes, column, label in ((rates, "requests/s", "requests per second"), (costs, "CPU us", "us per request")):
        _bars(axes, list(LANES), {s: [found[lane].get(s, {}).get(column) for lane in LANES] for s in servers})
        axes.set_ylabel(label)
    rates.set_title("throughput", fontsize=10)
    costs.set_title("processor time, master and workers", fontsize=10)
    handles, labels = rates.get_legend_handles_labels()
    figure.legend(handles, labels, ncols=4, fontsize=8, frameon=False, loc="outside lower center")


def footprint(result: Json, figure: Figure) -> None:
    """Plot start and memory over the number of workers."""
    start, memory = figure.subplots(1, 2)
    sizes = result["plan"]["workers"]
    found = {size: medians(result, f"{size} workers") for size in sizes}
    for server in result["found"]:
        for axes, column, scale in ((start, "all ms", 1e-3), (memory, "PSS MiB", 1.0)):
            points = [(float(size), found[size][server][column] * scale) for size in sizes if server in found[size]]
            if points:
                _line(axes, server, points)
    for axes in (start, memory):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("workers")
        axes.set_ylim(bottom=0)
    start.set_ylabel("s until all workers answer")
    memory.set_ylabel("MiB of a worker (PSS)")
    figure.suptitle("FastAPI (of gunicorn gthread and Node a trivial application)")
    handles, labels = start.get_legend_handles_labels()
    figure.legend(handles, labels, ncols=4, fontsize=8, frameon=False, loc="outside lower center")


DRAWN: dict[str, Callable[[Json, Figure], None]] = {
    "balance": balance,
    "latency": latency,
    "curves": curves,
    "throughput": throughput,
    "footprint": footprint,
}


def source(name: str) -> Path:
    """The results that a plot is drawn from."""
    return RESULTS / f"{name}.json"


def mark(name: str) -> str:
    """The mark in a plot that names its results: their hash."""
    return "sha256:" + hashlib.sha256(source(name).read_bytes()).hexdigest()


def draw(name: str) -> Path:
    """Draw a plot from its results."""
    result = json.loads(source(name).read_text())
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(8.5, 4.2), layout="constrained")
        DRAWN[name](result, figure)
        PLOTS.mkdir(exist_ok=True)
        path = PLOTS / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None, "Description": mark(name)})
    # matplotlib leaves spaces at the ends of lines
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    return path
