"""What does the import take that each worker should have for itself: its process id, random values, random numbers?

A lock's owner, a consumer's name, a machine's number and a nonce are made from such values.  Workers that share an
import share them.  A generator can be seeded anew (`generators`), a value that was taken cannot: whether and where it
is kept cannot be seen.  So an import that takes one prevents forking, if the application asks (`callers`), and the
message says where.

- The process id counts where the application's own code asks for it.  A library that does so on its behalf mostly
  remembers it to notice a fork (redis, SQLAlchemy); `_HAND_ON` has those that hand it on.
- Random bytes of the kernel (`os.urandom`, `secrets`, `uuid`) count also where a library draws them on the
  application's behalf: a host's name among others in python-socketio, a channel's name in Django's channels.  Not so
  in `_MAY_BE_SHARED`.
- A file that tells one of them (`told_by`) counts like the function that does.
- Numbers of `random` count where the application's own code draws them, from a generator that it has not seeded.

Each module that is loaded gets its functions back after the import.
"""

from __future__ import annotations

import _thread
import importlib
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .callers import Callers
from .generators import Generators, hidden
from .standing_in import Note, standing_in
from .told import Told, told_by

_HAND_ON = frozenset({"multiprocessing.process.ident", "psutil", "bson.objectid"})
"""What asks for the process id on its caller's behalf: `multiprocessing.current_process().pid`, `psutil.Process()`, and
`bson.ObjectId()`, which has random bytes of the process."""

_OPEN_FILES = frozenset({"pathlib", "pathlib._local", "pathlib._os", "posixpath", "codecs", "os"})
"""The modules that open a file for their caller: ``Path("/proc/self/stat").read_text()``."""

_PYTHONS = frozenset({"random", "secrets", "uuid"})
"""The modules that hand random numbers on."""

_MAY_BE_SHARED = frozenset({
    # The salt of a hash: werkzeug 3.1, Django 5.2, passlib 1.7, argon2-cffi 25.1.
    "werkzeug.security", "django.contrib.auth.hashers", "passlib.utils", "argon2._password_hasher",
    # The name of a pool of connections, for metrics: redis-py 8.1.
    "redis.connection", "redis.asyncio.connection",
    # The name of a computation that is over by the end of the import: joblib 1.6, which scikit-learn uses.
    "joblib.parallel",
})  # fmt: skip
"""Modules that draw a random value which need not differ between workers."""


class Taken:
    """What the import has taken, for messages: ``its process id (shop.py:7)``."""

    def __init__(self, callers: Callers, generators: Generators) -> None:
        self._callers = callers
        self._generators = generators
        generators.ask_who_seeds(lambda frame: callers.place(frame, ()))
        self._places: dict[str, str] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note what is taken in the block."""
        with self._generators.watched(), standing_in(self._notes()), self._drawing_noted(), self._threads_noted():
            yield
        if self._generators.drawn_from_numpy():
            self._places.setdefault("random numbers of numpy's", "from a generator without a seed")
        if place := self._generators.kept_from_numpy():
            self._places.setdefault("random numbers of numpy's", place)

    def words(self) -> tuple[str, ...]:
        """What was taken, and where first."""
        return tuple(f"{what} ({where})" for what, where in self._places.items())

    def _notes(self) -> dict[Any, Note]:
        """The functions whose calls are noted."""
        notes: dict[Any, Note] = dict.fromkeys(
            (os.getpid, os.getpgrp, os.getpgid, _thread.get_native_id), self._note_id
        )
        notes |= dict.fromkeys((os.urandom, os.getrandom), self._note_value)
        notes |= dict.fromkeys((open, os.open, os.readlink), self._note_file)
        notes |= dict.fromkeys(_of_modules(("_uuid", "generate_time_safe"), ("_ssl", "RAND_bytes")), self._note_value)
        # Those that Python's hidden generator does not look up in its class.
        notes |= dict.fromkeys((random.random, random.getrandbits), self._note_hidden_draw)
        notes[random.seed] = self._note_hidden_seed
        notes[random.getstate] = self._note_hidden_state_told
        notes[random.setstate] = self._note_hidden_state_put
        return notes

    @contextmanager
    def _drawing_noted(self) -> Iterator[None]:
        """Note what is drawn from objects of random.Random: all of their methods call one of these two."""
        for name in ("random", "getrandbits"):
            setattr(random.Random, name, self._drawing(getattr(random.Random, name)))
        try:
            yield
        finally:
            for name in ("random", "getrandbits"):
                delattr(random.Random, name)  # the class it inherits from has them

    @contextmanager
    def _threads_noted(self) -> Iterator[None]:
        """Note who asks for the kernel's number of a thread, which is the process's for the main thread."""
        own = threading.Thread.native_id

        def native_id(thread: threading.Thread) -> int | None:
            self._note("its process id", self._callers.place(sys._getframe(1), _HAND_ON))
            return thread._native_id  # type: ignore[attr-defined,no-any-return]

        setattr(threading.Thread, "native_id", property(native_id))  # noqa: B010  # mypy knows it as what it was
        try:
            yield
        finally:
            setattr(threading.Thread, "native_id", own)  # noqa: B010  # as above

    def _drawing(self, draw: Callable[..., Any]) -> Callable[..., Any]:
        def drawing(generator: random.Random, *arguments: Any) -> Any:
            self._note_draw(sys._getframe(1), generator)
            return draw(generator, *arguments)

        return drawing

    def _note_id(self, frame: FrameType, arguments: Sequence[Any], result: Any) -> None:
        self._note("its process id", self._callers.place(frame, _HAND_ON))

    def _note_value(self, frame: FrameType, arguments: Sequence[Any], result: Any) -> None:
        self._generators.note_value(result)
        if not _may_be_shared(frame):
            self._note("a random value", self._callers.place(frame))

    def _note_file(self, frame: FrameType, arguments: Sequence[Any], result: Any) -> None:
        match told_by(arguments[0]):
            case Told.PROCESS:
                self._note("its process id", self._callers.place(frame, _OPEN_FILES))
            case Told.RANDOM:
                self._note("a random value", self._callers.place(frame))

    def _note_hidden_draw(self, frame: FrameType, arguments: Sequence[Any], result: Any) -> None:
        self._note_draw(frame, hidden())

    def _note_hidden_seed(self, frame: FrameType, arguments: Sequence[Any], result: Any) -> None:
        self._generators.note_seed(hidden(), arguments[0] if arguments else None)

    def _note_hidden_state_told(self, frame: FrameType, arguments: Sequence[Any], result: Any) -> None:
        self._generators.note_state_told(hidden(), result)

    def _note_hidden_state_put(self, frame: FrameType, arguments: Sequence[Any], result: Any) -> None:
        self._generators.note_state_put(hidden(), arguments[0])

    def _note_draw(self, frame: FrameType, generator: Any) -> None:
        if self._generators.is_unseeded(generator):
            self._note("a random number", self._callers.place(frame, _PYTHONS))

    def _note(self, what: str, place: str) -> None:
        if place:
            self._places.setdefault(what, place)


def _of_modules(*names: tuple[str, str]) -> Iterator[Any]:
    """The functions of these names: what `uuid.uuid1` and the module ssl call.  Those may not be loaded yet."""
    for module, name in names:
        try:
            yield getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            pass  # Python was built without libuuid (uuid1() calls os.urandom or random then) or without OpenSSL


def _may_be_shared(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_globals.get("__name__") in _PYTHONS:
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") in _MAY_BE_SHARED
