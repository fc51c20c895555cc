"""What is raised when the machine does not allow a start?"""

from __future__ import annotations


class CannotStart(Exception):
    """The machine or its configuration does not allow the start as asked; the message says what to do."""
