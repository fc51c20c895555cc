"""The measured values, server by server and round by round, and what follows from them: medians, ratios, verdicts.

A round measures each server once, in turns, so both figures of a ratio of one round were taken under the same
conditions; the ratio shown is the median of those, with the least and the most.  A value is None where there is none:
the server cannot do it, has died, or the run was discarded; the notes say which.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from attrs import Factory, asdict, define, frozen

from .machine import Spread, table

OURS = "rrmaster"

IDEAL = "ideal"
"""The simulation: it is not a peer."""

Value = float | None


@frozen
class Target:
    """What rrmaster should achieve in one column."""

    group: str
    column: str
    bound: float | None = 1.0
    """None: there is no bound, and only the ratio is shown."""
    against: str = "best"
    """A server's name: the ratio to it; ``best``: to the peer that is best in this column; ``itself``: rrmaster's own
    figure; ``none better``: no peer's figure is smaller than rrmaster's."""
    at_most: bool = True
    slack: float = 0.0
    """The margin by which a peer may be better, as by chance."""

    @property
    def spelled(self) -> str:
        if self.against == "none better":
            return "no peer's less"
        return f"{'<=' if self.at_most else '>='} {self.bound:g}"


@frozen
class Verdict:
    """The result for a target."""

    target: Target
    peer: str | None
    """The server in the comparison."""
    spread: Spread
    """The ratio, or rrmaster's own figure."""
    met: bool

    def row(self) -> list[str]:
        what = f"{self.target.group}: {self.target.column}"
        beside = f" / {self.peer}" if self.peer else ""
        return [what + beside, _spelled(self.spread), self.target.spelled, "met" if self.met else "MISSED"]

    def as_json(self) -> dict[str, Any]:
        of = {"group": self.target.group, "column": self.target.column, "peer": self.peer, **asdict(self.spread)}
        return of | {"target": self.target.spelled, "met": self.met}


