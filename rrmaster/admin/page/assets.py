"""Which files beside this module make the page: its templates, its style and its script?"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

_HERE = Path(__file__).parent


@cache
def asset(name: str) -> str:
    """A file, as text."""
    return (_HERE / name).read_text()


def render(name: str, **facts: Any) -> str:
    """A template with these facts; whatever they hold, it does not become markup."""
    return _template(name).render(facts)


@cache
def _template(name: str) -> Template:
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        asset(name)
    )
