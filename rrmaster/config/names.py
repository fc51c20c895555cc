"""Which names and words are understood: of applications, policies, probes, masters and files, and words of a list.

A parser returns the value, or raises ValueError with a message that says what to write instead.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ..protocol.access_format import pieces_of
from ..protocol.launch import CERT_REQS, MODULE, is_program

POLICIES = ("least-loaded", "round-robin", "random-two", "ip-hash")

LOG_LEVELS = ("debug", "info", "warning", "error")

LOG_FORMATS = ("text", "json")

ALIKE = 0.7
"""How alike two words are, from 0 to 1, so that one may be meant by the other: a letter or two apart."""

_BEGINNING = re.compile(r"^(-+|RRMASTER_)")
"""What many words begin with: it makes no two of them alike."""

# --- one word of a list


def one_of(what: str, choices: Sequence[str]) -> Callable[[object], str]:
    """The parser of one of these words."""

    def parse(value: object) -> str:
        if value in choices:
            return str(value)
        raise ValueError(_not_one_of(value, what, choices))

    return parse


def _not_one_of(value: object, what: str, choices: Sequence[str]) -> str:
    words = f"{', '.join(choices[:-1])} or {choices[-1]}"
    return f"{value!r} is not a valid {what}; write {words}{suggestion(str(value), choices)}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?``, or nothing."""
    bare = {_BEGINNING.sub("", name): name for name in known}
    close = difflib.get_close_matches(_BEGINNING.sub("", word), bare, n=1, cutoff=ALIKE)
    return f"; did you mean {bare[close[0]]}?" if close else ""


_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def parse_switch(value: object) -> bool:
    """On or off: TOML's true and false, and the words that are usual for them in an environment."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _SWITCH:
        return _SWITCH[value.lower()]
    raise ValueError(f"{value!r} is neither on nor off; write true or false")


def parse_access_log(value: object) -> str:
    """Off (empty), ``on``, ``-`` or the path of a file; a switch as `parse_switch` knows it is one of the first two."""
    if value == "" or isinstance(value, bool) or (isinstance(value, str) and value.lower() in _SWITCH):
        return "on" if value and parse_switch(value) else ""
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r} is neither on nor off, nor a file; write true, - for stdout, or a path")


def parse_access_format(value: object) -> str:
    """``auto``, a name of `access_format.NAMES`, or a format; it is checked here."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no format; write combined, common, or such as '%(h)s \"%(r)s\" %(s)s'")
    if "\n" in value or "\r" in value:
        raise ValueError("a format has one line")
    if value != "auto":
        pieces_of(value)
    return value


def parse_cert_reqs(value: object) -> str:
    """none, optional or required; or gunicorn's number for it."""
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value) in ("0", "1", "2"):
        return CERT_REQS[int(value)]
    return one_of("requirement", CERT_REQS)(value)


def parse_policy(value: object) -> str | Callable[..., Any]:
    """One of `POLICIES`, module:attribute of a callable, or the callable itself."""
    if callable(value):
        return value
    if value in POLICIES or (isinstance(value, str) and _is_name(value)):
        return str(value)
    raise ValueError(_not_one_of(value, "policy", (*POLICIES, "module:callable")))


def parse_probe(value: object) -> str | None:
    """tcp, http:/path, or module:attribute of a callable; None: no probe."""
    if value is None:
        return None
    if isinstance(value, str):
        is_path = value.startswith("http:/") and value.isprintable()
        if value == "tcp" or is_path or _is_name(value):
            return value
    raise ValueError(f"{value!r} is not a probe; write tcp, http:/path or module:callable")


# --- names of applications and programs


def parse_application(value: object) -> str:
    """The import name of an application, the application itself, or a program: FILE.py or ``-m MODULE``.

    An application that is given as an object becomes its import name: a worker is another process and imports it.
    """
    if callable(value):
        return import_name(value)
    if isinstance(value, str) and (_is_name(value) or _is_in_file(value) or _is_program(value)):
        return value
    raise ValueError(
        f"{value!r} does not name an application; write module:attribute, such as shop.main:app, or shop/main.py:app, "
        "or a program that opens its own addresses, such as server.py or -m shop.server"
    )


def _is_name(text: str) -> bool:
    module, colon, attribute = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")])


def _is_in_file(text: str) -> bool:
    file, _, attribute = text.rpartition(":")
    return file.endswith(".py") and all(part.isidentifier() for part in attribute.split("."))


def _is_program(text: str) -> bool:
    if text.startswith(MODULE):
        return all(part.isidentifier() for part in text.removeprefix(MODULE).split("."))
    return is_program(text) and "\0" not in text


def parse_arguments(value: object) -> tuple[str, ...]:
    """The arguments of a program, one by one."""
    if isinstance(value, list | tuple) and all(isinstance(item, str) and "\0" not in item for item in value):
        return tuple(value)
    raise ValueError(f'{value!r} is not a list of arguments; write a list of texts, such as ["--port", "8000"]')


def import_name(target: Callable[..., Any]) -> str:
    """The name by which another process can import an object.  Raises ValueError if there is none, with the reason."""
    module, path = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if module is None or path is None:
        raise ValueError(f"{target!r} has no name that a worker can import; write module:attribute")
    if "<lambda>" in path or "<locals>" in path:
        raise ValueError(
            f"{target!r} cannot be imported by a worker, because it is made inside a function; define it in a module, "
            "or write module:attribute"
        )
    if module == "__main__":
        module = _main_module(target)
    return f"{module}:{path}"


def _main_module(target: Callable[..., Any]) -> str:
    """The name by which the program's own module can be imported: in a worker, ``__main__`` is another module."""
    names: Mapping[str, Any] = getattr(target, "__globals__", {})
    spec, file = names.get("__spec__"), names.get("__file__")
    if spec is not None:
        return str(spec.name)  # python -m
    if not isinstance(file, str) or not file.endswith(".py"):
        raise ValueError(
            f"{target!r} belongs to a program without a file (an interactive session, or python -c), so no worker can "
            "import it; put it into a module"
        )
    return file


# --- other names and texts


def parse_text(value: object) -> str | None:
    """A text that is not empty; None: not set."""
    if value is None or (isinstance(value, str) and value):
        return value
    raise ValueError(f"{value!r} is not a text; write one that is not empty")


def parse_texts(value: object) -> tuple[str, ...]:
    """Several texts, or none; in one text, separated by commas.  Each is kept once."""
    items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if isinstance(items, list | tuple) and all(isinstance(item, str) and item for item in items):
        return tuple(dict.fromkeys(items))
    raise ValueError(f"{value!r} is not a list of texts; write texts that are not empty, separated by commas")


def parse_globs(value: object) -> tuple[str, ...]:
    """Globs such as ``*.html``, ``templates/*`` or ``generated``."""
    globs = parse_texts(value)
    for glob in globs:
        if not PurePath(glob).parts:
            raise ValueError(f"{glob!r} matches no file; write a glob such as *.html")
    return globs


def parse_root_path(value: object) -> str:
    """A path without a slash at its end, or an empty text."""
    if value == "" or (isinstance(value, str) and re.fullmatch(r"(/[^/\s?#]+)+", value)):
        return str(value)
    raise ValueError(f"{value!r} is not a root path; write it with a slash at its start and none at its end: /shop")


def parse_master_name(value: object) -> str | None:
    """A master's name.  It becomes part of a file's name, hence the few characters."""
    if value is None or (isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", value)):
        return value
    raise ValueError(f"{value!r} is not a name; write up to 64 letters, digits, and _ . - (not first)")