@define(eq=False)
class Record:
    """All values of one figure so far."""

    name: str
    plan: dict[str, Any] = Factory(dict)
    """The parameters: workers, rates, seconds."""
    found: dict[str, dict[str, dict[str, list[Value]]]] = Factory(dict)
    """A value for each round, by server, group and column."""
    notes: list[str] = Factory(list)

    def add(self, server: str, group: str, column: str, value: Value) -> None:
        if value is not None and not math.isfinite(value):
            value = None
        self.found.setdefault(server, {}).setdefault(group, {}).setdefault(column, []).append(value)

    def note(self, words: str) -> None:
        """Add a note, once."""
        if words not in self.notes:
            self.notes.append(words)

    def values(self, server: str, group: str, column: str) -> list[Value]:
        return self.found.get(server, {}).get(group, {}).get(column, [])

    def spread(self, server: str, group: str, column: str) -> Spread | None:
        """The median over the rounds."""
        values = [value for value in self.values(server, group, column) if value is not None]
        return Spread.of(values) if values else None

    def columns(self) -> dict[str, list[str]]:
        """The columns of each group, in the order in which they came."""
        groups: dict[str, dict[str, None]] = {}
        for of_server in self.found.values():
            for group, columns in of_server.items():
                groups.setdefault(group, {}).update(dict.fromkeys(columns))
        return {group: list(columns) for group, columns in groups.items()}

    # --- compared

    def ratios(self, group: str, column: str, peer: str, server: str = OURS) -> Spread | None:
        """The ratio of rrmaster's figure (or another server's) to a peer's, round by round."""
        pairs = zip(self.values(server, group, column), self.values(peer, group, column), strict=False)
        found = [ours / theirs for ours, theirs in pairs if ours is not None and theirs]
        return Spread.of(found) if found else None

    def peers(self, group: str, column: str) -> Iterator[tuple[str, Spread]]:
        """The servers with a figure in this column."""
        for server in self.found:
            spread = self.spread(server, group, column)
            if not server.startswith((OURS, IDEAL)) and spread is not None:
                yield server, spread

    def verdict(self, target: Target) -> Verdict | None:
        """The result for a target; None if it has no bound, or there is nothing to compare."""
        own = self.spread(OURS, target.group, target.column)
        if own is None or target.bound is None:
            return None
        if target.against == "itself":
            return Verdict(target, None, own, _holds(target.bound, own.median, target.at_most))
        best, theirs = self._best(target)
        if best is None or theirs is None:
            return None
        if target.against == "none better":
            return Verdict(target, best, own, own.median <= theirs.median + target.slack)
        ratio = self.ratios(target.group, target.column, best)
        return Verdict(target, best, ratio, _holds(target.bound, ratio.median, target.at_most)) if ratio else None

    def _best(self, target: Target) -> tuple[str, Spread] | tuple[None, None]:
        peers = dict(self.peers(target.group, target.column))
        if target.against in ("best", "none better"):
            better = min if target.at_most else max
            name = better(peers, key=lambda peer: peers[peer].median, default=None)
        else:
            name = target.against if target.against in peers else None
        return (None, None) if name is None else (name, peers[name])

    def verdicts(self, targets: Iterable[Target]) -> list[Verdict]:
        return [verdict for target in targets if (verdict := self.verdict(target)) is not None]

    # --- told

    def tables(self) -> str:
        """A table for each group, with a row for each server."""
        return "\n\n".join(table(self._rows(group, columns)) for group, columns in self.columns().items())

    def _rows(self, group: str, columns: Sequence[str]) -> list[list[str]]:
        rows = [[group, *columns]]
        for server, of_server in self.found.items():
            if group in of_server:
                spreads = [self.spread(server, group, column) for column in columns]
                rows.append([server, *(_spelled(spread) for spread in spreads)])
        return rows

    def ratio_table(self, targets: Sequence[Target]) -> str:
        """The ratios to each peer, in the columns with a target."""
        columns = list(dict.fromkeys((t.group, t.column) for t in targets if t.against in ("best", *self.found)))
        rows = [["rrmaster / peer, median (min..max) of the rounds", "ratio"]]
        for group, column in columns:
            for peer, _ in self.peers(group, column):
                ratio = self.ratios(group, column, peer)
                rows.append([f"{group}: {column} / {peer}", _spelled(ratio)])
        return table(rows) if len(rows) > 1 else ""

    def verdict_table(self, targets: Sequence[Target]) -> str:
        rows = [["beside the target", "median (min..max)", "target", ""]]
        rows += [verdict.row() for verdict in self.verdicts(targets)]
        return table(rows) if len(rows) > 1 else ""

    def content(self, targets: Sequence[Target]) -> dict[str, Any]:
        """The whole record, for JSON."""
        compared = {
            f"{t.group}: {t.column}": {
                peer: asdict(ratio)
                for peer, _ in self.peers(t.group, t.column)
                if (ratio := self.ratios(t.group, t.column, peer))
            }
            for t in targets
        }
        return {
            "plan": self.plan,
            "notes": self.notes,
            "found": _rounded(self.found),
            "ratios": _rounded(compared),
            "verdicts": _rounded([verdict.as_json() for verdict in self.verdicts(targets)]),
        }


def mean(values: Sequence[float]) -> Value:
    """The mean of the values; None if there are none."""
    return statistics.fmean(values) if values else None


def _holds(bound: float, value: float, at_most: bool) -> bool:
    return value <= bound if at_most else value >= bound


def _spelled(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    if spread.least == spread.most:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.least)}..{number(spread.most)})"


def number(value: float) -> str:
    """A number with three significant digits, and no more decimal places than make sense."""
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{min(digits, 3)}f}"


def _rounded(thing: Any) -> Any:
    """A value with six significant digits, which keeps the files small."""
    if isinstance(thing, float):
        return float(f"{thing:.6g}")
    if isinstance(thing, dict):
        return {key: _rounded(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [_rounded(value) for value in thing]
    return thing
