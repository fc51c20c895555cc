"""How are numbers, durations, sizes, shares and file modes written, and which values do they stand for?

A parser takes what the user wrote, on the command line, in the environment or in TOML, and returns the value.  It also
accepts a value that is parsed already.  It raises ValueError with a message that says what to write instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Literal

from attrs import frozen

# --- counts


def whole(value: object, complaint: str, least: int, most: int = 2**31 - 1) -> int:
    """A whole number from `least` to `most`.  Raises ValueError with the `complaint`."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,10}\s*", value):
        value = int(value)
    # True is an int for Python, and a mistake here.
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(complaint)
    return value


def from_to(least: int, most: int) -> Callable[[object], int]:
    """The parser of a whole number from `least` to `most`."""
    return lambda value: whole(value, f"{value!r} is out of range; write a number from {least} to {most}", least, most)


def parse_places(value: object) -> int | None:
    """A number of connections; ``auto`` is None."""
    if value is None or value == "auto":
        return None
    return whole(value, f"{value!r} is no number of connections; write 1 to 10000000, or auto", 1, 10_000_000)


@frozen
class Between:
    """``LEAST:MOST``: the bounds within which the fleet follows its load."""

    least: int
    most: int


def parse_workers(value: object) -> int | Between | None:
    """A number of workers, or bounds; ``auto`` (None) is one for each processor that this process may use."""
    if value is None or value == "auto":
        return None
    if isinstance(value, Between):
        return value
    complaint = f"{value!r} is not a number of workers; write 1 to 1024, bounds such as 2:8, or auto"
    if isinstance(value, str) and ":" in value:
        least, _, most = value.partition(":")
        bounds = Between(whole(least, complaint, 1, 1024), whole(most, complaint, 1, 1024))
        if bounds.least > bounds.most:
            raise ValueError(complaint)
        return bounds
    return whole(value, complaint, 1, 1024)


# --- shares


def parse_share(value: object) -> float:
    """A share: "70%" or 0.7."""
    complaint = f"{value!r} is not a share; write 1% to 100%"
    if isinstance(value, float) and 0 < value <= 1:
        return value
    if isinstance(value, str) and value.strip().endswith("%"):
        return whole(value.strip()[:-1], complaint, 1, 100) / 100
    raise ValueError(complaint)


def parse_surge(value: object) -> int | float:
    """The number of additional workers during a reload, or their share of the fleet, such as "25%"."""
    complaint = f"{value!r} is not a surge; write a number from 1 to 1024, or a share from 1% to 100%"
    if isinstance(value, float) or (isinstance(value, str) and value.strip().endswith("%")):
        try:
            return parse_share(value)
        except ValueError:
            raise ValueError(complaint) from None
    return whole(value, complaint, 1, 1024)


# --- durations


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}


def parse_duration(value: object) -> float:
    """Seconds: 30, "30s", "500ms", "2m"."""
    complaint = f"{value!r} is not a duration; write 500ms, 30s, 2m or a number of seconds"
    if isinstance(value, bool):
        raise ValueError(complaint)
    if isinstance(value, int | float):
        seconds = float(value) if value < 1e12 else math.inf  # TOML's integers are not bounded
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", value) if isinstance(value, str) else None
        if match is None or match[2] not in _UNITS:
            raise ValueError(complaint)
        seconds = float(match[1]) * _UNITS[match[2]]
    if not 0 <= seconds < math.inf:
        raise ValueError(complaint)
    return seconds


def positive_duration(value: object) -> float:
    """Seconds, more than 0."""
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError(f"{value!r} is too short; write a duration above zero, such as 500ms or 30s")
    return seconds


def parse_pause(value: object) -> float | Literal["auto"] | None:
    """Seconds, "auto", or None for "off"."""
    if value is None or value is False or value == "off":
        return None
    if value == "auto":
        return "auto"
    try:
        return parse_duration(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a duration; write 500ms, 1s, auto, or off") from None


# --- sizes and modes


_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(value: object) -> int:
    """Bytes: 1048576, "512MB", "1GiB"."""
    match = re.fullmatch(r"\s*(\d{1,15})\s*([A-Za-z]*)\s*", value) if isinstance(value, str) else None
    if match is not None and match[2].upper() in _SIZES:
        return int(match[1]) * _SIZES[match[2].upper()]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**60:
        return value
    raise ValueError(f"{value!r} is not a size; write 512MB, 1GiB or a number of bytes")


def parse_mode(value: object) -> int:
    """File permissions in octal, as chmod takes them: "660".  TOML's 0o660 is a number already."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777:
        return value
    if isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{1,4}", value) and int(value, 8) <= 0o777:
        return int(value, 8)
    raise ValueError(f"{value!r} is not a file mode; write it in octal, such as 660")


def parse_umask(value: object) -> int | None:
    """A file mode; None leaves the mask of the process as it is."""
    return None if value is None else parse_mode(value)
