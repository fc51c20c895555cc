"""What does a line of the access log hold?  A format in gunicorn's atoms, read once and checked before anything starts.

::

    '%(h)s "%(r)s" %({x-request-id}i)s'  ──  "", atom h, ' "', atom r, '" ', atom i of x-request-id

The configuration checks a format with `pieces_of`, and a worker compiles the same pieces (`worker.access.line`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from attrs import frozen

COMMON = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s'

COMBINED = COMMON + ' "%(f)s" "%(a)s"'

BRIEF = '%(client)s "%(r)s" %(s)s %(B)s %(ms)s ms'
"""For people, in a log that has time and worker in front of each line."""

NAMES = {"common": COMMON, "combined": COMBINED, "brief": BRIEF}
"""The formats that have a name; ``auto`` is `BRIEF` in the log, and `COMBINED` in a file of its own."""

ATOMS = {
    "h": "host", "l": "ident", "u": "user", "t": "time", "r": "request", "m": "method", "U": "path", "q": "query",
    "H": "protocol", "s": "status", "B": "bytes", "b": "bytes", "f": "referer", "a": "user_agent", "T": "seconds",
    "D": "duration_us", "M": "duration_ms", "L": "duration_s", "p": "pid", "ms": "duration_ms", "client": "client",
    "worker": "worker", "generation": "generation", "parked": "parked",
}  # fmt: skip
"""Each atom, and the name of its field in JSON.  Those of one letter are gunicorn's; the others are our own."""

OF_HEADERS = {"i": "request", "o": "response", "e": "environ"}
"""The atoms with a name in braces, and how their fields in JSON begin: ``{x-request-id}i`` is request.x-request-id."""

_DIRECTIVE = re.compile(r"%(?:(?P<percent>%)|\((?:\{(?P<name>[^{}()]+)\}(?P<of>\w)|(?P<atom>\w+))\)s)")


@frozen
class Atom:
    """One value in a line."""

    kind: str
    """A key of `ATOMS`, or of `OF_HEADERS`."""
    name: str = ""
    """What stands in braces."""

    @property
    def field(self) -> str:
        """The name of its field in JSON."""
        return f"{OF_HEADERS[self.kind]}.{self.name}" if self.name else ATOMS[self.kind]


def pieces_of(format_: str) -> tuple[str | Atom, ...]:
    """The texts and atoms of a format, in order.  Raises ValueError, which names the atom that is wrong."""
    return tuple(_pieces(NAMES.get(format_, format_)))


def _pieces(format_: str) -> Iterator[str | Atom]:
    place = 0
    while (percent := format_.find("%", place)) >= 0:
        if percent > place:
            yield format_[place:percent]
        found = _DIRECTIVE.match(format_, percent)
        if found is None:
            wrong = re.match(r"%(?:\([^)]*\)?.?|.)?", format_[percent:])
            raise ValueError(
                f"{wrong[0] if wrong else '%'} is no atom; write %(h)s, %({{x-request-id}}i)s, or %% for a percent sign"
            )
        yield _atom(found)
        place = found.end()
    if format_[place:]:
        yield format_[place:]


def _atom(found: re.Match[str]) -> str | Atom:
    if found["percent"]:
        return "%"
    if found["name"] is not None and found["of"] in OF_HEADERS:
        return Atom(found["of"], found["name"])
    if found["atom"] in ATOMS:
        return Atom(found["atom"])
    known = ", ".join([*ATOMS, *(f"{{name}}{kind}" for kind in OF_HEADERS)])
    raise ValueError(f"{found[0]} is no atom of an access log; there are {known}")
