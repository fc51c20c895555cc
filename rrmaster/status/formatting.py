"""How is one value written in a few characters?

Every function returns one line of printable text, so a terminal that shows it cannot be driven by it.  None, an unknown
value, is a dash.
"""

from __future__ import annotations

from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = " .:-=+*#"


def duration(seconds: float | None) -> str:
    """At most five characters: 12s, 3m05s, 2h03m, 4d07h, 400d."""
    if seconds is None:
        return "-"
    s = int(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02}s" if s < 600 else f"{s // 60}m"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02}m" if s < 36000 else f"{s // 3600}h"
    return f"{s // 86400}d{s % 86400 // 3600:02}h" if s < 864000 else f"{s // 86400}d"


def size(count: int | None) -> str:
    """Bytes in at most four characters: 999K, 26M, 1.5G."""
    if count is None:
        return "-"
    value = count / 1024
    for unit in "KMG":
        if value < 10 and unit == "G":
            return f"{value:.1f}{unit}"
        if value < 1000:
            return f"{value:.0f}{unit}"
        value /= 1024
    return f"{value:.1f}T"


def lag(us: int | None) -> str:
    """Microseconds in at most five characters: 80us, 1.2ms, 300ms, 2.5s, 120s."""
    if us is None:
        return "-"
    if us < 1000:
        return f"{us}us"
    if us < 10_000:
        return f"{us // 100 / 10:.1f}ms"  # rounded down: 9.99 must not become 10.0, which is one character longer
    if us < 1_000_000:
        return f"{us // 1000}ms"
    return f"{us // 100_000 / 10:.1f}s" if us < 100_000_000 else f"{us // 1_000_000}s"


def took(seconds: float | None) -> str:
    """Seconds, as `lag` writes microseconds."""
    return lag(None if seconds is None else int(seconds * 1e6))


def number(value: int | None) -> str:
    """A count."""
    return "-" if value is None else str(value)


def count(value: int, noun: str) -> str:
    """A count with its noun: 1 worker, 2 workers."""
    return f"{value} {noun}" if value == 1 else f"{value} {noun}s"


def plain(text: str) -> str:
    """The text as one line without control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def gist(text: str) -> str:
    """The last line of a text: in a traceback it says what happened."""
    lines = [line for line in text.splitlines() if line.strip()]
    return plain(lines[-1].strip()) if lines else ""


def shortened(text: str, width: int) -> str:
    """The text in at most `width` columns."""
    text = plain(text)
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"[:width]


def sparkline(values: Sequence[float], width: int, most: float, ascii_only: bool = False) -> str:
    """The last `width` values as bars; the highest bar stands for `most`.  Missing values are blanks on the left."""
    bars = _ASCII_BARS if ascii_only else _BARS
    last = values[-width:] if width > 0 else []
    steps = [round(min(max(value / most, 0.0), 1.0) * (len(bars) - 1)) if most > 0 else 0 for value in last]
    return "".join(bars[step] for step in steps).rjust(max(width, 0))
