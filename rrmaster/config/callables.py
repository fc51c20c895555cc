"""How are the operator's own callables loaded, which ``--policy`` and ``--probe`` name?

They run in the master, unlike the application.  So they should be fast and must not block.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from .option import SettingsError
from .settings import Settings


def load_callable(settings: Settings, option: str, name: str) -> Any:
    """The callable behind ``module:attribute``, looked for where the application is.  Raises SettingsError."""
    module, _, attribute = name.partition(":")
    directory = os.path.abspath(settings.app_dir or "")
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise SettingsError(f"--{option} {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise SettingsError(f"--{option} {name!r} is not callable")
    return found
