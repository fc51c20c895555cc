"""Serve a WSGI application, in threads, by uvicorn and a2wsgi."""

from __future__ import annotations

from a2wsgi import WSGIMiddleware
from attrs import evolve

from ..launch import Launch
from . import Duty
from .loading import Application
from .on_uvicorn import serve


def run(application: Application, duty: Duty, launch: Launch) -> None:
    """Serve until the master sends no more and what was taken is done."""
    app = WSGIMiddleware(application.target, workers=launch.threads)
    serve(app, duty, evolve(launch, lifespan="off"), ws="none")  # type: ignore[arg-type]
