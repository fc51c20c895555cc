"""How many workers must take connections before a fleet counts as ready?"""

from __future__ import annotations

import math

from attrs import frozen


@frozen
class ReadyWhen:
    """How many workers must take connections: a number, or a share of the fleet's size."""

    count: int | None = None
    share: float | None = None

    def needed(self, size: int) -> int:
        """The number for a fleet of this size; at least 1."""
        wanted = math.ceil(size * self.share) if self.share is not None else self.count
        return max(wanted or 1, 1)


def parse_ready_when(text: str) -> ReadyWhen:
    """``any``, ``all``, ``3`` or ``50%``.  Raises ValueError."""
    if text in ("any", "all"):
        return ReadyWhen(share=1.0) if text == "all" else ReadyWhen(count=1)
    digits = text.removesuffix("%")
    if digits.isascii() and digits.isdigit():
        number = int(digits)
        if text.endswith("%") and 1 <= number <= 100:
            return ReadyWhen(share=number / 100)
        if not text.endswith("%") and 1 <= number <= 1024:
            return ReadyWhen(count=number)
    raise ValueError(f"{text!r} is not a number of workers; write all, any, N or N%")


def checked_ready_when(value: object) -> str:
    """The same words, checked, as they were written."""
    text = str(value)
    parse_ready_when(text)
    return text
