"""Serve an ASGI application on trio, by anycorn."""

from __future__ import annotations

from ..launch import Launch
from . import Duty
from .loading import Application, CannotLoad


def run(application: Application, duty: Duty, launch: Launch) -> None:
    """Serve until the master sends no more and what was taken is done.  Raises CannotLoad."""
    raise CannotLoad(f"{application.name} is an ASGI application, and those are not served on trio yet")
