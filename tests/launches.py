"""A `Launch` for tests: it has no defaults of its own, so they come from the settings."""

from __future__ import annotations

from typing import Any

from rrmaster.config.settings import Settings
from rrmaster.protocol.launch import FIELDS, Launch


def a_launch(application: str = "a:b", **chosen: Any) -> Launch:
    """What a worker receives for default settings, in the working directory, except for what is chosen."""
    settings = Settings(application)
    fields: dict[str, Any] = {name: getattr(settings, name) for name in FIELDS}
    return Launch(**fields | {"app_dir": ".", "chdir": "."} | chosen)
